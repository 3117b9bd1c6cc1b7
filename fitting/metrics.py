"""How good choices and predictions are: Top-1, pairwise accuracy, regret, error, and their CI."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

TIED = 1e-9
"""Predictions closer than this, relative, count as the same."""

NEAR = 0.01
"""A choice that costs at most this much more than the best is `within 1 %`."""

DRAWS = 400
"""Bootstrap resamples of the scenarios."""

MOST_RESAMPLED = 4096
"""Values above which the interval of a mean is taken as normal: the bootstrap gives the same."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What a method chose in each scenario, and how good that was; every field (scenarios,).

    A method that predicts the same for several candidates chooses among them at random, so
    each figure is its mean over them.

    Attributes
    ----------
    top1
        Chosen is the best, or not told from it by the confidence intervals of the two.
    strict
        Chosen has the lowest measured energy; ties do not count.
    near
        Chosen costs at most 1 % more than the best.
    regret
        E(chosen) / E(best) - 1.
    pairwise
        Share of the pairs of candidates that are told apart by their intervals and that the
        method puts in the right order; NaN without such a pair.
    """

    top1: Array
    strict: Array
    near: Array
    regret: Array
    pairwise: Array


def judge(energy: Array, half: Array, score: Array, mask: NDArray[np.bool_]) -> Choice:
    """Judge the choices of a method that picks the candidate with the lowest score.

    Parameters
    ----------
    energy, half
        Measured energies and half widths of their 95 % intervals, shape (scenarios, candidates).
    score
        What the method minimises, same shape; a candidate with NaN is chosen last.
    mask
        True where there is a candidate.
    """
    energy = np.where(mask, energy, np.inf)
    score = np.where(mask & ~np.isnan(score), score, np.inf)
    lowest = score.min(axis=1, keepdims=True)
    chosen = mask & (score <= lowest + TIED * np.abs(lowest))
    weight = chosen / chosen.sum(axis=1, keepdims=True)
    best = energy.argmin(axis=1)[:, None]
    least = np.take_along_axis(energy, best, axis=1)
    best_half = np.take_along_axis(half, best, axis=1)
    with np.errstate(invalid="ignore"):
        excess = energy - least
    same = excess <= np.hypot(half, best_half)
    regret = np.where(chosen, energy, least) / least - 1.0
    return Choice(
        top1=(weight * same).sum(axis=1),
        strict=(weight * (excess <= 0.0)).sum(axis=1),
        near=(weight * (energy <= least * (1.0 + NEAR))).sum(axis=1),
        regret=(weight * regret).sum(axis=1),
        pairwise=_pairwise(energy, half, score, mask),
    )


def _pairwise(energy: Array, half: Array, score: Array, mask: NDArray[np.bool_]) -> Array:
    """Return the share of pairs in the right order; a tie of the scores is half right."""
    n = energy.shape[1]
    right, told = np.zeros(len(energy)), np.zeros(len(energy))
    with np.errstate(invalid="ignore"):
        for i in range(n - 1):
            gap = energy[:, i + 1 :] - energy[:, i : i + 1]
            limit = np.hypot(half[:, i + 1 :], half[:, i : i + 1])
            both = mask[:, i + 1 :] & mask[:, i : i + 1] & (np.abs(gap) > limit)
            order = score[:, i + 1 :] - score[:, i : i + 1]
            near = np.abs(order) <= TIED * np.abs(score[:, i : i + 1])
            order = np.where(np.isnan(order) | (near & np.isfinite(order)), 0.0, order)
            right += (both * (1.0 + np.sign(gap) * np.sign(order)) / 2.0).sum(
                axis=1, where=both, initial=0.0
            )
            told += both.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        share: Array = np.where(told > 0, right / told, np.nan)
    return share


def interval(values: Array, rng: np.random.Generator | None = None) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean over scenarios.

    For zeros and ones the bootstrap mean is binomial, so its quantiles are taken exactly. Where
    all are the same the bootstrap sees no spread; the exact interval (Clopper and Pearson 1934)
    then keeps a few scenarios from looking certain. With `rng` the resamples are drawn from it,
    else they are the shared ones of `mean_intervals`.
    """
    n = len(values)
    if n == 0:
        return float("nan"), float("nan")
    if np.all((values == 0.0) | (values == 1.0)):
        from scipy.stats import binom

        if np.all(values == values[0]):
            reach = 1.0 - 0.025 ** (1.0 / n)
            return (1.0 - reach, 1.0) if values[0] else (0.0, reach)
        low, high = binom.ppf([0.025, 0.975], n, values.mean()) / n
        return float(low), float(high)
    if rng is None:
        ends = mean_intervals(values[:, None])[:, 0]
    else:
        means = values[rng.integers(0, n, size=(DRAWS, n))].mean(axis=1)
        ends = np.quantile(means, [0.025, 0.975])
    return float(ends[0]), float(ends[1])


