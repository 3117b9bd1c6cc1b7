"""Parameter fitting: VarPro with non-negative coefficients, then a robust polish, then errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fitting.forms.base import Form, phase_parts
from fitting.work import Work

Array = NDArray[np.float64]

SOFT = 0.1
"""Relative residual beyond which soft_l1 stops to count it with its square."""

_TINY = 1e-300


@dataclass(frozen=True, slots=True)
class Block:
    """One set of residuals: rows, the phases that their energy adds up, and that energy.

    Attributes
    ----------
    phases
        Phases that `energy` is the sum of.
    work
        Work of the rows.
    energy
        Energy, J, shape (rows,), positive.
    weight
        Weight of each relative residual, 0 to 1, shape (rows,).
    """

    phases: tuple[str, ...]
    work: Work
    energy: Array
    weight: Array


@dataclass(frozen=True, slots=True)
class Solution:
    """Fitted parameters, coefficients first, then exponents.

    Attributes
    ----------
    coefficients, exponents
        Parameter values.
    covariance
        Covariance of all parameters, shape (n, n).
    leverage_residuals
        For each block, relative residuals as they would be without the row (leave one out):
        divided by 1 - leverage.
    scatter_residuals
        The same divided by the root of that: what rows scatter about the true law, without the
        error of the parameters.
    shares
        For each coefficient, the largest share of the energy of its block in any row.
    present
        For each coefficient, whether any row has the term.
    scales
        For each block, the scatter of its weighted relative residuals.
    """

    coefficients: Array
    exponents: Array
    covariance: Array
    leverage_residuals: tuple[Array, ...]
    scatter_residuals: tuple[Array, ...]
    shares: Array
    present: NDArray[np.bool_]
    scales: tuple[float, ...]

    @property
    def values(self) -> Array:
        """All parameters, coefficients first, shape (n,)."""
        return np.concatenate([self.coefficients, self.exponents])


def solve(form: Form, blocks: Sequence[Block]) -> Solution:
    """Fit a law to the energies of one (model, hardware).

    Exponents are sought by a trust region method within their bounds, with the coefficients
    inside by non-negative least squares on relative residuals and normalised columns (VarPro,
    Golub and Pereyra 1973). All parameters are then polished together, coefficients as
    logarithms, with an analytic Jacobian and the soft_l1 loss, which bounds the pull of outliers.

    Parameters
    ----------
    form
        The law.
    blocks
        Residual blocks; together they should hold more rows than the law has parameters.

    Returns
    -------
    Solution
    """
    problem = Problem(form, blocks)
    exponents = problem.outer()
    coefficients = problem.inner(exponents)
    coefficients, exponents = problem.polish(coefficients, exponents)
    return problem.finish(coefficients, exponents)


class Problem:
    """The matrices of one fit, for any value of the exponents.

    Parameters
    ----------
    form
        The law.
    blocks
        Residual blocks.
    """

    def __init__(self, form: Form, blocks: Sequence[Block]) -> None:
        self.form = form
        self.blocks = blocks
        self.parts = phase_parts(form)
        self.target = np.concatenate([b.weight for b in blocks])
        self.lower = np.array([e.lower for e in form.exponents])
        self.upper = np.array([e.upper for e in form.exponents])
        self.start = np.array([e.start for e in form.exponents])

    def design(self, block: Block, theta: Array) -> Array:
        """Return the columns of a block divided by its energies, shape (rows, coefficients)."""
        matrix = np.zeros((len(block.energy), len(self.form.coefficients)))
        values = [float(v) for v in theta]
        for phase in block.phases:
            part = self.parts[phase]
            for i, column in zip(part, self.form.columns(block.work, phase, values), strict=True):
                matrix[:, i] += column
        matrix *= (block.weight / block.energy)[:, None]
        return matrix

    def slope(self, block: Block, theta: Array, coefficients: Array) -> Array:
        """Return d(relative energy)/d(exponents), shape (rows, exponents)."""
        matrix = np.zeros((len(block.energy), len(theta)))
        values = [float(v) for v in theta]
        for phase in block.phases:
            part = self.parts[phase]
            for j, columns in enumerate(self.form.slopes(block.work, phase, values)):
                for i, column in zip(part, columns, strict=True):
                    if column is not None:
                        matrix[:, j] += coefficients[i] * column
        return matrix * (block.weight / block.energy)[:, None]

    def inner(self, theta: Array) -> Array:
        """Return the best non-negative coefficients for given exponents."""
        return self._inner([self.design(block, theta) for block in self.blocks])

    def _inner(self, designs: Sequence[Array]) -> Array:
        from scipy.optimize import nnls

        matrix = np.concatenate(designs)
        norm = np.sqrt(np.einsum("ij,ij->j", matrix, matrix))
        norm[norm < _TINY] = np.inf
        scaled, _ = nnls(matrix / norm, self.target)
        result: Array = scaled / norm
        return result

    def outer(self) -> Array:
        """Return the best exponents, coefficients solved inside."""
        if not len(self.start):
            return self.start
        from scipy.optimize import least_squares

        def residuals(theta: Array) -> Array:
            matrix = np.concatenate([self.design(block, theta) for block in self.blocks])
            result: Array = matrix @ self._inner([matrix]) - self.target
            return result

        found = least_squares(
            residuals,
            self.start,
            bounds=(self.lower, self.upper),
            diff_step=1e-3,
            x_scale=self.upper - self.lower,
            loss="soft_l1",
            f_scale=SOFT,
            ftol=1e-5,
            xtol=1e-4,
            max_nfev=20,
        )
        result: Array = found.x
        return result

    def polish(self, coefficients: Array, theta: Array) -> tuple[Array, Array]:
        """Refine all parameters that are not zero, robustly."""
        from scipy.optimize import least_squares

        active = np.flatnonzero(coefficients > 0.0)
        n_active = len(active)
        if n_active == 0:
            return coefficients, theta
        full = np.zeros_like(coefficients)

        def unpack(x: Array) -> tuple[Array, Array]:
            full[active] = np.exp(x[:n_active])
            return full, x[n_active:]

        def residuals(x: Array) -> Array:
            c, exponents = unpack(x)
            predicted = [self.design(b, exponents) @ c for b in self.blocks]
            result: Array = np.concatenate(predicted) - self.target
            return result

        def jacobian(x: Array) -> Array:
            c, exponents = unpack(x)
            rows = [
                np.hstack(
                    [self.design(b, exponents)[:, active] * c[active], self.slope(b, exponents, c)]
                )
                for b in self.blocks
            ]
            return np.concatenate(rows)

        logs = np.log(coefficients[active])
        inside = np.clip(theta, self.lower + 1e-6, self.upper - 1e-6)
        found = least_squares(
            residuals,
            np.concatenate([logs, inside]),
            jac=jacobian,
            bounds=(
                np.concatenate([logs - 7.0, self.lower]),
                np.concatenate([logs + 7.0, self.upper]),
            ),
            loss="soft_l1",
            f_scale=SOFT,
            ftol=1e-6,
            xtol=1e-6,
            max_nfev=30,
        )
        best, exponents = unpack(found.x)
        return best.copy(), np.asarray(exponents)

    def finish(self, coefficients: Array, theta: Array) -> Solution:
        """Return the solution with its covariance, from the Jacobian at the solution."""
        n = len(coefficients) + len(theta)
        normal = np.zeros((n, n))
        shares = np.zeros(len(coefficients))
        present = np.zeros(len(coefficients), dtype=bool)
        jacobians, residuals, precisions, scales = [], [], [], []
        for block in self.blocks:
            design = self.design(block, theta)
            part = design * coefficients / block.weight[:, None]
            shares = np.maximum(shares, part.max(axis=0, initial=0.0))
            present |= (design > 0.0).any(axis=0)
            jacobian = np.hstack([design, self.slope(block, theta, coefficients)])
            residual = design @ coefficients - block.weight
            weight = 1.0 / np.sqrt(1.0 + (residual / SOFT) ** 2)
            own = len({i for p in block.phases for i in self.parts[p]})
            free = max(len(residual) - own, 1)
            scale = max(float(np.sqrt((weight * residual**2).sum() / free)), 1e-9)
            normal += (jacobian * (weight / scale**2)[:, None]).T @ jacobian
            jacobians.append(jacobian)
            residuals.append(residual)
            precisions.append(weight / scale**2)
            scales.append(scale)
        covariance = _inverse(normal)
        left_out, scattered = [], []
        for block, jacobian, residual, inverse in zip(
            self.blocks, jacobians, residuals, precisions, strict=True
        ):
            leverage = np.einsum("ij,jk,ik->i", jacobian, covariance, jacobian) * inverse
            rest = np.clip(1.0 - leverage, 0.1, 1.0)
            left_out.append(residual / (rest * block.weight))
            scattered.append(residual / (np.sqrt(rest) * block.weight))
        return Solution(
            coefficients,
            theta,
            covariance,
            tuple(left_out),
            tuple(scattered),
            shares,
            present,
            tuple(scales),
        )


def _inverse(normal: Array) -> Array:
    """Return the pseudo-inverse of a normal matrix, scaled so that units do not matter."""
    size = np.sqrt(np.diag(normal))
    size[size < _TINY] = 1.0
    scaled = normal / np.outer(size, size)
    inverse = np.linalg.pinv(scaled, rcond=1e-10, hermitian=True)
    result: Array = inverse / np.outer(size, size)
    return result
