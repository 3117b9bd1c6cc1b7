"""Top-1 and regret in the report: our law beside rules, published laws and ensembles."""

from __future__ import annotations

import re
from typing import Any

from energylens.evaluation import SERVING, is_ours, main_budget
from energylens.units import NOTHING, count, percent

METHODS = {
    "energylens12": ("EnergyLens", "the 12-parameter law of this run, each pair alone"),
    "energylens_pooled": ("EnergyLens, pooled", "one law over all models and GPU types"),
    "energylens_serving": ("EnergyLens, pooled", "one law for all models, per output token"),
    "fewest_gpus": ("Fewest GPUs", "rule: the smallest number of GPUs that fits"),
    "lowest_latency": ("Lowest latency", "rule: the fastest one"),
    "highest_throughput": ("Highest throughput", "rule: most output tokens a GPU and second"),
    "wilkins": ("Wilkins et al., relative loss", "published law in input and output tokens"),
    "wilkins_ols": ("Wilkins et al.", "the same as published, by ordinary least squares"),
    "sweetspot": ("SweetSpot", "published law in input and output tokens"),
    "tokens_to_wh": ("Tokens to watt-hours", "published joules per operation and bit"),
    "tokens_to_wh_refit": ("Tokens to watt-hours, refitted", "both numbers from the same rows"),
    "llmcarbon": ("LLMCarbon", "operations at one efficiency; cannot rank parallelism"),
    "power_utilisation": ("Power by utilisation", "published power law, times latency"),
    "power_logistic": ("Logistic power", "published power curve in the batch, times latency"),
    "random_forest": ("Random forest", "learned from the same rows"),
    "extra_trees": ("Extra trees", "learned from the same rows"),
    "gradient_boosting": ("Gradient boosting", "learned from the same rows"),
    "gaussian_process": ("Gaussian process", "learned from the same rows"),
    "extra_trees_pooled": ("Extra trees, pooled", "learned from all pairs and datasheets"),
    "gradient_boosting_pooled": (
        "Gradient boosting, pooled",
        "learned from all pairs and datasheets",
    ),
}
CLASSES = {
    "S1": ("Layout", "Model, GPU type, workload and number of GPUs are given: choose (t, p)."),
    "S2": ("Layout and GPU count", "The number of GPUs is free, under a latency limit."),
    "S3": ("GPU type too", "The GPU type is free as well."),
    "S4": (
        "Batch and precision",
        "GPU type and request are given; layout, GPU count, precision and batch are free, under "
        "a latency limit; energy per output token.",
    ),
    "S5": (
        "Everything",
        "Only model and request are given, under a latency limit; energy per output token.",
    ),
}
CURVES = 5
"""Methods drawn over sample budgets beside our laws: those that are best with the most rows."""
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
    budget = main_budget(budgets)
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
    notes = [note for note in evaluation["notes"] if _about(note, budget)]
    return {
        "budget": budget,
        "pooled": any(row["method"] == SERVING for row in scores),
        "overview": _overview(classes),
        "classes": classes,
        "groups": _groups(scores, budget),
        "budgets": _budgets(scores) if len(budgets) > 1 else [],
        "knows": any(row.get("knows") for row in scores),
        "wins": [note for note in notes if _WIN.match(note)],
        "notes": [note for note in notes if not _WIN.match(note)],
    }


def curves(evaluation: dict[str, Any]) -> dict[str, Any] | None:
    """Return Top-1, regret and MAPE over sample budgets, for the plot; None for one budget.

    The laws of this project are drawn, and the methods that are best with the most rows; not
    those that are told what only measuring can tell.
    """
    rows = [row for row in evaluation["scores"] if row["group_kind"] == "all"]
    budgets = sorted({row["samples"] for row in rows if row["samples"] is not None})
    if len(budgets) < 2:
        return None
    keys = ("top1", "top1_lo", "top1_hi", "mean_regret", "mape")
    out = []
    for name in dict.fromkeys(row["scenario_class"] for row in rows):
        mine = [row for row in rows if row["scenario_class"] == name]
        last = [r for r in mine if r["samples"] == budgets[-1] and not r.get("knows")]
        last.sort(key=lambda row: (not is_ours(row["method"]), -(row["top1"] or 0.0)))
        drawn = [row["method"] for row in last]
        ours = sum(map(is_ours, drawn))
        lines = []
        for method in drawn[: ours + CURVES]:
            found = {row["samples"]: row for row in mine if row["method"] == method}
            values = {key: [(found.get(b) or {}).get(key) for b in budgets] for key in keys}
            lines.append({"name": method_name(method), "ours": is_ours(method), **values})
        out.append({"name": name, "title": CLASSES.get(name, (name, ""))[0], "lines": lines})
    return {"budgets": budgets, "classes": out}


