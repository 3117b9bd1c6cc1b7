"""How much each row of a fit weighs, and how far rows scatter about the fitted law."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fitting.work import column

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from fitting.solve import Block

SCATTER = 0.03
"""Relative scatter of rows about the law that is expected beside the error of measurement."""

SMALL_SHARE = 0.2
"""A phase of vanishing energy keeps this weight, in squares, against 1 + this of a whole row."""


def row_weights(
    rows: pd.DataFrame, phase: str, energy: NDArray[np.float64], total: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the weights of relative residuals: less for what is known badly, or matters little.

    A row's error is half its 95 % interval beside the scatter about the law; a phase that is a
    small share of the energy of its row has little to say in the choice between rows.
    """
    half = column(rows, f"{phase}_energy_j_ci95_j", default=0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.where(energy > 0.0, 0.5 * half / energy, 0.0)
        share = np.clip(energy / total, 0.0, 1.0)
    known = 1.0 / np.sqrt(1.0 + (error / SCATTER) ** 2)
    result: NDArray[np.float64] = known * np.sqrt((share + SMALL_SHARE) / (1.0 + SMALL_SHARE))
    return result


def total_residuals(
    residuals: Sequence[NDArray[np.float64]],
    blocks: list[Block],
    kept: list[NDArray[np.bool_]],
    total: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return relative residuals of the total energy, from those of the phases."""
    if not kept:
        return residuals[0]
    error = np.zeros(len(total))
    for block, mask, residual in zip(blocks, kept, residuals, strict=True):
        error[mask] += residual * block.energy
    return error / total


def half_width(residuals: NDArray[np.float64]) -> float:
    """Return the relative half width that a new row keeps with 95 % chance.

    The ceil(0.95 (n + 1))-th smallest of the half widths that would hold each row (conformal;
    Vovk et al. 2005); with too few rows for that rank, Student's t times their root mean square.
    """
    from scipy.stats import t

    n = len(residuals)
    if n == 0:
        return 0.0
    needed = np.expm1(np.abs(np.log(np.maximum(1.0 + residuals, 0.1))))
    rank = int(np.ceil(0.95 * (n + 1)))
    if rank <= n:
        return float(np.sort(needed)[rank - 1])
    return float(t.ppf(0.975, max(n - 1, 1)) * np.sqrt(np.mean(needed**2)))
