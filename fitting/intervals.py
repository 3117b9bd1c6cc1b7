"""95 % intervals of fitted parameters: from the covariance, by profile likelihood, by bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fitting.forms.base import Form
from fitting.solve import SOFT, Block, Problem, Solution

Array = NDArray[np.float64]

METHODS = ("covariance", "profile", "bootstrap")
"""Ways to find an interval, the fastest first."""

DRAWS = 200
"""Tables drawn by the bootstrap."""

_WIDER = 8
"""Doublings of a step before a profile counts as flat."""


def bounds(
    method: str, form: Form, blocks: Sequence[Block], solution: Solution, *, n_rows: int, seed: int
) -> Array:
    """Return the 95 % interval of every parameter.

    Parameters
    ----------
    method
        `covariance`: value +- Student's t times the standard error; a parabola at the solution.
        `profile`: all values at which the other parameters, fitted again, leave a deviance of at
        most t^2 more; right for parameters at a bound and for bent valleys (Venzon and Moolgavkar
        1988). `bootstrap`: 2.5 and 97.5 % quantiles over 200 tables drawn from the rows with
        replacement, each fitted again (Efron and Tibshirani 1993).
    form, blocks, solution
        The law, what it was fitted to, and the result.
    n_rows
        Training rows.
    seed
        Seed of the draws of the bootstrap.

    Returns
    -------
    ndarray
        Lowest and highest value, shape (parameters, 2), coefficients first; within the bounds
        of the parameter. The highest is infinite where no row has the term.
    """
    from scipy.stats import t

    width = float(t.ppf(0.975, max(n_rows - len(solution.covariance), 1)))
    if method == "profile":
        found = _profile(form, blocks, solution, width)
    elif method == "bootstrap":
        found = _bootstrap(form, blocks, solution, seed)
    else:
        errors = np.sqrt(np.maximum(np.diag(solution.covariance), 0.0))
        found = solution.values[:, None] + width * errors[:, None] * np.array([-1.0, 1.0])
    n = len(solution.coefficients)
    lower = np.concatenate([np.zeros(n), [e.lower for e in form.exponents]])
    upper = np.concatenate([np.full(n, np.inf), [e.upper for e in form.exponents]])
    found[:, 0] = np.clip(np.minimum(found[:, 0], solution.values), lower, None)
    found[:, 1] = np.clip(np.maximum(found[:, 1], solution.values), None, upper)
    found[:n][~solution.present] = (0.0, np.inf)
    return found


def _bootstrap(form: Form, blocks: Sequence[Block], solution: Solution, seed: int) -> Array:
    """Fit tables drawn with replacement; the phases of a row are drawn together."""
    rng = np.random.default_rng(seed)
    sizes = [len(block.energy) for block in blocks]
    draws = np.empty((DRAWS, len(solution.values)))
    for i in range(DRAWS):
        shared = rng.integers(0, sizes[0], sizes[0])
        picked = []
        for block, size in zip(blocks, sizes, strict=True):
            index = shared if size == sizes[0] else rng.integers(0, size, size)
            picked.append(
                Block(
                    block.phases, block.work.take(index), block.energy[index], block.weight[index]
                )
            )
        problem = Problem(form, picked)
        start = problem.inner(solution.exponents)
        draws[i] = np.concatenate(problem.polish(start, solution.exponents))
    return np.asarray(np.quantile(draws, [0.025, 0.975], axis=0).T)


@dataclass(frozen=True, slots=True)
class _Deviance:
    """Robust deviance of a fit, each block in units of its own scatter.

    Parameters are divided by `unit`, so that steps of all of them are alike.
    """

    problem: Problem
    scales: tuple[float, ...]
    unit: Array
    lower: Array
    upper: Array

    def minimise(self, start: Array, fixed: int | None) -> tuple[float, Array]:
        """Return the least deviance, and where; one parameter may be held fixed."""
        from scipy.optimize import least_squares

        free = np.array([i for i in range(len(start)) if i != fixed], dtype=np.intp)
        point = start.copy()

        def residuals(x: Array) -> Array:
            point[free] = x
            return self._residuals(point)

        def jacobian(x: Array) -> Array:
            point[free] = x
            return self._jacobian(point)[:, free]

        inside = np.clip(start[free], self.lower[free] + 1e-9, self.upper[free] - 1e-9)
        found = least_squares(
            residuals,
            inside,
            jac=jacobian,
            bounds=(self.lower[free], self.upper[free]),
            ftol=1e-5,
            xtol=1e-6,
            max_nfev=20,
        )
        point[free] = found.x
        return 2.0 * float(found.cost), point.copy()

    def _split(self, point: Array) -> tuple[Array, Array]:
        values = point * self.unit
        n = len(self.problem.form.coefficients)
        return values[:n], values[n:]

    def _residuals(self, point: Array) -> Array:
        """Return what squares to soft_l1, so that the minimum is that of the fit."""
        c, theta = self._split(point)
        out = []
        for block, scale in zip(self.problem.blocks, self.scales, strict=True):
            r = self.problem.design(block, theta) @ c - block.weight
            out.append(np.sign(r) * SOFT * np.sqrt(2.0 * _soft(r)) / scale)
        return np.concatenate(out)

    def _jacobian(self, point: Array) -> Array:
        c, theta = self._split(point)
        out = []
        for block, scale in zip(self.problem.blocks, self.scales, strict=True):
            design = self.problem.design(block, theta)
            r = design @ c - block.weight
            soft = _soft(r)
            ratio = np.where(soft > 0.0, np.abs(r) / (SOFT * np.sqrt(2.0 * soft + 1e-300)), 1.0)
            inner = ratio / np.sqrt(1.0 + (r / SOFT) ** 2) / scale
            slope = self.problem.slope(block, theta, c)
            out.append(np.hstack([design, slope]) * inner[:, None])
        return np.concatenate(out) * self.unit


def _soft(r: Array) -> Array:
    """Return sqrt(1 + z) - 1 with z = (r / SOFT)^2, without cancellation for small z."""
    z = (r / SOFT) ** 2
    result: Array = z / (np.sqrt(1.0 + z) + 1.0)
    return result


def _profile(form: Form, blocks: Sequence[Block], solution: Solution, width: float) -> Array:
    """Walk from the solution to both sides until the deviance has grown by width^2."""
    errors = np.sqrt(np.maximum(np.diag(solution.covariance), 0.0))
    values = solution.values
    n = len(solution.coefficients)
    unit = np.maximum(np.abs(values), errors)
    unit[unit <= 0.0] = 1.0
    lower = np.concatenate([np.zeros(n), [e.lower for e in form.exponents]]) / unit
    upper = np.concatenate([np.full(n, np.inf), [e.upper for e in form.exponents]]) / unit
    deviance = _Deviance(Problem(form, blocks), solution.scales, unit, lower, upper)
    least, best = deviance.minimise(values / unit, None)
    found = np.tile(best[:, None], (1, 2))
    for i in range(len(values)):
        if i < n and not solution.present[i]:
            continue
        step = max(width * errors[i] / unit[i], 1e-4)
        for side, limit in ((0, lower[i]), (1, upper[i])):
            found[i, side] = _crossing(deviance, best, least, i, step, limit, width)
    return found * unit[:, None]


def _crossing(
    deviance: _Deviance,
    best: Array,
    least: float,
    i: int,
    step: float,
    limit: float,
    width: float,
) -> float:
    """Return where the root of the deviance above its least reaches `width`, or the limit.

    That root is a straight line for a parabola, so that a few secants find the crossing.
    """
    sign = 1.0 if limit > best[i] else -1.0
    near, near_height, point = best[i], 0.0, best
    far = far_height = float("nan")
    for _ in range(_WIDER):
        far = best[i] + sign * step
        at_limit = sign * far >= sign * limit
        far = limit if at_limit else far
        if far == best[i]:
            return float(limit)
        height, point = _height(deviance, point, least, i, far)
        far_height = height
        if far_height >= width:
            break
        if at_limit:
            return float(limit)
        near, near_height = far, far_height
        step *= 2.0
    else:
        return float(limit)
    for _ in range(6):
        middle = near + (far - near) * (width - near_height) / (far_height - near_height)
        height, point = _height(deviance, point, least, i, middle)
        if abs(height - width) < 0.02 * width:
            return float(middle)
        if height > width:
            far, far_height = middle, height
        else:
            near, near_height = middle, height
    return float(middle)


def _height(
    deviance: _Deviance, start: Array, least: float, i: int, value: float
) -> tuple[float, Array]:
    """Return the root of the deviance above its least with one parameter held at a value."""
    point = start.copy()
    point[i] = value
    found, point = deviance.minimise(point, i)
    return float(np.sqrt(max(found - least, 0.0))), point
