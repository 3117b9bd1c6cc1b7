"""Drift of a launch, seen by a sentinel: one workload that is measured again in every trial."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.meters.student import student_t95

LARGEST = 0.02
"""Change over a launch that is let pass, as a share of the mean."""


@dataclass(frozen=True, slots=True)
class Drift:
    """How a quantity changed from the first sentinel to the last.

    Attributes
    ----------
    change
        Fitted change over the launch as a share of the mean; NaN with fewer than 3 values.
    stderr
        Its standard error.
    degrees
        Degrees of freedom of that error.
    """

    change: float
    stderr: float
    degrees: int = 1

    @property
    def significant(self) -> bool:
        """Whether it is larger than what may pass, and than its 95 % interval."""
        if not math.isfinite(self.change):
            return False
        return abs(self.change) > max(LARGEST, student_t95(self.degrees) * self.stderr)


def drift_of(values: Sequence[float]) -> Drift:
    """Fit a line through the sentinel's values, in the order they were measured.

    Parameters
    ----------
    values
        Energies (or, without a meter, times) of one run of the sentinel.
    """
    y = np.array(values, dtype=np.float64)
    if y.size < 3 or not np.isfinite(y).all() or y.mean() <= 0:
        return Drift(math.nan, math.nan)
    x = np.linspace(-0.5, 0.5, y.size)
    slope = float((x * y).sum() / (x * x).sum())
    residual = y - y.mean() - slope * x
    variance = float((residual**2).sum() / (y.size - 2)) / float((x * x).sum())
    return Drift(slope / float(y.mean()), math.sqrt(variance) / float(y.mean()), y.size - 2)
