"""What measured rows, or a fit, say of the parameters of one (model, hardware)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fitting.design.expected import Expected, factors, precision_of, total_of
from fitting.design.prior import parameter_names
from fitting.forms import PHASES, Form
from fitting.work import column

if TYPE_CHECKING:
    import pandas as pd

    from fitting.pairfit import PairFit

Array = NDArray[np.float64]

STEPS = 15
"""Most steps of the search for the most probable parameters."""

REACH = 6.0
"""Spreads that a parameter may move from the prior."""


def _seen(measured: pd.DataFrame) -> list[tuple[str, Array, Array]]:
    """Return what measured rows tell: (phase or total, log energy, precision)."""
    total = column(measured, "total_energy_j")
    phases = {p: column(measured, f"{p}_energy_j", default=np.nan) for p in PHASES}
    whole = np.isnan(np.stack(list(phases.values()))).any(axis=0)
    out = []
    for name, values in (*phases.items(), ("total", total)):
        known = whole if name == "total" else ~whole
        energy = np.where(known & (values > 0.0), values, np.nan)
        half = column(measured, f"{name}_energy_j_ci95_j", default=0.0)
        with np.errstate(invalid="ignore"):
            share = np.nan_to_num(energy / total)
            precision = precision_of(share, 0.5 * np.nan_to_num(half / energy))
        out.append((name, np.log(np.where(energy > 0.0, energy, 1.0)), precision))
    return out


def most_probable(
    law: Expected, prior: Array, spread: Array, measured: pd.DataFrame
) -> tuple[Array, Array]:
    """Return the most probable parameters and their covariance (Laplace's approximation).

    Gauss-Newton with Levenberg's damping; residuals beyond 10 % pull no stronger than by their
    size, so that an outlier does not decide.
    """
    seen = _seen(measured)
    inverse = _inverse(spread)
    width = REACH * np.sqrt(np.diag(spread))

    def look(scaled: Array) -> tuple[Array, Array, float]:
        energies, slopes = law.look(scaled)
        energies["total"], slopes["total"], _ = total_of(energies, slopes)
        normal: Array = inverse.copy()
        pull: Array = inverse @ (prior - scaled)
        cost = float((prior - scaled) @ pull)
        for name, energy, precision in seen:
            used = precision > 0.0
            gap = (energy - energies[name])[used]
            soft = np.sqrt(1.0 + (gap / 0.1) ** 2)
            weight = precision[used] ** 2 / soft
            slope = slopes[name][used]
            normal += (slope * weight[:, None]).T @ slope
            pull += slope.T @ (weight * gap)
            cost += float((precision[used] ** 2 * 0.02 * (soft - 1.0)).sum())
        return normal, pull, cost

    mean, damping = prior.copy(), 1e-2
    normal, pull, cost = look(mean)
    for _ in range(STEPS):
        step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), pull)
        trial = np.clip(mean + np.clip(step, -2.0, 2.0), prior - width, prior + width)
        found = look(trial)
        if found[2] < cost:
            done = cost - found[2] < 1e-4 * (1.0 + cost)
            mean, (normal, pull, cost), damping = np.asarray(trial), found, damping * 0.1
            if done:
                break
        else:
            damping = min(damping * 10.0, 1e6)
    return mean, _inverse(normal)


def _inverse(matrix: Array) -> Array:
    result: Array = np.asarray(np.linalg.inv(matrix), dtype=np.float64)
    return result


def from_fit(form: Form, mean: Array, covariance: Array, fitted: PairFit) -> tuple[Array, Array]:
    """Join the prior with the parameters of a fit and their covariance."""
    names = parameter_names(form)
    known = [p for p in fitted.parameters if p.name in names and p.value > 0.0]
    at = np.array([names.index(p.name) for p in known], dtype=np.intp)
    own = np.array([[q.name for q in fitted.parameters].index(p.name) for p in known])
    values = np.array([p.value for p in known])
    factor = factors(form)[at]
    chain = np.where(factor, 1.0 / values, 1.0)
    measured = fitted.covariance[np.ix_(own, own)] * np.outer(chain, chain)
    # The two kinds of knowledge are joined as one would a measurement of the parameters.
    gap = np.where(factor, np.log(values), values) - mean[at]
    total = covariance[np.ix_(at, at)] + measured + 1e-9 * np.eye(len(at))
    gain = np.linalg.solve(total, covariance[at]).T
    joined: Array = covariance - gain @ covariance[at]
    return mean + gain @ gap, joined
