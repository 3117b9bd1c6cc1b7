"""What every engine hands over: a structure that can be fitted to groups and asked for energies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fitting.discover.problem import Problem

Array = NDArray[np.float64]

FLOOR = 1e-3
"""Relative scatter below which a smaller one is no better: no power sensor is that good."""


@dataclass(frozen=True, slots=True)
class Constant:
    """One fitted number of a law.

    Attributes
    ----------
    name
        Symbol in the text of the law.
    unit
        Its unit; None where the engine leaves it open.
    meaning
        What it counts.
    """

    name: str
    unit: str | None
    meaning: str


class Structure(Protocol):
    """One structure for all groups; its constants are fitted for each group."""

    @property
    def text(self) -> str:
        """The law, readable by SymPy."""
        ...

    @property
    def constants(self) -> tuple[Constant, ...]:
        """Fitted numbers, in the order of the columns of `fit`."""
        ...

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of its terms, or of the work terms that it uses."""
        ...

    def fit(self, problem: Problem) -> Array:
        """Return the constants of each group, shape (groups, constants)."""
        ...

    def predict(self, problem: Problem, values: Array) -> Array:
        """Return energies, J, shape (rows,), for constants of each group."""
        ...

    def active(self, problem: Problem, values: Array) -> NDArray[np.intp]:
        """Return how many constants each group really uses, shape (groups,)."""
        ...


def relative_error(problem: Problem, predicted: Array) -> Array:
    """Return (predicted - energy) / energy, shape (rows,)."""
    with np.errstate(all="ignore"):
        result: Array = predicted / problem.energy - 1.0
    return result


def bic(problem: Problem, predicted: Array, active: NDArray[np.intp]) -> float:
    """Return the Bayesian information criterion, each group with a scatter of its own.

    Sum over groups of n log(RSS/n) + k log n (Schwarz 1978), on weighted relative residuals. A
    coefficient that the data put to zero is no parameter of its group: the positive ones are the
    degrees of freedom of non-negative least squares (Meyer and Woodroofe 2000).
    """
    residual = problem.weight * relative_error(problem, predicted)
    total = 0.0
    for g, rows in enumerate(problem.slices()):
        n = rows.stop - rows.start
        if n == 0:
            continue
        scatter = float(np.mean(residual[rows] ** 2))
        if not np.isfinite(scatter):
            return float("inf")
        total += n * np.log(max(scatter, FLOOR**2)) + float(active[g]) * np.log(n)
    return float(total)
