"""One fitted law: parameters with errors, domain, residuals, of one (model, hardware)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fitting.domain import Domain, domain_of
from fitting.forms import PHASES, Coefficient, Exponent, Form, get_form, n_parameters, phase_parts
from fitting.identifiability import Identifiability, identifiability
from fitting.intervals import bounds
from fitting.residuals import half_width, row_weights, total_residuals
from fitting.rows import Group, fingerprint, has_phases, task_hash
from fitting.solve import Block, Solution, solve
from fitting.traits import ModelTraits, traits_of
from harness.store import FitError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from fitting.work import Work

NEGLIGIBLE = 0.02
"""A term that is nowhere more than this share of the energy is not identifiable."""

DECADE = 10.0
"""An interval that spans more than this factor tells nothing but a bound."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A fitted parameter with its error.

    Attributes
    ----------
    name, unit, meaning, symbol
        What it is; `symbol` is what a coefficient is multiplied with.
    value
        Fitted value.
    stderr
        Standard error from the covariance at the solution.
    lo, hi
        95 % interval by the method of the fit, within the bounds of the parameter; `hi` is
        infinite where no training row has the term (no visual tokens, for example).
    identifiable
        False where the rows bound the parameter but do not tell its value.
    """

    name: str
    value: float
    unit: str
    stderr: float
    lo: float
    hi: float
    identifiable: bool
    meaning: str
    symbol: str = ""


@dataclass(frozen=True, slots=True)
class PairFit:
    """The law of one (model, hardware).

    Attributes
    ----------
    model_id, hardware
        The pair.
    form
        Name of the law.
    n_rows, n_parameters
        Training rows, and fitted parameters.
    parameters
        Parameters with errors, coefficients first.
    covariance
        Covariance of the parameters, shape (n, n).
    domain
        Ranges and labels of the training rows.
    mape, median_ape
        Relative error of the total energy on the training rows, each as left out.
    spread
        Phase (or `total`) -> relative half width that holds 95 % of the left-out residuals.
    provenance
        Provenance -> rows.
    traits
        Facts of the model that prediction needs.
    by_phase
        True if prefill and decode were fitted on their own energies.
    fingerprint, tasks_hash
        Hashes of the training rows and of their task ids.
    notes
        What a reader should know.
    intervals
        How the intervals of the parameters were found: covariance, profile or bootstrap.
    identifiability
        What the rows do not tell; None in a FIT file of version 2.
    """

    model_id: str
    hardware: str
    form: str
    n_rows: int
    n_parameters: int
    parameters: list[Parameter]
    covariance: NDArray[np.float64]
    domain: Domain
    mape: float
    median_ape: float
    spread: dict[str, float]
    provenance: dict[str, int]
    traits: ModelTraits
    by_phase: bool
    fingerprint: str
    tasks_hash: str | None
    notes: list[str]
    intervals: str = "covariance"
    identifiability: Identifiability | None = None

    @property
    def law(self) -> Form:
        """The law, with the terms that were fitted to this pair."""
        return get_form(self.form).with_terms([p.name for p in self.parameters])

    @property
    def coefficients(self) -> NDArray[np.float64]:
        """Coefficients of the law, shape (coefficients,)."""
        return np.array([p.value for p in self.parameters[: len(self.law.coefficients)]])

    @property
    def exponents(self) -> NDArray[np.float64]:
        """Exponents of the law, shape (exponents,)."""
        return np.array([p.value for p in self.parameters[len(self.law.coefficients) :]])

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers, exact in JSON."""
        return {
            "model_id": self.model_id,
            "hardware": self.hardware,
            "form": self.form,
            "n_rows": self.n_rows,
            "n_parameters": self.n_parameters,
            "parameters": [_plain(p) for p in self.parameters],
            "covariance": self.covariance.tolist(),
            "domain": self.domain.to_dict(),
            "mape": self.mape,
            "median_ape": self.median_ape,
            "spread": self.spread,
            "provenance": self.provenance,
            "traits": asdict(self.traits),
            "by_phase": self.by_phase,
            "fingerprint": self.fingerprint,
            "tasks_hash": self.tasks_hash,
            "notes": self.notes,
            "intervals": self.intervals,
            "identifiability": None
            if self.identifiability is None
            else self.identifiability.to_dict(),
        }

    @staticmethod
    def from_dict(data: dict[str, Any]) -> PairFit:
        """Rebuild from `to_dict`."""
        fields = dict(data)
        fields["parameters"] = [
            Parameter(**{**p, "hi": float("inf") if p["hi"] is None else p["hi"]})
            for p in data["parameters"]
        ]
        fields["covariance"] = np.array(data["covariance"], dtype=np.float64)
        fields["domain"] = Domain.from_dict(data["domain"])
        fields["traits"] = ModelTraits(**data["traits"])
        if data.get("identifiability") is not None:
            fields["identifiability"] = Identifiability.from_dict(data["identifiability"])
        return PairFit(**fields)


