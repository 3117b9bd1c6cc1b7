"""Errors on rows that were not fitted, and on GPU types that no structure was chosen on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fitting.discover.engine import Deadline, Engine
from fitting.discover.problem import Problem
from fitting.discover.structure import Structure, relative_error
from harness.store import FitError

Array = NDArray[np.float64]

FOLDS = 5
"""Parts that the rows of each group are dealt into."""

WORST_ERROR = 10.0
"""A row that a law cannot predict counts as this relative error."""


def folds(problem: Problem, seed: int) -> NDArray[np.intp]:
    """Return the part of each row, 0 to FOLDS - 1, shape (rows,).

    Rows of sibling models stay together where `Problem.siblings` says so.
    """
    rng = np.random.default_rng(seed)
    result = np.zeros(len(problem), dtype=np.intp)
    if problem.siblings:
        kinds = np.unique(problem.fold)
        deal = dict(
            zip(kinds.tolist(), (rng.permutation(len(kinds)) % FOLDS).tolist(), strict=True)
        )
        return np.array([deal[int(kind)] for kind in problem.fold], dtype=np.intp)
    for rows in problem.slices():
        result[rows] = rng.permutation(rows.stop - rows.start) % FOLDS
    return result


def held_out_rows(problem: Problem, structure: Structure, seed: int) -> Array:
    """Return the absolute relative error of every row, its own part left out, shape (rows,).

    The structure is given; its constants are fitted to the other parts. Rows of a group that
    has no other rows are NaN.
    """
    part = folds(problem, seed)
    errors = np.full(len(problem), np.nan)
    for number in range(FOLDS):
        test = part == number
        train = problem.take(~test)
        if not test.any() or not len(train):
            continue
        values = structure.fit(train)
        found = np.abs(relative_error(problem, structure.predict(problem, values)))[test]
        errors[test] = np.minimum(np.nan_to_num(found, nan=WORST_ERROR), WORST_ERROR)
        seen = np.isin(problem.group, train.group)
        errors[test & ~seen] = np.nan
    return errors


def held_out_hardware(
    problem: Problem, engine: Engine, *, seed: int, deadline: Deadline
) -> tuple[dict[int, Array], list[str]]:
    """Return for every number of constants the errors on GPU types left out of the search.

    The structure is sought without a GPU type. Its constants are fitted to four fifths of the
    rows of that type, because they belong to the hardware, and the error is that of the fifth.

    Returns
    -------
    errors
        Number of constants -> absolute relative error, shape (rows,): of the largest structure
        with at most so many constants.
    notes
        What was not done.
    """
    kinds = sorted(set(problem.hardware))
    if len(kinds) < 2:
        return {}, ["One GPU type only: nothing to hold out by hardware."]
    errors: dict[int, Array] = {}
    for kind in kinds:
        if deadline.passed:
            return {}, ["The time ended before every GPU type was held out."]
        mine = np.array([name == kind for name in problem.hardware])
        rest = problem.keep_groups(np.flatnonzero(~mine))
        test = problem.keep_groups(np.flatnonzero(mine))
        try:
            found = engine.search(rest, seed=seed, draws=0, deadline=deadline).structures
        except FitError:
            return {}, [f"No structure was found without {kind}."]
        rows = np.isin(problem.group, np.flatnonzero(mine))
        for structure in found:
            size = len(structure.constants)
            errors.setdefault(size, np.full(len(problem), np.nan))
            errors[size][rows] = held_out_rows(test, structure, seed)
    return _filled(errors), []


def _filled(errors: dict[int, Array]) -> dict[int, Array]:
    """Give a size that one GPU type lacks the errors of the next smaller one."""
    before: Array | None = None
    result = {}
    for size in sorted(errors):
        found = errors[size]
        if before is not None:
            found = np.where(np.isnan(found), before, found)
        result[size] = before = found
    return {size: found for size, found in result.items() if not np.isnan(found).all()}


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over rows and its standard error, rows of a group counted together."""

    value: float
    error: float


def clustered(problem: Problem, values: Array) -> Mean:
    """Return the mean of a value over rows; its standard error treats groups as the draws.

    With fewer than three groups the rows are the draws.
    """
    keep = np.isfinite(values)
    if not keep.any():
        return Mean(float("nan"), float("nan"))
    means = np.array(
        [values[rows][keep[rows]].mean() for rows in problem.slices() if keep[rows].any()]
    )
    drawn = means if len(means) >= 3 else values[keep]
    spread = float(drawn.std(ddof=1) / np.sqrt(len(drawn))) if len(drawn) > 1 else float("nan")
    return Mean(float(values[keep].mean()), spread)


def smallest_as_good(problem: Problem, sizes: Sequence[int], errors: Sequence[Array]) -> int:
    """Return the position of the smallest law within one standard error of the best.

    The rule of Breiman et al. (1984): every further term tells a little on many rows, but a
    law is to be read.
    """
    means = [clustered(problem, found) for found in errors]
    known = [i for i, mean in enumerate(means) if np.isfinite(mean.value)]
    if not known:
        return 0
    best = means[min(known, key=lambda i: means[i].value)]
    limit = best.value + (best.error if np.isfinite(best.error) else 0.0)
    return min(
        (i for i in known if means[i].value <= limit), key=lambda i: (sizes[i], means[i].value)
    )