@lru_cache(maxsize=32)
def _weights(n: int) -> NDArray[np.float32]:
    """Return how often each of n values is drawn in each resample over n, shape (DRAWS, n)."""
    rng = np.random.default_rng(n)
    drawn = rng.integers(0, n, size=(DRAWS, n)) + n * np.arange(DRAWS)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=DRAWS * n).reshape(DRAWS, n)
    weights: NDArray[np.float32] = (counts / n).astype(np.float32)
    return weights


def mean_intervals(values: Array) -> Array:
    """Return 95 % percentile bootstrap intervals of the means of columns.

    The same resamples serve every column and every call of the same length, so that methods are
    compared on the same draws and equal input gives equal output.

    Parameters
    ----------
    values
        Shape (observations, columns); NaN is left out of the mean of its column.

    Returns
    -------
    ndarray
        Lower and upper ends, shape (2, columns); NaN where a column has no value.
    """
    n, known = len(values), ~np.isnan(values)
    if not n:
        return np.full((2, values.shape[1]), np.nan)
    filled = np.where(known, values, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        if n > MOST_RESAMPLED:
            size = known.sum(axis=0)
            mean = filled.sum(axis=0) / size
            spread = np.sqrt((np.where(known, values - mean, 0.0) ** 2).sum(axis=0)) / size
            return np.stack([mean - 1.96 * spread, mean + 1.96 * spread])
        weights = _weights(n).astype(np.float64)
        means = (weights @ filled) / (weights @ known.astype(np.float64))
    with_any = known.any(axis=0)
    out = np.full((2, values.shape[1]), np.nan)
    out[:, with_any] = np.nanquantile(means[:, with_any], [0.025, 0.975], axis=0)
    return out


def median_interval(values: Array) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the median, by order statistics.

    The median of a resample is the k-th smallest value or less exactly if at least half of the
    draws are, which is binomial; so no resample has to be drawn (Efron and Tibshirani 1993, 13.3).
    """
    n = len(values)
    if not n:
        return float("nan"), float("nan")
    ordered, reach = np.sort(values), 0.98 * np.sqrt(n)
    low = int(np.clip(np.floor(n / 2.0 - reach), 0, n - 1))
    high = int(np.clip(np.ceil(n / 2.0 + reach), 0, n - 1))
    return float(ordered[low]), float(ordered[high])


def summary(choices: Sequence[Choice], picked: NDArray[np.bool_]) -> dict[str, float]:
    """Return the scores of some scenarios, averaged over seeds, with intervals.

    Intervals are a bootstrap over scenarios, whose draws are fixed. The worst regret has none: a
    resample cannot show a regret worse than the worst one seen.

    Parameters
    ----------
    choices
        What the method chose, one entry a seed.
    picked
        Which scenarios count, shape (scenarios,).
    """

    def over_seeds(name: str) -> Array:
        values: Array = np.mean([getattr(c, name)[picked] for c in choices], axis=0)
        return values

    top1 = over_seeds("top1")
    low, high = interval(top1)
    out = {
        "top1": float(top1.mean()),
        "top1_lo": low,
        "top1_hi": high,
        "max_regret": float(max(c.regret[picked].max() for c in choices)),
    }
    fields = ("strict", "near", "pairwise", "regret")
    names = ("top1_strict", "top1_within_1pct", "pairwise", "mean_regret")
    values = np.column_stack([over_seeds(f) for f in fields])
    ends = mean_intervals(values)
    for i, name in enumerate(names):
        out[name] = mean_or_nan(values[:, i])
        out[f"{name}_lo"], out[f"{name}_hi"] = float(ends[0, i]), float(ends[1, i])
    return out


def error_summary(errors: Array) -> dict[str, float]:
    """Return mean and median of relative errors with their intervals, and how many there are.

    Parameters
    ----------
    errors
        Absolute relative errors of rows that were not fitted; NaN where nothing was predicted.
    """
    known = errors[~np.isnan(errors)]
    ends = mean_intervals(known[:, None])[:, 0]
    low, high = median_interval(known)
    return {
        "mape": mean_or_nan(known),
        "mape_lo": float(ends[0]),
        "mape_hi": float(ends[1]),
        "median_ape": float(np.median(known)) if len(known) else float("nan"),
        "median_ape_lo": low,
        "median_ape_hi": high,
        "unfitted_rows": len(known),
    }


def mean_or_nan(values: Array) -> float:
    """Return the mean of the values that are no NaN; NaN if there is none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
