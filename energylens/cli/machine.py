"""`status`: how a run is getting on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from energylens.cli.options import JsonOption, RunArgument
from energylens.cli.output import console, print_json, table
from energylens.units import NOTHING, count, duration, energy, quantity

if TYPE_CHECKING:
    from energylens.status import Status


def status(directory: RunArgument, as_json: JsonOption = False) -> None:
    """Say how a run is getting on: counts, rate, failures by class, time left."""
    from energylens.status import read_status

    found = read_status(directory)
    if as_json:
        print_json(found)
    else:
        _print_status(found)


def _energy(found: Status) -> str:
    if found.energy_j is None and found.time_only:
        return "no power meter"
    return energy(found.energy_j)


def _print_status(found: Status) -> None:
    out = console()
    out.print(f"[bold]{found.sweep or found.path}[/]  {found.state}")
    rows = [
        ("planned", count(found.planned)),
        ("done", count(found.done)),
        ("  valid", count(found.valid)),
        ("  flagged", count(found.flagged)),
        *([("  times only", count(found.time_only))] if found.time_only else []),
        ("failed", count(found.failed)),
        ("remaining", count(found.remaining)),
        ("rate", f"{quantity(found.rate_per_s)} tasks/s" if found.rate_per_s else NOTHING),
        ("time left", duration(found.eta_s)),
        ("energy of the work", _energy(found)),
    ]
    out.print(table([("tasks", "<"), ""], rows))
    if found.failures:
        out.print(table([("failures by class", "<"), "tasks"], found.failures.items()))
    if found.reasons:
        out.print(table([("flagged because", "<"), "rows"], found.reasons.items()))
    if found.last_event:
        out.print(f"last event: {found.last_event} at {found.last_event_at}", markup=False)
