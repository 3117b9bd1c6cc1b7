"""The domain a law was fitted on, and how far outside of it a row lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fitting.work import column

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

NUMERIC: dict[str, float | None] = {
    "batch": None,
    "input_tokens": None,
    "output_tokens": None,
    "tensor_parallel": 1.0,
    "pipeline_parallel": 1.0,
    "expert_parallel": 1.0,
    "data_parallel": 1.0,
}
"""Columns whose range is kept, and the value that a missing one stands for."""

LABELS: dict[str, str] = {"precision": "bf16", "modality": "text"}
"""Columns whose set of values is kept, and the value that a missing one stands for."""

OPTIONAL_LABELS = ("task",)
"""Columns whose set of values is kept if every row has one; rows without one are inside."""


@dataclass(frozen=True, slots=True)
class Domain:
    """What the training rows of one (model, hardware) covered.

    Attributes
    ----------
    ranges
        Column -> (lowest, highest) value; a column without values is not in it.
    labels
        Column -> sorted values.
    """

    ranges: dict[str, tuple[float, float]]
    labels: dict[str, list[str]]

    def to_dict(self) -> dict[str, list[float] | list[str]]:
        """Return column -> [lowest, highest] or list of values."""
        merged: dict[str, list[float] | list[str]] = {k: list(v) for k, v in self.ranges.items()}
        merged.update(self.labels)
        return merged

    @staticmethod
    def from_dict(data: dict[str, list[float] | list[str]]) -> Domain:
        """Rebuild a domain from `to_dict`."""
        return Domain(
            ranges={k: (float(v[0]), float(v[1])) for k, v in data.items() if k in NUMERIC},
            labels={
                k: [str(x) for x in v]
                for k, v in data.items()
                if k in LABELS or k in OPTIONAL_LABELS
            },
        )


def domain_of(rows: pd.DataFrame) -> Domain:
    """Return the domain that training rows cover."""
    ranges: dict[str, tuple[float, float]] = {}
    for name, default in NUMERIC.items():
        values = column(rows, name, default=np.nan if default is None else default)
        values = values[~np.isnan(values)]
        if len(values):
            ranges[name] = (float(values.min()), float(values.max()))
    labels = {name: sorted(set(_labels(rows, name))) for name in LABELS}
    for name in OPTIONAL_LABELS:
        if name in rows.columns and len(rows) and rows[name].notna().all():
            labels[name] = sorted({str(v) for v in rows[name]})
    return Domain(ranges, labels)


def _labels(frame: pd.DataFrame, name: str) -> list[str]:
    if name not in frame.columns:
        return [LABELS[name]] * len(frame)
    return [LABELS[name] if v is None or v != v else str(v) for v in frame[name].tolist()]


def distance(frame: pd.DataFrame, domain: Domain) -> NDArray[np.float64]:
    """Return how far each row lies outside a domain: doublings beyond a range, 1 a new label.

    Parameters
    ----------
    frame
        Rows to judge.
    domain
        Domain of their (model, hardware).

    Returns
    -------
    ndarray
        Shape (rows,); 0 inside.
    """
    total = np.zeros(len(frame))
    for name, (lowest, highest) in domain.ranges.items():
        values = column(frame, name, default=NUMERIC[name] or lowest)
        with np.errstate(divide="ignore", invalid="ignore"):
            total += np.maximum(np.log2(values / highest), 0.0)
            total += np.maximum(np.log2(lowest / values), 0.0)
    for name, known in domain.labels.items():
        if name in frame.columns:
            seen = frame[name].isin(known) | frame[name].isna()
            total += (~seen).to_numpy(dtype=np.float64)
        elif name in LABELS and LABELS[name] not in known:
            total += 1.0
    return total
