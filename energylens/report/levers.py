"""Where latency and energy choose differently, and which levers backfire, in the report."""

from __future__ import annotations

from typing import Any

from energylens.report.ranking import hundred
from energylens.units import NOTHING, count, percent, significant

_FREE = {
    "fixed": "layout, at a number of GPUs",
    "all_free": "layout and number of GPUs",
    "batch_free": "layout, number of GPUs and batch, per output token",
}
_PLACES = {"num_gpus": "GPUs", "batch": "Batch", "hardware": "GPU type", "modality": "Modality"}


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
                "point": hundred(row.get("share")),
                "mean": percent(row.get("mean_penalty")),
                "max": percent(row.get("max_penalty")),
            }
            for row in families
        ],
        "free": [
            {
                "choice": text,
                "share": percent(part["share"]),
                "mean": percent(part["mean_penalty"]),
                "max": percent(part["max_penalty"]),
                "scenarios": count(part.get("scenarios")),
            }
            for key, text in _FREE.items()
            if (part := split if key == "fixed" else split.get(key))
            and part.get("share") is not None
        ],
        "places": _places(split.get("by") or []),
    }


def _places(by: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write where latency and energy choose differently, beside the family."""
    return [
        {
            "kind": _PLACES[row["kind"]],
            "group": str(row["group"]),
            "scenarios": count(row["scenarios"]),
            "share": percent(row["share"]),
            "point": hundred(row["share"]),
            "mean": percent(row["mean_penalty"]),
            "max": percent(row["max_penalty"]),
        }
        for row in by
        if row["kind"] in _PLACES
    ]


def levers(evaluation: dict[str, Any]) -> list[dict[str, str]]:
    """Write which levers cost energy instead of saving it, and where."""
    return [
        {
            "lever": lever["lever"],
            "meaning": lever["meaning"],
            "cases": count(lever["cases"]),
            "share": percent(lever["share_backfires"]),
            "point": str(hundred(lever["share_backfires"])),
            "mean": percent(lever["mean_change"]),
            "worst": percent(lever["worst_change"]),
            "prefill": significant(lever["mean_prefill_ratio"]),
            "where": lever["where"] or NOTHING,
        }
        for lever in evaluation.get("levers") or []
    ]
