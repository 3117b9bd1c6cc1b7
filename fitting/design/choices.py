"""The choices that a design is for: candidates of one workload and GPU count (S1), as contrasts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fitting.design.state import State

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]
Index = NDArray[np.intp]

SAMPLES = 128
"""Draws of the parameters behind an expected regret."""


@dataclass(frozen=True, slots=True)
class Contrasts:
    """The present choice of each scenario against each of its rivals; shape (contrasts, ...).

    Attributes
    ----------
    gap
        Log energy of the choice less that of the rival, at most 0.
    slope
        Its slope in the parameters, shape (contrasts, d).
    """

    gap: Array
    slope: Array


def scenarios_of(rows: pd.DataFrame) -> Index:
    """Return positions of the candidates of each S1 scenario, padded with -1."""
    from fitting.scenarios import FIXED, rectangle, workload_codes

    codes = workload_codes(rows, FIXED["S1"])
    return rectangle(codes, np.ones(len(rows), dtype=bool))


def contrasts_of(state: State, scenarios: Index) -> Contrasts:
    """Compare what would be chosen now with every rival of its scenario."""
    energy = np.where(scenarios >= 0, state.log_energy[scenarios], np.inf)
    place = energy.argmin(axis=1) if len(energy) else np.zeros(0, dtype=np.intp)
    chosen = scenarios[np.arange(len(scenarios)), place]
    rival = scenarios >= 0
    rival[np.arange(len(scenarios)), place] = False
    which, at = np.nonzero(rival)
    a, b = chosen[which], scenarios[which, at]
    return Contrasts(state.log_energy[a] - state.log_energy[b], state.slope[a] - state.slope[b])


def expected_regret(
    state: State, scenarios: Index, after: Array | None = None, seed: int = 0
) -> Array:
    """Return the expected regret of the best choices, one value a scenario, shape (scenarios,).

    Parameters
    ----------
    state
        What is known now.
    scenarios
        Candidates of each scenario, padded with -1.
    after
        Covariance of the parameters after a design is measured; the choices are then those of
        the mean that the measurements will lead to, which is normal about the present mean with
        what the covariance loses (Raiffa and Schlaifer 1961). None: choices of now.
    seed
        Seed of the draws.
    """
    if not len(scenarios):
        return np.zeros(0)
    rng = np.random.default_rng(seed)
    left = state.covariance if after is None else after
    learnt = state.covariance - left
    n = len(state.mean)
    shift = rng.standard_normal((SAMPLES, n)) @ _root(learnt).T
    truth = shift + rng.standard_normal((SAMPLES, n)) @ _root(left).T
    mask = scenarios >= 0
    known = np.where(mask, (state.log_energy + shift @ state.slope.T)[:, scenarios], np.inf)
    actual = np.where(mask, (state.log_energy + truth @ state.slope.T)[:, scenarios], np.inf)
    chosen = known.argmin(axis=2)
    cost = np.take_along_axis(actual, chosen[:, :, None], axis=2)[:, :, 0]
    # A normal in logarithms has rare draws that are absurdly large; they must not decide.
    regret: Array = np.expm1(np.minimum(cost - actual.min(axis=2), 2.0)).mean(axis=0)
    return regret


def _root(covariance: Array) -> Array:
    """Return a square root of a covariance that may be singular."""
    values, vectors = np.linalg.eigh(0.5 * (covariance + covariance.T))
    root: Array = vectors * np.sqrt(np.maximum(values, 0.0))
    return root
