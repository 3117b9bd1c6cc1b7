"""What launches add to the errors of their rows: their own scatter, and the GPUs they moved to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from energylens.comparison.ratios import Floats, Ints, Ratios, free_of, neighbours, robust_sd
from energylens.comparison.texts import texts

if TYPE_CHECKING:
    import pandas as pd

LAUNCH_SD = 0.005
"""Two launches of the same work on the same devices are taken to differ by this at least."""

MIN_FREE = 4
"""Degrees of freedom that the scatter of launches is estimated from, at least."""


@dataclass(frozen=True, slots=True)
class Cards:
    """Which GPUs each pair of launches ran on.

    Attributes
    ----------
    names
        UUIDs.
    old, new
        (units, cards) share of the work that each GPU did; rows sum to 1, or to 0 if unknown.
    """

    names: tuple[str, ...]
    old: Floats
    new: Floats

    @property
    def moved(self) -> Floats:
        """(units, cards) what came to each GPU less what left it."""
        known = (self.old.sum(axis=1) > 0) & (self.new.sum(axis=1) > 0)
        out: Floats = (self.new - self.old) * known[:, None]
        return out


@dataclass(frozen=True, slots=True)
class Summary:
    """One value a pair of launches: weighted mean change of its rows, and its variance."""

    unit: Ints
    mean: Floats
    variance: Floats


def cards_of(old: pd.DataFrame, new: pd.DataFrame, unit: Ints) -> Cards:
    """Read which GPUs the units ran on."""
    first = np.unique(unit, return_index=True)[1]
    listed = [[texts(cards) for cards in frame["gpu_uuids"].iloc[first]] for frame in (old, new)]
    names = sorted({card for night in listed for cards in night for card in cards})
    index = {name: i for i, name in enumerate(names)}
    shares = []
    for night in listed:
        share = np.zeros((len(first), len(names)))
        for row, cards in enumerate(night):
            for card in cards:
                share[row, index[card]] += 1 / len(cards)
        shares.append(share)
    return Cards(tuple(names), shares[0], shares[1])


def summarise(found: Ratios, unit: Ints, rows: Ints | None = None) -> Summary:
    """Average the changes of each unit over its rows, by inverse variance.

    Parameters
    ----------
    found
        Changes of all pairs.
    unit
        (pairs,) unit of each pair.
    rows
        Pairs that count; default all. Those without an error are left out.
    """
    rows = np.arange(unit.size) if rows is None else rows
    rows = rows[np.isfinite(found.stderr[rows]) & np.isfinite(found.log_change[rows])]
    present, where = np.unique(unit[rows], return_inverse=True)
    weight = found.stderr[rows] ** -2.0
    total = np.bincount(where, weight, present.size)
    mean = np.bincount(where, weight * found.log_change[rows], present.size) / total
    return Summary(present, mean, 1 / total)


def launch_sd(summary: Summary, kind: Ints) -> float:
    """Estimate how much launches of the same kind of work scatter beyond their rows.

    A kind is a model on a type of hardware, so a model that changed does not count as scatter.
    The median of differences is taken, so odd launches and odd GPUs count little.

    Parameters
    ----------
    summary
        Changes of the units.
    kind
        (units of the summary,) number of the kind of each.
    """
    rows = np.arange(kind.size)
    if free_of(kind, rows) < MIN_FREE:
        return LAUNCH_SD
    i, j = neighbours(kind, rows)
    excess = robust_sd(summary.mean[i] - summary.mean[j]) ** 2 / 2
    excess -= float(np.median(summary.variance[i] + summary.variance[j])) / 2
    return max(LAUNCH_SD, float(np.sqrt(max(0.0, excess))))
