"""How good choices and predictions are: Top-1, pairwise accuracy, regret, error, and their CI."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

TIED = 1e-9
"""Predictions closer than this, relative, count as the same."""

NEAR = 0.01
"""A choice that costs at most this much more than the best is `within 1 %`."""

DRAWS = 400
"""Bootstrap resamples of the scenarios."""


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


def interval(values: Array, rng: np.random.Generator) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean over scenarios.

    For zeros and ones the bootstrap mean is binomial, so its quantiles are taken exactly. Where
    all are the same the bootstrap sees no spread; the exact interval (Clopper and Pearson 1934)
    then keeps a few scenarios from looking certain.
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
    means = values[rng.integers(0, n, size=(DRAWS, n))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def mean_or_nan(values: Array) -> float:
    """Return the mean of the values that are no NaN; NaN if there is none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
