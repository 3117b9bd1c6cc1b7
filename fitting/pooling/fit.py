"""Fit the pooled law to the batch rows of many models and GPU types."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fitting.facts import Facts
from fitting.pooling.calibration import calibrated
from fitting.pooling.columns import columns_of
from fitting.pooling.errors import Widening
from fitting.pooling.hierarchy import levels_of
from fitting.pooling.known import LEVELS, Known, label_rows, labels_of
from fitting.pooling.law import FORM, PooledLaw
from fitting.pooling.sizes import Machine, typical_machine
from fitting.pooling.training import observed, train
from fitting.rows import row_hash, usable
from fitting.threads import one_thread
from harness.store import FitError

if TYPE_CHECKING:
    import pandas as pd

FEWEST_ROWS = 10
"""Rows that a pooled law needs in all; every other thing it does not know comes from facts."""


@one_thread()
def fit_pooled(rows: pd.DataFrame, facts: Facts, *, form: str = FORM) -> PooledLaw:
    """Fit one law that shares its parameters over models and GPU types.

    Every term of the energy is a physical size from datasheet and architecture times a factor.
    The logarithm of the factor is a sum of what all share, and of what a family, a GPU type, a
    model, a family on a GPU type and a pair add; each has a normal prior about zero whose spread
    the rows tell. So a pair with many rows keeps its own law, one with few borrows, and one
    without rows has what its datasheet and kin say.

    Parameters
    ----------
    rows
        Rows of the measurement table; ones without energy or lengths are left out.
    facts
        Datasheets and architectures; what is missing is estimated from the columns of the rows.
    form
        The law whose terms are shared; `energylens12` is the only one.

    Raises
    ------
    FitError
        If there are fewer than 10 usable rows, provenances are mixed, or the form is unknown.
    """
    if form != FORM:
        raise FitError(f"No pooled law has the form {form!r}.", fix=f"Use {FORM}.")
    used = prepared(rows)
    if len(used) < FEWEST_ROWS:
        raise FitError(
            f"{len(used)} usable rows are too few for a pooled law.",
            where="rows with energy, batch, input and output length",
            fix=f"Give at least {FEWEST_ROWS} rows.",
        )
    named = label_rows(used)
    machines = machines_for(named.hardware, facts)
    known = Known(facts, machines)
    models = named.facts(known)
    kept = Facts(facts.hardware, {**facts.models, **{m.model_id: m for m in models}})
    columns = columns_of(
        used, models, [machines[h] for h in named.hardware], named.model, named.machine
    )
    pairs = tuple((named.models[i], named.hardware[j]) for i, j in named.pairs)
    levels = levels_of(LEVELS, [labels_of(models[i], named.hardware[j]) for i, j in named.pairs])
    blocks = observed(used)
    trained = train(columns, blocks, named.code, named.model, levels)
    counts = np.bincount(named.code, minlength=len(pairs))
    scatter = {}
    for kind, values in trained.scatter.items():
        scatter[kind] = {name: float(v) for name, v in zip(named.models, values, strict=True)}
        scatter[kind][""] = float(np.sqrt(np.mean(values**2)))
    law = PooledLaw(
        provenance=provenance_of(used),
        facts=kept,
        machines=machines,
        levels=levels,
        pairs=pairs,
        rows=tuple(int(n) for n in counts),
        information=trained.information,
        pull=trained.pull,
        spread=trained.spread,
        scatter=scatter,
        widening=Widening(),
    )
    return calibrated(law, columns, blocks, named.code, named.model)


def machines_for(hardware: list[str], facts: Facts) -> dict[str, Machine]:
    """Return rates and powers of GPU types; the mean of the others where there is no datasheet."""
    known = Known(facts, {})
    typical = typical_machine(facts)
    return {name: known.machine(name) if name in facts.hardware else typical for name in hardware}


def prepared(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the usable rows in an order that does not depend on the one they come in.

    Raises
    ------
    FitError
        If rows of different provenance are among them.
    """
    used, _ = usable(rows)
    kinds = provenance_of(used)
    if len(kinds) > 1:
        raise FitError(
            "Rows of different provenance must not share a law.",
            where=", ".join(f"{n} {kind}" for kind, n in kinds.items()),
            fix="Filter the rows on the column provenance first.",
        )
    energy = used["total_energy_j"].to_numpy(dtype=np.float64)
    names = [used[n].astype(str).to_numpy(dtype=object) for n in ("hardware", "model_id")]
    order = np.lexsort((energy, row_hash(used), *names)) if len(used) else np.arange(0)
    return used.iloc[order]


def provenance_of(rows: pd.DataFrame) -> dict[str, int]:
    """Return provenance -> rows."""
    if "provenance" not in rows.columns:
        return {}
    counts = rows["provenance"].fillna("unknown").value_counts().sort_index()
    return {str(kind): int(n) for kind, n in counts.items() if n}
