"""How wide intervals must be, from rows, GPU types and models left out in turn.

The information of the rows that are kept is gathered again and the hierarchy solved again; only
the linearisation is that of the whole fit. No row is judged by a law that has seen it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from fitting.pooling.columns import Columns
from fitting.pooling.errors import KINDS, NORMAL_95, Widening, spread_of
from fitting.pooling.hierarchy import Posterior, posterior
from fitting.pooling.law import PooledLaw
from fitting.pooling.terms import energies
from fitting.pooling.training import Observed, Residuals, gathered, misfit, residuals

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Index = NDArray[np.intp]
    Mask = NDArray[np.bool_]

NARROWEST, WIDEST = 1.0, 4.0
"""Bounds of the factors on what is not known of a GPU type or model with few rows or none."""

SMALLEST = 0.5
"""Least factor on the scatter of rows, where too few are left out to tell."""

FOLDS = 4
"""Parts of the rows that are left out in turn."""

MOST_GROUPS = 5
"""Parts of the GPU types, or models, that are left out in turn."""

FEWEST_GROUPS = 3
"""Groups of a level below which leaving one out tells nothing."""

FEW = 3
"""Rows of each pair that a GPU type keeps when it stands for a new one with few rows."""

LEAST_UNLIKE = 0.25
"""Least mean chi-square of few rows that errors are divided by."""

FEWEST_ROWS = 20
"""Rows of a GPU type below which they have no factor of their own."""

COVERED = 0.95


@dataclass(frozen=True, slots=True)
class _Setup:
    """A law with the rows it was fitted to.

    `place` is the position of a row among those of its pair, in an order that is by chance.
    """

    law: PooledLaw
    columns: Columns
    blocks: Sequence[Observed]
    parts: Sequence[Residuals]
    code: Index
    model: Index
    place: Index
    measured: dict[str, Array]
    scatter: dict[str, Array]


@dataclass(frozen=True, slots=True)
class _Again:
    """The hierarchy solved with some of the rows, how they misfit it, and their number."""

    found: Posterior
    misfit: float
    count: int


def calibrated(
    law: PooledLaw, columns: Columns, blocks: Sequence[Observed], code: Index, model: Index
) -> PooledLaw:
    """Return the law with factors on its errors that the training rows call for.

    Parameters
    ----------
    law
        A law with factors of 1.
    columns, blocks, code, model
        Its training rows, sorted by pair: sizes, energies, pair and model of each row.
    """
    starts = np.searchsorted(code, np.arange(len(law.pairs)))
    phases = energies(columns, law.table, code, slopes=True)
    names = np.array([name for name, _ in law.pairs])
    scatter = {
        kind: np.array([known.get(m, known[""]) for m in names])[code]
        for kind, known in law.scatter.items()
    }
    setup = _Setup(
        law,
        columns,
        blocks,
        [residuals(block, phases) for block in blocks],
        code,
        model,
        np.arange(len(code)) - starts[code],
        _measured(blocks, len(code)),
        scatter,
    )
    rows, platforms = _row_factors(setup)
    setup.scatter.update({kind: rows[kind] * values for kind, values in scatter.items()})
    unseen = [(kept, _again(setup, kept)) for kept in _left(setup, "hardware", 0)]
    hardware = _group_factor(setup, rows, unseen)
    few = _few_factor(setup, rows, [again for _, again in unseen])
    models = _group_factor(
        setup, rows, ((kept, _again(setup, kept)) for kept in _left(setup, "model", 0))
    )
    return replace(law, widening=Widening(rows, hardware, models, few, platforms))


def _measured(blocks: Sequence[Observed], n: int) -> dict[str, Array]:
    """Return the energies that rows have, J; the total of both phases; NaN where unknown."""
    out = {kind: np.full(n, np.nan) for kind in KINDS}
    for block in blocks:
        out[block.kind][block.rows] = np.exp(block.log_energy)
    both = out["prefill"] + out["decode"]
    out["total"] = np.where(np.isnan(out["total"]), both, out["total"])
    return out


def _left(setup: _Setup, level: str, few: int) -> Iterator[Mask]:
    """Yield which rows are kept, where each part of a level's groups keeps `few` rows a pair."""
    member = setup.law.levels.member[:, setup.law.levels.names.index(level)]
    groups = np.unique(member)
    if len(groups) >= FEWEST_GROUPS:
        part = np.searchsorted(groups, member) % MOST_GROUPS
        for i in np.unique(part):
            yield (part[setup.code] != i) | (setup.place < few)


def _again(setup: _Setup, kept: Mask) -> _Again:
    """Solve the hierarchy again with the rows that are kept."""
    law = setup.law
    parts = [
        Residuals(part.residual, part.slope, part.trust * kept[block.rows])
        for block, part in zip(setup.blocks, setup.parts, strict=True)
    ]
    names = sorted({name for name, _ in law.pairs})
    scatter = {
        kind: np.array([known.get(name, known[""]) for name in names])
        for kind, known in law.scatter.items()
    }
    rows = (setup.blocks, parts, law.table, setup.code, setup.model, scatter)
    information, pull = gathered(*rows)
    squares, count = misfit(*rows)
    member, spread = law.levels.member, law.spread
    prior = spread[law.levels.level]
    found = posterior(information, pull, member, prior, spread[-1])
    return _Again(found, squares - float((pull * found.of_pairs(member)).sum()), count)


