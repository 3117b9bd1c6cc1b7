"""How often each method picks the configuration that uses least, and how wrong it predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fitting.facts import Facts
from fitting.methods import ALL_METHODS, METHODS, REGISTRY, predict_method
from fitting.metrics import summary
from fitting.rows import pairs, usable
from fitting.scenarios import FIXED, build
from fitting.scoring import SCORE_COLUMNS, Scored
from fitting.splits import held_out
from fitting.verdicts import (
    LAWS,
    budget_notes,
    curve_notes,
    gpu_count_notes,
    hold_out_notes,
    limit_notes,
    partial_notes,
    rule_notes,
    unseen_notes,
)
from harness.store import FitError

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "ALL_METHODS",
    "LAWS",
    "METHODS",
    "SCORE_COLUMNS",
    "Evaluation",
    "evaluate",
    "gpu_count_notes",
    "rule_notes",
    "summary",
]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores of every method.

    Attributes
    ----------
    scores
        One row a scenario class, group, method and sample budget; see `SCORE_COLUMNS`. Shares
        and errors are fractions; `mape`, `median_ape` and `coverage` (of 95 % prediction
        intervals) are of the `unfitted_rows`, null for rules and where none is left;
        `rows_used` is the training rows of a pair, mean; `fit_seconds` is per (model, hardware);
        `knows` says what a method is told that would have to be measured first.
    predictions
        `task_id`, `method`, `samples`, `predicted` (J), `fitted` (whether the row was in the
        training rows), for the first seed.
    notes
        What a reader must know: rows left out, rules that win, scenarios that prove nothing.
    """

    scores: pd.DataFrame
    predictions: pd.DataFrame
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return scores and notes as plain values, NaN as None."""
        records = self.scores.astype(object).where(self.scores.notna(), None)
        return {"scores": records.to_dict(orient="records"), "notes": self.notes}


def evaluate(
    frame: pd.DataFrame,
    *,
    samples: Sequence[int] = (50,),
    classes: Sequence[str] = ("S1", "S2", "S3"),
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    limits: Mapping[str, float] | None = None,
    facts: Facts | None = None,
    hold_out: float = 0.0,
) -> Evaluation:
    """Compare methods on the scenarios of a measurement table.

    Every method is fitted to the same `samples` rows of each (model, hardware) and then asked
    about all rows. Scenarios keep all of their candidates, fitted or not; errors are taken on
    rows that were not fitted. Rows without input lengths (imported serving runs) are judged by
    `fitting.serving_eval`, where laws are pooled and cross-validated.

    Parameters
    ----------
    frame
        Rows of the measurement table.
    samples
        Training rows of each (model, hardware); several give a learning curve. A pair with
        fewer rows gives all of them.
    classes
        Scenario classes, of S1 to S5; `all` for all of them. S4 and S5 compare energies per
        output token.
    methods
        Names of methods, `all` for `ALL_METHODS`; `METHODS` if None.
    seeds
        Seeds of the draws of training rows; scores are means over them.
    limits
        `ttft_s` and `itl_s` for S2 to S5, s; if None each scenario takes the medians of its
        candidates.
    facts
        Facts of models and GPU types for the methods that need them. Those are left out without
        facts, and judged on the rows whose model and GPU type are known.
    hold_out
        Share of the workloads that no method is fitted to, and that alone are judged, 0 to less
        than 1; see `fitting.splits.held_out`. With 0, scenarios keep all of their candidates,
        fitted or not. Large budgets need it: with most rows fitted, a learner need only remember.

    Raises
    ------
    FitError
        If no row is usable, a class or method is unknown, no class, budget or seed is given, or
        the share to hold out is not in range.
    """
    if not 0.0 <= hold_out < 1.0:
        raise FitError(f"hold_out must be at least 0 and less than 1, not {hold_out}.")
    for option, given in (("classes", classes), ("samples", samples), ("seeds", seeds)):
        if not len(given):
            raise FitError(f"No {option} given.", where=option, fix="Give at least one.")
    asked = tuple(FIXED) if "all" in classes else tuple(classes)
    for name in asked:
        if name not in FIXED:
            raise FitError(f"Unknown scenario class {name!r}.", fix=f"Use {', '.join(FIXED)}.")
    rows, left = usable(frame)
    if not len(rows):
        return _serving(frame, asked, methods, seeds, facts)
    chosen, notes = _methods(methods, facts)
    notes += left.notes()
    rows = rows.reset_index(drop=True)
    groups = list(pairs(rows.assign(_row=np.arange(len(rows)))))
    budgets = tuple(dict.fromkeys(samples))
    test = held_out(rows, hold_out)
    runs = {
        (method, budget, seed): predict_method(
            method, groups, len(rows), budget, seed, facts, test if hold_out else None
        )
        for method in chosen
        for budget in budgets
        for seed in dict.fromkeys(seeds)
    }
    notes += hold_out_notes(test) if hold_out else []
    notes += budget_notes([int((~test[g.rows["_row"]]).sum()) for g in groups], budgets)
    notes += sorted({note for run in runs.values() for note in run.notes})
    scored = Scored(rows, runs)
    built = [
        scored.known(
            build(rows, name, dict(limits) if limits else None, among=test if hold_out else None)
        )
        for name in asked
    ]
    records = [record for scenarios in built for record in scored.records(scenarios)]
    notes += limit_notes(built, limits)
    if not hold_out:
        notes += unseen_notes(scored, built)
    notes += partial_notes(scored, built)
    import pandas as pd

    scores = pd.DataFrame(records, columns=list(SCORE_COLUMNS))
    notes += gpu_count_notes(scores) + curve_notes(scores) + rule_notes(scores)
    return Evaluation(scores, scored.predictions(), notes)


def _methods(
    methods: Sequence[str] | None, facts: Facts | None
) -> tuple[tuple[str, ...], list[str]]:
    """Return the methods to compare, and a note on those that are left out for want of facts."""
    chosen = METHODS if methods is None else tuple(dict.fromkeys(methods))
    if "all" in chosen:
        chosen = ALL_METHODS
    for name in chosen:
        if name not in REGISTRY:
            raise FitError(f"Unknown method {name!r}.", fix=f"Use {', '.join(REGISTRY)}, or 'all'.")
    if facts is not None and (facts.models or facts.hardware):
        return chosen, []
    wanting = [name for name in chosen if REGISTRY[name].needs_facts]
    if not wanting:
        return chosen, []
    note = f"Not judged, as no facts of models and GPU types are known: {', '.join(wanting)}."
    return tuple(name for name in chosen if name not in wanting), [note]


def _serving(
    frame: pd.DataFrame,
    classes: Sequence[str],
    methods: Sequence[str] | None,
    seeds: Sequence[int],
    facts: Facts | None,
) -> Evaluation:
    """Judge serving rows, whose scenarios choose precision in every class and batch in none."""
    from fitting.serving_eval import FIXED as SERVING_CLASSES
    from fitting.serving_eval import evaluate_serving

    known = [name for name in classes if name in SERVING_CLASSES]
    if not known:
        raise FitError(
            f"Serving rows have no scenario class {', '.join(classes)}.",
            fix=f"Use some of {', '.join(SERVING_CLASSES)}.",
        )
    named = None if methods is not None and "all" in methods else methods
    found = evaluate_serving(frame, classes=known, methods=named, seeds=seeds, facts=facts)
    notes = list(found.notes)
    left = [name for name in classes if name not in known]
    if left:
        notes.append(f"Serving rows have no scenario class {', '.join(left)}.")
    known_methods = found.scores["method"].map(REGISTRY.get)
    scores = found.scores.assign(
        kind=[method.kind if method else "law" for method in known_methods],
        knows=[method.knows if method else "" for method in known_methods],
    )
    return Evaluation(scores, found.predictions, notes)
