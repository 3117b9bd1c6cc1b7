"""Gaussian hierarchy: the parameters of a pair are a sum of effects with normal priors.

    w[pair] = all + family + hardware + model + (family, hardware) + own

where each effect ~ Normal(0, spread^2).

This is best linear unbiased prediction in a mixed model (Henderson 1975).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fitting.threads import one_thread

Array = NDArray[np.float64]
Index = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Levels:
    """Which groups there are, and which of them each pair belongs to.

    Attributes
    ----------
    names
        Names of the shared levels, the first of which holds every pair.
    groups
        (level, label) of each group.
    member
        Group of each pair at each level, shape (pairs, levels).
    """

    names: tuple[str, ...]
    groups: tuple[tuple[str, str], ...]
    member: Index

    @property
    def level(self) -> Index:
        """Level of each group, shape (groups,)."""
        return np.array([self.names.index(name) for name, _ in self.groups], dtype=np.intp)

    def find(self, labels: Sequence[str]) -> Index:
        """Return the group of each level by its label, -1 where there is none."""
        known = {group: i for i, group in enumerate(self.groups)}
        wanted = zip(self.names, labels, strict=True)
        return np.array([known.get(group, -1) for group in wanted], dtype=np.intp)


def levels_of(names: tuple[str, ...], labels: Sequence[Sequence[str]]) -> Levels:
    """Number the groups of pairs whose label at each level is given, shape (pairs, levels)."""
    groups: list[tuple[str, str]] = []
    for i, name in enumerate(names):
        groups.extend((name, label) for label in sorted({row[i] for row in labels}))
    index = {group: i for i, group in enumerate(groups)}
    member = [[index[name, row[i]] for i, name in enumerate(names)] for row in labels]
    return Levels(names, tuple(groups), np.array(member, dtype=np.intp).reshape(-1, len(names)))


@dataclass(frozen=True, slots=True)
class Posterior:
    """Effects of every group given the rows, and how sure they are.

    The groups of the last level come after all others; their errors are written as what the
    others leave open, so that the covariance grows with the others only.

    Attributes
    ----------
    effects
        Shape (groups, parameters).
    own
        Effects of each pair itself, shape (pairs, parameters).
    covariance
        Covariance of the effects of all levels but the last, shape (others, parameters, others,
        parameters), or None.
    last
        Groups of the last level.
    shrink
        Covariance of the own effects for given others, shape (pairs, parameters, parameters).
    keep
        How much of an error of the shared effects stays in a pair's parameters, same shape.
    """

    effects: Array
    own: Array
    covariance: Array | None
    last: tuple[LastGroup, ...]
    shrink: Array
    keep: Array

    def of_pairs(self, member: Index) -> Array:
        """Return the parameters of each pair, shape (pairs, parameters)."""
        result: Array = self.effects[member].sum(axis=1) + self.own
        return result

    def shared_covariance(self, groups: Index, prior: Array) -> Array:
        """Return the covariance of the sum of the effects of a pair's groups.

        A group that is not known (-1) adds the prior variance of its level, shape
        (levels, parameters).
        """
        assert self.covariance is not None
        used, carried = self.carried(groups)
        flat = carried.reshape(len(carried), -1)
        wide = self.covariance[used][:, :, used].reshape(flat.shape[1], -1)
        result: Array = flat @ wide @ flat.T + np.diag((prior[groups < 0] ** 2).sum(axis=0))
        if groups[-1] >= 0:
            result += self.last[groups[-1] - len(self.effects)].shrink
        return result

    def carried(self, groups: Index) -> tuple[Index, Array]:
        """Return which groups of all levels but the last a pair's groups err with, and how much.

        Returns
        -------
        used
            Groups, shape (used,).
        carried
            Their part in the sum of the effects of the pair's groups, shape (parameters, used,
            parameters).
        """
        n = self.effects.shape[1]
        used = others = np.sort(groups[:-1][groups[:-1] >= 0])
        last = self.last[groups[-1] - len(self.effects)] if groups[-1] >= 0 else None
        if last is not None:
            used = np.union1d(others, last.others)
        carried = np.zeros((n, len(used), n))
        carried[:, np.searchsorted(used, others)] += np.eye(n)[:, None]
        if last is not None:
            carried[:, np.searchsorted(used, last.others)] -= last.takes
        return used, carried

    def last_variance(self, group: int) -> Array:
        """Return the variance of the effects of a group of the last level."""
        assert self.covariance is not None
        last = self.last[group - len(self.effects)]
        flat = last.takes.reshape(len(last.shrink), -1)
        wide = self.covariance[last.others][:, :, last.others].reshape(flat.shape[1], -1)
        result: Array = np.einsum("ij,ij->i", flat @ wide, flat) + np.diag(last.shrink)
        return result

    def pair_covariance(self, pair: int, groups: Index, prior: Array) -> Array:
        """Return the covariance of the parameters of a pair that has rows."""
        keep = self.keep[pair]
        result: Array = keep @ self.shared_covariance(groups, prior) @ keep.T + self.shrink[pair]
        return result


@dataclass(frozen=True, slots=True)
class LastGroup:
    """A group of the last level, whose effect follows from those of the other levels.

    Attributes
    ----------
    others
        Groups of other levels that its pairs belong to.
    takes
        How much of an error of their effects its own takes up with the opposite sign, shape
        (parameters, others, parameters).
    shrink
        Covariance of its effect for given others, shape (parameters, parameters).
    """

    others: Index
    takes: Array
    shrink: Array


@one_thread()
def posterior(
    information: Array,
    pull: Array,
    member: Index,
    prior: Array,
    own_prior: Array,
    *,
    covariance: bool = True,
) -> Posterior:
    """Return the effects of a linear Gaussian hierarchy.

    The rows of pair p say exp(-w'A w/2 + b'w) of its parameters w. Own effects are eliminated
    first, then those of the last level: a pair has one group of it, so for given effects of the
    other levels its groups know nothing of each other. What is left grows with the groups of the
    other levels, neither with the pairs nor with the last level.

    Parameters
    ----------
    information
        A, shape (pairs, parameters, parameters).
    pull
        b, shape (pairs, parameters).
    member
        Group of each pair at each level, shape (pairs, levels), two levels or more; see
        `levels_of` for the order of groups.
    prior
        Prior standard deviation of the effects of each group, shape (groups, parameters).
    own_prior
        That of the effects of a pair itself, shape (parameters,).
    covariance
        Whether to return the covariance, too.
    """
    n = pull.shape[1]
    shrink = _shrunk(information, own_prior)
    through = information @ shrink
    keep = np.eye(n) - through.transpose(0, 2, 1)
    marginal = information @ keep
    target = pull - np.einsum("pij,pj->pi", through, pull)

    first = int(member[:, -1].min())
    total = np.zeros((first, n, first, n))
    right = np.zeros((first, n))
    last = []
    for group in range(first, len(prior)):
        mine = np.flatnonzero(member[:, -1] == group)
        others = np.unique(member[mine, :-1])
        belongs = (member[mine, :-1, None] == others).any(axis=1).astype(np.float64)
        open_ = _shrunk(marginal[mine].sum(axis=0), prior[group])
        # What its pairs say of the groups together, and what of it the last level explains.
        said = np.tensordot(belongs, marginal[mine], axes=(0, 0))
        takes = (open_ @ said).transpose(1, 0, 2)
        both = (belongs[:, :, None] * belongs[:, None]).reshape(len(mine), -1)
        joint = (both.T @ marginal[mine].reshape(len(mine), -1)).reshape(
            len(others), len(others), n, n
        )
        explained = said.reshape(-1, n) @ takes.reshape(n, -1)
        joint -= explained.reshape(len(others), n, len(others), n).transpose(0, 2, 1, 3)
        total[others[:, None], :, others] += joint
        right[others] += belongs.T @ target[mine] - said @ (open_ @ target[mine].sum(axis=0))
        last.append(LastGroup(others, takes, open_))
    effects, wide = _solved(
        total.reshape(first * n, -1), right.ravel(), prior[:first].ravel(), covariance
    )
    effects = np.concatenate([effects.reshape(first, n), np.zeros((len(last), n))])
    for group, found in enumerate(last, start=first):
        drawn = found.shrink @ target[member[:, -1] == group].sum(axis=0)
        effects[group] = drawn - np.einsum("igj,gj->i", found.takes, effects[found.others])
    wide = None if wide is None else wide.reshape(first, n, first, n)
    gap = pull - np.einsum("pij,pj->pi", information, effects[member].sum(axis=1))
    own = np.einsum("pij,pj->pi", shrink, gap)
    return Posterior(effects, own, wide, tuple(last), shrink, keep)


def _shrunk(information: Array, prior: Array) -> Array:
    """Return (information + prior^-2)^-1 = D (1 + D A D)^-1 D, also where a prior is zero."""
    inner = np.eye(len(prior)) + prior[:, None] * information * prior
    result: Array = prior[:, None] * np.linalg.inv(inner) * prior
    return result


def _solved(
    matrix: Array, right: Array, size: Array, covariance: bool
) -> tuple[Array, Array | None]:
    """Return (matrix + size^-2)^-1 right, and that inverse if asked for.

    Effects that no row shows (a bridge where there is none) keep their prior and are left out of
    the decomposition, which halves its size.
    """
    from scipy.linalg import lapack

    shown = np.flatnonzero((np.diag(matrix) > 0.0) & (size > 0.0))
    scale = size[shown]
    inner = scale[:, None] * matrix[np.ix_(shown, shown)] * scale
    inner[np.diag_indices_from(inner)] += 1.0
    factor, _ = lapack.dpotrf(inner.T, lower=1, overwrite_a=1)
    solved, _ = lapack.dpotrs(factor, scale * right[shown], lower=1)
    effects = np.zeros_like(right)
    effects[shown] = scale * solved
    if not covariance:
        return effects, None
    inverse, _ = lapack.dpotri(factor, lower=1, overwrite_c=1)
    half = np.diag(inverse) / 2.0
    inverse[np.diag_indices_from(inverse)] = half
    wide = np.diag(size**2)
    wide[np.ix_(shown, shown)] = scale[:, None] * (inverse + inverse.T) * scale
    return effects, wide