def _judged(
    setup: _Setup, kept: Mask, factor: dict[str, float], again: _Again
) -> dict[str, tuple[Array, Array, Array]]:
    """Return squared residual, variance by parameters and by rows, of the rows that are left out.

    Residuals are those of ln(energy), divided by the standard deviations that hold 95 %.
    """
    law, out = setup.law, ~kept
    found = again.found
    member, spread = law.levels.member, law.spread
    asked = np.unique(setup.code[out])
    wide = np.zeros_like(law.information)
    for p in asked:
        wide[p] = found.pair_covariance(int(p), member[p], spread[:-1])
    code = setup.code[out]
    phases = energies(
        setup.columns.take(np.flatnonzero(out)), found.of_pairs(member), code, slopes=True
    )
    rows = {kind: values[out] for kind, values in setup.scatter.items()}
    alone = spread_of(phases, np.zeros_like(wide), code, rows, factor)
    joint = spread_of(phases, wide, code, rows, factor)
    result = {}
    for kind, (energy, error) in alone.items():
        measured = setup.measured[kind][out]
        with np.errstate(divide="ignore", invalid="ignore"):
            residual = np.log(measured / energy) / NORMAL_95
        known = np.isfinite(residual)
        parameters = np.maximum(joint[kind][1] ** 2 - error**2, 1e-12)
        result[kind] = (residual[known] ** 2, parameters[known], error[known] ** 2)
    return result


def _row_factors(setup: _Setup) -> tuple[dict[str, float], dict[str, float]]:
    """Return factors on scatter and on errors that hold 95 % of left-out rows.

    Those on scatter are for each kind of energy. Those on whole errors are for each GPU type,
    at least 1: where the rows of one scatter more than those of the same models on others.
    """
    ones = dict.fromkeys(KINDS, 1.0)
    needed: dict[str, list[Array]] = {kind: [] for kind in KINDS}
    totals, places = [], []
    for fold in range(FOLDS):
        kept = setup.place % FOLDS != fold
        if kept.all():
            continue
        judged = _judged(setup, kept, ones, _again(setup, kept))
        for kind, (squared, parameters, rows) in judged.items():
            needed[kind].append(np.maximum(squared - parameters, 0.0) / rows)
        totals.append(np.stack(judged["total"]))
        places.append(np.flatnonzero(~kept & np.isfinite(setup.measured["total"])))
    out = {}
    for kind, parts in needed.items():
        values = np.concatenate(parts) if parts else np.zeros(0)
        out[kind] = max(float(np.sqrt(_quantile(values))), SMALLEST) if len(values) else 1.0
    if not totals:
        return out, {}
    squared, parameters, rows = np.concatenate(totals, axis=1)
    ratio = squared / (parameters + rows * out["total"] ** 2)
    kinds = np.array([hardware for _, hardware in setup.law.pairs])
    kinds = kinds[setup.code[np.concatenate(places)]]
    found = {str(kind): ratio[kinds == kind] for kind in np.unique(kinds)}
    hardware = {
        kind: float(np.clip(np.sqrt(_quantile(values)), NARROWEST, WIDEST))
        for kind, values in found.items()
        if len(values) >= FEWEST_ROWS
    }
    return out, hardware


def _group_factor(
    setup: _Setup, factor: dict[str, float], every: Iterable[tuple[Mask, _Again]]
) -> float:
    """Return the factor on spreads that holds 95 % of the rows of groups that are left out."""
    needed = []
    for kept, again in every:
        squared, parameters, rows = _judged(setup, kept, factor, again)["total"]
        needed.append(np.maximum(squared - rows, 0.0) / parameters)
    if not needed:
        return NARROWEST
    return float(np.clip(np.sqrt(_quantile(np.concatenate(needed))), NARROWEST, WIDEST))


def _few_factor(setup: _Setup, factor: dict[str, float], without: list[_Again]) -> float:
    """Return the factor on errors that holds 95 % of the rows of GPU types with few rows.

    Errors are taken in units of the root of the mean chi-square of the few rows, as those of a
    GPU type that is added to the law will be; see `Widening.factor`. `without` is the hierarchy
    without any rows of each part.
    """
    needed = []
    for few, before in zip(_left(setup, "hardware", FEW), without, strict=True):
        if few.all():
            continue
        after = _again(setup, few)
        unlike = (after.misfit - before.misfit) / max(after.count - before.count, 1)
        squared, parameters, rows = _judged(setup, few, factor, after)["total"]
        needed.append(squared / (parameters + rows) / max(unlike, LEAST_UNLIKE))
    if not needed:
        return NARROWEST
    return float(np.clip(np.sqrt(_quantile(np.concatenate(needed))), NARROWEST, WIDEST))


def _quantile(values: Array) -> float:
    """Return the value that a new one keeps below with 95 % chance (conformal rank)."""
    rank = int(np.ceil(COVERED * (len(values) + 1)))
    return float(np.sort(values)[min(rank, len(values)) - 1])
