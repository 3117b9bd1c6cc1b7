"""Designs that ask no law: at random, and Latin hypercube sampling over the axes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fitting.work import column

if TYPE_CHECKING:
    import pandas as pd

Index = NDArray[np.intp]

AXES = (
    "tensor_parallel",
    "pipeline_parallel",
    "expert_parallel",
    "data_parallel",
    "precision",
    "modality",
    "batch",
    "input_tokens",
    "output_tokens",
    "visual_tokens",
)
"""Axes that Latin hypercube sampling stratifies."""


def random_order(rows: pd.DataFrame, seed: int) -> Index:
    """Return all positions in an order that hangs on the configurations and the seed alone."""
    from fitting.rows import row_hash, sample_order

    return sample_order(row_hash(rows), None, seed)


def latin_hypercube(rows: pd.DataFrame, size: int, seed: int) -> Index:
    """Return positions of rows near the points of a Latin hypercube.

    Each axis is cut into `size` strata of equally many of its values, and a random permutation of
    the strata on every axis makes the points (McKay, Beckman and Conover 1979). Each point takes
    the nearest row that no earlier point took, because the rows need not fill a grid.
    """
    levels = _levels(rows)
    rng = np.random.default_rng(seed)
    size = min(size, len(rows))
    points = np.column_stack([(rng.permutation(size) + 0.5) / size for _ in levels.T])
    free = np.ones(len(rows), dtype=bool)
    chosen = np.zeros(size, dtype=np.intp)
    for i in range(size):
        distance = np.where(free, ((levels - points[i]) ** 2).sum(axis=1), np.inf)
        chosen[i] = distance.argmin()
        free[chosen[i]] = False
    return chosen


def _levels(rows: pd.DataFrame) -> NDArray[np.float64]:
    """Return the place of each row among the values of each axis, 0 to 1, shape (rows, axes)."""
    import pandas as pd

    levels = []
    for name in AXES:
        if name not in rows.columns:
            continue
        if pd.api.types.is_numeric_dtype(rows[name].dtype):
            values = column(rows, name, default=0.0)
        else:
            values = pd.factorize(rows[name].astype(str), sort=True)[0].astype(np.float64)
        found, place = np.unique(values, return_inverse=True)
        if len(found) > 1:
            levels.append((place + 0.5) / len(found))
    return np.column_stack(levels) if levels else np.zeros((len(rows), 1))
