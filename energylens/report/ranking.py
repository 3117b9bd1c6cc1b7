"""Top-1 and regret in the report: our law beside rules, published laws and ensembles."""

from __future__ import annotations

import re
from typing import Any

from energylens.evaluation import SERVING, is_ours
from energylens.units import count, percent

METHODS = {
    "energylens12": ("EnergyLens", "the 12-parameter law of this run"),
    "energylens_serving": ("EnergyLens, pooled", "one law for all models, per output token"),
    "fewest_gpus": ("Fewest GPUs", "rule: the smallest number of GPUs that fits"),
    "lowest_latency": ("Lowest latency", "rule: the fastest one, true latency known"),
    "wilkins": ("Wilkins et al.", "published law in input and output tokens, no parallelism"),
    "random_forest": ("Random forest", "learned from the same rows"),
    "gradient_boosting": ("Gradient boosting", "learned from the same rows"),
    "extra_trees": ("Extra trees", "learned from the same rows"),
    "sweetspot": ("SweetSpot", "published law in input and output tokens, no parallelism"),
    "llmcarbon": ("LLMCarbon", "FLOPs at a fixed efficiency; cannot rank parallelism"),
    "highest_throughput": ("Highest throughput", "rule: true throughput per GPU"),
}
CLASSES = {
    "S1": ("Layout", "Model, GPU type, workload and number of GPUs are given: choose (t, p)."),
    "S2": ("Layout and GPU count", "The number of GPUs is free, under a latency limit."),
    "S3": ("GPU type too", "The GPU type is free as well."),
}
SERVING_CLASSES = {
    "S1": "Model, task, GPU type, batch limit and number of GPUs are given: choose the layout "
    "and the precision.",
    "S2": "The number of GPUs is free as well.",
    "S3": "The GPU type is free as well.",
}
_WIN = re.compile(r"The (rule|method) \S+ wins ")
GROUPS = {
    "num_gpus": "number of GPUs",
    "family": "model family",
    "modality": "modality",
    "model_id": "model",
    "hardware": "GPU type",
}


def method_name(method: str) -> str:
    """Name of a method for people."""
    return METHODS.get(method, (method.replace("_", " "), ""))[0]


