"""Rows of machines without a power meter: their times, and no joules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from energylens.report.rows import layout, records, whole, workload
from energylens.rowkinds import time_only
from energylens.units import count, duration, significant

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 60


def times(frame: pd.DataFrame) -> dict[str, Any] | None:
    """List the rows that have times and no energy, by model and workload.

    Returns
    -------
    dict or None
        The rows in words; None if every row has an energy, or a power meter that failed.
    """
    rows = frame[time_only(frame)]
    if rows.empty:
        return None
    keys = ["model_id", "hardware", "modality", "batch", "input_tokens", "output_tokens"]
    ordered = rows.sort_values(keys, kind="stable")
    return {
        "rows": count(len(rows)),
        "hardware": sorted(str(name) for name in rows["hardware"].dropna().unique()),
        "more": max(0, len(rows) - MOST_ROWS),
        "table": [_row(row) for row in records(ordered.head(MOST_ROWS))],
    }


def _row(row: dict[str, Any]) -> dict[str, Any]:
    total_s = row["total_latency_s"]
    generated = row["output_tokens"]
    rate = None if generated is None else whole(row["batch"]) * generated / total_s
    modality = "" if row["modality"] in ("text", None) else f", {row['modality']}"
    return {
        "model": str(row["model_id"]),
        "sub": f"{row['hardware']}, {layout(row)}",
        "workload": workload(row) + modality,
        "first": duration(row["ttft_s"]),
        "each": duration(row["itl_s"]),
        "total": duration(total_s),
        "rate": significant(rate),
    }
