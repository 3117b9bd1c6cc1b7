"""A pooled law for serving data without input lengths: energy per output token.

Published serving benchmarks give a total energy, a batch limit and a mean output length, and a
few rows a model. So one law is shared by all models and GPU types, and each model, GPU type and
task moves it by a scale that is drawn towards one (shrinkage).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from fitting.traits import traits_of
from fitting.work import COMPUTE_COST, WEIGHT_BYTES, column
from harness.store import FitError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

NAME = "energylens_serving"

TERMS: tuple[tuple[str, str, str], ...] = (
    ("weights", "J/GB", "weights read per token: w N_read(B) G^e / B"),
    ("compute", "J/Gparam", "work per token: c N_active"),
    ("step", "J", "fixed cost of a step on every GPU, per token: G / B"),
    ("cache", "J/Gparam^0.5", "reading the KV cache, about the root of N_active"),
)
"""Shared coefficients: name, unit, what they count. N in 10^9 parameters, G GPUs, B batch."""

SCALES: dict[str, float] = {"model_id": 0.3, "hardware": 0.3, "task": 0.3}
"""Columns whose values scale the law, and the prior standard deviation of the log scale."""

NOISE = 0.15
"""Standard deviation of the log energy that the shared law leaves open within a model."""

ROUNDS = 6
"""Alternations between the shared terms and the scales; changes are below 1e-3 by then."""

GPU_EXPONENT = 0.3
"""e: how the reading of weights grows with GPUs; smaller shards are read less efficiently."""


@dataclass(frozen=True, slots=True)
class ServingLaw:
    """A fitted pooled law.

    Attributes
    ----------
    coefficients
        Shared coefficients, in the order of `TERMS`.
    scales
        Column -> value -> log of the scale; a value that was not fitted has none.
    n_rows
        Training rows.
    """

    coefficients: NDArray[np.float64]
    scales: dict[str, dict[str, float]] = field(default_factory=dict)
    n_rows: int = 0

    def predict(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        """Return energy_per_output_token_j of each row, J, shape (rows,)."""
        shift = np.zeros(len(frame))
        for name, known in self.scales.items():
            if name in frame.columns:
                shift += frame[name].astype(str).map(known).fillna(0.0).to_numpy(dtype=np.float64)
        result: NDArray[np.float64] = design(frame) @ self.coefficients * np.exp(shift)
        return result


def serving_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Keep valid rows with an energy per output token, a batch and sizes of the model."""
    keep = np.ones(len(frame), dtype=bool)
    for name in ("energy_per_output_token_j", "batch", "params_active"):
        keep &= column(frame, name, default=0.0) > 0.0
    if "valid" in frame.columns:
        keep &= frame["valid"].astype("boolean").fillna(True).to_numpy(dtype=bool)
    return frame.loc[keep]


def design(frame: pd.DataFrame) -> NDArray[np.float64]:
    """Return the shared terms of each row, shape (rows, 4)."""
    batch = column(frame, "batch")
    active = column(frame, "params_active") / 1e9
    total = np.maximum(column(frame, "params_total", default=0.0) / 1e9, active)
    gpus = column(frame, "num_gpus", default=1.0)
    local = np.maximum(batch / column(frame, "data_parallel", default=1.0), 1.0)
    names = frame["precision"] if "precision" in frame.columns else None
    weight: NDArray[np.float64] = np.full(len(frame), 2.0)
    cost: NDArray[np.float64] = np.ones(len(frame))
    if names is not None:
        weight = np.asarray(names.map(WEIGHT_BYTES).fillna(2.0), dtype=np.float64)
        cost = np.asarray(names.map(COMPUTE_COST).fillna(1.0), dtype=np.float64)
    idle = np.zeros(len(frame))
    for _, positions in frame.reset_index(drop=True).groupby("model_id").indices.items():
        idle[positions] = traits_of(frame.iloc[positions]).idle_expert
    read = active + (total - active) * np.where(idle > 0.0, 1.0 - idle**local, 1.0)
    return np.column_stack(
        [
            weight * read * gpus**GPU_EXPONENT / batch,
            cost * active,
            gpus / batch,
            np.sqrt(active),
        ]
    )


def fit_serving(rows: pd.DataFrame) -> ServingLaw:
    """Fit the shared coefficients and the scales, in turns.

    Coefficients by non-negative least squares on relative residuals; scales by ridge regression
    of the logarithm that is left, with the priors of `SCALES`.

    Raises
    ------
    FitError
        If there are fewer rows than twice the shared coefficients.
    """
    from scipy.optimize import nnls

    if len(rows) < 2 * len(TERMS):
        raise FitError(
            f"{len(rows)} rows are too few for {NAME}.",
            fix=f"It needs at least {2 * len(TERMS)} rows with an energy per output token.",
        )
    matrix = design(rows)
    energy = column(rows, "energy_per_output_token_j")
    dummies, labels = _dummies(rows)
    prior = np.array([(NOISE / SCALES[name]) ** 2 for name, _ in labels])
    ridge = np.linalg.inv(dummies.T @ dummies + np.diag(prior)) @ dummies.T
    shift = np.zeros(len(labels))
    coefficients = np.zeros(len(TERMS))
    for _ in range(ROUNDS):
        relative = matrix * (np.exp(dummies @ shift) / energy)[:, None]
        norm = np.linalg.norm(relative, axis=0)
        norm[norm == 0.0] = 1.0
        found, _ = nnls(relative / norm, np.ones(len(rows)))
        coefficients = found / norm
        shift = ridge @ np.log(energy / np.maximum(matrix @ coefficients, 1e-12))
    scales: dict[str, dict[str, float]] = {name: {} for name in SCALES}
    for (name, value), log_scale in zip(labels, shift, strict=True):
        scales[name][value] = float(log_scale)
    return ServingLaw(coefficients, scales, len(rows))


def _dummies(rows: pd.DataFrame) -> tuple[NDArray[np.float64], list[tuple[str, str]]]:
    """Return an indicator column for each value of each scaling column, and their names."""
    columns, labels = [], []
    for name in SCALES:
        if name not in rows.columns:
            continue
        values = rows[name].astype(str).to_numpy()
        for value in sorted(set(values.tolist())):
            columns.append((values == value).astype(np.float64))
            labels.append((name, value))
    return np.column_stack(columns), labels
