"""Errors that the rows of a question share, so that a choice between them can tell them apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fitting.pooling.errors import spread_of
from fitting.pooling.known import labels_of
from fitting.pooling.parameters import N_PARAMETERS
from fitting.pooling.terms import energies
from fitting.threads import one_thread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fitting.pooling.law import Asked, PooledLaw

    Array = NDArray[np.float64]

NEGLIGIBLE = 1e-9
"""Share of the largest variance below which a direction of the parameters is left out."""


@one_thread()
def joint_errors(law: PooledLaw, asked: Asked) -> tuple[Array, Array]:
    """Return loadings and own errors of rows; see `PooledLaw.errors`."""
    n = len(asked.code)
    values, vectors = np.linalg.eigh(pairs_covariance(law, asked))
    kept = values > NEGLIGIBLE * values.max(initial=0.0)
    root = vectors[:, kept] * np.sqrt(values[kept])
    root = root.reshape(len(asked.pairs), N_PARAMETERS, -1)
    factor = np.array([law.widening.factor(m.model_id, h) for m, h in asked.pairs])[asked.code]
    shared, own = np.zeros((n, root.shape[2])), np.zeros(n)
    nothing = np.zeros((len(asked.pairs), N_PARAMETERS, N_PARAMETERS))
    for piece in asked.pieces():
        code = asked.code[piece]
        phases = energies(asked.columns.take(piece), asked.table, code, slopes=True)
        slope = phases.total_slope()
        for p in np.unique(code):
            mine = np.flatnonzero(code == p)
            shared[piece][mine] = slope[mine] @ root[p]
        own[piece] = spread_of(
            phases, nothing, code, law.scatter_of(asked, piece), law.widening.rows
        )["total"][1]
    return factor[:, None] * shared, factor * own


def pairs_covariance(law: PooledLaw, asked: Asked) -> Array:
    """Return the covariance of the parameters of all pairs that are asked for.

    Returns
    -------
    Array
        Shape (pairs * parameters, pairs * parameters). Pairs share the effects of their groups,
        also those of a model or GPU type that no row shows.
    """
    n, count = N_PARAMETERS, len(asked.pairs)
    found, prior = law.unsure, law.wide_spread
    assert found.covariance is not None
    labels = [labels_of(*pair) for pair in asked.pairs]
    groups = [law.levels.find(row) for row in labels]
    others = len(found.covariance)
    carried = np.zeros((count, n, others, n))
    for p, mine in enumerate(groups):
        used, part = found.carried(mine)
        carried[p][:, used] = part
    flat = carried.reshape(count * n, -1)
    result: Array = (flat @ found.covariance.reshape(others * n, -1) @ flat.T).reshape(
        count, n, count, n
    )
    diagonal = np.arange(n)
    for p in range(count):
        for q in range(count):
            for level, label in enumerate(labels[p]):
                if label != labels[q][level]:
                    continue
                if groups[p][level] < 0:
                    result[p, diagonal, q, diagonal] += prior[level] ** 2
                elif level == len(labels[p]) - 1:
                    result[p, :, q] += found.last[groups[p][level] - len(found.effects)].shrink
    names = [(model.model_id, hardware) for model, hardware in asked.pairs]
    known = {p: law.pairs.index(name) for p, name in enumerate(names) if name in law.pairs}
    for p, row in known.items():
        result[p] = np.einsum("ij,jqk->iqk", found.keep[row], result[p])
    for q, row in known.items():
        result[:, :, q] = result[:, :, q] @ found.keep[row].T
    for p in range(count):
        own = found.shrink[known[p]] if p in known else np.diag(prior[-1] ** 2)
        result[p, :, p] += own
    return result.reshape(count * n, -1)
