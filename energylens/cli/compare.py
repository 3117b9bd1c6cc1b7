"""`compare`: what changed between two runs of the same work; exit code 1 where it got worse."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from energylens.cli.options import JsonOption, comma_list
from energylens.cli.output import console, print_json, provenance_line, table
from energylens.units import NOTHING

if TYPE_CHECKING:
    from rich.console import Console

    from energylens.comparison.result import Comparison

WORSE = 8
BETTER = 4
PLAIN = {"regression": "bold red", "improvement": "bold green", "no change": "bold"}


def compare(
    old: Annotated[
        Path, typer.Argument(metavar="OLD", help="Run folder of last night.", show_default=False)
    ],
    new: Annotated[
        Path, typer.Argument(metavar="NEW", help="Run folder of tonight.", show_default=False)
    ],
    min_change: Annotated[float, typer.Option(help="Smallest change of interest, %.")] = 3.0,
    rate: Annotated[
        float,
        typer.Option(
            help="Bound on false discoveries, and on a regression where nothing changed, %."
        ),
    ] = 5.0,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="What is judged: total, prefill, decode (energies), latency, ttft, itl. "
            "Default: the energies; latency where no energy is known.",
            show_default=False,
        ),
    ] = None,
    group: Annotated[
        str,
        typer.Option(metavar="COLUMN,...", help="Columns to group by."),
    ] = "model_id,hardware,engine_version",
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write a page.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what changed between two runs of the same work; exit code 1 if it got worse."""
    from energylens.cli.group import EXIT_NO
    from energylens.comparison import Options, compare_runs

    options = Options(
        min_change=min_change / 100.0,
        rate=rate / 100.0,
        metrics=tuple(comma_list(metric)) or None,
        groups=tuple(comma_list(group)),
    )
    result = compare_runs(old, new, options)
    if html is not None:
        from energylens.comparison.page import write_page

        write_page(result, html)
    if as_json:
        print_json(result)
    else:
        _print(console(), result, html)
    if result.verdict == "regression":
        raise typer.Exit(EXIT_NO)


def _print(out: Console, result: Comparison, html: Path | None) -> None:
    from energylens.comparison.words import headline, overall

    out.print(f"{result.old.name} -> {result.new.name}", markup=False)
    out.print(provenance_line({result.provenance: result.pairs}))
    out.print(f"Hardware: {', '.join(result.hardware)}", markup=False)
    out.print(f"[{PLAIN[result.verdict]}]{headline(result)}[/]")
    out.print(f"Median change: {overall(result)}", markup=False)
    _print_changes(out, result, "worse", WORSE)
    _print_changes(out, result, "better", BETTER)
    _print_rest(out, result)
    if html is not None:
        out.print(f"Written: {html}", markup=False)


def _print_changes(out: Console, result: Comparison, verdict: str, most: int) -> None:
    """Print GPUs, groups and the configurations that they do not explain, worst first."""
    from energylens.comparison.words import (
        configuration_lines,
        finding_lines,
        interval_text,
        signed,
    )

    configurations = result.configurations_of(verdict)
    alone = configurations[configurations["cause"] == "alone"]
    lines = finding_lines(result.findings(verdict)) + configuration_lines(alone)
    heads: list[str | tuple[str, str]] = [
        (verdict.capitalize(), "<"), ("metric", "|"), "change", ("95 % interval", "|"), "pairs",
    ]  # fmt: skip
    rows = [
        (
            f"{line.name}; {line.also}" if line.also else line.name,
            line.metric,
            signed(line.change),
            interval_text(line.lo, line.hi),
            line.pairs,
        )
        for line in lines[:most]
    ]
    if rows:
        out.print(table(heads, rows))
    if len(lines) > most:
        out.print(f"[dim]and {len(lines) - most} more: --json or --html FILE[/]")
    if explained := configurations.loc[configurations["cause"] != "alone", "task_id"].nunique():
        noun = "configuration is" if explained == 1 else "configurations are"
        out.print(f"[dim]{explained} {noun} part of these.[/]")


def _print_rest(out: Console, result: Comparison) -> None:
    """One line each: GPUs, sentinels, tasks without a partner, what else is different."""
    from energylens.comparison.words import KINDS, cards_line, sentinel_line

    out.print(f"GPUs: {cards_line(result)}", markup=False)
    out.print(f"Sentinels: {sentinel_line(result)}", markup=False)
    kinds = Counter(one.kind for one in result.unpaired)
    if kinds:
        text = "; ".join(f"{kinds[k]} {KINDS[k]}" for k in KINDS if kinds[k])
        out.print(f"Not compared: {text}", markup=False)
    urgent = [one for one in result.unpaired if one.kind in ("failed", "flagged")]
    for one in urgent[:3]:
        reasons = ", ".join(one.reasons) or NOTHING
        out.print(
            f"  {reasons}: {one.model_id} {one.layout}, {one.workload}",
            markup=False,
        )
    if len(urgent) > 3:
        out.print(f"[dim]  and {len(urgent) - 3} more: --json or --html FILE[/]")
    for change in result.versions[:3]:
        out.print(f"Changed: {change.what} {_cut(change.old)} -> {_cut(change.new)}", markup=False)
    if (left := len(result.versions) - 3) > 0:
        noun = "setting" if left == 1 else "settings"
        out.print(f"[dim]and {left} more {noun}: --json or --html FILE[/]")


def _cut(value: str, most: int = 28) -> str:
    return value if len(value) <= most else f"{value[:12]}..."
