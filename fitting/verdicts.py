"""Sentences on an evaluation: what a reader must know before believing a table of scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fitting.baselines import RULES
from fitting.methods import REGISTRY
from fitting.scenarios import LIMIT_FACTOR, LIMITED, Scenarios

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from fitting.scoring import Scored

LAWS = (
    *(name for name, method in REGISTRY.items() if method.kind == "law"),
    "energylens_serving",
)
"""Laws of this project, for notes on who wins."""

ENSEMBLES = (
    "random_forest",
    "extra_trees",
    "gradient_boosting",
    "extra_trees_pooled",
    "gradient_boosting_pooled",
)
"""Learners that the laws are held against over sample budgets."""


def unseen_notes(scored: Scored, classes: Sequence[Scenarios]) -> list[str]:
    """Say how the laws do where none of the candidates was a training row."""
    notes = []
    for (method, budget, seed), run in scored.runs.items():
        if REGISTRY[method].kind != "law" or seed != scored.seeds[0]:
            continue
        parts = []
        for scenarios in classes:
            able = scored.rankable(scenarios, method, budget)
            new = able & ~np.any(scenarios.mask & run.fitted[scenarios.rows], axis=1)
            if not able.any():
                continue
            if not new.any():
                parts.append(f"{scenarios.scenario_class} has none")
                continue
            choice = scored.judged(scenarios, run)
            parts.append(
                f"{scenarios.scenario_class} Top-1 {100 * choice.top1[new].mean():.1f} %, regret "
                f"{100 * choice.regret[new].mean():.2f} % ({int(new.sum())} of {len(scenarios)})"
            )
        if parts:
            notes.append(
                f"{method} at {budget} samples, in scenarios without a fitted configuration: "
                f"{'; '.join(parts)}."
            )
    return notes


def partial_notes(scored: Scored, classes: Sequence[Scenarios]) -> list[str]:
    """Name the methods that could not rank every scenario, with what they were judged on."""
    notes = []
    for method in scored.methods:
        parts = []
        for scenarios in classes:
            able = [scored.rankable(scenarios, method, budget) for budget in scored.budgets]
            if len(scenarios) and not np.all(able):
                count = int(np.all(able, axis=0).sum())
                parts.append(f"{scenarios.scenario_class} {count} of {len(scenarios)}")
        if parts:
            notes.append(
                f"{method} is judged on some scenarios only: {', '.join(parts)}; for the others it "
                "lacks facts, a latency or rows."
            )
    return notes


def hold_out_notes(test: NDArray[np.bool_]) -> list[str]:
    """Say how many rows are kept apart as a test."""
    return [
        f"{int(test.sum())} of {len(test)} rows, whole workloads, are held out: no method is "
        "fitted to them, and scores are on them alone."
    ]


def budget_notes(sizes: Sequence[int], budgets: Sequence[int]) -> list[str]:
    """Say where a budget is more than a pair has rows.

    Parameters
    ----------
    sizes
        Rows of each pair that may be fitted.
    budgets
        Sample budgets.
    """
    notes = []
    for budget in budgets:
        short = sum(size <= budget for size in sizes)
        if short:
            notes.append(
                f"At {budget} samples {short} of {len(sizes)} pairs have no more rows than that "
                "to learn from: all of those are fitted."
            )
    return notes


def limit_notes(classes: Sequence[Scenarios], limits: Mapping[str, float] | None) -> list[str]:
    """Say which latency limits the classes had, and which have no scenario."""
    notes = [
        f"{scenarios.scenario_class} has no scenario with at least 2 candidates."
        for scenarios in classes
        if not len(scenarios)
    ]
    limited = [c.scenario_class for c in classes if len(c) and c.scenario_class in LIMITED]
    if limited and limits:
        given = ", ".join(f"{k} <= {v:g}" for k, v in sorted(limits.items()))
        notes.append(f"{', '.join(limited)} under the limits given: {given}.")
    elif limited:
        notes.append(
            f"{', '.join(limited)}: time to first token and per output token at most "
            f"{LIMIT_FACTOR:g} x the median of the scenario's candidates."
        )
    return notes


def gpu_count_notes(scores: pd.DataFrame) -> list[str]:
    """Say what the law's S1 scores are if every GPU count weighs the same."""
    part = scores[(scores["scenario_class"] == "S1") & (scores["group_kind"] == "num_gpus")]
    part = part[part["method"].isin(LAWS)]
    notes = []
    for (method, budget), rows in part.groupby(["method", "samples"], sort=True):
        if rows["scenarios"].nunique() > 1:
            counts = ", ".join(rows["group"])
            top1, regret = 100 * rows["top1"].mean(), 100 * rows["mean_regret"].mean()
            notes.append(
                f"S1, mean over GPU counts ({counts}), {method} at {budget} samples: Top-1 "
                f"{top1:.1f} %, regret {regret:.2f} %."
            )
    return notes


def rule_notes(scores: pd.DataFrame) -> list[str]:
    """Say where a rule that needs no fit does best, or another method beats the law.

    Only methods that were judged on all scenarios of the class are compared.
    """
    notes = []
    overall = scores[scores["group_kind"] == "all"]
    for (name, budget), part in overall.groupby(["scenario_class", "samples"], sort=True):
        whole = part[part["scenarios"] == part["scenarios"].max()]
        ranked = whole.sort_values(["top1", "mean_regret"], ascending=[False, True])
        best = ranked.iloc[0]
        if best["method"] in LAWS:
            continue
        kind = "rule" if best["method"] in RULES else "method"
        known = REGISTRY[best["method"]].knows if best["method"] in REGISTRY else ""
        text = (
            f"The {kind} {best['method']} wins {name} at {budget} samples"
            f"{f', knowing {known}' if known else ''}: "
            f"Top-1 {100 * best['top1']:.1f} %, regret {100 * best['mean_regret']:.2f} %"
        )
        law = ranked[ranked["method"].isin(LAWS)]
        if len(law):
            text += (
                f" (law: {100 * law.iloc[0]['top1']:.1f} %, "
                f"{100 * law.iloc[0]['mean_regret']:.2f} %)"
            )
        notes.append(text + ".")
    return notes


def curve_notes(scores: pd.DataFrame) -> list[str]:
    """Say with how many rows a law chooses as well as the best ensemble with the most rows."""
    notes = []
    overall = scores[scores["group_kind"] == "all"]
    if overall["samples"].nunique() < 2:
        return []
    most = overall["samples"].max()
    for name, part in overall.groupby("scenario_class", sort=True):
        rivals = part[part["method"].isin(ENSEMBLES) & (part["samples"] == most)]
        if not len(rivals):
            continue
        best = rivals.sort_values("top1").iloc[-1]
        for law in part["method"][part["method"].isin(LAWS)].unique():
            mine = part[(part["method"] == law) & (part["top1"] >= best["top1"])]
            rival = f"{best['method']} with {most} ({100 * best['top1']:.1f} %)"
            if len(mine):
                least = mine.sort_values("samples").iloc[0]
                notes.append(
                    f"{name}: {law} with {least['samples']} rows a pair (Top-1 "
                    f"{100 * least['top1']:.1f} %) chooses as well as the best ensemble, {rival}."
                )
            else:
                notes.append(f"{name}: {law} does not reach the Top-1 of {rival} at any budget.")
    return notes
