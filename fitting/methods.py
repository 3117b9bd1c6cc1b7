"""Methods that an evaluation compares: each is fitted to the drawn rows and asked about all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from fitting.baselines import LEARNERS, POOLED_LEARNERS, RULES, learn
from fitting.facts import Facts
from fitting.forms import FORMS, get_form
from fitting.pairfit import fit_pair
from fitting.published import PUBLISHED
from fitting.rows import Group, sample_order
from harness.store import FitError

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]
Answer = tuple[Array, Array | None, Array | None, str]
"""Predicted energies of rows, J, the ends of their 95 % intervals or None, and a note."""

FITTED = ("energylens12",)
"""Laws of this project that are fitted to each (model, hardware) alone."""

POOLED_LAW = "energylens_pooled"
"""Law of this project that is fitted to all pairs at once."""


@dataclass(frozen=True, slots=True)
class Method:
    """One method of the comparison.

    Attributes
    ----------
    name
        Name in tables and options.
    kind
        A law of ours, a rule without a fit, a published law, or a learner.
    pooled
        Whether one fit serves the drawn rows of all pairs.
    needs_facts
        Whether it needs facts of models and GPU types.
    knows
        What it is told that would have to be measured first; empty if nothing.
    usual
        Whether it is compared unless others are asked for.
    """

    name: str
    kind: Literal["law", "rule", "published", "learner"]
    pooled: bool = False
    needs_facts: bool = False
    knows: str = ""
    usual: bool = True


_KNOWS = {"lowest_latency": "the true latency", "highest_throughput": "the true throughput"}
_RARE = ("random_forest", *POOLED_LEARNERS)

REGISTRY: dict[str, Method] = {
    method.name: method
    for method in (
        *(Method(name, "law") for name in FITTED),
        Method(POOLED_LAW, "law", pooled=True, needs_facts=True),
        *(Method(name, "rule", knows=_KNOWS.get(name, "")) for name in RULES),
        *(
            Method(
                name,
                "published",
                needs_facts=law.needs_facts,
                knows="the true latency" if law.knows_latency else "",
                usual=name not in _RARE,
            )
            for name, law in PUBLISHED.items()
        ),
        *(Method(name, "learner", usual=name not in _RARE) for name in LEARNERS),
        *(
            Method(name, "learner", pooled=True, needs_facts=True, usual=False)
            for name in POOLED_LEARNERS
        ),
    )
}
"""Every method by its name."""

METHODS = tuple(name for name, method in REGISTRY.items() if method.usual)
"""Methods compared unless others are asked for, the laws of this project first."""

ALL_METHODS = tuple(REGISTRY)
"""Every method; those that are not in `METHODS` take longer or add little."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one method says about every row of a table, after fitting to some of them.

    Attributes
    ----------
    score
        What the method minimises, shape (rows,); NaN where it cannot say.
    energy
        Predicted total_energy_j, J, shape (rows,); None for a rule.
    fitted
        True for the training rows.
    seconds
        Time to fit and predict, s, mean over the pairs.
    drawn
        Training rows of each pair, mean; less than the budget where a pair has fewer rows.
    low, high
        Ends of the 95 % prediction intervals, J, shape (rows,); None for methods without.
    notes
        What a reader should know.
    """

    score: Array
    energy: Array | None
    fitted: NDArray[np.bool_]
    seconds: float
    drawn: float = float("nan")
    low: Array | None = None
    high: Array | None = None
    notes: tuple[str, ...] = ()


def predict_method(
    method: str,
    groups: Sequence[Group],
    n_rows: int,
    samples: int,
    seed: int,
    facts: Facts | None = None,
    test: NDArray[np.bool_] | None = None,
) -> Prediction:
    """Fit a method to `samples` rows of each group and predict all rows.

    Parameters
    ----------
    method
        Name of a method in `REGISTRY`.
    groups
        Rows by (model, hardware), with their position in the table in the column `_row`.
    n_rows
        Rows of the table.
    samples
        Training rows of each group.
    seed
        Seed of the draw and of learners.
    facts
        Facts of models and GPU types; methods that need them say so where one is missing.
    test
        Rows that must not be fitted, shape (n_rows,); none if None.

    Raises
    ------
    FitError
        If there is no method of that name.
    """
    if method not in REGISTRY:
        raise FitError(f"Unknown method {method!r}.", fix=f"Use {', '.join(REGISTRY)}.")
    known = Facts() if facts is None else facts
    kind = REGISTRY[method]
    score = np.full(n_rows, np.nan)
    fitted = np.zeros(n_rows, dtype=bool)
    if kind.kind == "rule":
        for group in groups:
            score[group.rows["_row"].to_numpy()] = RULES[method](group.rows)
        return Prediction(score, None, fitted, 0.0)
    low, high = np.full(n_rows, np.nan), np.full(n_rows, np.nan)
    notes: dict[str, list[str]] = {}
    seconds, drawn = 0.0, []
    for together in _batches(kind, groups):
        parts = [_draw(g, samples, seed, test) for g in together]
        started = time.perf_counter()
        try:
            if not any(len(part.rows) for part in parts):
                raise FitError("There is no row to learn from.")
            energy, bottom, top, note = _fit_predict(kind, parts, together, seed, known)
        except FitError as error:
            notes.setdefault(f"{method} is not judged: {error.what}", []).append(_name(together))
            continue
        seconds += time.perf_counter() - started
        if note:
            notes.setdefault(note, []).append(_name(together))
        drawn += [len(part.rows) for part in parts]
        rows = np.concatenate([g.rows["_row"].to_numpy() for g in together])
        score[rows] = energy
        if bottom is not None and top is not None:
            low[rows], high[rows] = bottom, top
        for part in parts:
            fitted[part.rows["_row"].to_numpy()] = True
    known_ends = not np.isnan(low).all()
    return Prediction(
        score=score,
        energy=score,
        fitted=fitted,
        seconds=seconds / max(len(groups), 1),
        drawn=float(np.mean(drawn)) if drawn else float("nan"),
        low=low if known_ends else None,
        high=high if known_ends else None,
        notes=tuple(f"{places[0]}{_more(places)}: {note}" for note, places in notes.items()),
    )


def _draw(group: Group, samples: int, seed: int, test: NDArray[np.bool_] | None) -> Group:
    """Return the training rows of a group, none of them a test row."""
    if test is not None:
        group = group.take(np.flatnonzero(~test[group.rows["_row"].to_numpy()]))
    return group.take(sample_order(group.hashes, samples, seed))


def _name(groups: Sequence[Group]) -> str:
    """Say which rows share a fit, in words."""
    if len(groups) == 1:
        return f"{groups[0].model_id} on {groups[0].hardware}"
    return f"{len(groups)} pairs"


def _more(places: Sequence[str]) -> str:
    return f" and {len(places) - 1} more" if len(places) > 1 else ""


def _batches(kind: Method, groups: Sequence[Group]) -> list[list[Group]]:
    """Return the groups that share a fit: one each, or all of one provenance together."""
    if not kind.pooled:
        return [[group] for group in groups]
    out: dict[str, list[Group]] = {}
    for group in groups:
        named = "provenance" in group.rows.columns
        out.setdefault(str(group.rows["provenance"].iloc[0]) if named else "", []).append(group)
    return list(out.values())


def _fit_predict(
    kind: Method, parts: Sequence[Group], groups: Sequence[Group], seed: int, facts: Facts
) -> Answer:
    """Return what a method predicts for the rows of groups that share a fit."""
    if kind.pooled:
        train, test = (_joined(part) for part in (parts, groups))
        if kind.name == POOLED_LAW:
            return _pooled(train, test, facts)
        if not facts.models or not facts.hardware:
            raise FitError("No facts of models and GPU types are known.")
        return learn(kind.name, train, test, seed, facts), None, None, ""
    (part,), (group,) = parts, groups
    if kind.kind == "learner":
        return learn(kind.name, part.rows, group.rows, seed), None, None, ""
    if kind.kind == "published":
        found = PUBLISHED[kind.name].fit(part.rows, facts)
        return found.predict(group.rows, facts), None, None, ""
    return _own(kind.name, part, group)


def _own(name: str, train: Group, group: Group) -> Answer:
    """Fit our law to one pair; the smaller one where rows are fewer than parameters."""
    from fitting.fit import Fit

    form, note = FORMS[name], ""
    if len(train.rows) < form.most_parameters:
        form = get_form("energylens6")
        note = f"{len(train.rows)} rows, so {form.name} stands in for {name}."
    law = Fit([fit_pair(train, form)], form=form.name)
    return *_phases(law.predict_phases, group.rows), note


def _pooled(train: pd.DataFrame, test: pd.DataFrame, facts: Facts) -> Answer:
    """Fit our pooled law to the drawn rows of all pairs."""
    from fitting.pooling import fit_pooled

    law = fit_pooled(train, facts)
    covered = np.asarray(law.covers(test), dtype=bool)
    energy, low, high = (np.full(len(test), np.nan) for _ in range(3))
    if covered.any():
        found = _phases(law.predict_phases, test[covered])
        energy[covered], low[covered], high[covered] = found
    left = int((~covered).sum())
    return energy, low, high, f"{POOLED_LAW} does not cover {left} rows." if left else ""


def _phases(
    predict: Callable[[pd.DataFrame], pd.DataFrame], rows: pd.DataFrame
) -> tuple[Array, Array, Array]:
    """Return predicted totals and the ends of their intervals, J."""
    found = predict(rows)
    names = ("total_energy_j", "total_energy_j_lo", "total_energy_j_hi")
    energy, low, high = (found[name].to_numpy(dtype=np.float64) for name in names)
    return energy, low, high


def _joined(groups: Sequence[Group]) -> pd.DataFrame:
    """Return the rows of several groups as one table."""
    import pandas as pd

    return pd.concat([group.rows for group in groups])
