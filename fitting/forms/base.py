"""What every energy law offers to the solver: terms, exponents, design columns, derivatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from fitting.work import Work

PHASES = ("prefill", "decode")
"""The two phases that every law predicts, in the order of their coefficients."""


@dataclass(frozen=True, slots=True)
class Coefficient:
    """One non-negative coefficient of a law.

    Attributes
    ----------
    name
        Name of the term, unique in its law.
    phase
        `prefill`, `decode`, or `both` where one cause acts in both.
    unit
        Unit of the coefficient; joules per what the term counts.
    symbol
        What the coefficient is multiplied with, as plain text.
    meaning
        The physical cause, in one line.
    """

    name: str
    phase: str
    unit: str
    symbol: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Exponent:
    """One parameter that enters a law non-linearly, with its bounds.

    Attributes
    ----------
    name, symbol, unit, meaning
        As for `Coefficient`.
    lower, upper
        Bounds that the solver keeps to.
    start
        Where the solver begins.
    """

    name: str
    symbol: str
    unit: str
    lower: float
    upper: float
    start: float
    meaning: str


class Form(Protocol):
    """A closed-form energy law: a sum of non-negative coefficients times design columns.

    The energy of a phase is `sum_i c_i * column_i(work, theta)`, in joules, for the whole batch
    on all GPUs. `theta` holds the exponents: one number each while fitting one (model, hardware),
    one array each (a value per row) while predicting many at once.
    """

    @property
    def name(self) -> str:
        """Name in the registry and in the FIT file."""
        ...

    @property
    def coefficients(self) -> tuple[Coefficient, ...]:
        """Coefficients, those of prefill first."""
        ...

    @property
    def exponents(self) -> tuple[Exponent, ...]:
        """Exponents and other parameters that enter non-linearly."""
        ...

    @property
    def most_parameters(self) -> int:
        """Most parameters that are fitted to a pair, and so the fewest rows it needs."""
        ...

    def suited(self, work: Work) -> Form:
        """Return the law with the terms that these rows call for."""
        ...

    def with_terms(self, terms: Sequence[str]) -> Form:
        """Return the law with exactly the named parameters."""
        ...

    def columns(
        self, work: Work, phase: str, theta: Sequence[float | NDArray[np.float64]]
    ) -> list[NDArray[np.float64]]:
        """Return one design column (rows,) per coefficient of the phase, in J per coefficient."""
        ...

    def slopes(
        self, work: Work, phase: str, theta: Sequence[float | NDArray[np.float64]]
    ) -> list[list[NDArray[np.float64] | None]]:
        """Return d(column)/d(theta_j): outer list over exponents, None where it is zero."""
        ...

    def expression(self, phase: str) -> Any:
        """Return the energy of a phase, J, as a sympy expression with named symbols."""
        ...

    def latex(self) -> str:
        """Return the law as LaTeX."""
        ...


def n_parameters(form: Form) -> int:
    """Return the number of fitted parameters of a law."""
    return len(form.coefficients) + len(form.exponents)


def phase_parts(form: Form) -> dict[str, list[int]]:
    """Return the positions of the coefficients of each phase; shared ones are in both."""
    return {
        phase: [i for i, c in enumerate(form.coefficients) if c.phase in (phase, "both")]
        for phase in PHASES
    }
