"""Change of one metric in every pair of rows: log ratio, standard error, degrees of freedom.

Changes are compared as log ratios, so that swapping the runs swaps the sign and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from energylens.comparison.metrics import Metric
from energylens.comparison.texts import texts
from harness.meters.phases import PRIOR_WEIGHT
from harness.meters.student import student_t95

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

FLOOR = 0.001
"""No change is known better than this, as a share."""

MIN_SCATTER = 6
"""Degrees of freedom that a scatter is estimated from, at least; fewer give no interval."""

LAGS = 20


@dataclass(frozen=True, slots=True)
class Ratios:
    """Changes of one metric, one value a pair.

    Attributes
    ----------
    log_change
        ln(new / old); NaN where either is missing.
    stderr
        Its standard error from the two intervals, or from the scatter of the pairs; NaN where
        neither is known.
    degrees
        Degrees of freedom of that error.
    inflation
        Factor by which pairs scatter more than their intervals say, at least 1.
    """

    log_change: Floats
    stderr: Floats
    degrees: Floats
    inflation: float


def ratios(old: pd.DataFrame, new: pd.DataFrame, metric: Metric, unit: Ints) -> Ratios:
    """Compute the changes of one metric.

    The two half widths become standard errors (Student, with the degrees of freedom that the
    launch used) and add in squares; Welch and Satterthwaite give the degrees of the sum. What
    both nights share, such as the gain of the sensor of a GPU, is in neither interval and
    cancels in the ratio. Pairs of the same launches scatter; where they differ by
    more than the errors say, all errors grow by the same factor. Rows without an interval take
    the scatter itself.

    Parameters
    ----------
    old, new
        Paired rows.
    metric
        What to compare.
    unit
        (pairs,) index of the pair of launches that each pair of rows belongs to.
    """
    value_old, value_new = _positive(old, metric.column), _positive(new, metric.column)
    d = np.log(value_new) - np.log(value_old)
    se_old, df_old = _relative_error(old, metric, value_old)
    se_new, df_new = _relative_error(new, metric, value_new)
    stderr = np.hypot(se_old, se_new)
    with np.errstate(divide="ignore", invalid="ignore"):
        degrees = stderr**4 / (se_old**4 / df_old + se_new**4 / df_new)
    degrees = np.where(np.isfinite(degrees), np.minimum(degrees, 1e6), 1e6)
    stderr = np.maximum(stderr, FLOOR)
    stderr[~np.isfinite(d)] = np.nan
    known = np.isfinite(stderr)
    inflation = _inflation(d, stderr, unit, np.flatnonzero(known))
    stderr = stderr * inflation
    bare = np.flatnonzero(np.isfinite(d) & ~known)
    if bare.size:
        stderr[bare], degrees[bare] = _scatter(d, unit, bare)
    return Ratios(d, stderr, degrees, inflation)


def units(old: pd.DataFrame, new: pd.DataFrame) -> Ints:
    """Number the pairs of launches: rows of one share devices, weights and weather.

    Rows without a launch count as one by deployment.
    """
    deployment = ["model_id", "hardware", "engine", "tensor_parallel", "pipeline_parallel"]
    deployment += ["expert_parallel", "data_parallel", "precision"]
    key = old[deployment].copy()
    for name, frame in (("old", old), ("new", new)):
        key[f"{name}_launch"] = frame["launch_id"].to_numpy()
        key[f"{name}_cards"] = [",".join(sorted(texts(cards))) for cards in frame["gpu_uuids"]]
    number: Ints = key.groupby(list(key.columns), dropna=False).ngroup().to_numpy().astype(np.int64)
    return number


def _positive(frame: pd.DataFrame, column: str) -> Floats:
    values = frame[column].to_numpy(dtype=np.float64, na_value=np.nan)
    return np.where(values > 0, values, np.nan)


def _relative_error(frame: pd.DataFrame, metric: Metric, value: Floats) -> tuple[Floats, Floats]:
    """Standard error over value, and its degrees of freedom."""
    repeats = frame["repeats"].to_numpy(dtype=np.float64, na_value=np.nan)
    prior = np.where(frame["provenance"].to_numpy() == "imported", 0.0, PRIOR_WEIGHT)
    # One repeat, or nobody knows: the half width is taken as that of a normal distribution.
    degrees = np.where(repeats >= 2, repeats - 1 + prior, 1e6)
    if metric.half_width is None:
        return np.full(len(frame), np.nan), degrees
    half = frame[metric.half_width].to_numpy(dtype=np.float64, na_value=np.nan)
    factor = np.array([student_t95(float(n)) for n in degrees])
    return np.abs(half) / factor / value, degrees


def neighbours(unit: Ints, rows: Ints) -> tuple[Ints, Ints]:
    """Pair up rows of the same unit: all of them in small units, the next `LAGS` in large ones.

    A difference of two rows needs no centre, so small units do not make it look too small.
    """
    order = rows[np.argsort(unit[rows], kind="stable")]
    first, second = [], []
    for lag in range(1, min(LAGS, order.size - 1) + 1):
        same = unit[order[lag:]] == unit[order[:-lag]]
        first.append(order[:-lag][same])
        second.append(order[lag:][same])
    if not first:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    return np.concatenate(first), np.concatenate(second)


def free_of(unit: Ints, rows: Ints) -> int:
    """Degrees of freedom that rows have within their units."""
    return int(rows.size - np.unique(unit[rows]).size)


def _inflation(d: Floats, stderr: Floats, unit: Ints, rows: Ints) -> float:
    if free_of(unit, rows) < MIN_SCATTER:
        return 1.0
    i, j = neighbours(unit, rows)
    return max(1.0, robust_sd((d[i] - d[j]) / np.hypot(stderr[i], stderr[j])))


def _scatter(d: Floats, unit: Ints, rows: Ints) -> tuple[float, float]:
    """Standard deviation of single pairs, and its degrees of freedom."""
    free = free_of(unit, rows)
    if free < MIN_SCATTER:
        return float("nan"), 1.0
    i, j = neighbours(unit, rows)
    # Half of the efficiency is the price of a median of absolute values.
    return max(FLOOR, robust_sd(d[i] - d[j]) / np.sqrt(2)), max(1.0, free / 2)


def robust_sd(values: Floats) -> float:
    """Return a standard deviation from the median of absolute values: outliers count little."""
    return float(1.4826 * np.median(np.abs(values)))
