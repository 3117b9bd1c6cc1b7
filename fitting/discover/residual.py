"""A correction sought on what a law leaves, kept only if it lowers the error on rows left out."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fitting.discover.engine import Deadline, Found
from fitting.discover.heldout import FOLDS, WORST_ERROR, clustered, folds
from fitting.discover.problem import Problem
from fitting.discover.result import Residual
from fitting.discover.structure import Structure

Array = NDArray[np.float64]


class RatioEngine(Protocol):
    """An engine that can search on pure numbers instead of work terms."""

    def search(
        self, problem: Problem, *, seed: int, draws: int, deadline: Deadline, inputs: str = ...
    ) -> Found:
        """Find structures over the inputs of that name."""
        ...


def residual_search(
    problem: Problem, law: Structure, engine: RatioEngine, *, seed: int, deadline: Deadline
) -> Residual:
    """Seek a factor on a law that depends on pure numbers (degrees, lengths).

    In each of the parts, law and factor are fitted to the other parts; the form of the factor
    is sought there too, so that no row left out has a say in it. The factor written out is the
    one found on all rows.

    Returns
    -------
    Residual
        The factor and the fall of the held-out error; not kept unless that is more than its
        standard error.
    """
    part = folds(problem, seed)
    plain, corrected = np.full(len(problem), np.nan), np.full(len(problem), np.nan)
    for number in range(FOLDS):
        test = part == number
        if deadline.passed:
            return Residual("", float("nan"), float("nan"), kept=False)
        train = problem.take(~test)
        values = law.fit(train)
        predicted = law.predict(problem, values)
        plain[test] = _error(predicted, problem, test)
        factor = _factor(_ratios(train, law.predict(train, values)), engine, seed, deadline)
        if factor is not None:
            found, constants = factor
            predicted = predicted * found.predict(problem, constants)
        corrected[test] = _error(predicted, problem, test)
    gap = clustered(problem, plain - corrected)
    whole = _factor(
        _ratios(problem, law.predict(problem, law.fit(problem))), engine, seed, deadline
    )
    text = whole[0].text if whole is not None else ""
    kept = bool(text) and np.isfinite(gap.value) and gap.value > max(gap.error, 0.0)
    return Residual(text, gap.value, gap.error, kept=bool(kept))


def _error(predicted: Array, problem: Problem, test: NDArray[np.bool_]) -> Array:
    with np.errstate(all="ignore"):
        found = np.abs(predicted / problem.energy - 1.0)[test]
    result: Array = np.minimum(np.nan_to_num(found, nan=WORST_ERROR), WORST_ERROR)
    return result


def _ratios(problem: Problem, predicted: Array) -> Problem:
    """Return the problem whose energies are what the law leaves, as a ratio."""
    with np.errstate(all="ignore"):
        ratio = problem.energy / predicted
    keep = np.isfinite(ratio) & (ratio > 0.0)
    return replace(problem, energy=np.where(keep, ratio, 1.0), weight=problem.weight * keep)


def _factor(
    ratios: Problem, engine: RatioEngine, seed: int, deadline: Deadline
) -> tuple[Structure, Array] | None:
    """Return the best factor of few constants and its constants, or None."""
    found = engine.search(ratios, seed=seed, draws=0, deadline=deadline, inputs="ratios")
    best: tuple[float, Structure, Array] | None = None
    for structure in found.structures:
        values = structure.fit(ratios)
        error = float(np.abs(structure.predict(ratios, values) / ratios.energy - 1.0).mean())
        if len(structure.constants) <= 4 and (best is None or error < best[0]):
            best = (error, structure, values)
    return None if best is None else (best[1], best[2])
