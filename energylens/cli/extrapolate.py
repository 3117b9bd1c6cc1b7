"""`extrapolate`: whether the laws of a run hold on what was not measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from energylens.cli.options import JsonOption, RunArgument, comma_list
from energylens.cli.output import console, print_json, provenance_line, table
from energylens.units import NOTHING, count, duration, percent

if TYPE_CHECKING:
    from rich.console import Console

HEADS: dict[str, str] = {
    "hardware": "each GPU type held out in turn",
    "batch": "larger batches than any fitted",
    "length": "longer inputs or outputs than any fitted",
    "precision": "each precision held out in turn",
    "task": "each task held out in turn",
    "model": "each model held out in turn, with its siblings",
    "family": "each family held out in turn, with siblings of its models",
    "modality": "each modality held out in turn, with siblings of its models",
}


def extrapolate(
    directory: RunArgument,
    hold_out: Annotated[
        str | None,
        typer.Option(
            metavar="KIND,...",
            help="What to hold out: hardware, batch, length, precision, task, model, family, "
            "modality. Default: all that the table has two of.",
            show_default=False,
        ),
    ] = None,
    rows: Annotated[
        str,
        typer.Option(
            metavar="K,...", help="Held-out rows to show, of each model and GPU type; 0: none."
        ),
    ] = "0,3,5,10,20",
    samples: Annotated[
        int, typer.Option(min=1, help="Training rows of each (model, hardware).")
    ] = 50,
    seeds: Annotated[int, typer.Option(min=1, help="Number of random draws.")] = 1,
    methods: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="Methods; default: all.", show_default=False),
    ] = None,
    rows_in_total: Annotated[
        bool, typer.Option("--rows-in-total", help="--rows counts over all models together.")
    ] = False,
    names: Annotated[
        bool, typer.Option("--names", help="Print each held-out name apart, for the law.")
    ] = False,
    max_mape: Annotated[
        float, typer.Option(min=0.0, help="Largest mean error of a law that holds, %.")
    ] = 10.0,
    min_top1: Annotated[
        float, typer.Option(min=0.0, max=100.0, help="Smallest Top-1 of a law that holds, %.")
    ] = 85.0,
    min_coverage: Annotated[
        float,
        typer.Option(
            min=0.0, max=100.0, help="Smallest share of rows within the 95 % interval, %."
        ),
    ] = 85.0,
    as_json: JsonOption = False,
) -> None:
    """Say whether laws hold on what they have not seen: hold out, fit on the rest, ask.

    The result is also written to DIR/extrapolation.json.
    """
    from energylens.extrapolation import extrapolate_run
    from fitting.extrapolation import Thresholds

    result = extrapolate_run(
        directory,
        hold_out=comma_list(hold_out) or None,
        rows=_whole_numbers(rows),
        samples=samples,
        seeds=seeds,
        methods=comma_list(methods) or None,
        rows_in_total=rows_in_total,
        thresholds=Thresholds(max_mape / 100.0, min_top1 / 100.0, min_coverage / 100.0),
    )
    if as_json:
        print_json(result.to_dict())
    else:
        _print(result.to_dict(), result.saved_to, names)


def _whole_numbers(text: str) -> list[int]:
    """Split `0,3,20` into whole numbers."""
    from harness.errors import EnergyLensError

    parts = comma_list(text)
    bad = [part for part in parts if not part.isdecimal()]
    if bad or not parts:
        raise EnergyLensError(
            f"--rows takes whole numbers, not {bad[0] if bad else text!r}",
            where=f"--rows {text}",
            fix="write for example --rows 0,3,10",
        )
    return [int(part) for part in parts]


def _print(result: dict[str, Any], saved_to: Path | None, names: bool) -> None:
    out = console()
    out.print(provenance_line(result["provenance"]))
    limits = result["thresholds"]
    out.print(
        f"A law holds if MAPE is at most {percent(limits['mape'])}, Top-1 at least "
        f"{percent(limits['top1'])},\nand at least {percent(limits['coverage'])} of the rows lie "
        "within their 95 % interval."
    )
    records = result["table"]
    asked = dict.fromkeys((row["table"], row["hold_out"]) for row in records)
    several = len({name for name, _ in asked}) > 1
    for name, kind in asked:
        own = [row for row in records if row["table"] == name and row["hold_out"] == kind]
        verdicts = [v for v in result["verdicts"] if v["table"] == name and v["hold_out"] == kind]
        title = f"{kind}: {HEADS[kind]}" + (f" ({name} rows)" if several else "")
        _print_kind(out, title, own, verdicts, names)
    for note in result["notes"]:
        out.print(f"- {note}", markup=False)
    draws = "one draw" if result["seeds"] == 1 else f"{result['seeds']} draws"
    out.print(f"[dim]{draws}, computed in {duration(result['total_seconds'])}[/]")
    if saved_to is not None:
        out.print(f"Written: {saved_to}", markup=False)


def _print_kind(
    out: Console,
    title: str,
    records: list[dict[str, Any]],
    verdicts: list[dict[str, Any]],
    names: bool,
) -> None:
    """Print the table of one kind: the judged law with all rows, others with none and most."""
    overall = [row for row in records if row["left_out"] == "all"]
    lead = verdicts[0]["method"] if verdicts else overall[0]["method"]
    shown = sorted(
        (row for row in overall if row["method"] == lead or _at_an_end(row, overall)),
        key=lambda row: row["method"] != lead,
    )
    out.print()
    out.print(
        table(
            [("method", "<"), "rows", "MAPE", "Top-1", "interval", "regret", "covered"],
            [_cells(row) for row in shown],
            title=title,
            highlight=0,
        )
    )
    if names:
        apart = [row for row in records if row["left_out"] != "all" and row["method"] == lead]
        out.print(
            table(
                [("held out", "<"), "rows", "MAPE", "median", "Top-1", "regret", "covered"],
                [_name_cells(row) for row in apart],
                title=f"{lead}, each name",
            )
        )
    for verdict in verdicts:
        style = "green" if verdict["rows"] is not None else "yellow"
        mark = "" if verdict["method"] == lead else f"{verdict['method']}: "
        out.print(mark + verdict["sentence"], style=style, markup=False)


def _at_an_end(row: dict[str, Any], overall: list[dict[str, Any]]) -> bool:
    """Say whether a row has the fewest or the most rows that its method was asked with."""
    known = [other["rows"] for other in overall if other["method"] == row["method"]]
    return row["rows"] in (min(known), max(known))


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    known = row["top1_lo"] is not None
    span = f"{100 * row['top1_lo']:.0f} to {100 * row['top1_hi']:.0f} %" if known else NOTHING
    return (
        row["method"],
        count(row["rows"]),
        percent(row["mape"]),
        percent(row["top1"]),
        span,
        percent(row["mean_regret"]),
        percent(row["coverage"]),
    )


def _name_cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["left_out"],
        count(row["rows"]),
        percent(row["mape"]),
        percent(row["median_ape"]),
        percent(row["top1"]),
        percent(row["mean_regret"]),
        percent(row["coverage"]),
    )
