"""Laws made of library terms: exponents by variable projection, coefficients by NNLS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fitting.discover.expression import read
from fitting.discover.library import Exponent, Library
from fitting.discover.problem import Problem
from fitting.discover.structure import FLOOR, Constant

Array = NDArray[np.float64]
Theta = dict[str, Array]

_REFINEMENTS = 4
"""Halvings of the step of an exponent after its grid."""


@dataclass(frozen=True, slots=True)
class TermLaw:
    """A front times a sum of terms; see `Structure`.

    Attributes
    ----------
    library
        Where its parts come from.
    front
        Name of the front.
    terms
        Names of the terms.
    exponents
        Names of the exponents that are fitted.
    """

    library: Library
    front: str
    terms: tuple[str, ...]
    exponents: tuple[str, ...]

    @property
    def text(self) -> str:
        """The law, readable by SymPy."""
        front = self.library.front(self.front).text
        parts = [self.library.term(name).text for name in self.terms]
        body = " + ".join(
            f"a{i + 1}" if part == "1" else f"a{i + 1}*{_bracket(part)}"
            for i, part in enumerate(parts)
        )
        if front == "1":
            return body
        return f"{front}*({body})"

    @property
    def constants(self) -> tuple[Constant, ...]:
        """Coefficients, then exponents."""
        found = []
        for i, name in enumerate(self.terms):
            term = self.library.term(name)
            found.append(Constant(f"a{i + 1}", term.unit, term.meaning))
        known = {e.name: e for e in self.library.exponents}
        found += [Constant(name, "1", known[name].meaning) for name in self.exponents]
        return tuple(found)

    def fit(self, problem: Problem) -> Array:
        """Return the constants of each group, shape (groups, constants)."""
        solver = Solver(problem)
        theta = solver.tune(self.front, self.terms)
        coefficients, _ = solver.solve(solver.design(self.front, self.terms, theta))
        return np.column_stack([coefficients, *(theta[name] for name in self.exponents)])

    def predict(self, problem: Problem, values: Array) -> Array:
        """Return energies, J, shape (rows,)."""
        constants = {c.name: values[problem.group, i] for i, c in enumerate(self.constants)}
        return np.broadcast_to(read(self.text)(problem.known(constants)), problem.energy.shape)

    def active(self, problem: Problem, values: Array) -> NDArray[np.intp]:
        """Return the positive coefficients and the exponents of each group, shape (groups,)."""
        counts = (values[:, : len(self.terms)] > 0.0).sum(axis=1)
        result: NDArray[np.intp] = counts + Solver(problem).free(self.front, self.terms)
        return result


def term_law(problem: Problem, front: str, terms: Sequence[str]) -> TermLaw:
    """Return a law with the exponents that its parts and the rows call for."""
    solver = Solver(problem)
    order = [term.name for term in problem.library.terms if term.name in set(terms)]
    return TermLaw(problem.library, front, tuple(order), solver.exponents(front, order))


def _bracket(text: str) -> str:
    """Put a sum or quotient in brackets, so that a coefficient multiplies all of it."""
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0 and letter in "+-" and i and text[i - 1] == " ":
            return f"({text})"
    return text


@dataclass(slots=True)
class Solver:
    """Design matrices and least squares of one problem."""

    problem: Problem
    parts: list[slice] = field(init=False)

    def __post_init__(self) -> None:
        self.parts = self.problem.slices()

    def _names(self, front: str, terms: Sequence[str]) -> frozenset[str]:
        """Return the symbols that a law uses, those inside defined symbols too."""
        library = self.problem.library
        texts = [library.front(front).text, *(library.term(name).text for name in terms)]
        names = frozenset[str]().union(*(read(text).names for text in texts))
        for name, variable in reversed(list(self.problem.table.items())):
            if variable.definition is not None and name in names:
                names |= read(variable.definition).names
        return names

    def relevant(self, front: str, terms: Sequence[str]) -> dict[str, NDArray[np.bool_]]:
        """Return which groups can tell each exponent of a law, shape (groups,)."""
        names, values = self._names(front, terms), self.problem.values
        found: dict[str, NDArray[np.bool_]] = {}
        if "rho" in names:
            found["rho"] = self._any(values["p"] > 1.0)
        if "e" in names:
            found["e"] = self._any(values["t"] > 1.0)
        if "f" in names:
            found["f"] = self._any(values["q"] > 0.0) & self._any(values["q"] == 0.0)
        return {name: groups for name, groups in found.items() if groups.any()}

    def _any(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return np.array([bool(mask[rows].any()) for rows in self.parts])

    def exponents(self, front: str, terms: Sequence[str]) -> tuple[str, ...]:
        """Return the exponents that a law has on these rows."""
        return tuple(self.relevant(front, terms))

    def free(self, front: str, terms: Sequence[str]) -> NDArray[np.intp]:
        """Return how many exponents each group fits, shape (groups,)."""
        total = np.zeros(len(self.parts), dtype=np.intp)
        for groups in self.relevant(front, terms).values():
            total += groups
        return total

    def neutral(self) -> Theta:
        """Return exponents of no effect for every group."""
        n = len(self.parts)
        return {"rho": np.zeros(n), "e": np.zeros(n), "f": np.ones(n)}

    def design(self, front: str, terms: Sequence[str], theta: Mapping[str, Array]) -> Array:
        """Return the columns of a law over the energies, shape (rows, terms), weighted."""
        problem, library = self.problem, self.problem.library
        known = problem.known({name: value[problem.group] for name, value in theta.items()})
        scale = problem.weight / problem.energy * read(library.front(front).text)(known)
        matrix = np.empty((len(problem), len(terms)))
        for j, name in enumerate(terms):
            matrix[:, j] = scale * read(library.term(name).text)(known)
        return matrix

    def solve(self, matrix: Array) -> tuple[Array, Array]:
        """Return the coefficients of each group and its sum of squared residuals."""
        coefficients = np.zeros((len(self.parts), matrix.shape[1]))
        squares = np.zeros(len(self.parts))
        for g, rows in enumerate(self.parts):
            coefficients[g], squares[g] = nonnegative(matrix[rows], self.problem.weight[rows])
        return coefficients, squares

    def tune(self, front: str, terms: Sequence[str], *, rough: bool = False) -> Theta:
        """Return the best exponents of each group: a grid, then steps that are halved.

        The coefficients are solved for every trial (variable projection, Golub and Pereyra
        1973); all groups are stepped at once. A rough search walks the grid once.
        """
        theta, relevant = self.neutral(), self.relevant(front, terms)
        known = [e for e in self.problem.library.exponents if e.name in relevant]
        if not known:
            return theta
        best = np.full(len(self.parts), np.inf)
        for exponent in known:
            theta[exponent.name] = np.where(
                relevant[exponent.name],
                exponent.grid[len(exponent.grid) // 3],
                theta[exponent.name],
            )
        for exponent in known:
            for value in exponent.grid:
                best = self._try(front, terms, theta, exponent, relevant, value, best)
        step = 0.5
        for _ in range(0 if rough else _REFINEMENTS):
            for exponent in known:
                width = step * (exponent.grid[1] - exponent.grid[0])
                for move in (-width, width):
                    moved = theta[exponent.name] + move
                    best = self._try(front, terms, theta, exponent, relevant, moved, best)
            step *= 0.5
        return theta

    def _try(
        self,
        front: str,
        terms: Sequence[str],
        theta: Theta,
        exponent: Exponent,
        relevant: Mapping[str, NDArray[np.bool_]],
        value: float | Array,
        best: Array,
    ) -> Array:
        """Take a new value of an exponent in the groups that it serves; return the squares."""
        trial = np.clip(np.broadcast_to(value, best.shape), exponent.lower, exponent.upper)
        trial = np.where(relevant[exponent.name], trial, theta[exponent.name])
        _, squares = self.solve(self.design(front, terms, {**theta, exponent.name: trial}))
        better = squares < best
        theta[exponent.name] = np.where(better, trial, theta[exponent.name])
        return np.minimum(best, squares)

    def score(self, squares: Array, coefficients: Array, free: NDArray[np.intp]) -> float:
        """Return the BIC of all groups; see `structure.bic`."""
        total = 0.0
        for g, rows in enumerate(self.parts):
            n = rows.stop - rows.start
            if n:
                active = int((coefficients[g] > 0.0).sum()) + int(free[g])
                total += n * np.log(max(squares[g] / n, FLOOR**2)) + active * np.log(n)
        return float(total)


def nonnegative(matrix: Array, target: Array) -> tuple[Array, float]:
    """Return non-negative least squares on normalised columns, and the squared residual."""
    from scipy.optimize import nnls

    norm = np.sqrt(np.einsum("ij,ij->j", matrix, matrix))
    norm[norm < 1e-300] = np.inf
    try:
        found, length = nnls(matrix / norm, target)
    except (RuntimeError, ValueError):  # it cycles on columns that are all but equal; or a pole
        return np.zeros(matrix.shape[1]), float("inf")
    return found / norm, float(length) ** 2
