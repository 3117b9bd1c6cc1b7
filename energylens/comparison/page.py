"""One self-contained HTML page of a comparison; it looks like the report of a run."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from energylens.comparison import words
from energylens.comparison.metrics import METRICS
from energylens.htmlpage import fill, write
from energylens.report.facts import PROVENANCE, PROVENANCE_TEXT
from energylens.units import count, duration, energy, percent
from harness.measuring.reasons import REASONS

if TYPE_CHECKING:
    from energylens.comparison.result import Comparison

HERE = Path(__file__).parent
REPORT = HERE.parent / "report"
MOST = 200
SCALES = (0.05, 0.1, 0.2, 0.5, 1.0)


def write_page(result: Comparison, path: Path) -> Path:
    """Write the page of a comparison.

    Raises
    ------
    StoreError
        When it cannot be written.
    """
    write(render(result), path, what="page", option="--html")
    return path


def render(result: Comparison) -> str:
    """Return the page as HTML text."""
    from markupsafe import Markup

    style = Markup((REPORT / "report.css").read_text(encoding="utf-8"))
    return fill(HERE / "page.html", **sections(result), style=style)


def sections(result: Comparison) -> dict[str, Any]:
    """Compute every section as plain values."""
    scale = _scale(result)
    configurations = _configurations(result, scale)
    return {
        "result": result,
        "headline": words.headline(result),
        "badge": (result.provenance, PROVENANCE.get(result.provenance, result.provenance)),
        "origin": f"{count(result.pairs)} tasks in both runs, "
        + PROVENANCE_TEXT.get(result.provenance, "origin not stated"),
        "judged": [METRICS[name].text for name in result.judged],
        "scale": percent(scale),
        "drift": [
            {
                "name": METRICS[d.metric].text,
                "judged": d.metric in result.judged,
                "rows": count(d.rows),
                **_point(d.change, d.lo, d.hi, scale, "same"),
            }
            for d in result.drift
        ],
        "groups": [
            {
                "name": words.finding_name(f),
                "metric": METRICS[f.metric].text,
                "rows": count(f.rows),
                "launches": count(f.launches),
                **_point(f.change, f.lo, f.hi, scale, f.verdict),
            }
            for f in _worst_first([f for f in result.groups if f.metric in result.judged])
        ][:MOST],
        "cards": [
            {
                "name": words.card_name(f.name),
                "uuid": f.name,
                "note": f.note,
                "rows": count(f.rows),
                "launches": count(f.launches),
                **_point(f.change, f.lo, f.hi, scale, f.verdict),
            }
            for f in _worst_first(list(result.cards))
        ][:MOST],
        "levels": [
            {
                "name": words.finding_name(f),
                "launches": count(f.launches),
                **_point(f.change, f.lo, f.hi, scale, f.verdict),
            }
            for f in _worst_first(list(result.levels))
        ][:MOST],
        "changed": [row for row in configurations if row["verdict"] in ("worse", "better")],
        "unchanged": [row for row in configurations if row["verdict"] in ("same", "unknown")],
        "more": max(0, int(result.configurations["task_id"].nunique()) - MOST),
        "metrics": _shown(result),
        "unpaired": [
            {"kind": words.KINDS[one.kind], "row": one, "reasons": _reasons(one.reasons)}
            for one in sorted(result.unpaired, key=lambda one: list(words.KINDS).index(one.kind))
        ][:MOST],
        "more_unpaired": max(0, len(result.unpaired) - MOST),
        "sentinels": [
            {
                "night": "tonight" if s.night == "new" else "last night",
                "sentinel": s,
                "change": words.signed(s.change),
                "error": percent(s.stderr),
            }
            for s in sorted(result.sentinels, key=lambda s: -abs(s.change or 0.0))
        ][:MOST],
        "sentinel_line": words.sentinel_line(result),
        "cards_line": words.cards_line(result),
        "inflation": {
            METRICS[name].text: f"{factor:.1f}"
            for name, factor in result.inflation.items()
            if factor >= 1.05 and METRICS[name].kind == "energy"
        },
        "min_change": percent(result.options.min_change),
        "rate": percent(result.options.rate),
    }


def _shown(result: Comparison) -> list[str]:
    """Metrics of the large table: the judged ones first."""
    there = dict.fromkeys(result.configurations["metric"])
    return [*result.judged, *(name for name in there if name not in result.judged)]


def _configurations(result: Comparison, scale: float) -> list[dict[str, Any]]:
    """One row a task: judged changes worst first, all metrics beside each other."""
    frame = result.configurations
    order = {"worse": 0, "better": 1, "same": 2, "unknown": 3}
    judged = frame[frame["metric"].isin(result.judged)].copy()
    judged["rank"] = judged["verdict"].map(order)
    judged["size"] = judged["change"].abs()
    judged = judged.sort_values(["rank", "size"], ascending=[True, False], kind="stable")
    top = judged.drop_duplicates("task_id").head(MOST)
    every: dict[str, dict[str, tuple[float, str]]] = {}
    for task_id, metric, change, verdict in zip(
        frame["task_id"], frame["metric"], frame["change"], frame["verdict"], strict=True
    ):
        every.setdefault(task_id, {})[metric] = (change, verdict)
    return [
        {
            "name": row["model_id"],
            "sub": f"{row['hardware']}, {row['layout']}, {row['workload']}"
            + words.swapped(row["moved"]),
            "verdict": row["verdict"],
            "cause": words.cause_text(row["cause"]),
            "cells": _cells(every[row["task_id"]], _shown(result)),
            "amounts": _values(row),
            **_point(row["change"], row["lo"], row["hi"], scale, row["verdict"]),
        }
        for row in top.to_dict("records")
    ]


def _cells(own: dict[str, tuple[float, str]], names: list[str]) -> list[dict[str, str]]:
    cells = [own.get(name, (float("nan"), "unknown")) for name in names]
    return [{"text": words.signed(change), "verdict": verdict} for change, verdict in cells]


def _values(row: dict[Hashable, Any]) -> str:
    metric = METRICS[row["metric"]]
    write = energy if metric.kind == "energy" else duration
    return f"{metric.text} {write(row['old'])}, now {write(row['new'])}"


def _worst_first(findings: list[Any]) -> list[Any]:
    order = {"worse": 0, "standing": 1, "better": 2, "same": 3, "unknown": 4}
    return sorted(findings, key=lambda f: (order[f.verdict], -abs(f.change)))


def _scale(result: Comparison) -> float:
    """Half width of the plots: the smallest that holds most changes."""
    frame = result.configurations
    judged = frame.loc[frame["metric"].isin(result.judged), "change"].abs()
    largest = max([float(judged.max()), *(abs(f.change) for f in result.findings("worse"))])
    return next((s for s in SCALES if largest <= 0.9 * s), SCALES[-1])


def _point(change: float, lo: float, hi: float, scale: float, verdict: str) -> dict[str, Any]:
    """Place a change and its interval on a scale from 0 to 100, where 50 is no change."""

    def place(value: float) -> float:
        return round(min(100.0, max(0.0, 50 + 50 * value / scale)), 2)

    known = lo == lo and hi == hi
    return {
        "verdict": verdict,
        "change": words.signed(change),
        "interval": words.interval_text(lo, hi),
        "at": place(change),
        "lo": place(lo) if known else place(change),
        "hi": place(hi) if known else place(change),
    }


def _reasons(codes: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(code, REASONS[code].text if code in REASONS else "") for code in codes]
