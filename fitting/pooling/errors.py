"""How sure predictions are: parameters, scatter of rows, and factors that calibration found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from fitting.residuals import SMALL_SHARE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fitting.pooling.terms import Phases

    Array = NDArray[np.float64]
    Index = NDArray[np.intp]

KINDS = ("prefill", "decode", "total")

NORMAL_95 = 1.96
"""Standard deviations of a normal that hold 95 % on both sides."""


@dataclass(frozen=True, slots=True)
class Widening:
    """Factors on errors that leaving out rows, GPU types and models called for.

    Attributes
    ----------
    rows
        Kind of energy -> factor on the scatter of rows.
    hardware, model
        Factors on what is not known of a GPU type, or a model, without rows.
    few
        Factor on what is not known of a pair with few rows.
    """

    rows: dict[str, float] = field(default_factory=lambda: dict.fromkeys(KINDS, 1.0))
    hardware: float = 1.0
    model: float = 1.0
    few: float = 1.0


def spread_of(
    phases: Phases,
    covariance: Array,
    code: Index,
    scatter: Mapping[str, Array],
    factor: Mapping[str, float],
) -> dict[str, tuple[Array, Array]]:
    """Return energy and standard deviation of its logarithm, for each kind of energy.

    Parameters
    ----------
    phases
        Energies with slopes.
    covariance
        Covariance of the parameters of each pair.
    code
        Pair of each row.
    scatter
        Kind of energy -> scatter of each row.
    factor
        Kind of energy -> factor that `scatter` holds; the total is made from both phases.
    """
    assert phases.prefill_slope is not None
    assert phases.decode_slope is not None
    total = phases.prefill + phases.decode
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(total > 0.0, phases.prefill / total, 0.0)
    whole = share[:, None] * phases.prefill_slope + (1.0 - share)[:, None] * phases.decode_slope
    rows: dict[str, Array] = {}
    if "prefill" in scatter:
        rows["prefill"] = scatter["prefill"] / weight_of_share(share)
        rows["decode"] = scatter["decode"] / weight_of_share(1.0 - share)
        rows["total"] = factor["total"] * np.hypot(
            share * rows["prefill"] / factor["prefill"],
            (1.0 - share) * rows["decode"] / factor["decode"],
        )
    else:
        rows = dict.fromkeys(KINDS, scatter["total"])
    out = {}
    for kind, energy, slope in (
        ("prefill", phases.prefill, phases.prefill_slope),
        ("decode", phases.decode, phases.decode_slope),
        ("total", total, whole),
    ):
        variance = np.zeros(len(code))
        for p in np.unique(code):
            mine = code == p
            variance[mine] = np.einsum("ij,ij->i", slope[mine] @ covariance[p], slope[mine])
        out[kind] = (energy, np.sqrt(np.maximum(variance, 0.0) + rows[kind] ** 2))
    return out


def weight_of_share(share: Array) -> Array:
    """Return the weight of a phase that is such a share of its row's energy."""
    result: Array = np.sqrt((share + SMALL_SHARE) / (1.0 + SMALL_SHARE))
    return result
