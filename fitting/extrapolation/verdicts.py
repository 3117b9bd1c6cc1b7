"""From figures to words: holds, holds with k rows, does not hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

HOLDS, FAILS = "holds", "does not hold"

NAMED = 3
"""Names that a sentence lists at most."""

LABELS = {
    "mape": "error",
    "top1": "choice",
    "coverage": "interval",
    "answered": "rows answered",
}
"""What is judged, for people."""

SUBJECTS = {
    "hardware": "New GPU type",
    "batch": "Larger batch",
    "length": "Longer input or output",
    "precision": "New precision",
    "task": "New task",
    "model": "New model",
    "family": "New model family",
    "modality": "New modality",
}


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What a law must reach on rows it has not seen, to be said to hold.

    Attributes
    ----------
    mape
        Largest mean absolute relative error. 10 % is about what separates neighbouring
        configurations, and the spread between GPUs of one type.
    top1
        Smallest share of scenarios in which the law picks the best, or one not told from it.
    coverage
        Smallest share of rows within their 95 % prediction interval: below 85 % the law does not
        know how wrong it is.
    answered
        Smallest share of the held-out rows that the law says anything about.
    """

    mape: float = 0.10
    top1: float = 0.85
    coverage: float = 0.85
    answered: float = 0.95

    def missed(self, record: dict[str, Any]) -> list[str]:
        """Return the names of the figures that do not reach their threshold.

        A share that does not exist, because nothing can be chosen or a method gives no interval,
        is not judged; an error that does not exist is a failure.
        """
        found = [] if record["mape"] <= self.mape else ["mape"]
        found += [
            name for name in ("top1", "coverage", "answered") if record[name] < getattr(self, name)
        ]
        return found

    def passed(self, record: dict[str, Any]) -> bool:
        """Say whether figures reach the thresholds."""
        return not self.missed(record)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What can be said of one law and one kind of hold-out.

    Attributes
    ----------
    table, hold_out, method
        What was asked.
    verdict
        `holds`, `holds with k rows` or `does not hold`.
    rows
        Fewest rows from which on it holds; None if it does not.
    figures
        Figures at those rows, or at the most rows tried.
    failing
        Names that do not reach the thresholds at those rows.
    sentence
        All of it in one sentence.
    """

    table: str
    hold_out: str
    method: str
    verdict: str
    rows: int | None
    figures: dict[str, Any]
    failing: tuple[str, ...]
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def enough_rows(records: Sequence[dict[str, Any]], thresholds: Thresholds) -> int | None:
    """Return the fewest rows from which on every larger number passes too; None if none does."""
    found = None
    for record in sorted(records, key=lambda r: -r["rows"]):
        if not thresholds.passed(record):
            break
        found = int(record["rows"])
    return found


def words(rows: int | None) -> str:
    """Return the verdict for a number of rows."""
    if rows is None:
        return FAILS
    return HOLDS if rows == 0 else f"holds with {rows} rows"


def verdict(
    records: Sequence[dict[str, Any]],
    by_name: Sequence[dict[str, Any]],
    thresholds: Thresholds,
    *,
    in_total: bool,
) -> Verdict:
    """Return the verdict on one law and one kind.

    Parameters
    ----------
    records
        Figures over all names, one a number of rows; not empty.
    by_name
        Figures of each name, for the same law and kind.
    thresholds
        What must be reached.
    in_total
        Whether rows count over all models, to say so.
    """
    rows = enough_rows(records, thresholds)
    most = max(int(r["rows"]) for r in records)
    at = most if rows is None else rows
    figures = next(r for r in records if r["rows"] == at)
    failing = tuple(
        str(r["left_out"]) for r in by_name if r["rows"] == at and not thresholds.passed(r)
    )
    unit = "in all" if in_total else "of each model and GPU type"
    text = words(rows) + (f" {unit}" if rows else "")
    shown = f"with {at} rows {unit}: " if rows is None and at else ""
    sentence = f"{SUBJECTS[figures['hold_out']]}: {text} ({shown}{_figures(figures)})"
    if rows is None:
        reasons = thresholds.missed(figures)
        sentence += f"; too far off: {', '.join(LABELS[r] for r in reasons)}" if reasons else ""
    if failing and len(failing) < len({r["left_out"] for r in by_name}):
        missing = [
            _why(r, thresholds) for r in by_name if r["left_out"] in failing and r["rows"] == at
        ]
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        sentence += f"; not on {', '.join(missing[:NAMED])}{more}"
    return Verdict(
        table=str(figures["table"]),
        hold_out=str(figures["hold_out"]),
        method=str(figures["method"]),
        verdict=words(rows),
        rows=rows,
        figures=dict(figures),
        failing=failing,
        sentence=sentence + ".",
    )


def _why(record: dict[str, Any], thresholds: Thresholds) -> str:
    """Return a name with the figures that it misses."""
    known = _parts(record)
    missed = [known[name] for name in thresholds.missed(record) if name in known]
    return f"{record['left_out']} ({', '.join(missed)})" if missed else str(record["left_out"])


def _figures(record: dict[str, Any]) -> str:
    parts = _parts(record)
    return ", ".join(parts[name] for name in ("mape", "top1", "coverage") if name in parts)


def _parts(record: dict[str, Any]) -> dict[str, str]:
    """Return the figures that exist, in words."""
    known = {name: record[name] for name in LABELS if not math.isnan(record[name])}
    texts = {
        "mape": "{:.1f} % MAPE",
        "top1": "Top-1 {:.0f} %",
        "coverage": "{:.0f} % within the interval",
        "answered": "{:.0f} % of the rows answered",
    }
    return {name: texts[name].format(100 * value) for name, value in known.items()}
