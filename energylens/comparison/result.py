"""The result of a comparison, as values that turn into JSON and pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from energylens.comparison.matching import Unpaired
from harness.errors import EnergyLensError

if TYPE_CHECKING:
    import pandas as pd

GROUPS: tuple[str, ...] = ("model_id", "hardware", "engine_version")
CAN_GROUP: tuple[str, ...] = (
    *GROUPS,
    "family",
    "modality",
    "precision",
    "host",
    "num_gpus",
    "batch",
)
CAN_GROUP += ("tensor_parallel", "pipeline_parallel", "input_tokens", "output_tokens")


@dataclass(frozen=True, slots=True)
class Options:
    """What counts as a change.

    Attributes
    ----------
    min_change
        Smallest change of interest, as a share.
    rate
        Bound on the share of false discoveries, and on the probability of a regression where
        nothing changed.
    metrics
        Metrics that are judged; None: the energies, or latency where no energy is known.
    groups
        Columns that groups are made by.

    Raises
    ------
    EnergyLensError
        If a value makes no sense.
    """

    min_change: float = 0.03
    rate: float = 0.05
    metrics: tuple[str, ...] | None = None
    groups: tuple[str, ...] = GROUPS

    def __post_init__(self) -> None:
        if not 0 <= self.min_change < 1:
            raise EnergyLensError(
                "the smallest change of interest lies between 0 and 100 %",
                where=f"--min-change {100 * self.min_change:g}",
                fix="write for example --min-change 3",
            )
        if not 0 < self.rate < 1:
            raise EnergyLensError(
                "the rate of false discoveries lies between 0 and 100 %",
                where=f"--rate {100 * self.rate:g}",
                fix="write for example --rate 5",
            )
        for name in self.groups:
            if name not in CAN_GROUP:
                raise EnergyLensError(
                    f"rows cannot be grouped by {name!r}",
                    where=f"--group {','.join(self.groups)}",
                    fix=f"choose from {', '.join(CAN_GROUP)}",
                )


@dataclass(frozen=True, slots=True)
class Finding:
    """Change of one metric of a group, or of the joules of a GPU.

    Attributes
    ----------
    kind
        Column that the group was made by, or `gpu`; `sentinel gpu`, `sentinel host` or
        `sentinel launch` where the sentinels say it.
    name
        The group, the UUID of the GPU, the host, or the id of the launch.
    metric
        Name of the metric.
    change, lo, hi
        Change and its 95 % interval, as shares.
    p, p_adjusted
        p-value, alone and adjusted for the number of tests.
    verdict
        worse, better, same, or unknown; `standing` for a GPU that differed as much last night.
    rows, launches
        How many pairs it rests on.
    note
        What to know about it.
    """

    kind: str
    name: str
    metric: str
    change: float
    lo: float
    hi: float
    p: float
    p_adjusted: float
    verdict: str
    rows: int
    launches: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Drift:
    """Median change of everything, with its 95 % interval, as shares."""

    metric: str
    change: float
    lo: float
    hi: float
    rows: int


@dataclass(frozen=True, slots=True)
class Sentinel:
    """How the repeated workload of one launch changed from its first trial to its last."""

    night: str
    launch: str
    model_id: str
    hardware: str
    values: int
    change: float
    stderr: float
    significant: bool


@dataclass(frozen=True, slots=True)
class VersionChange:
    """Something that was another one last night."""

    what: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Night:
    """One of the two runs."""

    name: str
    rows: int
    valid: int
    first: str
    last: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """What changed between two runs.

    Attributes
    ----------
    old, new
        The runs.
    provenance, hardware
        Those of the rows that were compared.
    pairs
        Number of tasks that were compared.
    judged
        Metrics that the verdict looks at.
    configurations
        One row a task and metric: task_id, model_id, hardware, layout, workload, provenance,
        metric, old, new (SI units), change, lo, hi (shares), beyond_gpu (the change without
        what GPUs that differ on both nights explain; this is what is judged), p, p_adjusted,
        verdict, cause, moved (other GPUs than last night), gpus.
    drift
        Median change of every metric.
    groups, cards
        Summaries; cards only where GPUs can be told apart.
    cards_note
        Why not, else.
    unpaired, sentinels, versions
        Tasks without a partner, drift within launches, what else is different.
    inflation
        metric -> how much more pairs scatter than their intervals say.
    levels
        How the sentinels changed between the nights, by GPU, host and launch.
    """

    old: Night
    new: Night
    options: Options
    provenance: str
    hardware: tuple[str, ...]
    pairs: int
    judged: tuple[str, ...]
    configurations: pd.DataFrame
    drift: tuple[Drift, ...]
    groups: tuple[Finding, ...]
    cards: tuple[Finding, ...]
    cards_note: str
    unpaired: tuple[Unpaired, ...]
    sentinels: tuple[Sentinel, ...]
    versions: tuple[VersionChange, ...]
    inflation: dict[str, float]
    levels: tuple[Finding, ...] = ()

    def configurations_of(self, verdict: str) -> pd.DataFrame:
        """Return the judged changes with this verdict, largest change first."""
        frame = self.configurations
        own = frame[(frame["verdict"] == verdict) & frame["metric"].isin(self.judged)]
        return own.sort_values("change", key=abs, ascending=False, kind="stable")

    def findings(self, verdict: str) -> list[Finding]:
        """Return judged groups, GPUs and sentinels with this verdict, largest change first."""
        own = [
            f
            for f in (*self.cards, *self.levels, *self.groups)
            if f.verdict == verdict and (f.metric in self.judged or f.kind == "gpu")
        ]
        # Single sentinels come last: mostly a GPU, a host or a group tells of them already.
        return sorted(own, key=lambda f: (f.kind == "sentinel launch", -abs(f.change)))

    @property
    def verdict(self) -> str:
        """`regression` if anything judged is worse, else `improvement` or `no change`."""
        for verdict, text in (("worse", "regression"), ("better", "improvement")):
            if len(self.configurations_of(verdict)) or self.findings(verdict):
                return text
        return "no change"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        from dataclasses import fields

        from energylens.plain import plain

        return {
            "verdict": self.verdict,
            **{field.name: plain(getattr(self, field.name)) for field in fields(self)},
        }
