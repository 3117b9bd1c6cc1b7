"""Quantiles of two small-sample distributions, by integrating their densities.

A launch on a bare GPU machine has numpy and no scipy; the test suite compares both functions with
SciPy's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt

_POINTS = 4001
Density = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]


@lru_cache(maxsize=256)
def student_t95(degrees: float) -> float:
    """Return the factor that makes a standard error the half width of a 95 % interval.

    Parameters
    ----------
    degrees
        Degrees of freedom, above 0.
    """
    if degrees > 1e5:
        return 1.959963984540054
    scale = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)
    scale -= 0.5 * math.log(degrees * math.pi)

    def density(angle: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        # x = sqrt(degrees) tan(angle) maps the heavy tail to a finite stretch.
        out: npt.NDArray[np.float64] = np.cos(angle) ** (degrees - 1)
        out *= math.exp(scale) * math.sqrt(degrees)
        return out

    angle = _quantile(density, 0.475, math.pi / 2)
    return math.sqrt(degrees) * math.tan(angle)


@lru_cache(maxsize=64)
def median_variance_ratio(degrees: int) -> float:
    """Return the median of a sample variance over the true one: median of chi2 / degrees."""
    scale = -degrees / 2 * math.log(2) - math.lgamma(degrees / 2)

    def density(root: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        # x = root^2 takes the pole at zero away for one degree of freedom.
        power = root ** (degrees - 1)
        return np.asarray(2 * np.exp(scale - root**2 / 2) * power, dtype=np.float64)

    root = _quantile(density, 0.5, math.sqrt(degrees) + 10)
    return root**2 / degrees


def _quantile(density: Density, probability: float, highest: float) -> float:
    """Where the integral of a smooth density from zero reaches `probability`."""
    x = np.linspace(0.0, highest, _POINTS)
    y = density(x)
    middle = density((x[:-1] + x[1:]) / 2)
    pieces = (y[:-1] + 4 * middle + y[1:]) / 6 * np.diff(x)
    total = np.concatenate(([0.0], np.cumsum(pieces)))
    return float(np.interp(probability, total, x))
