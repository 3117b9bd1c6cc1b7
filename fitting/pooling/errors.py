"""How sure predictions are: parameters, scatter of rows, and factors that calibration found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
        Factor on the errors of GPU types with few rows, in units of how unlike they are.
    platforms
        GPU type -> factor on the errors of its rows, at least 1.
    unlike
        GPU type or model that was added to a law -> chi-square of its rows before they were
        seen, and their number; see `factor`.
    """

    rows: dict[str, float] = field(default_factory=lambda: dict.fromkeys(KINDS, 1.0))
    hardware: float = 1.0
    model: float = 1.0
    few: float = 1.0
    platforms: dict[str, float] = field(default_factory=dict)
    unlike: dict[str, tuple[float, int]] = field(default_factory=dict)

    def factor(self, model_id: str, hardware: str) -> float:
        """Return the factor on the errors of a pair, at least 1.

        The root of the mean chi-square (Birge 1932): where the rows of an added GPU type fit
        worse than the spreads of the others let expect, the rest of it is less sure, too.
        """
        found = [self.unlike[name] for name in (model_id, hardware) if name in self.unlike]
        least = self.platforms.get(hardware, 1.0)
        return max([least, *(self.few * float(np.sqrt(chi / max(n, 1))) for chi, n in found)])

    def with_rows(self, names: list[str], chi: float, count: int) -> Widening:
        """Return the same after rows of new GPU types or models; more rows of them add up."""
        before = {name: self.unlike.get(name, (0.0, 0)) for name in names}
        added = {name: (old + max(chi, 0.0), n + count) for name, (old, n) in before.items()}
        return replace(self, unlike={**self.unlike, **added})


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
        ("total", total, phases.total_slope()),
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
