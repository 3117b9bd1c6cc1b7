"""Energies that a law expects of rows, and their slopes, with parameters on their scale.

Coefficients and the cost of reduced precision are logarithms, because they are positive and their
errors are relative; the waiting ratio and the shard exponent are themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fitting.forms import PHASES, Form, phase_parts
from fitting.forms.energylens12 import REDUCED
from fitting.residuals import SCATTER, SMALL_SHARE

if TYPE_CHECKING:
    from fitting.work import Work

Array = NDArray[np.float64]


def to_scale(form: Form, values: Array) -> Array:
    """Put parameters on their scale: logarithms of all that are factors."""
    factor = factors(form)
    result = np.asarray(values, dtype=np.float64).copy()
    result[factor] = np.log(np.maximum(result[factor], 1e-300))
    return result


def from_scale(form: Form, scaled: Array) -> Array:
    """Return parameters from their scale, within their bounds."""
    factor = factors(form)
    result = scaled.copy()
    result[factor] = np.exp(result[factor])
    n = len(form.coefficients)
    for i, exponent in enumerate(form.exponents):
        result[n + i] = np.clip(result[n + i], exponent.lower, exponent.upper)
    return result


def factors(form: Form) -> NDArray[np.bool_]:
    """Say which parameters are factors: coefficients, and the cost of reduced precision."""
    names = [e.name == REDUCED for e in form.exponents]
    return np.array([True] * len(form.coefficients) + names)


@dataclass(frozen=True, slots=True)
class Expected:
    """A law with effects of levels, for some rows.

    Attributes
    ----------
    form, work
        The law and the work of the rows.
    indicators
        Levels of the rows, shape (rows, levels).
    """

    form: Form
    work: Work
    indicators: Array

    def look(self, scaled: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return log energies of both phases, and their slopes in all parameters.

        A phase that a row does not have (no decode of one output token) has energy 0: its
        logarithm is minus infinity and its slopes are 0.
        """
        n = len(self.form.coefficients) + len(self.form.exponents)
        energies, slopes = log_energies(self.form, self.work, scaled[:n])
        k = self.indicators.shape[1]
        for i, phase in enumerate(PHASES):
            own = np.isfinite(energies[phase])[:, None] * self.indicators
            energies[phase] = energies[phase] + own @ scaled[n + i * k : n + (i + 1) * k]
            wide = np.zeros((len(own), len(scaled)))
            wide[:, :n] = slopes[phase]
            wide[:, n + i * k : n + (i + 1) * k] = own
            slopes[phase] = wide
        return energies, slopes


def log_energies(
    form: Form, work: Work, scaled: Array
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return log energies of both phases, and their slopes in the scaled parameters.

    See `Expected.look` for rows without a phase.
    """
    values = from_scale(form, scaled)
    n = len(form.coefficients)
    coefficients, theta = values[:n], [float(v) for v in values[n:]]
    chain = np.where(factors(form), values, 1.0)
    energies, slopes = {}, {}
    for phase, part in phase_parts(form).items():
        matrix = np.zeros((len(work), len(values)))
        columns = np.column_stack(form.columns(work, phase, theta))
        matrix[:, part] = columns
        for j, derivatives in enumerate(form.slopes(work, phase, theta)):
            for i, derivative in zip(part, derivatives, strict=True):
                if derivative is not None:
                    matrix[:, n + j] += coefficients[i] * derivative
        energy = columns @ coefficients[part]
        with np.errstate(divide="ignore"):
            energies[phase] = np.log(energy)
        slopes[phase] = matrix * chain / np.where(energy > 0.0, energy, np.inf)[:, None]
    return energies, slopes


def total_of(
    energies: dict[str, Array], slopes: dict[str, Array]
) -> tuple[Array, Array, dict[str, Array]]:
    """Return log total energy, its slopes, and the share of each phase."""
    total = np.logaddexp(energies["prefill"], energies["decode"])
    share = {phase: np.exp(energies[phase] - total) for phase in PHASES}
    slope: Array = sum(
        (share[phase][:, None] * slopes[phase] for phase in PHASES),
        np.zeros(slopes["decode"].shape),
    )
    return total, slope, share


def precision_of(share: Array, error: float | Array) -> Array:
    """Return one over the standard error of a phase's log energy, 0 where there is none.

    As in a fit (`fitting.residuals`): the scatter of rows about the law beside the error of
    measurement; a phase that is a small share of its row counts little.
    """
    weight = np.sqrt((share + SMALL_SHARE) / (1.0 + SMALL_SHARE))
    result: Array = np.where(share > 0.0, weight / np.hypot(SCATTER, error), 0.0)
    return result
