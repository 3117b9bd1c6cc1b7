"""Test rows that no draw of training rows touches, chosen by workload and seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fitting.rows import row_hash, sample_order
from fitting.scenarios import WORKLOAD

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

_NOT_WORK = ("model_id", "provenance")


def held_out(rows: pd.DataFrame, share: float, seed: int = 0) -> NDArray[np.bool_]:
    """Choose whole workloads as test rows: a workload is held out for every model and GPU type.

    All deployments of a workload go the same way, so that no candidate of a test scenario was
    fitted, and the choice depends on nothing but the workloads and the seed.

    Parameters
    ----------
    rows
        Rows of the measurement table.
    share
        Share of the workloads to hold out, 0 to less than 1.
    seed
        Seed of the choice.

    Returns
    -------
    ndarray
        True for test rows, shape (rows,).
    """
    test = np.zeros(len(rows), dtype=bool)
    if share <= 0.0 or not len(rows):
        return test
    names = [c for c in WORKLOAD if c in rows.columns and c not in _NOT_WORK]
    found, codes = np.unique(row_hash(rows[names]), return_inverse=True)
    order = sample_order(found, max(1, round(share * len(found))), seed)
    chosen = np.zeros(len(found), dtype=bool)
    chosen[order] = True
    return chosen[codes]
