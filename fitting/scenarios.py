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
}
"""What each class holds fixed beside the workload. S1 chooses t and p for a GPU count; S2 the
GPU count too, under latency limits; S3 the GPU type too, under the same kind of limits."""

LIMITED = ("S2", "S3")
"""Classes whose candidates must meet latency limits."""

LIMIT_FACTOR = 1.0
"""Without limits given, a scenario's limits are this factor times the median over its
candidates, of the time to first token and of the time per output token."""

GROUP_KINDS: dict[str, tuple[str, ...]] = {
    "S1": ("num_gpus", "family", "modality", "model_id", "hardware"),
    "S2": ("family", "modality", "model_id", "hardware"),
    "S3": ("family", "modality", "model_id"),
}
"""Columns that are the same for all candidates of a scenario, so that scores can be split."""


@dataclass(frozen=True, slots=True)
class Scenarios:
    """Candidates of every scenario of a class, padded to a rectangle.

    Attributes
    ----------
    scenario_class
        S1, S2 or S3.
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
    frame: pd.DataFrame, scenario_class: str, limits: dict[str, float] | None = None
) -> Scenarios:
    """Group the rows of a table into scenarios of a class, with at least 2 candidates each.

    Parameters
    ----------
    frame
        Usable rows of the measurement table.
    scenario_class
        S1, S2 or S3.
    limits
        `ttft_s` and `itl_s` in seconds, the same for every scenario of S2 and S3. Without them
        each scenario has its own: the median over its candidates. A candidate whose latency is
        not known does not meet a limit.
    """
    codes = workload_codes(frame, FIXED[scenario_class])
    keep = np.ones(len(frame), dtype=bool)
    if scenario_class in LIMITED:
        for name, values in latencies(frame).items():
            if limits is not None:
                if name in limits:
                    keep &= values <= limits[name]
                continue
            keep &= values <= LIMIT_FACTOR * _median_by(codes, values)
    return Scenarios(scenario_class, rectangle(codes, keep))


def workload_codes(frame: pd.DataFrame, fixed: tuple[str, ...]) -> NDArray[np.intp]:
    """Return a number a row, the same for rows of one workload that agree in `fixed` too."""
    keys = [c for c in (*WORKLOAD, *fixed) if c in frame.columns]
    groups = frame.groupby(keys, dropna=False, sort=True)
    return groups.ngroup().to_numpy().astype(np.intp)


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
