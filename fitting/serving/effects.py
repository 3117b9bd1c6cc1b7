"""Random effects: what models, GPU types, tasks and configurations add to the shared law.

Each effect belongs to a value of some columns (a model, a task on a GPU type, ...) and is drawn
to zero as far as the training rows say that such values differ. So five rows of a new model move
its scale and its slopes, and a value that was never seen adds nothing but width to the interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fitting.facts import Facts
from fitting.serving.shapes import text
from fitting.work import column

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]


class Effect(NamedTuple):
    """A family of effects: the columns of a value, what it multiplies, and its prior deviation."""

    columns: tuple[str, ...]
    slope: str
    deviation: float

    @property
    def name(self) -> str:
        """Name in files: columns, then what it multiplies."""
        return "+".join(self.columns) + ":" + self.slope


_CONFIGURATION = ("model_id", "task", "hardware", "_deployment")

EFFECTS: tuple[Effect, ...] = (
    Effect(("_backbone",), "scale", 0.2),
    Effect(("_backbone",), "batch", 0.1),
    Effect(("_backbone",), "gpus", 0.1),
    Effect(("_backbone", "precision"), "reduced", 0.3),
    Effect(("_backbone", "precision"), "reduced_batch", 0.3),
    Effect(("_backbone", "hardware"), "scale", 0.1),
    Effect(("_backbone", "task"), "scale", 0.1),
    Effect(("hardware",), "scale", 0.2),
    Effect(("hardware",), "batch", 0.1),
    Effect(("task",), "scale", 0.2),
    Effect(("task",), "batch", 0.1),
    Effect(("hardware", "task"), "scale", 0.1),
    Effect(("hardware", "task"), "batch", 0.1),
    Effect(_CONFIGURATION, "scale", 0.05),
    Effect(_CONFIGURATION, "batch", 0.05),
)
"""Families of effects on the log of the energy, and the prior deviation of each. Reduced precision
has the widest: published fp8 runs cost 0.71 to 1.84 times those in 16 bits."""

NOISE = 0.06
"""Prior deviation of a repeated measurement; three repeats of ML.ENERGY v3 differ by 5 to 19 %."""

BELIEF = 0.5
"""Deviation of the log of a prior deviation: two GPU types hardly say how types differ."""

_KEYS = ("num_gpus", "tensor_parallel", "expert_parallel", "data_parallel", "precision")


class Levels(NamedTuple):
    """Value and multiplier of each family of effects, for each row."""

    values: tuple[NDArray[np.str_], ...]
    slopes: Array


def levels_of(frame: pd.DataFrame, facts: Facts) -> Levels:
    """Read the value and the multiplier of each family; slopes have shape (families, rows)."""
    n = len(frame)
    columns = {
        name: np.array(text(frame, name), dtype=np.str_)
        for name in ("model_id", "task", "hardware", "precision", *_KEYS[:-1])
    }
    columns["_backbone"] = np.array(
        [facts.backbone(name) for name in columns["model_id"]], dtype=np.str_
    )
    columns["_deployment"] = _joined([columns[name] for name in _KEYS])
    reduced = np.isin(columns["precision"], ("bf16", "fp16", "fp32", ""), invert=True)
    batch = np.log2(np.maximum(column(frame, "batch", default=64.0), 1.0) / 64.0) / 3.0
    multiplier = {
        "scale": np.ones(n),
        "batch": batch,
        "gpus": np.log2(np.maximum(column(frame, "num_gpus", default=1.0), 1.0)),
        "reduced": reduced.astype(np.float64),
        "reduced_batch": reduced * batch,
    }
    return Levels(
        tuple(_joined([columns[name] for name in effect.columns]) for effect in EFFECTS),
        np.array([multiplier[effect.slope] for effect in EFFECTS]).reshape(len(EFFECTS), n),
    )


def _joined(columns: Sequence[NDArray[np.str_]]) -> NDArray[np.str_]:
    return np.array([" | ".join(parts) for parts in zip(*columns, strict=True)], dtype=np.str_)


class Design(NamedTuple):
    """Effects of training rows: family and value of each, and multipliers, (rows, effects)."""

    family: NDArray[np.intp]
    value: NDArray[np.str_]
    matrix: Array


def design_of(levels: Levels) -> Design:
    """Return one column for each value of each family."""
    families, names, columns = [], [], []
    for i, values in enumerate(levels.values):
        for value in np.unique(values):
            families.append(i)
            names.append(value)
            columns.append(np.where(values == value, levels.slopes[i], 0.0))
    return Design(np.array(families, dtype=np.intp), np.array(names), np.column_stack(columns))


def estimate_deviations(design: Design, residual: Array, precision: Array) -> tuple[Array, float]:
    """Return the deviation of each family and of the noise, by maximum likelihood with priors.

    Parameters
    ----------
    design
        Effects of the training rows.
    residual
        Logs of the energies less those of the shared law, shape (rows,).
    precision
        Weight of each row; the variance of its noise is divided by it.
    """
    from scipy.linalg import cho_factor, cho_solve
    from scipy.optimize import minimize

    start = np.log([*(effect.deviation for effect in EFFECTS), NOISE])
    used = [i for i in range(len(EFFECTS)) if (design.family == i).any()]
    grams = np.array([_gram(design.matrix[:, design.family == i]) for i in used])
    free = np.array([*used, len(EFFECTS)])

    def objective(logs: Array) -> tuple[float, Array]:
        variance = np.exp(2.0 * logs)
        covariance = np.tensordot(variance[:-1], grams, 1)
        covariance[np.diag_indices(len(residual))] += variance[-1] / precision
        factor = cho_factor(covariance, lower=True)
        inverse = cho_solve(factor, np.eye(len(residual)))
        whitened = inverse @ residual
        off = (logs - start[free]) / BELIEF
        value = 0.5 * residual @ whitened + np.log(np.diag(factor[0])).sum() + 0.5 * off @ off
        weight = inverse - np.outer(whitened, whitened)
        slope = np.append(np.tensordot(grams, weight, 2), (np.diag(weight) / precision).sum())
        return float(value), variance * slope + off / BELIEF

    found = minimize(objective, start[free], jac=True, method="L-BFGS-B", options={"maxiter": 15})
    logs = start.copy()
    logs[free] = found.x
    deviations = np.exp(logs)
    return deviations[:-1], float(deviations[-1])


def _gram(matrix: Array) -> Array:
    result: Array = matrix @ matrix.T
    return result


def posterior(
    design: Design, residual: Array, precision: Array, deviations: Array, noise: float
) -> tuple[Array, Array]:
    """Return means and variances of the effects, shape (effects,), by ridge regression."""
    weighted = design.matrix * (precision / noise**2)[:, None]
    normal = design.matrix.T @ weighted + np.diag(deviations[design.family] ** -2.0)
    inverse = np.linalg.inv(normal)
    return inverse @ (weighted.T @ residual), np.diag(inverse).copy()
