"""Sentences and labels about a comparison, for the terminal and the page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from energylens.comparison.metrics import METRICS
from energylens.units import NOTHING, percent

if TYPE_CHECKING:
    import pandas as pd

    from energylens.comparison.result import Comparison, Finding

KINDS = {
    "failed": "failed tonight",
    "flagged": "flagged tonight",
    "missing": "missing tonight",
    "new": "new tonight",
    "recovered": "flagged last night only",
    "never": "flagged both nights",
}
"""Why a task is not compared, most urgent first."""

COLUMNS = {"model_id": "model", "engine_version": "engine", "gpu": "GPU"}
SHORT = 12


def signed(change: float | None) -> str:
    """Write a change as a percentage with its sign: `+5.1 %`."""
    if change is None or not math.isfinite(change):
        return NOTHING
    text = f"{100 * change:+.1f}"
    return f"{'0.0' if float(text) == 0 else text} %"


def interval_text(lo: float, hi: float) -> str:
    """Write an interval of changes with one unit: `+3.9 to +6.3 %`."""
    if not (math.isfinite(lo) and math.isfinite(hi)):
        return NOTHING
    return f"{signed(lo).removesuffix(' %')} to {signed(hi)}"


def card_name(uuid: str) -> str:
    """Shorten a UUID to what tells GPUs apart."""
    return uuid[:SHORT]


def finding_name(finding: Finding) -> str:
    """Name a group or a GPU as a person would."""
    if finding.kind == "gpu":
        return f"{card_name(finding.name)} against its peers, {finding.note}"
    if finding.kind == "sentinel gpu":
        return f"sentinel of {card_name(finding.name)}, {finding.note}"
    if finding.kind.startswith("sentinel "):
        return f"{finding.kind} {finding.name}, {finding.note}"
    return f"{COLUMNS.get(finding.kind, finding.kind)} {finding.name}"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a table of changes: the metric that changed most, and which others did."""

    name: str
    metric: str
    change: float
    lo: float
    hi: float
    pairs: int
    also: str


def finding_lines(findings: Sequence[Finding]) -> list[Line]:
    """Put the metrics of a group into one line, and groups of the same pairs too."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.kind, finding.name), []).append(finding)
    alike: dict[tuple[object, ...], list[list[Finding]]] = {}
    for own in groups.values():
        same = tuple((f.metric, f.change, f.rows) for f in own)
        alike.setdefault(same, []).append(own)
    return [
        Line(
            "; ".join(finding_name(own[0]) for own in same),
            same[0][0].metric,
            same[0][0].change,
            same[0][0].lo,
            same[0][0].hi,
            same[0][0].rows,
            also((f.metric, f.change) for f in same[0][1:]),
        )
        for same in alike.values()
    ]


def configuration_lines(frame: pd.DataFrame) -> list[Line]:
    """Put the metrics of a configuration into one line."""
    lines = []
    for _, own in frame.groupby("task_id", sort=False):
        row = own.iloc[0]
        others = zip(own["metric"].iloc[1:], own["change"].iloc[1:], strict=True)
        name = f"{row['model_id']} {row['layout']}, {row['workload']}{swapped(row['moved'])}"
        change, lo, hi = (float(row[key]) for key in ("change", "lo", "hi"))
        lines.append(Line(name, str(row["metric"]), change, lo, hi, 1, also(others)))
    return lines


def also(others: Iterable[tuple[str, float]]) -> str:
    """List the other metrics of a line."""
    text = ", ".join(f"{metric} {signed(change)}" for metric, change in others)
    return f"also {text}" if text else ""


def swapped(moved: bool) -> str:
    """Say that a task ran on another GPU than last night."""
    return " (other GPU)" if moved else ""


def cause_text(cause: str) -> str:
    """Name the finding that a change is part of."""
    kind, _, name = cause.partition(" ")
    if kind == "gpu":
        return card_name(name)
    return f"{COLUMNS.get(kind, kind)} {name}" if name else cause


def headline(result: Comparison) -> str:
    """Say the verdict in one line."""
    options = result.options
    limit = f"at least {percent(options.min_change)}, false discoveries {percent(options.rate)}"
    for verdict, word in (("worse", "Regression"), ("better", "Improvement")):
        findings = result.findings(verdict)
        cards = len({f.name for f in findings if f.kind in ("gpu", "sentinel gpu")})
        hosts = sum(f.kind == "sentinel host" for f in findings)
        launches = sum(f.kind == "sentinel launch" for f in findings)
        configurations = result.configurations_of(verdict)["task_id"].nunique()
        named = {(f.kind, f.name) for f in findings}
        groups = sum(kind != "gpu" and not kind.startswith("sentinel ") for kind, _ in named)
        if named or configurations:
            parts = [
                _count(cards, "GPU"),
                _count(hosts, "host"),
                _count(launches, "sentinel"),
                _count(groups, "group"),
                _count(configurations, "configuration"),
            ]
            return f"{word}: {', '.join(p for p in parts if p)} {verdict} ({limit})"
    return f"No change ({limit})"


def overall(result: Comparison) -> str:
    """Write the median change of every metric with its interval."""
    parts = []
    for drift in result.drift:
        bounds = interval_text(drift.lo, drift.hi)
        text = f"{METRICS[drift.metric].text} {signed(drift.change)}"
        parts.append(text if bounds == NOTHING else f"{text} ({bounds})")
    return "; ".join(parts)


def cards_line(result: Comparison) -> str:
    """Say whether a GPU differs from its peers."""
    if result.cards_note:
        return result.cards_note
    counts = {v: [f for f in result.cards if f.verdict == v] for v in ("worse", "standing")}
    text = f"{len(result.cards)} compared with their peers"
    if counts["worse"]:
        text += f"; worse: {', '.join(card_name(f.name) for f in counts['worse'])}"
    for f in counts["standing"]:
        text += f"; {card_name(f.name)} {signed(f.change)}, as last night"
    return text if counts["worse"] or counts["standing"] else f"{text}, none stands out"


def level_line(result: Comparison) -> str:
    """Say how the sentinels changed between the nights; empty where none can be compared."""
    own = [f for f in result.levels if f.kind == "sentinel launch"]
    if not own:
        return ""
    worst = max(own, key=lambda f: abs(f.change))
    text = f"{len(own)} in the same place both nights, at most {signed(worst.change)}"
    worse = [f for f in result.levels if f.verdict == "worse"]
    names = {
        "sentinel gpu": "GPU {}",
        "sentinel host": "host {}",
    }
    named = [names[f.kind].format(f.name[:SHORT]) for f in worse if f.kind in names]
    return text + (f"; worse: {', '.join(named) or f'{len(worse)} of them'}" if worse else "")


def sentinel_line(result: Comparison) -> str:
    """Say how much the sentinels of both nights drifted, and how they changed in between."""
    between = level_line(result)
    parts = [between] if between else []
    for which, name in (("old", "last night"), ("new", "tonight")):
        own = [s for s in result.sentinels if s.night == which]
        known = [s.change for s in own if math.isfinite(s.change)]
        if not known:
            parts.append(f"{name} {'too few values' if own else 'none recorded'}")
            continue
        worst = max(known, key=abs)
        beyond = sum(s.significant for s in own)
        parts.append(
            f"{name} at most {signed(worst)} over a launch"
            + (f", {beyond} of {len(own)} launches drifted" if beyond else "")
        )
    return "; ".join(parts)


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}" if number else ""