def ranking(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Arrange scores by scenario class, best method first, our own always marked."""
    scores = evaluation["scores"]
    budgets = sorted({row["samples"] for row in scores if row["samples"] is not None})
    budget = 50 if 50 in budgets else (budgets[0] if budgets else None)
    classes = []
    for name in dict.fromkeys(row["scenario_class"] for row in scores):
        rows = [
            row
            for row in scores
            if row["scenario_class"] == name
            and row["group_kind"] == "all"
            and row["samples"] in (budget, None)
        ]
        if rows:
            classes.append(_class(name, rows))
    return {
        "budget": budget,
        "pooled": any(row["method"] == SERVING for row in scores),
        "classes": classes,
        "groups": _groups(scores, budget),
        "budgets": _budgets(scores) if len(budgets) > 1 else [],
        "wins": [note for note in evaluation["notes"] if _WIN.match(note)],
        "notes": [note for note in evaluation["notes"] if not _WIN.match(note)],
    }


def _class(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    rows = sorted(rows, key=lambda row: (-(row["top1"] or 0.0), not is_ours(row["method"])))
    title, text = CLASSES.get(name, (name, ""))
    if any(row["method"] == SERVING for row in rows):
        text = SERVING_CLASSES.get(name, text)
    return {
        "name": name,
        "title": title,
        "text": text,
        "scenarios": count(rows[0]["scenarios"]),
        "rows": [_row(row) for row in rows],
    }


def _row(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "method": method_name(row["method"]),
        "text": METHODS.get(row["method"], ("", ""))[1],
        "ours": is_ours(row["method"]),
        "top1": percent(row["top1"]),
        "point": _hundred(row["top1"]),
        "lo": _hundred(row["top1_lo"]),
        "hi": _hundred(row["top1_hi"]),
        "interval": f"{percent(row['top1_lo'])[:-2]} to {percent(row['top1_hi'])}",
        "within": percent(row["top1_within_1pct"]),
        "regret": percent(row["mean_regret"]),
        "worst": percent(row["max_regret"]),
        "mape": percent(row["mape"]),
    }


def _hundred(value: float | None) -> float:
    return round(100 * (value or 0.0), 2)


def _groups(scores: list[dict[str, Any]], budget: int | None) -> list[dict[str, Any]]:
    """Top-1 of class S1 by number of GPUs, family and modality, for every method."""
    tables = []
    overall = [
        row for row in scores if row["group_kind"] == "all" and row["scenario_class"] == "S1"
    ]
    overall.sort(key=lambda row: -(row["top1"] or 0.0))
    methods = list(dict.fromkeys(row["method"] for row in overall))
    for kind, title in GROUPS.items():
        rows = [
            row
            for row in scores
            if row["group_kind"] == kind
            and row["scenario_class"] == "S1"
            and row["samples"] in (budget, None)
        ]
        groups = list(dict.fromkeys(str(row["group"]) for row in rows))
        if len(groups) < 2 or kind in ("model_id", "hardware"):
            continue
        if all(name.isdecimal() for name in groups):
            groups.sort(key=int)
        cells = {(str(row["group"]), row["method"]): row["top1"] for row in rows}
        sizes = {str(row["group"]): row["scenarios"] for row in rows}
        tables.append(
            {
                "title": title,
                "groups": [{"name": name, "scenarios": count(sizes[name])} for name in groups],
                "rows": [
                    {
                        "method": method_name(method),
                        "ours": is_ours(method),
                        "cells": [
                            {
                                "text": percent(cells.get((name, method))),
                                "share": _hundred(cells.get((name, method))),
                            }
                            for name in groups
                        ],
                    }
                    for method in methods
                ],
            }
        )
    return tables


def _budgets(scores: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Top-1 of our law against the number of rows it learned from, per scenario class."""
    rows = [row for row in scores if row["group_kind"] == "all" and is_ours(row["method"])]
    return [
        {
            "class": row["scenario_class"],
            "samples": row["samples"],
            "top1": percent(row["top1"]),
            "regret": percent(row["mean_regret"]),
            "mape": percent(row["mape"]),
        }
        for row in sorted(rows, key=lambda row: (row["scenario_class"], row["samples"] or 0))
    ]


def headline(
    evaluation: dict[str, Any] | None, check: dict[str, Any] | None
) -> list[dict[str, str]]:
    """Pick the four numbers that say most, each with what it means."""
    tiles = []
    if evaluation is not None:
        scores = ranking(evaluation)
        first = next((c for c in scores["classes"] if c["name"] == "S1"), None)
        first = first or next(iter(scores["classes"]), None)
        if first is not None and (ours := next((r for r in first["rows"] if r["ours"]), None)):
            rival = next((r for r in first["rows"] if not r["ours"]), None)
            tiles.append(
                {
                    "label": "Right choice (Top-1)",
                    "value": ours["top1"],
                    "detail": f"95 % interval {ours['interval']}, {first['scenarios']} scenarios"
                    + (f"; {_rival(ours, rival)}" if rival else ""),
                }
            )
            tiles.append(
                {
                    "label": "Mean regret",
                    "value": ours["regret"],
                    "detail": "extra energy of its choices over the true best; "
                    f"the worst one {ours['worst']}",
                }
            )
    if check is not None and check["mape"]:
        tiles.append(
            {
                "label": "Error of the law (MAPE)",
                "value": check["mape"],
                "detail": f"{check['rows']} rows"
                + (" it was not fitted on" if check["told_apart"] else "")
                + f"; median {check['median']}",
            }
        )
    split = evaluation.get("divergence") if evaluation is not None else None
    if split and split.get("share") is not None:
        tiles.append(
            {
                "label": "Fastest is not thriftiest",
                "value": percent(split["share"]),
                "detail": f"of scenarios; there the fastest layout uses "
                f"{percent(split['mean_penalty'])} more energy on average, "
                f"{percent(split['max_penalty'])} at most",
            }
        )
    return tiles


def _rival(ours: dict[str, Any], rival: dict[str, Any]) -> str:
    word = "next" if ours["point"] > rival["point"] else "best"
    return f"{word}: {rival['method']}, {rival['top1']}"


def divergence(evaluation: dict[str, Any]) -> dict[str, Any] | None:
    """Write how often, and at what cost, latency and energy choose differently."""
    split = evaluation.get("divergence")
    if not split or split.get("share") is None:
        return None
    families = split.get("by_family") or []
    return {
        "share": percent(split["share"]),
        "mean": percent(split["mean_penalty"]),
        "max": percent(split["max_penalty"]),
        "families": [
            {
                "family": row.get("family"),
                "scenarios": count(row.get("scenarios")),
                "share": percent(row.get("share")),
                "point": _hundred(row.get("share")),
                "mean": percent(row.get("mean_penalty")),
                "max": percent(row.get("max_penalty")),
            }
            for row in families
        ],
    }
