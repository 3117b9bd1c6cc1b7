"""Hold out, fit, ask, judge: the loop over kinds, names, methods and numbers of rows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fitting.extrapolation.asking import Asked
from fitting.extrapolation.splits import KINDS
from fitting.extrapolation.tables import TABLES
from fitting.extrapolation.verdicts import Thresholds, Verdict
from fitting.facts import Facts
from harness.store import FitError

if TYPE_CHECKING:
    import pandas as pd

BUDGETS = (0, 3, 5, 10, 20)
"""Rows of what was held out that a law is shown, unless others are asked for."""

COLUMNS = (
    "table",
    "hold_out",
    "left_out",
    "method",
    "rows",
    "n",
    "answered",
    "scenarios",
    "mape",
    "mape_lo",
    "mape_hi",
    "median_ape",
    "top1",
    "top1_lo",
    "top1_hi",
    "mean_regret",
    "coverage",
    "passed",
    "verdict",
)


@dataclass(frozen=True, slots=True)
class Extrapolation:
    """How far laws carry.

    Attributes
    ----------
    table
        One row a name, method and number of rows, and one for all names together (`left_out` is
        `all`); see `COLUMNS`. Shares and errors are fractions. `n` counts held-out rows that were
        not shown, `answered` is the share of them that the method can say anything about,
        `scenarios` the choices among held-out rows; `passed` says whether the
        thresholds are reached with these rows, `verdict` with how many.
    verdicts
        One a kind and law of this project, the law that the kind is judged by first.
    notes
        What a reader must know.
    seconds
        Kind -> time it took, s.
    """

    table: pd.DataFrame
    verdicts: list[Verdict]
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, NaN as None."""
        known = self.table.astype(object).where(self.table.notna(), None)
        return {
            "table": known.to_dict(orient="records"),
            "verdicts": [_plain(v.to_dict()) for v in self.verdicts],
            "notes": self.notes,
            "seconds": self.seconds,
        }


def extrapolate(
    frame: pd.DataFrame,
    facts: Facts | None = None,
    *,
    hold_out: Sequence[str] | None = None,
    rows: Sequence[int] = BUDGETS,
    samples: int = 50,
    seeds: Sequence[int] = (0,),
    methods: Sequence[str] | None = None,
    rows_in_total: bool = False,
    thresholds: Thresholds | None = None,
) -> Extrapolation:
    """Hold names out of a table, fit on the rest, and ask for what was held out.

    Parameters
    ----------
    frame
        Rows of the measurement table.
    facts
        Datasheets and architectures; laws then estimate from the columns of the rows.
    hold_out
        Kinds, out of `KINDS`; None for all that the table can answer.
    rows
        Numbers of held-out rows to show, of each (model, hardware); 0 is zero-shot.
    samples
        Training rows drawn from each (model, hardware).
    seeds
        Seeds of the draws; errors and choices of all of them count alike.
    methods
        Names of methods; None for all.
    rows_in_total
        Whether `rows` count over all of what is held out.
    thresholds
        What a law must reach to hold.

    Raises
    ------
    FitError
        If a kind or method is unknown, a kind that was asked for has nothing to hold out, or
        rows are too few.
    """
    for option, given in (("hold_out", hold_out), ("rows", rows), ("seeds", seeds)):
        if given is not None and not len(given):
            raise FitError(f"No {option} given.", where=option, fix="Give at least one.")
    for kind in hold_out or ():
        if kind not in KINDS:
            raise FitError(
                f"Unknown kind {kind!r}.", where="hold_out", fix=f"Use {', '.join(KINDS)}."
            )
    every = dict.fromkeys(m for t in TABLES for kind in t.kinds for m in t.methods(kind))
    for name in methods or ():
        if name not in every:
            raise FitError(f"Unknown method {name!r}.", fix=f"Use {', '.join(every)}.")
    if samples < 1 or min(rows) < 0:
        raise FitError(
            "samples are at least 1 and rows at least 0.", where=f"samples {samples}, rows {rows}"
        )
    asked = Asked(
        facts or Facts(),
        tuple(sorted(set(rows))),
        samples,
        tuple(seeds),
        None if methods is None else tuple(methods),
        rows_in_total,
        thresholds or Thresholds(),
    )
    found = [(table, table.rows(frame).reset_index(drop=True)) for table in TABLES]
    found = [(table, part) for table, part in found if len(part)]
    if not found:
        raise FitError(
            "No row can be used.",
            where="rows need a positive energy, a batch and lengths; or an energy per output "
            "token; or diffusion steps",
            fix="Check the columns and `valid` with `energylens query DIR`.",
        )
    records: list[dict[str, Any]] = []
    verdicts: list[Verdict] = []
    notes: list[str] = []
    seconds: dict[str, float] = {}
    for table, part in found:
        for kind in KINDS if hold_out is None else dict.fromkeys(hold_out):
            if kind not in table.kinds:
                if hold_out is not None and len(found) == 1:
                    raise FitError(
                        f"{kind} cannot be held out of {table.about}.",
                        fix=f"Hold out some of {', '.join(table.kinds)}.",
                    )
                continue
            started = time.perf_counter()
            try:
                one = asked.kind(table, part, kind)
            except FitError as error:
                if hold_out is not None and len(found) == 1:
                    raise
                notes.append(f"{table.name}, {kind}: {error.what}")
                continue
            records += one.records
            verdicts += one.verdicts
            notes += one.notes
            seconds[f"{table.name}/{kind}"] = time.perf_counter() - started
    if not records:
        raise FitError(
            "Nothing can be held out of this table.",
            where=" ".join(notes),
            fix="Measure a second value of something, on more rows.",
        )
    import pandas as pd

    return Extrapolation(
        pd.DataFrame(records, columns=list(COLUMNS)), verdicts, list(dict.fromkeys(notes)), seconds
    )


def _plain(value: Any) -> Any:
    """Return NaN as None, all the way down."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value
