"""`doctor` and `status`: what this machine can do, and how a run is getting on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from energylens.cli.options import JsonOption, RunArgument
from energylens.cli.output import console, print_json, table
from energylens.units import NOTHING, count, duration, energy, quantity

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from energylens.doctor import Diagnosis
    from energylens.status import Status

_MARK = {"ok": "[green]ok  [/]", "warn": "[yellow]warn[/]", "no": "[red]no  [/]", "info": "    "}


def doctor(as_json: JsonOption = False) -> None:
    """Say what this machine can measure and project, and what is in the way."""
    from energylens.doctor import diagnose

    found = diagnose()
    if as_json:
        print_json(found)
    else:
        _print_diagnosis(found)


def _print_diagnosis(found: Diagnosis) -> None:
    from rich.text import Text

    out = console()
    for section in found.sections:
        out.print(f"\n[bold]{section.title}[/]")
        for check in section.checks:
            text = Text.assemble((f"{check.name}: ", "bold"), check.text)
            if check.fix:
                text.append(f"\nwhat to do: {check.fix}", style="dim")
            out.print(_marked(_MARK[check.state], text))
    out.print("\n[bold]Verdict[/]")
    for verdict in found.verdicts:
        mark = "[green]yes [/]" if verdict.yes else "[red]no  [/]"
        out.print(_marked(mark, Text.assemble((verdict.question, "bold"), f": {verdict.reason}")))


def _marked(mark: str, text: Text) -> Table:
    """Put a mark in front of a text that folds under itself."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=1)
    grid.add_column(width=4)
    grid.add_column(overflow="fold")
    grid.add_row("", mark, text)
    return grid


def status(directory: RunArgument, as_json: JsonOption = False) -> None:
    """Say how a run is getting on: counts, rate, failures by class, time left."""
    from energylens.status import read_status

    found = read_status(directory)
    if as_json:
        print_json(found)
    else:
        _print_status(found)


def _print_status(found: Status) -> None:
    out = console()
    out.print(f"[bold]{found.sweep or found.path}[/]  {found.state}")
    rows = [
        ("planned", count(found.planned)),
        ("done", count(found.done)),
        ("  valid", count(found.valid)),
        ("  flagged", count(found.flagged)),
        ("failed", count(found.failed)),
        ("remaining", count(found.remaining)),
        ("rate", f"{quantity(found.rate_per_s)} tasks/s" if found.rate_per_s else NOTHING),
        ("time left", duration(found.eta_s)),
        ("energy of the work", energy(found.energy_j)),
    ]
    out.print(table([("tasks", "<"), ""], rows))
    if found.failures:
        out.print(table([("failures by class", "<"), "tasks"], found.failures.items()))
    if found.reasons:
        out.print(table([("flagged because", "<"), "rows"], found.reasons.items()))
    if found.last_event:
        out.print(f"last event: {found.last_event} at {found.last_event_at}", markup=False)
