"""Add rows to a fitted law: what it knew becomes the prior of what they say."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fitting.facts import Facts
from fitting.pooling.columns import columns_of
from fitting.pooling.fit import machines_for, prepared, provenance_of
from fitting.pooling.hierarchy import levels_of, posterior
from fitting.pooling.known import Labelled, label_rows, labels_of
from fitting.pooling.law import PooledLaw
from fitting.pooling.parameters import N_PARAMETERS
from fitting.pooling.terms import energies
from fitting.pooling.training import (
    EXPECTED_SCATTER,
    LONGEST,
    gathered,
    misfit,
    observed,
    residuals,
)
from fitting.threads import one_thread
from harness.store import FitError

if TYPE_CHECKING:
    import pandas as pd

STEPS = 3
"""Gauss-Newton steps of an update; the prior is near, so few are enough."""


@one_thread()
def updated(law: PooledLaw, rows: pd.DataFrame, facts: Facts | None) -> PooledLaw:
    """Return the law with more rows; see `PooledLaw.updated`."""
    used = prepared(rows)
    if not len(used):
        raise FitError("No row can be added to the pooled law.", where="rows without energy")
    kinds = provenance_of(used)
    if law.provenance and kinds and set(kinds) != set(law.provenance):
        raise FitError(
            "Rows of different provenance must not share a law.",
            where=f"law: {', '.join(law.provenance)}; rows: {', '.join(kinds)}",
            fix="Add rows of the same provenance only.",
        )
    given = law.facts if facts is None else facts.joined(law.facts)
    named = label_rows(used)
    known = law.known.joined(facts)
    models = named.facts(known)
    everything = Facts(given.hardware, {**given.models, **{m.model_id: m for m in models}})
    new = [h for h in named.hardware if h not in law.machines]
    machines = {**law.machines, **machines_for(new, given)}
    added = [(named.models[i], named.hardware[j]) for i, j in named.pairs]
    pairs = (*law.pairs, *(pair for pair in added if pair not in law.pairs))
    levels = levels_of(law.levels.names, [labels_of(everything.models[m], h) for m, h in pairs])
    place = np.array([pairs.index(pair) for pair in added], dtype=np.intp)
    old = np.zeros((len(pairs), N_PARAMETERS, N_PARAMETERS))
    pull = np.zeros((len(pairs), N_PARAMETERS))
    old[: len(law.pairs)], pull[: len(law.pairs)] = law.information, law.pull
    columns = columns_of(
        used, models, [machines[h] for h in named.hardware], named.model, named.machine
    )
    blocks = observed(used)
    scatter = {block.kind: _scatter(law, block.kind, named.models) for block in blocks}
    start = {pair: law.parameters_of(everything.models[pair[0]], pair[1]) for pair in added}
    table = np.stack([start[pair] for pair in added])
    prior = law.spread[levels.level]
    information, target = old, pull
    for _ in range(STEPS):
        phases = energies(columns, table, named.code, slopes=True)
        parts = [residuals(block, phases) for block in blocks]
        more, drawn = gathered(blocks, parts, table, named.code, named.model, scatter)
        information, target = old.copy(), pull.copy()
        information[place] += more
        target[place] += drawn
        found = posterior(
            information, target, levels.member, prior, law.spread[-1], covariance=False
        )
        squares, count = misfit(blocks, parts, table, named.code, named.model, scatter)
        move = found.of_pairs(levels.member)[place] - table
        table = table + np.clip(move, -LONGEST, LONGEST)
    # What the rows added to the misfit is their chi-square given all rows before them.
    gain = float((target * found.of_pairs(levels.member)).sum() - (law.pull * law.table).sum())
    widening = law.widening.with_rows(_newcomers(law, named), squares - gain, count)
    counts = np.zeros(len(pairs), dtype=np.intp)
    counts[: len(law.rows)] = law.rows
    counts[place] += np.bincount(named.code, minlength=len(added))
    provenance = {
        k: law.provenance.get(k, 0) + kinds.get(k, 0) for k in {**law.provenance, **kinds}
    }
    return replace(
        law,
        provenance=provenance,
        facts=everything,
        machines=machines,
        levels=levels,
        pairs=pairs,
        rows=tuple(int(n) for n in counts),
        information=information,
        pull=target,
        widening=widening,
    )


def _newcomers(law: PooledLaw, named: Labelled) -> list[str]:
    """Return the GPU types that rows bring, or the models where all GPU types were fitted.

    One that was added before still is a newcomer: spreads were estimated without it.
    """
    before = law.widening.unlike
    hardware = {name for _, name in law.pairs} - set(before)
    models = {name for name, _ in law.pairs} - set(before)
    added = [name for name in named.hardware if name not in hardware]
    return added or [name for name in named.models if name not in models]


def _scatter(
    law: PooledLaw, kind: str, models: list[str]
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the scatter of each model's rows as the law knows it."""
    known = law.scatter.get(kind) or law.scatter.get("decode") or {"": EXPECTED_SCATTER}
    return np.array([known.get(name, known[""]) for name in models])
