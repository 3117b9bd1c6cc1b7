"""What is known of the parameters of one (model, hardware): a normal posterior on their scale.

On that scale (`fitting.design.expected`) the logarithm of an energy is close to linear, so a
measurement changes the covariance in a way that does not depend on its value (Chaloner and
Verdinelli 1995): designs need no energy that is not yet measured.

No law is quite true. So beside its parameters there are effects of every level of t, p, batch and
input length on either phase, expected to be small (`EFFECT`): potential terms in the words of
DuMouchel and Jones (1994). A design that must allow for them spreads its rows over the levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fitting.design.expected import Expected, precision_of, to_scale, total_of
from fitting.design.learning import from_fit, most_probable
from fitting.design.prior import prior_spread, prior_values
from fitting.forms import PHASES, Form
from fitting.traits import traits_of

if TYPE_CHECKING:
    import pandas as pd

    from fitting.facts import Facts
    from fitting.pairfit import PairFit

Array = NDArray[np.float64]
Index = NDArray[np.intp]

MEASUREMENT_ERROR = 0.01
"""Relative standard error of an energy that is still to be measured."""

EFFECT = 0.03
"""Expected size of the effect of one level of one axis that the law does not know, relative."""

EFFECT_AXES = ("tensor_parallel", "pipeline_parallel", "batch", "input_tokens", "precision")
"""Axes whose levels may have effects of their own."""


@dataclass(frozen=True, slots=True)
class State:
    """Posterior of the parameters of one pair, and what it says of every candidate.

    Attributes
    ----------
    form
        The law, with the terms that the candidates call for.
    mean, covariance
        Of the parameters on their scale and then the effects of levels on prefill and on decode,
        shape (d,) and (d, d).
    log_energy
        Logarithm of the predicted total energy of each candidate, shape (rows,).
    slope
        d(log total energy)/d(parameter), shape (rows, d).
    observed
        What a measurement of each candidate would see, in units of its error: one row a phase,
        shape (rows, phases, d).
    """

    form: Form
    mean: Array
    covariance: Array
    log_energy: Array
    slope: Array
    observed: Array


def state_of(
    rows: pd.DataFrame,
    measured: pd.DataFrame | None,
    facts: Facts,
    form: Form,
    fitted: PairFit | None = None,
) -> State:
    """Return the posterior of one pair.

    Parameters
    ----------
    rows
        All candidates of the pair, measured ones too; only their configuration is read.
    measured
        Rows with energies to learn from, or None.
    facts
        Facts of the model and the GPU type, for the prior.
    form
        The law.
    fitted
        A fit of this pair, which then stands for `measured`.
    """
    traits = traits_of(rows)
    suited = form.suited(traits.work_of(rows))
    levels = _levels_of(rows)
    mean = to_scale(suited, prior_values(suited, rows, facts))
    covariance = np.diag(prior_spread(suited) ** 2)
    if fitted is not None:
        mean, covariance = from_fit(suited, mean, covariance, fitted)
    effects = len(PHASES) * len(levels)
    mean = np.concatenate([mean, np.zeros(effects)])
    covariance = _beside(covariance, EFFECT**2 * np.eye(effects))
    if fitted is None and measured is not None and len(measured):
        seen = Expected(suited, traits.work_of(measured), _indicators(measured, levels))
        mean, covariance = most_probable(seen, mean, covariance, measured)
    energies, slopes = Expected(suited, traits.work_of(rows), _indicators(rows, levels)).look(mean)
    total, slope, share = total_of(energies, slopes)
    observed = np.stack(
        [
            slopes[phase] * precision_of(share[phase], MEASUREMENT_ERROR)[:, None]
            for phase in PHASES
        ],
        axis=1,
    )
    return State(suited, mean, covariance, total, slope, observed)


def _beside(first: Array, second: Array) -> Array:
    """Return a block diagonal matrix."""
    n, m = len(first), len(second)
    result = np.zeros((n + m, n + m))
    result[:n, :n], result[n:, n:] = first, second
    return result


Level = tuple[str, Any]


def _levels_of(rows: pd.DataFrame) -> list[Level]:
    """Return the levels of every axis on which rows differ."""
    out: list[Level] = []
    for name in EFFECT_AXES:
        values = [] if name not in rows.columns else sorted(rows[name].dropna().unique().tolist())
        if len(values) > 1:
            out += [(name, value) for value in values]
    return out


def _indicators(rows: pd.DataFrame, levels: list[Level]) -> Array:
    """Return 1 where a row is of a level, shape (rows, levels)."""
    columns = [rows[name].eq(value).to_numpy(dtype=bool, na_value=False) for name, value in levels]
    return np.stack(columns, axis=1).astype(np.float64) if columns else np.zeros((len(rows), 0))
