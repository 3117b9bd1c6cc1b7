"""The law in the report: formula, parameters, and predicted against measured energy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from energylens.report.facts import valid_rows
from energylens.report.rows import layout, records, short, workload
from energylens.units import coefficient, count, percent
from harness.errors import EnergyLensError

if TYPE_CHECKING:
    import pandas as pd

    from energylens.report.write import Material
    from fitting import Fit

MOST_POINTS = 4000


def laws(law: Fit) -> list[dict[str, Any]]:
    """Describe every (model, hardware) pair of a fit for the selector and its table."""
    return [
        {
            "model": pair.model_id,
            "hardware": pair.hardware,
            "provenance": list(pair.provenance),
            "rows": count(pair.n_rows),
            "mape": percent(pair.mape),
            "formula": law.formula(pair.model_id, pair.hardware),
            "parameters": [
                {
                    "name": p.name,
                    "value": coefficient(p.value),
                    "unit": p.unit,
                    "lo": coefficient(p.lo),
                    "hi": coefficient(p.hi),
                    "ok": bool(p.identifiable),
                    "meaning": p.meaning,
                }
                for p in pair.parameters
            ],
        }
        for pair in law.pairs
    ]


def check(material: Material) -> dict[str, Any] | None:
    """Compare predicted energy with that in the data.

    The predictions of the evaluation are taken where there are some, because it knows which
    rows the law had seen; else the fit is asked about every valid row.

    Returns
    -------
    dict or None
        Points for the plot (at most `MOST_POINTS`, spread evenly over the table), errors
        per pair, and whether rows that the law was fitted on are told apart.
    """
    import numpy as np

    found = _evaluated(material) or _predicted(material)
    if found is None:
        return None
    frame, predicted, fitted = found
    truth = frame["total_energy_j"].to_numpy(dtype=np.float64, na_value=np.nan)
    usable = np.isfinite(predicted) & (predicted > 0) & (truth > 0)
    truth = truth[usable]
    frame, predicted = frame[usable], predicted[usable]
    fitted = None if fitted is None else fitted[usable]
    if frame.empty:
        return None
    error = np.abs(predicted / truth - 1)
    unseen = ~fitted if fitted is not None else np.ones(len(frame), dtype=bool)
    return {
        "points": _points(frame, truth, predicted, fitted),
        "told_apart": fitted is not None,
        "rows": count(int(unseen.sum())),
        "mape": _mean_percent(error[unseen]),
        "median": percent(float(np.median(error[unseen]))) if unseen.any() else None,
        "mape_fitted": _mean_percent(error[~unseen]),
        "pairs": _pair_errors(frame, error, unseen),
    }


def _evaluated(material: Material) -> tuple[pd.DataFrame, Any, Any] | None:
    """Rows, predictions, membership, from the evaluation."""
    import numpy as np

    saved = (material.evaluation or {}).get("predictions") or {}
    if not saved.get("task_id") or not saved.get("fitted"):
        return None
    place = {task_id: i for i, task_id in enumerate(saved["task_id"])}
    frame = valid_rows(material.frame)
    frame = frame[frame["task_id"].isin(list(place))]
    order = [place[task_id] for task_id in frame["task_id"]]
    predicted = np.array([v if v is not None else np.nan for v in saved["predicted"]])
    return frame, predicted[order], np.array(saved["fitted"], dtype=bool)[order]


def _predicted(material: Material) -> tuple[pd.DataFrame, Any, Any] | None:
    """Rows that the fit covers and what it says about them."""
    import numpy as np

    if material.law is None:
        return None
    known = {(pair.model_id, pair.hardware) for pair in material.law.pairs}
    frame = valid_rows(material.frame)
    frame = frame[[key in known for key in zip(frame["model_id"], frame["hardware"], strict=True)]]
    try:
        predicted = np.asarray(material.law.predict(frame), dtype=np.float64)
    except EnergyLensError:
        return None
    return frame, predicted, None


def _mean_percent(errors: Any) -> str | None:
    return percent(float(errors.mean())) if len(errors) else None


def _points(frame: pd.DataFrame, truth: Any, predicted: Any, fitted: Any) -> dict[str, list[Any]]:
    import numpy as np

    keep = np.unique(np.linspace(0, len(frame) - 1, min(MOST_POINTS, len(frame))).astype(int))
    shown = frame.iloc[keep]
    return {
        "measured": [short(v) for v in truth[keep]],
        "predicted": [short(v) for v in predicted[keep]],
        "fitted": [bool(v) for v in fitted[keep]] if fitted is not None else [],
        "label": [
            f"{row['model_id']} on {row['hardware']}<br>{layout(row)}, {workload(row)}"
            for row in records(shown)
        ],
    }


def _pair_errors(frame: pd.DataFrame, error: Any, unseen: Any) -> dict[str, Any]:
    held = frame.assign(error=error)[unseen]
    table = held.groupby(["model_id", "hardware"])["error"].mean().unstack()
    return {
        "hardware": [str(name) for name in table.columns],
        "rows": [
            {
                "model": str(model),
                "cells": [None if math.isnan(v) else float(v) for v in values],
            }
            for model, values in zip(table.index, table.to_numpy(), strict=True)
        ],
    }
