"""How good answers for held-out rows are: error, choice, interval; for each name and for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fitting.extrapolation.answers import Answer
from fitting.metrics import interval, judge
from fitting.scenarios import Scenarios

Array = NDArray[np.float64]

DRAWS = 1000
"""Bootstrap draws of held-out names."""


@dataclass(frozen=True, slots=True)
class Truth:
    """What was measured of the held-out rows of one name.

    Attributes
    ----------
    energy, half
        Energies and half widths of their 95 % intervals, J, shape (asked,).
    scenarios
        Choices among the held-out rows alone.
    """

    energy: Array
    half: Array
    scenarios: Scenarios


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one method did on one name with so many rows of it, over all seeds.

    Attributes
    ----------
    errors
        Absolute relative errors of held-out rows that were not shown, shape (n,).
    inside
        1 where the row lies within its 95 % prediction interval, else 0; rows without an
        interval are not in it.
    top1, regret
        By scenario, shape (scenarios,).
    asked
        Held-out rows that were not shown, also those that got no answer.
    seeds
        Number of draws that the arrays hold.
    """

    errors: Array
    inside: Array
    top1: Array
    regret: Array
    asked: int
    seeds: int = 1


def outcome(truth: Truth, answer: Answer, shown: NDArray[np.bool_]) -> Outcome:
    """Judge the answer for all held-out rows.

    Errors are of rows that were not shown. Scenarios keep all of their candidates, shown or not,
    so that they stay the same for every number of rows; those with a candidate that the method
    says nothing about are left out.
    """
    empty = np.zeros(0)
    errors, inside, asked = empty, empty, int((~shown).sum())
    if answer.energy is not None:
        free = ~shown & ~np.isnan(answer.energy)
        errors = np.abs(answer.energy[free] / truth.energy[free] - 1.0)
        if answer.lo is not None and answer.hi is not None:
            known = free & ~np.isnan(answer.lo) & ~np.isnan(answer.hi)
            measured = truth.energy[known]
            inside = ((measured >= answer.lo[known]) & (measured <= answer.hi[known])).astype(float)
    table = truth.scenarios
    if not len(table):
        return Outcome(errors, inside, empty, empty, asked)
    ranked = ~(table.mask & np.isnan(answer.score)[table.rows]).any(axis=1)
    part = Scenarios(table.scenario_class, table.rows[ranked])
    if not len(part):
        return Outcome(errors, inside, empty, empty, asked)
    choice = judge(
        part.values(truth.energy, np.inf),
        part.values(truth.half, 0.0),
        part.values(answer.score, np.inf),
        part.mask,
    )
    return Outcome(errors, inside, choice.top1, choice.regret, asked)


def joined(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the outcomes of several seeds as one."""
    return Outcome(
        errors=np.concatenate([o.errors for o in outcomes]),
        inside=np.concatenate([o.inside for o in outcomes]),
        top1=np.concatenate([o.top1 for o in outcomes]),
        regret=np.concatenate([o.regret for o in outcomes]),
        asked=sum(o.asked for o in outcomes),
        seeds=sum(o.seeds for o in outcomes),
    )


def record(outcomes: Sequence[Outcome]) -> dict[str, float | int]:
    """Return the figures of one name, or of several together.

    Intervals of several names are bootstrapped over the names: a new name is what one wants to
    know about, and rows of one name err together. With fewer than three names, and for one name,
    the interval of Top-1 is over scenarios and the error has none.
    """
    whole = joined(outcomes)
    rng = np.random.default_rng(0)
    found: dict[str, float | int] = {
        "n": sum(len(o.errors) // o.seeds for o in outcomes),
        "answered": len(whole.errors) / whole.asked if whole.asked else float("nan"),
        "scenarios": sum(len(o.top1) // o.seeds for o in outcomes),
        "mape": _mean(whole.errors),
        "mape_lo": float("nan"),
        "mape_hi": float("nan"),
        "median_ape": float(np.median(whole.errors)) if len(whole.errors) else float("nan"),
        "top1": _mean(whole.top1),
        "mean_regret": _mean(whole.regret),
        "coverage": _mean(whole.inside),
    }
    if len(outcomes) >= 3:
        found["mape_lo"], found["mape_hi"] = _over_names([o.errors for o in outcomes], rng)
        low, high = _over_names([o.top1 for o in outcomes], rng)
    else:
        low, high = interval(whole.top1, rng)
    found["top1_lo"], found["top1_hi"] = low, high
    return found


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _over_names(parts: Sequence[Array], rng: np.random.Generator) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean over all values, drawing whole names."""
    parts = [part for part in parts if len(part)]
    if len(parts) < 3:
        return float("nan"), float("nan")
    sums = np.array([part.sum() for part in parts])
    counts = np.array([len(part) for part in parts], dtype=np.float64)
    drawn = rng.integers(0, len(parts), size=(DRAWS, len(parts)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