def _plain(parameter: Parameter) -> dict[str, Any]:
    """Return a parameter for JSON, which has no infinity: no upper bound is null."""
    data = asdict(parameter)
    if not np.isfinite(parameter.hi):
        data["hi"] = None
    return data


def fit_pair(group: Group, form: Form, *, intervals: str = "covariance", seed: int = 0) -> PairFit:
    """Fit a law to the rows of one (model, hardware).

    Prefill and decode are fitted to their own energies where every row has them, to the total
    otherwise.

    Parameters
    ----------
    group
        Training rows.
    form
        The law, before it takes up what the rows call for.
    intervals
        How intervals are found; see `fitting.intervals.bounds`.
    seed
        Seed of the bootstrap.

    Raises
    ------
    FitError
        If there are fewer rows than parameters.
    """
    rows = group.rows
    if len(rows) < form.most_parameters:
        raise FitError(
            f"{len(rows)} usable rows are too few for the {form.most_parameters} parameters of "
            f"{form.name}.",
            where=f"{group.model_id} on {group.hardware}",
            fix="Measure more configurations (about 50 serve well), or choose the smaller law: "
            "form energylens6, or form auto to let the number of rows choose.",
        )
    traits = traits_of(rows)
    work = traits.work_of(rows)
    form = form.suited(work)
    blocks, kept, total = _blocks(rows, work)
    by_phase = bool(kept)
    solution = solve(form, blocks)
    left_out = total_residuals(solution.leverage_residuals, blocks, kept, total)
    scatter = total_residuals(solution.scatter_residuals, blocks, kept, total)
    spread = {"total": half_width(scatter)}
    if by_phase:
        for name, residual in zip(PHASES, solution.scatter_residuals, strict=True):
            spread[name] = half_width(residual)
    limits = bounds(intervals, form, blocks, solution, n_rows=len(rows), seed=seed)
    parameters, reasons = _parameters(form, solution, limits)
    return PairFit(
        model_id=group.model_id,
        hardware=group.hardware,
        form=form.name,
        n_rows=len(rows),
        n_parameters=n_parameters(form),
        parameters=parameters,
        covariance=solution.covariance,
        domain=domain_of(rows),
        mape=float(np.abs(left_out).mean()),
        median_ape=float(np.median(np.abs(left_out))),
        spread=spread,
        provenance=_counts(rows),
        traits=traits,
        by_phase=by_phase,
        fingerprint=fingerprint(group),
        tasks_hash=task_hash(rows),
        notes=[] if by_phase else ["Fitted on total energies: rows have no phase energies."],
        intervals=intervals,
        identifiability=identifiability(
            parameters, solution.covariance, _sizes(form, solution), reasons, work
        ),
    )


def _counts(rows: pd.DataFrame) -> dict[str, int]:
    if "provenance" not in rows.columns:
        return {}
    return {str(k): int(v) for k, v in rows["provenance"].value_counts().items()}


