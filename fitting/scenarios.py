"""Scenarios: what is held fixed, and the candidate configurations to choose from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

WORKLOAD = (
    "model_id",
    "provenance",
    "modality",
    "task",
    "batch",
    "input_tokens",
    "output_tokens",
    "visual_tokens",
    "images",
    "frames",
    "image_height",
    "image_width",
    "request_rate_per_s",
    "diffusion_steps",
    "output_images",
    "output_frames",
    "output_height",
    "output_width",
)
"""Columns that make two rows the same work, as far as a table has them. Provenance is one: a
projection is never a candidate beside a measurement."""

FIXED: dict[str, tuple[str, ...]] = {
    "S1": ("hardware", "num_gpus", "precision"),
    "S2": ("hardware", "precision"),
    "S3": ("precision",),
    "S4": ("hardware",),
    "S5": (),
}
"""What each class holds fixed beside the workload. S1 chooses t and p for a GPU count; S2 the
GPU count too; S3 the GPU type too; S4, on one GPU type, the precision and the batch; S5 all of
them. All but S1 are under latency limits."""

FREE_BATCH = ("S4", "S5")
"""Classes whose candidates differ in batch: they are compared by energy per output token, because
a batch of 8 is more work than one of 1. A request stays the same."""

LIMITED = ("S2", "S3", "S4", "S5")
"""Classes whose candidates must meet latency limits."""

LIMIT_FACTOR = 1.0
"""Without limits given, a scenario's limits are this factor times the median over its
candidates, of the time to first token and of the time per output token."""

_GROUPS = ("family", "modality", "model_id")
GROUP_KINDS: dict[str, tuple[str, ...]] = {
    "S1": ("num_gpus", *_GROUPS, "hardware"),
    "S2": (*_GROUPS, "hardware"),
    "S3": _GROUPS,
    "S4": (*_GROUPS, "hardware"),
    "S5": _GROUPS,
}
"""Columns that are the same for all candidates of a scenario, so that scores can be split."""


@dataclass(frozen=True, slots=True)
class Scenarios:
    """Candidates of every scenario of a class, padded to a rectangle.

    Attributes
    ----------
    scenario_class
        S1 to S5.
    rows
        Positions of the candidates in the table, -1 where there is none, shape
        (scenarios, most candidates).
    """

    scenario_class: str
    rows: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """True where there is a candidate."""
        return self.rows >= 0

    @property
    def first(self) -> NDArray[np.intp]:
        """Position of one candidate of each scenario, to read what is held fixed."""
        result: NDArray[np.intp] = self.rows[:, 0]
        return result

    def values(self, column: NDArray[np.float64], missing: float) -> NDArray[np.float64]:
        """Return a column of the table in the shape of `rows`, padded with `missing`."""
        if not len(self.rows):
            return np.zeros(self.rows.shape)
        return np.where(self.mask, column[self.rows], missing)


def latencies(frame: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """Return TTFT and time per output token, s, shape (rows,); NaN where unknown.

    Where `ttft_s` or `itl_s` is missing they come from the phase latencies.
    """
    from fitting.work import column

    first = column(frame, "ttft_s", default=np.nan)
    first = np.where(np.isnan(first), column(frame, "prefill_latency_s", default=np.nan), first)
    between = column(frame, "itl_s", default=np.nan)
    steps = np.maximum(column(frame, "output_tokens", default=np.nan) - 1.0, 1.0)
    decode = column(frame, "decode_latency_s", default=np.nan)
    return {"ttft_s": first, "itl_s": np.where(np.isnan(between), decode / steps, between)}


def build(
    frame: pd.DataFrame,
    scenario_class: str,
    limits: dict[str, float] | None = None,
    *,
    among: NDArray[np.bool_] | None = None,
) -> Scenarios:
    """Group the rows of a table into scenarios of a class, with at least 2 candidates each.

    Parameters
    ----------
    frame
        Usable rows of the measurement table.
    scenario_class
        S1 to S5.
    limits
        `ttft_s` and `itl_s` in seconds, the same for every scenario of S2 to S5. Without them
        each scenario has its own: the median over its candidates. A candidate whose latency is
        not known does not meet a limit.
    among
        Rows that may be candidates, shape (rows,); all of them if None.
    """
    free = ("batch",) if scenario_class in FREE_BATCH else ()
    codes = workload_codes(frame, FIXED[scenario_class], free=free)
    keep = np.ones(len(frame), dtype=bool) if among is None else among.copy()
    if scenario_class in LIMITED:
        for name, values in latencies(frame).items():
            if limits is not None:
                if name in limits:
                    keep &= values <= limits[name]
                continue
            keep &= values <= LIMIT_FACTOR * _median_by(codes, values)
    return Scenarios(scenario_class, rectangle(codes, keep))


def workload_codes(
    frame: pd.DataFrame, fixed: tuple[str, ...], *, free: tuple[str, ...] = ()
) -> NDArray[np.intp]:
    """Return a number a row, the same for rows of one workload that agree in `fixed` too.

    Columns of the workload that are `free` may differ within a number.
    """
    keys = [c for c in (*WORKLOAD, *fixed) if c in frame.columns and c not in free]
    groups = frame.groupby(keys, dropna=False, sort=True)
    return groups.ngroup().to_numpy().astype(np.intp)


def work_units(frame: pd.DataFrame, scenario_class: str) -> NDArray[np.float64]:
    """Return what energies of a class are divided by, shape (rows,).

    Output tokens of the whole batch where the batch is free, else 1.
    """
    from fitting.work import column

    if scenario_class not in FREE_BATCH:
        return np.ones(len(frame))
    return column(frame, "batch") * column(frame, "output_tokens")


def _median_by(codes: NDArray[np.intp], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for each row the median of the values of its group."""
    import pandas as pd

    median = pd.Series(values).groupby(codes).transform("median")
    return median.to_numpy(dtype=np.float64)


def rectangle(codes: NDArray[np.intp], keep: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return positions by group, padded with -1; groups of fewer than 2 are left out."""
    positions = np.flatnonzero(keep)
    order = positions[np.argsort(codes[positions], kind="stable")]
    if not len(order):
        return np.zeros((0, 2), dtype=np.intp)
    _, index, counts = np.unique(codes[order], return_inverse=True, return_counts=True)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    table = np.full((len(counts), max(int(counts.max()), 2)), -1, dtype=np.intp)
    table[index, np.arange(len(order)) - starts[index]] = order
    return table[counts >= 2]
