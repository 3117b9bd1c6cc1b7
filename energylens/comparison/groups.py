"""One summary a group: models, types of hardware, versions of the engine, whatever is asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from energylens.comparison.launches import summarise
from energylens.comparison.ratios import Floats, Ints, Ratios

MIN_ROWS = 3
"""Pairs of a group, at least; fewer say no more than the pairs themselves."""


@dataclass(frozen=True, slots=True)
class Pooled:
    """Mean log change of a group.

    Attributes
    ----------
    mean, stderr
        The mean and its standard error.
    middle
        The median: one configuration that changed much moves the mean and not the median.
    degrees
        Degrees of freedom of the error.
    rows, units
        Pairs of rows, pairs of launches.
    """

    mean: float
    stderr: float
    middle: float
    degrees: float
    rows: int
    units: int


def pool(
    found: Ratios,
    unit: Ints,
    rows: Ints,
    launch_sd: float,
    moved: Floats,
    card_sd: float,
) -> Pooled | None:
    """Average the changes of a group by generalised least squares.

    Launches are the clusters: rows of one share its scatter, and launches that moved between the
    same GPUs share theirs. Where configurations of the group differ by more than all that, the
    error grows with them (Birge's ratio).

    Parameters
    ----------
    found, unit
        Changes of all pairs, and their units.
    rows
        Pairs of the group.
    launch_sd, card_sd
        Scatter of launches and of GPUs.
    moved
        (units, cards) what came to each GPU less what left it.

    Returns
    -------
    Pooled or None
        None with fewer than `MIN_ROWS` pairs that have an error.
    """
    rows = rows[np.isfinite(found.stderr[rows]) & np.isfinite(found.log_change[rows])]
    if rows.size < MIN_ROWS:
        return None
    summary = summarise(found, unit, rows)
    shift = moved[summary.unit]
    covariance = np.diag(summary.variance + launch_sd**2) + card_sd**2 * (shift @ shift.T)
    weight = np.linalg.solve(covariance, np.ones(summary.unit.size))
    mean = float(weight @ summary.mean / weight.sum())
    variance = found.stderr[rows] ** 2 + launch_sd**2
    variance = variance + card_sd**2 * (moved[unit[rows]] ** 2).sum(axis=1)
    birge = float(((found.log_change[rows] - mean) ** 2 / variance).sum() / (rows.size - 1))
    stderr = float(np.sqrt(max(1.0, birge) / weight.sum()))
    middle = float(np.median(found.log_change[rows]))
    return Pooled(mean, stderr, middle, rows.size - 1.0, int(rows.size), int(summary.unit.size))
