"""Which terms a law needs: backward elimination by BIC over all groups at once, then swaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from fitting.discover.problem import Problem
from fitting.discover.termlaw import Solver, Theta

Array = NDArray[np.float64]

LARGEST = 10
"""Most terms of a law on the front."""

_TRIED = 4
"""Terms that are really left out at a step: those that cost least to first order."""

_SWAPPED = 9
"""Laws of more terms than this are not improved by swaps."""


@dataclass(frozen=True, slots=True)
class Path:
    """The best law of every size.

    Attributes
    ----------
    front
        Name of the front.
    sizes
        Number of terms -> (BIC, names of the terms).
    theta
        Exponents of each group in the law of lowest BIC.
    fronts
        Name of each front -> BIC of the whole library with it.
    twins
        Term that was not searched -> the term that no row tells it from.
    """

    front: str
    sizes: dict[int, tuple[float, tuple[str, ...]]]
    theta: Theta
    fronts: dict[str, float]
    twins: dict[str, str]

    @property
    def best(self) -> tuple[float, tuple[str, ...]]:
        """The law of lowest BIC."""
        return min(self.sizes.values())


def search_terms(problem: Problem, *, fixed: Path | None = None) -> Path:
    """Find the best law of every size.

    Parameters
    ----------
    problem
        Rows and library.
    fixed
        A path on other rows of the same groups whose front and exponents are kept, which makes
        the search several times faster (bootstrap).

    Returns
    -------
    Path
    """
    solver = Solver(problem)
    every = [term.name for term in problem.library.terms]
    if fixed is not None:
        single = [name for name in every if name not in fixed.twins]
        walk = _Walk(solver, fixed.front, single, fixed.theta)
        walk.down(retune=False)
        walk.up()
        walk.swap(retune=False)
        return Path(fixed.front, walk.sizes, fixed.theta, fixed.fronts, fixed.twins)
    scores: dict[str, tuple[float, Theta]] = {}
    for front in problem.library.fronts:
        theta = solver.tune(front.name, every, rough=True)
        coefficients, squares = solver.solve(solver.design(front.name, every, theta))
        free = solver.free(front.name, every)
        scores[front.name] = (solver.score(squares, coefficients, free), theta)
    name = min(scores, key=lambda front: scores[front][0])
    same = twins(solver, every)
    single = [term for term in every if term not in same]
    walks = []
    for theta in _starts(solver, name, every, scores[name][1]):
        walk = _Walk(solver, name, single, theta)
        walk.down(retune=True)
        walk.up()
        walk.swap(retune=True)
        walks.append(walk)
    best_walk = min(walks, key=lambda walk: min(walk.sizes.values()))
    sizes = {
        size: min(walk.sizes[size] for walk in walks if size in walk.sizes)
        for size in sorted({size for walk in walks for size in walk.sizes})
    }
    _, best = min(best_walk.sizes.values())
    best_walk.retune([best_walk.terms.index(term) for term in best])
    return Path(name, sizes, best_walk.theta, {k: v[0] for k, v in scores.items()}, same)


def _starts(solver: Solver, front: str, terms: Sequence[str], tuned: Theta) -> list[Theta]:
    """Exponents to begin a walk from: those of the whole library, and a coarse grid.

    A walk drops terms while exponents are still far off, and where it ends depends on them, down
    to the rounding of the processor; several walks find the same law from anywhere.
    """
    relevant = solver.relevant(front, list(terms))
    grid = {key: values for key, values in _GRID.items() if key in relevant}
    starts = [tuned]
    for chosen in product(*grid.values()) if grid else ():
        some = {
            key: np.full_like(tuned[key], value) for key, value in zip(grid, chosen, strict=True)
        }
        starts.append({**tuned, **some})
    return starts


def twins(solver: Solver, terms: Sequence[str]) -> dict[str, str]:
    """Return the terms that no row tells from an earlier one, with that one.

    Their columns are in proportion in every group; so for dense models in one precision the
    reading of weights is a constant a step, as a launch is.
    """
    n = len(solver.parts)
    odd = {"rho": np.full(n, 0.23), "e": np.full(n, 0.37), "f": np.full(n, 1.3)}
    matrix = solver.design(solver.problem.library.fronts[0].name, terms, odd)
    found: dict[str, str] = {}
    for j, name in enumerate(terms):
        for i in range(j):
            if terms[i] not in found and all(
                _parallel(matrix[rows, i], matrix[rows, j]) for rows in solver.parts
            ):
                found[name] = terms[i]
                break
    return found


def _parallel(a: Array, b: Array) -> bool:
    """Say whether two columns are in proportion; a column of zeros is only so to another."""
    lengths = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    if not all(lengths):
        return not any(lengths)
    return bool(np.allclose(a / lengths[0], b / lengths[1], rtol=1e-9, atol=1e-12))


_GRID = {"rho": (0.15, 0.3, 0.45), "f": (0.8, 1.3)}
"""Exponents that walks begin from beside the tuned ones."""


class _Walk:
    """From the whole library down to one term, keeping the best law of each size."""

    def __init__(self, solver: Solver, front: str, terms: Sequence[str], theta: Theta) -> None:
        self.solver = solver
        self.front = front
        self.terms = list(terms)
        self.theta = theta
        self.matrix = solver.design(front, self.terms, theta)
        self.sizes: dict[int, tuple[float, tuple[str, ...]]] = {}

    def score(self, kept: Sequence[int]) -> tuple[float, Array]:
        """Return the BIC of some of the terms, and their coefficients."""
        coefficients, squares = self.solver.solve(self.matrix[:, list(kept)])
        free = self.solver.free(self.front, [self.terms[j] for j in kept])
        return self.solver.score(squares, coefficients, free), coefficients

    def note(self, kept: Sequence[int], score: float) -> None:
        """Keep a law if it is the best of its size."""
        size = len(kept)
        if 0 < size <= LARGEST and score < self.sizes.get(size, (np.inf, ()))[0]:
            self.sizes[size] = (score, tuple(self.terms[j] for j in kept))

    def down(self, *, retune: bool) -> None:
        """Leave out terms one by one, always the one whose loss costs least."""
        kept = list(range(len(self.terms)))
        score, coefficients = self.score(kept)
        used = np.asarray((coefficients > 0.0).any(axis=0))
        kept = [j for j in kept if used[j]]
        coefficients = coefficients[:, used]
        self.note(kept, score)
        while len(kept) > 1:
            cost = self._losses(kept, coefficients)
            trials = []
            for position in np.argsort(cost, kind="stable")[: _TRIED if len(kept) > 2 else None]:
                rest = [j for i, j in enumerate(kept) if i != position]
                trials.append((*self.score(rest), rest))
            score, coefficients, kept = min(trials, key=lambda trial: trial[0])
            if retune and len(kept) in (10, 6, 4, 2):
                self.retune(kept)
                score, coefficients = self.score(kept)
            self.note(kept, score)

    def up(self) -> None:
        """Add terms one by one to the best law of one term, always the one that gains most."""
        if 1 not in self.sizes:
            return
        kept = [self.terms.index(name) for name in self.sizes[1][1]]
        _, coefficients = self.score(kept)
        while len(kept) < min(_SWAPPED, len(self.terms)):
            trials = []
            for new in self._outside(kept, coefficients):
                more = sorted([*kept, new])
                trials.append((*self.score(more), more))
            score, coefficients, kept = min(trials, key=lambda trial: trial[0])
            self.note(kept, score)

    def _outside(self, kept: Sequence[int], coefficients: Array) -> list[int]:
        """Return the terms outside of a law that promise most, and no others."""
        order = np.argsort(-self._gains(kept, coefficients), kind="stable")
        return [int(j) for j in order if j not in kept][:_TRIED]

    def retune(self, kept: Sequence[int]) -> None:
        """Fit the exponents anew, now that many terms are gone."""
        names = [self.terms[j] for j in kept]
        found = self.solver.tune(self.front, names)
        relevant = self.solver.relevant(self.front, names)
        self.theta = {k: found[k] if k in relevant else v for k, v in self.theta.items()}
        self.matrix = self.solver.design(self.front, self.terms, self.theta)

    def _losses(self, kept: Sequence[int], coefficients: Array) -> Array:
        """Return what leaving out each term costs in BIC, to first order.

        For least squares on the positive coefficients, the squared residual grows by
        c^2 / (A'A)^-1 on the diagonal.
        """
        cost = np.zeros(len(kept))
        for g, rows in enumerate(self.solver.parts):
            n = rows.stop - rows.start
            active = np.flatnonzero(coefficients[g] > 0.0)
            if not n or not len(active):
                continue
            part = self.matrix[rows].take([kept[int(i)] for i in active], axis=1)
            found = coefficients[g, active]
            norm = np.sqrt(np.einsum("ij,ij->j", part, part))
            inverse = np.linalg.pinv((part / norm).T @ (part / norm), hermitian=True)
            growth = (found * norm) ** 2 / np.maximum(np.diag(inverse), 1e-12)
            rest = part @ found - self.solver.problem.weight[rows]
            squares = max(float(rest @ rest), n * 1e-6)
            cost[active] += n * np.log1p(growth / squares) - np.log(n)
        return cost

    def swap(self, *, retune: bool) -> None:
        """Exchange one term of a small law for one outside while that lowers the BIC."""
        for size in sorted((size for size in self.sizes if size <= _SWAPPED), reverse=True):
            names = self.sizes[size][1]
            kept = [self.terms.index(name) for name in names]
            if retune:
                self.retune(kept)
            score, coefficients = self.score(kept)
            self.sizes[size] = (score, names)
            for _ in range(4):
                better = self._swapped(kept, coefficients, score)
                if better is None:
                    break
                score, coefficients, kept = better
                self.note(kept, score)
            for position in range(len(kept) if size > 1 else 0):
                rest = [j for i, j in enumerate(kept) if i != position]
                self.note(rest, self.score(rest)[0])

    def _swapped(
        self, kept: list[int], coefficients: Array, score: float
    ) -> tuple[float, Array, list[int]] | None:
        """Return the best exchange of one term, or None if none is better.

        Tried are the terms outside that promise most in the place of those that cost least, and
        in the place of each term those of the same size with another factor.
        """
        weakest = np.argsort(self._losses(kept, coefficients), kind="stable")[:3]
        trials = [(int(i), j) for j in self._outside(kept, coefficients) for i in weakest]
        for i, j in enumerate(kept):
            size = self.terms[j].split(" x ")[0]
            trials += [
                (i, other)
                for other, name in enumerate(self.terms)
                if other not in kept and name.split(" x ")[0] == size
            ]
        best = None
        for position, new in dict.fromkeys(trials):
            trial = sorted([j for i, j in enumerate(kept) if i != position] + [new])
            found, values = self.score(trial)
            if found < score - 1e-9:
                score, best = found, (found, values, trial)
        return best

    def _gains(self, kept: Sequence[int], coefficients: Array) -> Array:
        """Return how much each term of the library would explain of what a law leaves."""
        gain = np.zeros(len(self.terms))
        for g, rows in enumerate(self.solver.parts):
            if rows.stop == rows.start:
                continue
            matrix = self.matrix[rows]
            rest = self.solver.problem.weight[rows] - matrix[:, list(kept)] @ coefficients[g]
            norm = np.sqrt(np.einsum("ij,ij->j", matrix, matrix))
            norm[~(norm > 1e-300)] = np.inf
            toward = np.maximum(matrix.T @ rest, 0.0) / norm
            squares = max(float(rest @ rest), 1e-9)
            gain += (rows.stop - rows.start) * np.minimum(toward**2 / squares, 1.0)
        return gain