def _blocks(
    rows: pd.DataFrame, work: Work
) -> tuple[list[Block], list[NDArray[np.bool_]], NDArray[np.float64]]:
    """Return what is fitted: the phases where every row has them (with the rows kept), or totals.

    The masks are empty where totals are fitted; the last value is the total energy, J.
    """
    total = rows["total_energy_j"].to_numpy(dtype=np.float64)
    if not has_phases(rows):
        weight = row_weights(rows, "total", total, total)
        return [Block(("prefill", "decode"), work, total, weight)], [], total
    blocks, kept = [], []
    for phase in PHASES:
        energy = rows[f"{phase}_energy_j"].to_numpy(dtype=np.float64)
        mask = energy > 0.0
        weight = row_weights(rows, phase, energy, total)[mask]
        blocks.append(Block((phase,), work.take(mask), energy[mask], weight))
        kept.append(mask)
    return blocks, kept, total


def _parameters(
    form: Form, solution: Solution, limits: NDArray[np.float64]
) -> tuple[list[Parameter], dict[str, str]]:
    """Name the parameters of a solution; say which the rows do not identify, and why."""
    errors = np.sqrt(np.maximum(np.diag(solution.covariance), 0.0))
    result, reasons = [], {}
    every: list[Coefficient | Exponent] = [*form.coefficients, *form.exponents]
    for i, info in enumerate(every):
        value, error = float(solution.values[i]), float(errors[i])
        lo, hi = (float(v) for v in limits[i])
        if isinstance(info, Exponent):
            why = _open_exponent(info, error, lo, hi)
        else:
            why = _open_coefficient(bool(solution.present[i]), float(solution.shares[i]), lo, hi)
        if why:
            reasons[info.name] = why
        result.append(
            Parameter(
                info.name, value, info.unit, error, lo, hi, not why, info.meaning, info.symbol
            )
        )
    return result, reasons


def _sizes(form: Form, solution: Solution) -> NDArray[np.float64]:
    """Return what a change of each parameter is compared with."""
    ranges = [info.upper - info.lower for info in form.exponents]
    return np.concatenate([solution.coefficients, ranges])


def _open_coefficient(present: bool, share: float, lo: float, hi: float) -> str:
    """Say why a coefficient is not identifiable, or nothing."""
    if not present:
        return "no training row has its term"
    if share < NEGLIGIBLE:
        return f"its term is nowhere {100 * NEGLIGIBLE:.0f} % of the energy"
    if lo <= 0.0:
        return "its interval touches zero"
    if hi > DECADE * lo:
        return f"its interval spans more than a factor of {DECADE:.0f}"
    return ""


def _open_exponent(info: Exponent, error: float, lo: float, hi: float) -> str:
    """Say why a parameter that enters non-linearly is not identifiable, or nothing."""
    if error <= 0.0:
        return "no training row has its term"
    if hi - lo >= 0.5 * (info.upper - info.lower):
        return "its interval spans half of what is possible"
    return ""


def gradient(
    pair: PairFit, frame: pd.DataFrame
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
    """Return energies of both phases and their gradients in the parameters.

    Returns
    -------
    energies
        Phase -> J, shape (rows,).
    gradients
        Phase -> d(energy)/d(parameter), shape (rows, parameters).
    """
    form, n, work = pair.law, len(frame), pair.traits.work_of(frame)
    theta = [float(v) for v in pair.exponents]
    coefficients = pair.coefficients
    energies, gradients = {}, {}
    for phase, part in phase_parts(form).items():
        matrix = np.zeros((n, pair.n_parameters))
        matrix[:, part] = np.column_stack(form.columns(work, phase, theta))
        for j, columns in enumerate(form.slopes(work, phase, theta)):
            for i, slope in enumerate(columns):
                if slope is not None:
                    matrix[:, len(coefficients) + j] += coefficients[part[i]] * slope
        energies[phase] = matrix[:, part] @ coefficients[part]
        gradients[phase] = matrix
    return energies, gradients
