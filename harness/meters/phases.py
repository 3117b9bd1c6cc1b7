"""Phase energies with intervals from repeated windows.

Prefill is measured in windows of its own and the whole in windows of its own. Decode comes from
windows of its own where the engine can repeat it; else from inside the whole windows, between the
first token and the last, where the counter is fine enough; otherwise it is the whole minus the
prefill. The ways are compared: prefill and decode must add up to the whole (additivity).

With three repeats a standard deviation is itself poorly known. The repeats of all workloads of a
launch share engine, devices and protocol, so their relative scatter is pooled and each
workload's own scatter is shrunk towards it (an inverse-gamma prior of `PRIOR_WEIGHT` degrees of
freedom).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.meters.student import median_variance_ratio, student_t95

PRIOR_WEIGHT = 6.0
"""Degrees of freedom that the pooled scatter of a launch is worth beside a workload's own."""


@dataclass(frozen=True, slots=True)
class PhaseSamples:
    """Energies per run of one workload, one value a repeat, joules, all devices.

    Attributes
    ----------
    prefill_j, full_j
        (repeats,) from prefill windows and from whole windows.
    decode_j
        (repeats,) from decode windows, or between first and last token inside the whole
        windows; NaN where the decode phase is too short against the counter.
    sensor_stderr_j
        One standard deviation that the sensor alone adds to one repeat: prefill, decode, full.
    """

    prefill_j: npt.NDArray[np.float64]
    full_j: npt.NDArray[np.float64]
    decode_j: npt.NDArray[np.float64]
    sensor_stderr_j: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class PhaseEnergies:
    """Mean energies of one run, with half widths of their 95 % intervals, joules."""

    prefill_j: float
    prefill_ci95_j: float
    decode_j: float
    decode_ci95_j: float
    total_j: float
    total_ci95_j: float
    additivity: float
    """(prefill + decode) / whole - 1."""
    additive: bool
    """Whether that residual lies inside three of its standard deviations, or the tolerance."""


def combine_repeats(
    workloads: Sequence[PhaseSamples], *, tolerance: float = 0.0
) -> list[PhaseEnergies]:
    """Means and intervals of every workload of a launch.

    Parameters
    ----------
    workloads
        One entry a workload, each with at least one repeat.
    tolerance
        Share of the whole by which prefill and decode may miss it, whatever the errors say: a
        decode window is not quite what decode is inside a whole run.

    Returns
    -------
    list of PhaseEnergies
        In the same order. With a single repeat and nothing to pool, the interval is the
        sensor's own.
    """
    inside = [w.decode_j for w in workloads if np.isfinite(w.decode_j).all()]
    prefill_pool = _pooled_variance([w.prefill_j for w in workloads])
    full_pool = _pooled_variance([w.full_j for w in workloads])
    decode_pool = _pooled_variance(inside)
    out = []
    for w in workloads:
        p_mean, p_se, t = _mean_and_error(w.prefill_j, prefill_pool, w.sensor_stderr_j[0])
        f_mean, f_se, _ = _mean_and_error(w.full_j, full_pool, w.sensor_stderr_j[2])
        if np.isfinite(w.decode_j).all():
            d_mean, d_se, _ = _mean_and_error(w.decode_j, decode_pool, w.sensor_stderr_j[1])
        else:
            d_mean, d_se = f_mean - p_mean, float(np.hypot(p_se, f_se))
        residual = p_mean + d_mean - f_mean
        residual_se = float(np.sqrt(p_se**2 + d_se**2 + f_se**2))
        out.append(
            PhaseEnergies(
                p_mean,
                t * p_se,
                d_mean,
                t * d_se,
                f_mean,
                t * f_se,
                residual / f_mean if f_mean > 0 else float("nan"),
                bool(abs(residual) <= max(3 * residual_se, tolerance * f_mean)),
            )
        )
    return out


def _pooled_variance(values: Sequence[npt.NDArray[np.float64]]) -> float:
    """Typical relative variance of one repeat over the workloads; 0 where none has two."""
    # The median of a chi-square over its degrees of freedom is below its mean: undo that.
    relative = [
        float(np.var(v, ddof=1) / np.mean(v) ** 2) / median_variance_ratio(v.size - 1)
        for v in values
        if v.size > 1 and np.mean(v) > 0
    ]
    return float(np.median(relative)) if relative else 0.0


def _mean_and_error(
    values: npt.NDArray[np.float64], pooled: float, sensor_stderr_j: float
) -> tuple[float, float, float]:
    """Mean, standard error and the factor that makes it a 95 % interval."""
    mean = float(values.mean())
    repeats = values.size
    floor = sensor_stderr_j / np.sqrt(repeats)
    if repeats < 2:
        return mean, float(max(floor, np.sqrt(pooled) * abs(mean))), student_t95(1e6)
    prior = PRIOR_WEIGHT if pooled > 0 else 0.0
    own = float(np.var(values, ddof=1))
    degrees = repeats - 1 + prior
    variance = ((repeats - 1) * own + prior * pooled * mean**2) / degrees
    return mean, float(max(np.sqrt(variance / repeats), floor)), student_t95(degrees)
