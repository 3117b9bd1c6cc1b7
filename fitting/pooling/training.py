"""Fit the hierarchy to rows: Gauss-Newton steps on logarithms, robust, spreads by EM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fitting.forms import PHASES
from fitting.pooling.columns import Columns
from fitting.pooling.hierarchy import Levels, Posterior, posterior
from fitting.pooling.parameters import N_PARAMETERS, PARAMETERS
from fitting.pooling.spreads import estimated_spread
from fitting.pooling.terms import Phases, energies
from fitting.residuals import row_weights
from fitting.solve import SOFT
from fitting.work import column

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Index = NDArray[np.intp]

STEPS = 8
"""Most Gauss-Newton steps of a fit."""

FIRST_STEPS = 2
"""Steps before spreads and scatters are estimated for the first time."""

SETTLED = 0.02
"""A fit ends when no parameter that rows show moves by more than this."""

LONGEST = 1.0
"""A step never moves a parameter by more than this."""

EXPECTED_SCATTER = 0.05
"""Relative scatter of rows about the law before it is estimated."""

BORROWED = 20.0
"""Rows that the scatter over all models counts for in the scatter of one model."""

PRIOR = np.array([p.prior for p in PARAMETERS])
EXPECTED_SPREAD = np.array([p.spread for p in PARAMETERS])


@dataclass(frozen=True, slots=True)
class Observed:
    """Energies of one kind (a phase, or the total where phases are not known).

    Attributes
    ----------
    kind
        `prefill`, `decode` or `total`.
    rows
        Positions of the rows, shape (observed,).
    log_energy
        Logarithm of the energy in J.
    weight
        Weight of each relative residual, 0 to 1.
    """

    kind: str
    rows: Index
    log_energy: Array
    weight: Array


@dataclass(frozen=True, slots=True)
class Residuals:
    """Residuals of one kind of energy at some parameters, with their derivatives.

    Attributes
    ----------
    residual
        ln(measured / law), shape (observed,).
    slope
        d ln(law) / d(parameters), shape (observed, parameters).
    trust
        Robust weight times the squared weight of the row.
    """

    residual: Array
    slope: Array
    trust: Array


@dataclass(frozen=True, slots=True)
class Trained:
    """What rows say.

    Attributes
    ----------
    information, pull
        Quadratic information on the parameters of each pair; see `posterior`.
    spread
        Standard deviation of each level, that of the pairs themselves last, shape
        (levels + 1, parameters).
    scatter
        Kind of energy -> relative scatter of the rows of each model, shape (models,).
    found
        The posterior.
    """

    information: Array
    pull: Array
    spread: Array
    scatter: dict[str, Array]
    found: Posterior


def observed(rows: pd.DataFrame) -> list[Observed]:
    """Return the energies of rows: phases where both are known, otherwise the total."""
    total = column(rows, "total_energy_j")
    phases = {phase: column(rows, f"{phase}_energy_j", default=np.nan) for phase in PHASES}
    known = np.logical_and.reduce([~np.isnan(values) for values in phases.values()])
    result = []
    for kind, values, mask in (
        *((phase, phases[phase], known) for phase in PHASES),
        ("total", total, ~known),
    ):
        at = np.flatnonzero(mask & (values > 0.0))
        if len(at):
            weight = row_weights(rows, kind, np.where(mask, values, 1.0), total)
            result.append(Observed(kind, at, np.log(values[at]), weight[at]))
    return result


def residuals(block: Observed, phases: Phases) -> Residuals:
    """Return the residuals of one kind of energy."""
    at = block.rows
    assert phases.prefill_slope is not None
    assert phases.decode_slope is not None
    if block.kind == "total":
        energy = phases.prefill[at] + phases.decode[at]
        share = (phases.prefill[at] / energy)[:, None]
        slope = share * phases.prefill_slope[at] + (1.0 - share) * phases.decode_slope[at]
    elif block.kind == "prefill":
        energy, slope = phases.prefill[at], phases.prefill_slope[at]
    else:
        energy, slope = phases.decode[at], phases.decode_slope[at]
    residual = block.log_energy - np.log(np.maximum(energy, 1e-300))
    robust = 1.0 / np.sqrt(1.0 + (residual * block.weight / SOFT) ** 2)
    return Residuals(residual, slope, robust * block.weight**2)


def gathered(
    blocks: Sequence[Observed],
    found: Sequence[Residuals],
    table: Array,
    code: Index,
    model: Index,
    scatter: dict[str, Array],
) -> tuple[Array, Array]:
    """Return information and pull of each pair, from rows sorted by pair."""
    information = np.zeros((len(table), N_PARAMETERS, N_PARAMETERS))
    pull = np.zeros((len(table), N_PARAMETERS))
    for block, part in zip(blocks, found, strict=True):
        own = code[block.rows]
        precision = part.trust / scatter[block.kind][model[block.rows]] ** 2
        weighted = part.slope * precision[:, None]
        target = part.residual + np.einsum("ij,ij->i", part.slope, table[own])
        ends = np.searchsorted(own, np.arange(len(table) + 1))
        for p in range(len(table)):
            rows = slice(ends[p], ends[p + 1])
            information[p] += weighted[rows].T @ part.slope[rows]
            pull[p] += weighted[rows].T @ target[rows]
    return information, pull


def misfit(
    blocks: Sequence[Observed],
    found: Sequence[Residuals],
    table: Array,
    code: Index,
    model: Index,
    scatter: dict[str, Array],
) -> tuple[float, int]:
    """Return the squared misfit at parameters of zero, in units of the scatter, and its terms.

    With the pull b and the posterior mean w of a hierarchy, what `misfit` returns less b'w is
    the chi-square of the rows before they were seen, up to a constant of the rows that were.
    """
    squares, count = 0.0, 0
    for block, part in zip(blocks, found, strict=True):
        own = code[block.rows]
        precision = part.trust / scatter[block.kind][model[block.rows]] ** 2
        target = part.residual + np.einsum("ij,ij->i", part.slope, table[own])
        squares += float((precision * target**2).sum())
        count += int((part.trust > 0.0).sum())
    return squares, count


def train(
    columns: Columns, blocks: list[Observed], code: Index, model: Index, levels: Levels
) -> Trained:
    """Fit the hierarchy.

    Parameters
    ----------
    columns
        Physical sizes of the rows, sorted by pair.
    blocks
        Energies of the rows.
    code, model
        Pair and model of each row, shape (rows,).
    levels
        Groups of the pairs.
    """
    n_models = int(model.max()) + 1
    table = np.zeros((len(levels.member), N_PARAMETERS))
    spread = np.vstack([PRIOR, np.tile(EXPECTED_SPREAD, (len(levels.names), 1))])
    scatter = {block.kind: np.full(n_models, EXPECTED_SCATTER) for block in blocks}
    for step in range(STEPS):
        phases = energies(columns, table, code, slopes=True)
        parts = [residuals(block, phases) for block in blocks]
        information, pull = gathered(blocks, parts, table, code, model, scatter)
        estimated = FIRST_STEPS - 1 <= step < STEPS - 1
        found = posterior(
            information,
            pull,
            levels.member,
            spread[levels.level],
            spread[-1],
            covariance=estimated,
        )
        move = np.clip(found.of_pairs(levels.member) - table, -LONGEST, LONGEST)
        table = table + move
        shown = np.einsum("pii->pi", information) > 1.0
        settled = step > FIRST_STEPS and np.abs(move[shown]).max(initial=0.0) < SETTLED
        if settled or step == STEPS - 1:
            break
        if estimated:
            shared = np.stack([found.shared_covariance(m, spread[:-1]) for m in levels.member])
            wide = found.keep @ shared @ found.keep.transpose(0, 2, 1) + found.shrink
            spread = estimated_spread(found, shared, levels, EXPECTED_SPREAD, spread)
            scatter = estimated_scatter(blocks, parts, move, wide, code, model)
    return Trained(information, pull, spread, scatter, found)


def estimated_scatter(
    blocks: list[Observed],
    parts: list[Residuals],
    move: Array,
    wide: Array,
    code: Index,
    model: Index,
) -> dict[str, Array]:
    """Return the scatter of the rows of each model, drawn towards that of all rows.

    `wide` is the covariance of the parameters of each pair, `move` how far they moved since
    the residuals were taken.
    """
    n_models = int(model.max()) + 1
    result = {}
    for block, part in zip(blocks, parts, strict=True):
        own, kind = code[block.rows], model[block.rows]
        left = part.residual - np.einsum("ij,ij->i", part.slope, move[own])
        unsure = row_variance(part.slope, wide, own)
        squares = part.trust * (left**2 + unsure)
        overall = squares.sum() / len(squares)
        one = np.bincount(kind, squares, n_models) + BORROWED * overall
        result[block.kind] = np.sqrt(one / (np.bincount(kind, minlength=n_models) + BORROWED))
    return result


def row_variance(slope: Array, covariances: list[Array] | Array, code: Index) -> Array:
    """Return the variance of ln(energy) that parameters leave, shape (rows,)."""
    result = np.zeros(len(code))
    for p in np.unique(code):
        rows = code == p
        result[rows] = np.einsum("ij,ij->i", slope[rows] @ covariances[p], slope[rows])
    return result
