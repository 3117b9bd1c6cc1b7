"""Chooses part of a grid: at random, or stratified over every axis."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.spec.blocks import Sampling

Indices = NDArray[np.int64]


def apportion(size: int, weights: list[int]) -> list[int]:
    """Share a size among parts in proportion to their weights, largest remainders first.

    No part gets more than its weight, and every part that is not empty gets at least one
    where the size allows it.

    Examples
    --------
    >>> apportion(10, [30, 10])
    [8, 2]
    """
    total = sum(weights)
    if size >= total:
        return list(weights)
    exact = [size * weight / total for weight in weights]
    shares = [int(share) for share in exact]
    order = sorted(range(len(weights)), key=lambda part: (shares[part] - exact[part], part))
    for part in order[: size - sum(shares)]:
        shares[part] += 1
    for part, weight in enumerate(weights):
        richest = max(range(len(shares)), key=lambda other: shares[other])
        if weight and not shares[part] and shares[richest] > 1:
            shares[part] += 1
            shares[richest] -= 1
    return shares


def choose(axes: Indices, sampling: Sampling, size: int) -> Indices:
    """Choose rows of a grid.

    Parameters
    ----------
    axes
        Shape (rows, axes): index of each row's value on each axis. The rows need not be
        a full grid.
    sampling
        Method and seed.
    size
        How many rows to keep.

    Returns
    -------
    array of int
        Positions of the chosen rows, ascending.
    """
    rows = len(axes)
    if sampling.method == "full" or size >= rows:
        return np.arange(rows, dtype=np.int64)
    if size <= 0:
        return np.empty(0, dtype=np.int64)
    if sampling.method == "random":
        generator = np.random.default_rng(sampling.seed)
        return np.sort(generator.choice(rows, size=size, replace=False)).astype(np.int64)
    return latin_hypercube(axes, size, sampling.seed)


def latin_hypercube(axes: Indices, size: int, seed: int) -> Indices:
    """Choose rows stratified over every axis.

    A Latin hypercube of ``size`` points gives every value of an axis its equal share of
    points. Each point takes the nearest row that is left; where rows are missing from the
    grid a last pass exchanges rows until every value that some row has is present, if the
    size allows it.

    Parameters
    ----------
    axes
        Shape (rows, axes): index of each row's value on each axis.
    size
        Number of rows to choose, below the number of rows.
    seed
        Seed of the hypercube.

    Returns
    -------
    array of int
        Positions of the chosen rows, ascending.
    """
    compact = _compact(axes)
    lengths = compact.max(axis=0) + 1
    compact, lengths = compact[:, lengths > 1], lengths[lengths > 1]
    if not len(lengths):
        generator = np.random.default_rng(seed)
        return np.sort(generator.choice(len(axes), size=size, replace=False)).astype(np.int64)
    chosen = _nearest(compact, _targets(lengths, size, seed), lengths)
    return np.sort(_cover(compact, chosen, lengths))


def _compact(axes: Indices) -> Indices:
    """Renumber each axis so that only values that occur have an index."""
    columns = [np.unique(column, return_inverse=True)[1] for column in axes.T]
    return np.stack(columns, axis=1).astype(np.int64)


def _targets(lengths: Indices, size: int, seed: int) -> Indices:
    """Index on each axis of the points of a Latin hypercube: shape (size, axes).

    A permutation of the strata on every axis is a Latin hypercube (McKay et al. 1979). Where
    in its stratum a point lies does not matter on a grid, so SciPy's sampler is not needed:
    importing it takes over a second.
    """
    generator = np.random.default_rng(seed)
    strata = np.stack([generator.permutation(size) for _ in lengths], axis=1)
    targets: Indices = strata * lengths // size
    return targets


def _nearest(rows: Indices, targets: Indices, lengths: Indices) -> Indices:
    """Give each target the nearest row that no earlier target took."""
    from scipy.spatial import cKDTree

    scale = 1.0 / lengths
    tree = cKDTree(rows * scale)
    free = np.ones(len(rows), dtype=bool)
    waiting = np.arange(len(targets))
    chosen: list[int] = []
    reach = 8
    while len(waiting):
        reach = min(reach, len(rows))
        _, found = tree.query(targets[waiting] * scale, k=reach)
        late = []
        for target, candidates in zip(waiting, np.atleast_2d(found), strict=True):
            left = candidates[free[candidates]]
            if len(left):
                free[left[0]] = False
                chosen.append(int(left[0]))
            else:
                late.append(target)
        waiting = np.array(late, dtype=np.int64)
        reach *= 4
    return np.array(chosen, dtype=np.int64)


def _cover(rows: Indices, chosen: Indices, lengths: Indices) -> Indices:
    """Exchange rows until every value of every axis is among the chosen, where possible."""
    picked = list(chosen)
    counts = [
        np.bincount(rows[picked, axis], minlength=length) for axis, length in enumerate(lengths)
    ]
    taken = np.zeros(len(rows), dtype=bool)
    taken[picked] = True
    for axis in range(len(lengths)):
        for value in np.flatnonzero(counts[axis] == 0):
            spare = [
                place
                for place, row in enumerate(picked)
                if all(counts[a][rows[row, a]] > 1 for a in range(len(lengths)))
            ]
            candidates = np.flatnonzero((rows[:, axis] == value) & ~taken)
            if not spare or not len(candidates):
                continue
            place = max(spare, key=lambda spot: counts[axis][rows[picked[spot], axis]])
            distance = (rows[candidates] != rows[picked[place]]).sum(axis=1)
            newcomer = int(candidates[distance.argmin()])
            for a in range(len(lengths)):
                counts[a][rows[picked[place], a]] -= 1
                counts[a][rows[newcomer, a]] += 1
            taken[picked[place]], taken[newcomer] = False, True
            picked[place] = newcomer
    return np.array(picked, dtype=np.int64)
