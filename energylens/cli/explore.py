"""`report` and `query`: look at a run as a page, or with SQL."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from energylens.cli.options import JsonOption, RunArgument
from energylens.cli.output import console, print_json, table
from energylens.units import NOTHING, significant

if TYPE_CHECKING:
    import pandas as pd

GAP = 3
"""Characters between two columns of a table."""

FOLDED = 16
"""Characters that a folded column of text keeps."""


def report(
    directory: RunArgument,
    out: Annotated[
        Path | None,
        typer.Option(metavar="HTML", help="Default: DIR/report.html.", show_default=False),
    ] = None,
    fit: Annotated[
        Path | None,
        typer.Option(
            metavar="FIT", help="Default: DIR/fit.json, else fitted now.", show_default=False
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write one self-contained HTML page that opens offline.

    Takes DIR/fit.json and DIR/evaluation.json where they belong to the measurements,
    and computes them where they do not.
    """
    from energylens.report import write_report

    written = write_report(directory, out=out, fit_path=fit)
    if as_json:
        print_json(written)
    else:
        line = console()
        line.print(f"Written: {written.path} ({written.size_bytes / 1e6:.1f} MB)", markup=False)
        line.print(f"[dim]{written.fit_source}; {written.evaluation_source}[/]")


def query(
    directory: RunArgument,
    sql: Annotated[
        str, typer.Argument(metavar="SQL", help="DuckDB SQL over measurements, traces, events.")
    ],
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Rows printed as a table.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """Ask SQL of the measurements and traces of a run."""
    from harness.store import query as ask

    frame = ask(directory, sql)
    if as_json:
        print_json(frame)
    elif as_csv:
        frame.to_csv(sys.stdout, index=False)
    else:
        _print_frame(frame, limit)


def _print_frame(frame: pd.DataFrame, limit: int) -> None:
    from pandas.api.types import is_numeric_dtype

    numeric = [is_numeric_dtype(frame[name]) for name in frame.columns]
    heads: list[str | tuple[str, str]] = [
        str(name) if number else (str(name), "<")
        for name, number in zip(frame.columns, numeric, strict=True)
    ]
    rows = [[_cell(value) for value in row] for row in frame.head(limit).itertuples(index=False)]
    out = console()
    if not rows:
        out.print(f"No rows. Columns: {', '.join(map(str, frame.columns))}", markup=False)
    elif _width(heads, rows) <= out.width:
        out.print(table(heads, rows))
    else:  # too many columns for a line: one below the other, row by row
        for number, row in enumerate(rows, start=1):
            pairs = zip((str(name) for name in frame.columns), row, strict=True)
            out.print(table([("column", "|"), (f"row {number}", "<")], pairs))
    if len(frame) > limit:
        out.print(f"[dim]{limit} of {len(frame)} rows; all of them: --csv or --json[/]")


def _width(heads: list[str | tuple[str, str]], rows: list[list[str]]) -> int:
    """Return the characters that a table needs; text may fold, but not below `FOLDED`."""
    total = 0
    for index, head in enumerate(heads):
        name = head if isinstance(head, str) else head[0]
        longest = max(len(name), *(len(row[index]) for row in rows))
        total += GAP + (longest if isinstance(head, str) else min(longest, FOLDED))
    return total


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return significant(value, 4)
    return NOTHING if value is None else str(value)
