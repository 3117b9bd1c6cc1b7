"""What a kernel makes of the datasheet: rates reached, launch floor, power while it waits.

    E = P [ s M(t_c / h_c, t_m / h_m, T) + (1 - s) M(t_c / h_c, t_m / h_m) ]

t_c and t_m are seconds of arithmetic and of memory at their peaks, h what share of the peaks a
kernel reaches, T its launch floor, M a smooth maximum, P the power limit, s the share of it that a
GPU draws while it only waits for launches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHARPNESS = 3.0
"""How sharply the longest of arithmetic, memory and floor takes over."""

START = np.log([0.6, 0.6, 1e-5, 0.3])
"""Logarithms of h_c, h_m, T in s, and s: what a kernel is drawn to if nothing else is known."""

SPREAD = np.array([0.7, 0.7, 1.5, 0.5])
"""Prior standard deviations of those logarithms."""

CARRIED_SPREAD = np.array([0.3, 0.3, 0.5, 0.3])
"""How far they may move from one GPU type to another."""

SCATTER = 0.2
"""Standard deviation of the log energy about this form."""


def energy(promise: NDArray[np.float64], rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the log energy of calls, shape (rows,).

    Parameters
    ----------
    promise
        Power limit, seconds of arithmetic and of memory, shape (rows, 3).
    rates
        Logarithms of h_c, h_m, T and s, shape (4,) or (rows, 4).
    """
    reached, share = np.exp(rates[..., :3]), np.exp(rates[..., 3])
    power, compute, memory = promise.T
    busy = _longest(compute / reached[..., 0], memory / reached[..., 1])
    on = _longest(busy, np.broadcast_to(reached[..., 2], busy.shape))
    result: NDArray[np.float64] = np.log(power * (share * on + (1.0 - share) * busy))
    return result


def _longest(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    top = np.maximum(np.maximum(a, b), 1e-300)
    result: NDArray[np.float64] = top * ((a / top) ** SHARPNESS + (b / top) ** SHARPNESS) ** (
        1.0 / SHARPNESS
    )
    return result


def fit_rates(
    promise: NDArray[np.float64],
    names: NDArray[np.str_],
    target: NDArray[np.float64],
    trust: NDArray[np.float64],
    known: Mapping[str, NDArray[np.float64]] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Return the rates of each kernel, drawn to those that are known.

    Parameters
    ----------
    promise, names, target, trust
        Of each call: promises, kernel, log energy, weight.
    known
        Rates of kernels on another GPU type; a kernel that is not there is drawn to their mean.
    """
    from scipy.optimize import least_squares

    centre = np.mean(list(known.values()), axis=0) if known else START
    found = {}
    for name in sorted(set(names.tolist())):
        here = names == name
        near = known is not None and name in known
        prior = known[name] if known is not None and near else centre
        spread = CARRIED_SPREAD if near else SPREAD
        root = np.sqrt(trust[here])

        def residual(
            x: NDArray[np.float64],
            here: NDArray[np.bool_] = here,
            root: NDArray[np.float64] = root,
            prior: NDArray[np.float64] = prior,
            spread: NDArray[np.float64] = spread,
        ) -> NDArray[np.float64]:
            off = (energy(promise[here], x) - target[here]) * root / SCATTER
            result: NDArray[np.float64] = np.r_[off, (x - prior) / spread]
            return result

        upper = np.array([5.0, 5.0, 0.0, 0.0])
        start = np.minimum(prior, upper - 0.01)
        solved = least_squares(residual, start, bounds=(-30.0, upper), loss="soft_l1", max_nfev=60)
        found[name] = np.asarray(solved.x)
    return found


def rates_of(
    names: NDArray[np.str_], known: Mapping[str, NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Return the rates of each call; the mean of all for a kernel not seen, shape (rows, 4)."""
    mean = np.mean(list(known.values()), axis=0)
    return np.array([known.get(name, mean) for name in names.tolist()])
