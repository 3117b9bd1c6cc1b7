"""Fit laws to a measurement table: one a (model, hardware), pooled ones for what is left."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fitting.coverage import PooledPair, counts, pooled_pair
from fitting.facts import Facts
from fitting.fitted import Fit
from fitting.forms import Form, get_form
from fitting.intervals import METHODS
from fitting.laws import KINDS, PooledLaw, batch_rows, fit_pooled_laws
from fitting.pairfit import PairFit, fit_pair
from fitting.rows import Group, Left, fingerprint, pairs, sample_order, usable
from fitting.threads import one_thread
from harness.store import FitError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Fit", "fit_frame"]

SMALLER = "energylens6"
"""The law that `form="auto"` falls back to where rows are few."""

BATCH_LAW = "energylens_pooled"
"""The pooled law of rows that also carry laws of their own."""

_ENERGY_NAMES = ("total_energy", "energy")


@one_thread()
def fit_frame(
    frame: pd.DataFrame,
    *,
    form: str = "energylens12",
    samples: int | None = None,
    seed: int = 0,
    facts: Facts | None = None,
    pooled: bool | Literal["auto"] = "auto",
    intervals: str = "covariance",
) -> Fit:
    """Fit the laws of a measurement table.

    Each (model, hardware) with rows enough gets a law of its own. Pooled laws share parameters
    over models and GPU types, and answer for the others: pairs with few rows, serving and
    diffusion rows, and what was never measured.

    Parameters
    ----------
    frame
        Rows of the measurement table; not valid ones and ones without energy are left out.
    form
        Name of a law, or `auto`: energylens12 where a pair has rows enough, else energylens6.
    samples
        Rows drawn from each pair; all of them if None.
    seed
        Seed of the draw, and of bootstrap intervals.
    facts
        Datasheets and architectures that pooled laws are written in.
    pooled
        Whether to fit pooled laws. `auto`: if there are facts, or rows that no other law is for;
        a note says where one could not be fitted.
    intervals
        How the 95 % intervals of parameters are found: `covariance`, `profile` or `bootstrap`.

    Raises
    ------
    FitError
        If no row is usable, a pair has fewer rows than parameters and no pooled law covers it,
        provenances are mixed, or pooled laws are asked for and cannot be fitted.
    """
    if samples is not None and samples < 1:
        raise FitError(f"samples must be at least 1, not {samples}.")
    if intervals not in METHODS:
        raise FitError(f"Unknown intervals {intervals!r}.", fix=f"Use one of {', '.join(METHODS)}.")
    law_for(form, 0)
    _refuse_without_unit(frame)
    rows = _sorted_rows(frame, pooled=pooled is not False)
    drawn = [_draw(part, samples, seed) for part in (rows.batch, rows.other)]
    shared = _pooled_laws(drawn[0], drawn[1], facts, pooled)
    notes = [*rows.left.notes(), *shared.notes]
    fits: list[PairFit] = []
    borrowed: list[PooledPair] = []
    for group in drawn[0]:
        n_rows = len(group.rows)
        own = law_for(form, n_rows)
        try:
            fits.append(fit_pair(group, own, intervals=intervals, seed=seed))
        except FitError:
            pool = shared.covering(group)
            if n_rows >= own.most_parameters or pool is None:
                raise
            borrowed.append(pooled_pair(group, pool))
            notes.append(
                f"{group.model_id} on {group.hardware}: {n_rows} rows are too few for a law of "
                f"its own, so the pooled law {pool} answers (partial pooling)."
            )
            continue
        if form == "auto" and own.name == SMALLER:
            notes.append(
                f"{group.model_id} on {group.hardware}: {n_rows} rows, "
                f"so the smaller law {SMALLER}."
            )
    for group in drawn[1]:
        pool = shared.covering(group)
        if pool is not None:
            borrowed.append(pooled_pair(group, pool))
    if not fits and not shared.laws:
        raise FitError("No law could be fitted.", where=" ".join(notes) or None)
    return Fit(
        fits,
        form=form,
        notes=notes,
        pooled=shared.laws,
        pooled_pairs=borrowed,
        facts=facts,
        data=_data([*drawn[0], *drawn[1]]),
    )


@dataclass(frozen=True, slots=True)
class _Rows:
    """Usable rows: batches with lengths, and those that only pooled laws are for."""

    batch: pd.DataFrame
    other: pd.DataFrame
    left: Left


@dataclass(frozen=True, slots=True)
class _Shared:
    """Fitted pooled laws, and what to say about those that could not be fitted."""

    laws: list[PooledLaw] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: Facts = field(default_factory=Facts)

    def covering(self, group: Group) -> str | None:
        """Return the name of the first law that covers every row of a group, or None."""
        for law in self.laws:
            if law.covers(group.rows, self.facts).all():
                return law.name
        return None


def _sorted_rows(frame: pd.DataFrame, *, pooled: bool) -> _Rows:
    """Sort usable rows by the laws that they are for; the rest is counted."""
    if not pooled:
        batch, left = usable(frame)
        other = batch.iloc[:0]
    else:
        rows, left = usable(frame, lengths=False)
        own = batch_rows(rows)
        some = np.zeros(len(rows), dtype=bool)
        for kind in KINDS.values():
            if kind.name != BATCH_LAW:
                some |= kind.rows(rows)
        _, nothing = usable(rows.loc[~(own | some)])
        left = Left({**left.counts, **{k: n for k, n in nothing.counts.items() if n}})
        # A row that generates images is none of a language model, whatever its columns say.
        batch, other = rows.loc[own & ~some], rows.loc[some]
    if not len(batch) and not len(other):
        reasons = " ".join(left.notes()) or "The table is empty."
        raise FitError(
            "No row can be fitted.",
            where=reasons,
            fix="Check `energylens query DIR` for invalid rows and missing lengths.",
        )
    return _Rows(batch, other, left)


def _refuse_without_unit(frame: pd.DataFrame) -> None:
    """Refuse a table whose energy has no unit, or another one than joules."""
    if "total_energy_j" in frame.columns:
        return
    similar = [str(c) for c in frame.columns if str(c).lower().startswith(_ENERGY_NAMES)]
    if similar:
        raise FitError(
            f"The table has no column 'total_energy_j', but {', '.join(similar)}.",
            where="measurements",
            fix="Give joules of the whole batch on all GPUs as total_energy_j; "
            "1 Wh is 3600 J, 1 mJ is 0.001 J.",
        )


def _draw(rows: pd.DataFrame, samples: int | None, seed: int) -> list[Group]:
    """Return the drawn rows of each pair."""
    if not len(rows):
        return []
    return [g.take(sample_order(g.hashes, samples, seed)) for g in pairs(rows)]


def _pooled_laws(
    batch: list[Group], other: list[Group], facts: Facts | None, pooled: bool | str
) -> _Shared:
    """Fit pooled laws to the drawn rows, as far as they are wanted."""
    import pandas as pd

    if pooled is False:
        return _Shared()
    wanted = [*other, *(batch if facts is not None or pooled is True else [])]
    if not wanted:
        return _Shared()
    rows = pd.concat([g.rows for g in wanted])
    known = facts or Facts()
    return _Shared(*fit_pooled_laws(rows, known, required=pooled is True), known)


def law_for(form: str, n_rows: int) -> Form:
    """Return a law by name; `auto` is the largest that so many rows carry.

    A parameter should have two rows to spare.

    Raises
    ------
    FitError
        If there is no law of that name.
    """
    if form != "auto":
        return get_form(form)
    full = get_form("energylens12")
    return full if n_rows >= 2 * full.most_parameters else get_form(SMALLER)


def _data(groups: list[Group]) -> dict[str, Any]:
    """Describe the rows of a fit: how many, of what provenance, and a hash of all of them."""
    provenance: dict[str, int] = {}
    for group in groups:
        for kind, n in counts(group.rows).items():
            provenance[kind] = provenance.get(kind, 0) + n
    marks = sorted(f"{g.model_id} {g.hardware} {fingerprint(g)}" for g in groups)
    return {
        "rows": sum(len(g.rows) for g in groups),
        "pairs": len({(g.model_id, g.hardware) for g in groups}),
        "provenance": dict(sorted(provenance.items())),
        "fingerprint": hashlib.sha256("\n".join(marks).encode()).hexdigest()[:16],
    }
