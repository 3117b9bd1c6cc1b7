"""The account of each node of a run: what it does, how busy it was, whether it is slow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from harness.fleet.inventory import describe_hardware
from harness.fleet.nodes import NodeFacts
from harness.fleet.view import NodeState, NodeView

SLOW_RATIO = 1.3
SLOW_LAUNCHES = 3
"""Launches, of a node and of others, before their durations are compared."""


@dataclass(slots=True)
class _Account:
    facts: NodeFacts
    since_s: float
    state: NodeState = "idle"
    note: str = ""
    doing: dict[str, str] = field(default_factory=dict)
    busy_s: float = 0.0
    busy_from_s: float = 0.0
    done: int = 0
    failed: int = 0
    lost: int = 0
    ratios: list[float] = field(default_factory=list)
    named_slow: bool = False


class NodeAccounts:
    """Accounts of all nodes that a run has seen, those that are gone included.

    Parameters
    ----------
    clock
        Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._nodes: dict[str, _Account] = {}

    def know(self, facts: NodeFacts) -> None:
        """Take a node in, or what is known of it now."""
        account = self._nodes.setdefault(facts.node_id, _Account(facts, self._clock()))
        account.facts = facts
        if not facts.usable:
            account.state = "unusable"
            account.note = "; ".join(p.detail for p in facts.problems if p.fatal)
        elif account.state in ("unusable", "lost"):
            account.state, account.note = "idle", ""

    def name(self, node_id: str) -> str:
        """Name for people; the start of the id of a node that nobody knows."""
        account = self._nodes.get(node_id)
        return account.facts.name if account else node_id[:6]

    def names(self, node_ids: Sequence[str]) -> str:
        """Names of several."""
        return ", ".join(self.name(node_id) for node_id in node_ids)

    def mark(self, node_id: str, state: NodeState, note: str) -> None:
        """Set the state of a node that takes nothing, and why."""
        account = self._nodes.get(node_id)
        if account is not None:
            account.state, account.note, account.since_s = state, note, self._clock()

    def holds(self, node_ids: Sequence[str], work_id: str, what: str, state: NodeState) -> None:
        """Nodes hold a work: `starting`, or `busy` with it."""
        now_s = self._clock()
        for node_id in node_ids:
            account = self._nodes.get(node_id)
            if account is None:
                continue
            if not account.doing:
                account.busy_from_s = now_s
            account.doing[work_id] = what
            if account.state in ("idle", "starting", "busy"):
                account.state, account.since_s = state, now_s

    def free(self, node_ids: Sequence[str], work_id: str) -> None:
        """Nodes hold a work no longer."""
        now_s = self._clock()
        for node_id in node_ids:
            account = self._nodes.get(node_id)
            if account is None or account.doing.pop(work_id, None) is None or account.doing:
                continue
            account.busy_s += now_s - account.busy_from_s
            if account.state in ("busy", "starting"):
                account.state, account.since_s = "idle", now_s

    def tally(
        self, node_ids: Sequence[str], *, done: int = 0, failed: int = 0, lost: int = 0
    ) -> None:
        """Count tasks that ended, for the node that led."""
        for node_id in node_ids[:1]:
            account = self._nodes.get(node_id)
            if account is not None:
                account.done += done
                account.failed += failed
                account.lost += lost

    def slow(self, node_id: str, hardware: str, ratio: float) -> float | None:
        """Note how a launch took for its plan; say once that a node is slow for its type.

        Returns
        -------
        float or None
            Median of its ratios over that of the others, if it is too high for the first time.
        """
        account = self._nodes.get(node_id)
        if account is None:
            return None
        account.ratios.append(ratio)
        others = [
            other
            for each in self._nodes.values()
            if each is not account and hardware in each.facts.hardware
            for other in each.ratios
        ]
        if account.named_slow or min(len(account.ratios), len(others)) < SLOW_LAUNCHES:
            return None
        found = median(account.ratios) / median(others)
        account.named_slow = found > SLOW_RATIO
        return found if account.named_slow else None

    def views(self, seconds: float) -> tuple[NodeView, ...]:
        """How all of them look, after so many seconds of the run."""
        now_s = self._clock()
        return tuple(_view(account, now_s, seconds) for account in self._nodes.values())


def _view(account: _Account, now_s: float, seconds: float) -> NodeView:
    doing = next(iter(account.doing.values()), "")
    more = len(account.doing) - 1
    busy_s = account.busy_s + (now_s - account.busy_from_s if account.doing else 0.0)
    return NodeView(
        account.facts.name,
        describe_hardware(account.facts),
        account.state,
        account.note or (f"{doing} (and {more} more)" if more > 0 else doing),
        max(0.0, now_s - account.since_s),
        account.done,
        account.failed,
        account.lost,
        min(1.0, busy_s / seconds) if seconds > 0 else 0.0,
    )
