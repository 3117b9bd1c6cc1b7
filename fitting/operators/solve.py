"""Fitting the laws of operators: ridge regression of the logarithm, drawn to the datasheet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from fitting.facts import HardwareFacts
from fitting.operators.law import Basis, Local, OperatorLaw, OperatorLaws, Weights, bumps
from fitting.operators.rates import energy, fit_rates, rates_of
from fitting.operators.work import OPERATORS, demand, kernels
from fitting.threads import one_thread
from fitting.work import column
from harness.store import FitError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

KNOTS = 4
PENALTY_OPERATOR, PENALTY_KERNEL = 0.1, 1.0
"""Ridge penalties of the weights of an operator and of a kernel, in rows of full weight."""

SETTLE_S = 3e-5
"""Kernels about that short are known badly: a row weighs latency / (latency + this), in fitting."""

NOISE = 0.003
"""Variance of the log energy of a long kernel about a smooth law; more for short ones."""

REACHES = (1.0, 2.0, 4.0)
KINSHIPS = (0.3, 0.7)
HEIGHTS = (0.02, 0.1, 0.4)
"""Variances of the bumps tried; the triple with the least leave-one-out error is kept."""

LEAST_ROWS = 20


@one_thread()
def fit_operators(rows: pd.DataFrame, hardware: Mapping[str, HardwareFacts]) -> OperatorLaws:
    """Fit one law an operator to the rows of one GPU type (or several, taken as one by datasheet).

    Parameters
    ----------
    rows
        Calls with `op`, `hardware`, the columns of their shape (`OPERATORS`) and of their kernel
        (`KERNEL`), and `energy_j`. `latency_ms`, where there is one, only weighs the rows.
    hardware
        Datasheets of the GPU types that the rows name.

    Raises
    ------
    FitError
        If no operator has enough rows.
    """
    laws = {}
    for operator, positions in rows.groupby("op").indices.items():
        if str(operator) in OPERATORS and len(positions) >= LEAST_ROWS:
            laws[str(operator)] = _fit(str(operator), rows.iloc[positions], hardware)
    if not laws:
        raise FitError(
            "No operator has enough rows to be fitted.",
            where=f"{len(rows)} rows",
            fix=f"Give at least {LEAST_ROWS} rows of one of: {', '.join(OPERATORS)}.",
        )
    return OperatorLaws(laws, dict(hardware))


def _fit(operator: str, rows: pd.DataFrame, hardware: Mapping[str, HardwareFacts]) -> OperatorLaw:
    promise, x = demand(operator, rows, hardware)
    names, trust = kernels(rows), _trust(rows)
    spread = np.where(x.std(axis=0) > 1e-9, x.std(axis=0), 1.0)
    centre = x.mean(axis=0)
    z = (x[:, :2] - centre[:2]) / spread[:2]
    inner = np.linspace(0.0, 1.0, KNOTS + 2)[1:-1]
    knots = tuple(tuple(np.unique(np.quantile(z[:, j], inner)).tolist()) for j in range(2))
    basis = Basis(centre, spread, knots)
    target = np.log(column(rows, "energy_j"))
    rates = fit_rates(promise, names, target, trust)
    left = target - energy(promise, rates_of(names, rates))
    weights = _ridge(basis, x, names, left, trust, wide=True)
    return OperatorLaw(basis, rates, weights, {}, {}, {}, len(rows))


def adapt(
    laws: OperatorLaws, rows: pd.DataFrame, hardware: Mapping[str, HardwareFacts]
) -> OperatorLaws:
    """Carry the laws to the GPU types of `rows`; an operator that was not fitted is fitted.

    What differs there is found anew from these rows; the law of the first GPU type stays.
    """
    found = dict(laws.laws)
    for operator, positions in rows.groupby("op").indices.items():
        name, part = str(operator), rows.iloc[positions]
        if name not in OPERATORS:
            continue
        if name not in found:
            found[name] = _fit(name, part, hardware)
        for gpu, here in part.groupby("hardware").indices.items():
            found[name] = _carry(found[name], name, str(gpu), part.iloc[here], hardware)
    return OperatorLaws(found, dict(hardware))


def _carry(
    law: OperatorLaw,
    operator: str,
    gpu: str,
    rows: pd.DataFrame,
    hardware: Mapping[str, HardwareFacts],
) -> OperatorLaw:
    promise, x = demand(operator, rows, hardware)
    names, trust = kernels(rows), _trust(rows)
    before = law.weights.at(law.basis, x, names, wide=True)
    target = np.log(column(rows, "energy_j")) - before
    rates = fit_rates(promise, names, target, trust, law.rates)
    target = target - energy(promise, rates_of(names, {**law.rates, **rates}))
    moved = _ridge(law.basis, x, names, target, trust, wide=False)
    left = target - moved.at(law.basis, x, names, wide=False)
    local = _local(law.basis.scaled(x), names, left, trust)
    return OperatorLaw(
        law.basis,
        law.rates,
        law.weights,
        {**law.carried_rates, gpu: rates},
        {**law.carried, gpu: moved},
        {**law.local, gpu: local},
        law.n_rows + len(rows),
    )


def _trust(rows: pd.DataFrame) -> NDArray[np.float64]:
    """Return how much each row weighs: short kernels are known badly."""
    latency_s = column(rows, "latency_ms", default=np.inf) / 1e3
    # Written so that a latency that is not known, infinity, weighs one.
    result: NDArray[np.float64] = 1.0 / (1.0 + SETTLE_S / latency_s)
    return result


def _ridge(
    basis: Basis,
    x: NDArray[np.float64],
    names: NDArray[np.str_],
    target: NDArray[np.float64],
    trust: NDArray[np.float64],
    *,
    wide: bool,
) -> Weights:
    """Solve for weights of the operator and of each kernel; outliers count less (Huber)."""
    general = basis.wide(x) if wide else basis.narrow(x)
    narrow = basis.narrow(x)
    labels = sorted(set(names.tolist()))
    blocks = [general] + [narrow * (names == label)[:, None] for label in labels]
    matrix = np.hstack(blocks)
    penalty = np.r_[
        np.full(general.shape[1], PENALTY_OPERATOR),
        np.full(narrow.shape[1] * len(labels), PENALTY_KERNEL),
    ]
    weight = trust.copy()
    found = np.zeros(matrix.shape[1])
    for _ in range(3):
        normal = matrix.T @ (weight[:, None] * matrix)
        normal[np.diag_indices(len(normal))] += penalty
        found = np.linalg.solve(normal, matrix.T @ (weight * target))
        off = np.abs(target - matrix @ found)
        width = 3.0 * max(float(np.median(off)), 1e-6)
        weight = trust * np.minimum(1.0, width / np.maximum(off, 1e-12))
    split = general.shape[1]
    parts = found[split:].reshape(len(labels), -1)
    return Weights(found[:split], dict(zip(labels, parts, strict=True)))


def _local(
    z: NDArray[np.float64],
    names: NDArray[np.str_],
    left: NDArray[np.float64],
    trust: NDArray[np.float64],
) -> Local:
    """Choose the bumps by the leave-one-out error of the rows themselves."""
    noise = NOISE / trust**2
    best: tuple[float, Local] | None = None
    for reach in REACHES:
        for kinship in KINSHIPS:
            shape = bumps(z, names, z, names, reach, kinship)
            for height in HEIGHTS:
                inverse = np.linalg.inv(height * shape + np.diag(noise))
                pulls = inverse @ left
                error = float(np.sum(trust * np.abs(pulls / np.diag(inverse))))
                if best is None or error < best[0]:
                    best = (error, Local(z, names, height * pulls, reach, kinship))
    assert best is not None
    return best[1]
