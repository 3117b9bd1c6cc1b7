"""How far apart the groups of each level lie: expectation maximisation.

Dempster, Laird and Rubin 1977. A level with few groups keeps near what is expected of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fitting.pooling.hierarchy import Levels, Posterior

    Array = NDArray[np.float64]

CAUTION = 2.0
"""Groups that the expected spread counts for beside the groups that rows show."""


def estimated_spread(
    found: Posterior, shared: Array, levels: Levels, expected: Array, prior: Array
) -> Array:
    """Return the spread of each level that the effects speak for: one step of EM.

    Parameters
    ----------
    found
        Effects with their covariance, for the present spreads.
    shared
        Covariance of what each pair shares with others, shape (pairs, parameters, parameters).
    levels
        Groups; the first level is one group and keeps its prior.
    expected
        Spread expected before any rows, shape (parameters,); counts for `CAUTION` groups.
    prior
        Present spreads, shape (levels + 1, parameters), those of the pairs themselves last.
    """
    assert found.covariance is not None
    result = prior.copy()
    variance = np.einsum("gigi->gi", found.covariance)
    last = [found.last_variance(g) for g in range(len(variance), len(levels.groups))]
    variance = np.concatenate([variance, last])
    level = levels.level
    for i in range(1, len(levels.names)):
        mine = level == i
        squares = (found.effects[mine] ** 2 + variance[mine]).sum(axis=0)
        result[i] = np.sqrt((squares + CAUTION * expected**2) / (mine.sum() + CAUTION))
    member = levels.member
    squares = (found.own**2).sum(axis=0) + np.einsum("pii->i", found.shrink)
    loss = np.eye(found.own.shape[1]) - found.keep
    squares += np.einsum("pij,pij->i", loss @ shared, loss)
    result[-1] = np.sqrt((squares + CAUTION * expected**2) / (len(member) + CAUTION))
    return result
