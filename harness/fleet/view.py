"""What a run looks like at one moment: for the screen, the metrics and `energylens status`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

NodeState = Literal["idle", "starting", "busy", "silent", "lost", "quarantined", "unusable"]
"""`starting`: a launch was sent there and has not reported; `silent`: no word for too long."""

NODE_STATES: tuple[NodeState, ...] = get_args(NodeState)

TROUBLED: tuple[NodeState, ...] = ("silent", "lost", "quarantined", "unusable")
"""States in which a node takes no launches though the run has some, the worst news first."""


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node at one moment.

    Attributes
    ----------
    name
        Host and start of the node id.
    hardware
        GPU types and counts in words, such as `8 x H100-SXM5-80GB`.
    state
        What it is doing.
    doing
        Launch under way in words, its model first, or why it takes none.
    since_s
        Seconds in this state.
    done, failed, lost
        Tasks that ended there with a measurement, with a failure row, and without a row.
    busy_share
        Share of the run's time in which it held launches.
    """

    name: str
    hardware: str
    state: NodeState
    doing: str = ""
    since_s: float = 0.0
    done: int = 0
    failed: int = 0
    lost: int = 0
    busy_share: float = 0.0

    @property
    def troubled(self) -> bool:
        """Whether something is wrong with it."""
        return self.state in TROUBLED


@dataclass(frozen=True, slots=True)
class RunView:
    """A run at one moment.

    Attributes
    ----------
    sweep
        Its name.
    planned, already_done, done, failed, lost
        Tasks: in the plan; with a row from earlier runs; ended now (rows, failed ones included);
        ended now with a row without a measurement; given up now, without a row.
    launches_waiting, launches_running, retries
        Launches now, and second tries so far.
    seconds
        Wall time so far.
    rate_per_s, eta_s
        Tasks that end per second (recent), and seconds left; None when not known.
    energy_kwh
        What the GPUs of measured launches drew so far, from the sensor; None without one.
    gpu_hours, cost
        GPU time held so far, and its price; None where a price is missing.
    failures, losses
        Class -> tasks, of `failed` and of `lost`.
    limits
        The budget's limits that are set: `max_hours`, `max_gpu_hours`, `max_kwh`, `max_cost`.
    stopping
        Why no launches are started any more; empty while they are.
    nodes
        Every node.
    """

    sweep: str
    planned: int
    already_done: int
    done: int
    failed: int
    lost: int
    launches_waiting: int
    launches_running: int
    retries: int
    seconds: float
    rate_per_s: float | None
    eta_s: float | None
    energy_kwh: float | None
    gpu_hours: float
    cost: float | None
    failures: Mapping[str, int] = field(default_factory=dict)
    losses: Mapping[str, int] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    stopping: str = ""
    nodes: tuple[NodeView, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunView:
        """Read what `to_dict` gave; keys of a later version are passed over."""
        known = {k: v for k, v in values.items() if k in cls.__dataclass_fields__}
        fields = NodeView.__dataclass_fields__
        nodes = tuple(
            NodeView(**{k: v for k, v in node.items() if k in fields})
            for node in known.pop("nodes", ())
        )
        return cls(**known, nodes=nodes)