def _about(note: str, budget: int | None) -> bool:
    """Say whether a note is on the budget that the tables show, or on none."""
    found = re.search(r" at (\d+) samples", note)
    return found is None or budget is None or int(found[1]) == budget


def _overview(classes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return Top-1 of every method in every class, best in the first class first."""
    methods = list(dict.fromkeys(row["name"] for c in classes for row in c["rows"]))
    found = {(c["name"], row["name"]): row for c in classes for row in c["rows"]}
    out = []
    for method in methods:
        rows = [found.get((c["name"], method)) for c in classes]
        known = next(row for row in rows if row is not None)
        cells = [
            {"text": NOTHING, "share": 0.0}
            if row is None
            else {"text": row["top1"], "share": row["point"]}
            for row in rows
        ]
        out.append({**{k: known[k] for k in ("method", "text", "ours", "knows")}, "cells": cells})
    return out


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
        "name": row["method"],
        "knows": row.get("knows") or "",
        "method": method_name(row["method"]),
        "text": METHODS.get(row["method"], ("", ""))[1],
        "ours": is_ours(row["method"]),
        "top1": percent(row["top1"]),
        "point": hundred(row["top1"]),
        "lo": hundred(row["top1_lo"]),
        "hi": hundred(row["top1_hi"]),
        "interval": f"{percent(row['top1_lo'])[:-2]} to {percent(row['top1_hi'])}",
        "within": percent(row["top1_within_1pct"]),
        "regret": percent(row["mean_regret"]),
        "worst": percent(row["max_regret"]),
        "mape": percent(row["mape"]),
        "coverage": percent(row.get("coverage")),
    }


def hundred(value: float | None) -> float:
    """Return a share in per cent for the drawing; 0 where it is not known."""
    return round(100 * (value or 0.0), 2)


def _groups(scores: list[dict[str, Any]], budget: int | None) -> list[dict[str, Any]]:
    """Top-1 of class S1 by number of GPUs, family and modality, for every method."""
    tables = []
    overall = [
        row
        for row in scores
        if row["group_kind"] == "all"
        and row["scenario_class"] == "S1"
        and row["samples"] in (budget, None)
    ]
    overall.sort(key=lambda row: -(row["top1"] or 0.0))
    methods = list(dict.fromkeys(row["method"] for row in overall))
    known = {row["method"] for row in overall if row.get("knows")}
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
                        "method": method_name(method) + (" *" if method in known else ""),
                        "ours": is_ours(method),
                        "cells": [
                            {
                                "text": percent(cells.get((name, method))),
                                "share": hundred(cells.get((name, method))),
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
            "method": method_name(row["method"]),
            "samples": row["samples"],
            "top1": percent(row["top1"]),
            "regret": percent(row["mean_regret"]),
            "mape": percent(row["mape"]),
        }
        for row in sorted(
            rows, key=lambda row: (row["scenario_class"], row["method"], row["samples"] or 0)
        )
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
            rival = next((r for r in first["rows"] if not r["ours"] and not r["knows"]), None)
            tiles.append(
                {
                    "label": "Right choice (Top-1)",
                    "value": ours["top1"],
                    "detail": f"{ours['method']}, 95 % interval {ours['interval']}, "
                    f"{first['scenarios']} scenarios"
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
        method = ((evaluation or {}).get("predictions") or {}).get("method")
        tiles.append(
            {
                "label": "Error of the law (MAPE)",
                "value": check["mape"],
                "detail": (f"{method_name(method)}, " if method else "")
                + f"{check['rows']} rows"
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
