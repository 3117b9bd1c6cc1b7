"""`discover`: which structure the measurements themselves ask for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from energylens.cli.options import JsonOption, RunArgument
from energylens.cli.output import console, print_json, provenance_line, table
from energylens.units import coefficient, count, duration, percent

if TYPE_CHECKING:
    from rich.console import Console

    from fitting.discover import Discovery, Law, PhaseSearch

WHAT = {
    "prefill": "energy of prefill",
    "decode": "energy of decode",
    "total": "total energy",
    "serving": "energy of one output token",
}

NEVER = 0.05
"""Terms that are kept less often are not listed, unless the shipped law has them."""


def discover(
    directory: RunArgument,
    engine: Annotated[str, typer.Option(help="terms, operon or pysr.")] = "terms",
    phase: Annotated[
        str | None,
        typer.Option(
            help="prefill, decode or total; default: the phases that rows have.",
            show_default=False,
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Rows drawn for each pair.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all draws.")] = 0,
    timeout: Annotated[
        float | None,
        typer.Option(min=0.0, metavar="S", help="Seconds for the search.", show_default=False),
    ] = None,
    family: Annotated[
        str | None, typer.Option(help="Search rows of this family only.", show_default=False)
    ] = None,
    hardware: Annotated[
        str | None, typer.Option(help="Search rows of this GPU type only.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the whole result here (JSON)."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Search for the structure of the energy law: complexity against error.

    One structure for all pairs of model and hardware, constants for each of them.
    """
    from energylens.discovery import discover_run, save_discovery

    found = discover_run(
        directory,
        engine=engine,
        phase=phase,
        samples=samples,
        seed=seed,
        timeout_s=timeout,
        family=family,
        hardware=hardware,
    )
    if out is not None:
        save_discovery(found, out)
    if as_json:
        print_json(found.to_dict())
    else:
        _print(found, out)


def _print(found: Discovery, out: Path | None) -> None:
    console_ = console()
    for search in found.searches:
        console_.print(provenance_line(search.provenance))
        _print_front(console_, search)
        _print_chosen(console_, search)
        _print_inclusion(console_, search)
        for note in search.notes:
            console_.print(f"- {note}", markup=False)
        console_.print()
    console_.print(
        f"[dim]engine {found.engine} {found.engine_version}, seed {found.seed}, "
        f"searched in {duration(found.seconds)}[/]"
    )
    if out is not None:
        console_.print(f"Written: {out}", markup=False)


def _print_front(out: Console, search: PhaseSearch) -> None:
    laws = [("", law) for law in search.front]
    laws[search.best_bic] = ("lowest BIC", laws[search.best_bic][1])
    laws[search.chosen] = ("chosen", laws[search.chosen][1])
    if search.shipped is not None:
        laws.append(("shipped", search.shipped))
    out.print(
        table(
            ["parameters", "size", "left out", "by hardware", ("law", "<")],
            [
                (
                    law.parameters,
                    law.complexity,
                    percent(law.held_out),
                    percent(law.held_out_hardware),
                    f"{mark}: {law.text}" if mark else law.text,
                )
                for mark, law in laws
            ],
            title=f"{WHAT[search.phase]}: {count(search.rows)} rows, "
            f"{len(search.groups)} groups, {len(search.hardware)} GPU types\n"
            "mean error on rows left out, and where the GPU type had no say in the structure",
            highlight=search.chosen,
        )
    )


def _print_chosen(out: Console, search: PhaseSearch) -> None:
    law = search.front[search.chosen]
    out.print("The smallest law within one standard error of the best:", markup=False)
    out.print(f"  E = {law.text}   [J]", markup=False, soft_wrap=True)
    group = search.groups[0]
    out.print(
        table(
            [("constant", "<"), "value", ("unit", "<"), ("counts", "<")],
            [
                (c.name, coefficient(value), c.unit or "as the law needs", c.meaning)
                for c, value in zip(law.constants, law.values[group], strict=True)
            ],
            title=f"Its constants for {group}",
        )
    )
    out.print(_units(law), markup=False)
    for symbol in sorted(_symbols(law, search)):
        unit, meaning, definition = search.symbols[symbol]
        formula = f" = {definition}" if definition else ""
        out.print(f"  {symbol}{formula}: {meaning} [{unit}]", markup=False)
    if search.residual is not None:
        residual = search.residual
        said = (
            f"a factor {residual.text} {'lowers' if residual.gain >= 0.0 else 'raises'} the error "
            f"by {percent(abs(residual.gain))} "
            f"(standard error {percent(residual.gain_se)}): "
            f"{'kept' if residual.kept else 'not kept'}"
            if residual.text
            else "no factor found"
        )
        out.print(f"What the shipped law leaves: {said}.", markup=False)


def _symbols(law: Law, search: PhaseSearch) -> set[str]:
    from fitting.discover.expression import read

    return set(read(law.text).names) & set(search.symbols)


def _units(law: Law) -> str:
    if law.units_consistent:
        return "Units: every term comes out in joules, every exponent is a pure number."
    return "Units: " + "; ".join(law.unit_faults)


def _print_inclusion(out: Console, search: PhaseSearch) -> None:
    rows = [
        (
            item.term,
            percent(item.at_chosen),
            percent(item.at_best),
            "yes" if item.chosen else "",
            "yes" if item.shipped else "",
            "" if item.plausible else "wrong on purpose",
        )
        for item in search.inclusion
        if item.shipped or item.chosen or max(item.at_chosen, item.at_best) > NEVER
    ]
    if not rows:
        return
    open_units = any(c.unit is None for c in search.front[search.chosen].constants)
    kind = "searches" if open_units else "bootstrap draws"
    out.print(
        table(
            [
                ("term", "<"),
                "same size",
                "lowest BIC",
                ("chosen", "<"),
                ("shipped", "<"),
                ("", "<"),
            ],
            rows,
            title=f"How often terms are kept, in {search.draws} {kind}",
        )
    )
