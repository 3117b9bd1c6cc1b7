"""What commands print: pure JSON for programs, 80-column tables for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from energylens.plain import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PROVENANCE_TEXT = {
    "measured": "measured with a power sensor",
    "projected": "projected by the twin engine, no power sensor involved",
    "imported": "imported, measured by somebody else",
}
_PROVENANCE_STYLE = {"measured": "green", "projected": "yellow", "imported": "cyan"}


def print_json(value: Any) -> None:
    """Print one JSON document on standard output and nothing else."""
    print(json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def console() -> Console:
    """Return a console on standard output that never breaks our own line layout."""
    from rich.console import Console

    return Console(highlight=False)


def table(
    columns: Sequence[str | tuple[str, str]],
    rows: Iterable[Sequence[object]],
    *,
    title: str | None = None,
    highlight: int | None = None,
) -> Table:
    """Build a table that stays readable at 80 columns.

    Parameters
    ----------
    columns
        Column heads. A head given as `(head, "<")` holds text: left-aligned and folded
        where there is no room; `(head, "|")` holds a name that is never folded. A plain head
        holds numbers: right-aligned, never folded.
    rows
        Cells; they are written with `str`.
    title
        A line above the table.
    highlight
        Index of a row to print in bold.
    """
    from rich import box
    from rich.table import Table

    result = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1),
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="dim",
    )
    for column in columns:
        if isinstance(column, tuple):
            result.add_column(column[0], justify="left", overflow="fold", no_wrap=column[1] == "|")
        else:
            result.add_column(column, justify="right", no_wrap=True, overflow="fold")
    for index, row in enumerate(rows):
        result.add_row(
            *(_escape(str(cell)) for cell in row), style="bold" if index == highlight else None
        )
    return result


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def provenance_line(provenances: Mapping[str, int] | Sequence[str]) -> str:
    """Return rich markup that says where the numbers come from, in every table's company."""
    names = list(provenances) or ["unknown"]
    parts = []
    for name in names:
        style = _PROVENANCE_STYLE.get(name, "red")
        count = f" {provenances[name]:,}" if isinstance(provenances, Mapping) else ""
        parts.append(
            f"[{style}]{name}[/]{count} ({PROVENANCE_TEXT.get(name, 'origin not stated')})"
        )
    return "Data: " + "; ".join(parts)
