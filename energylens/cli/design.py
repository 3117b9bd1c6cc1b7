"""`design`: what to measure next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from energylens.cli.options import JsonOption
from energylens.cli.output import console, print_json, provenance_line, table
from energylens.units import NOTHING, count, duration, percent, significant

if TYPE_CHECKING:
    from fitting.design import Budget

MOST_LAUNCHES = 12
"""Launches that are printed one by one; the file and --json have them all."""


def design(
    target: Annotated[
        Path,
        typer.Argument(
            metavar="TARGET",
            help="A sweep file (YAML), or a run folder of one that is not yet complete.",
            show_default=False,
        ),
    ],
    budget: Annotated[
        int | None,
        typer.Option(min=1, help="Configurations to measure. Default: 25.", show_default=False),
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(min=0.0, help="Or hours, launches in turn.", show_default=False),
    ] = None,
    gpu_hours: Annotated[
        float | None, typer.Option(min=0.0, help="Or GPU-hours.", show_default=False)
    ] = None,
    per: Annotated[
        str,
        typer.Option(help="What --budget is for: each (model, GPU type), pair; or all, total."),
    ] = "pair",
    measured: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Run folder with rows measured so far.", show_default=False
        ),
    ] = None,
    fit: Annotated[
        Path | None,
        typer.Option(
            metavar="FIT", help="A FIT file to start from, not the rows.", show_default=False
        ),
    ] = None,
    method: Annotated[
        str, typer.Option(help="regret, d-optimal, i-optimal, random or lhs.")
    ] = "regret",
    seed: Annotated[int, typer.Option(min=0, help="Seed of random and lhs.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write .yaml (a sweep to run) or .csv.", show_default=False
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what to measure next so that choices by the law go wrong least.

    Measure the file it writes with `energylens run FILE --out DIR`, then ask again with
    `energylens design SWEEP --measured DIR`.
    """
    from energylens.designing import design_next

    found = design_next(
        target,
        measured=measured,
        budget=_budget(budget, hours, gpu_hours, per),
        method=method,
        fit=fit,
        seed=seed,
        out=out,
    )
    if as_json:
        print_json(found.to_dict())
    else:
        _print(found.to_dict(), found.saved_to)


def _budget(rows: int | None, hours: float | None, gpu_hours: float | None, per: str) -> Budget:
    """Return the one budget that was given; 25 rows of each pair if none was."""
    from fitting.design import Budget
    from harness.errors import EnergyLensError

    given = {"--budget": rows, "--hours": hours, "--gpu-hours": gpu_hours}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise EnergyLensError(
            f"{' and '.join(names)} do not go together", where="budget", fix="give one of them"
        )
    if hours is not None:
        return Budget(rows=None, seconds=3600.0 * hours)
    if gpu_hours is not None:
        return Budget(rows=None, gpu_seconds=3600.0 * gpu_hours)
    return Budget(rows=25 if rows is None else rows, per=per)


def _print(result: dict[str, Any], saved_to: Path | None) -> None:
    out = console()
    if result["provenance"]:
        out.print(provenance_line(result["provenance"]))
    else:
        out.print("Data: none yet; the design rests on datasheets and architecture facts")
    rows = sum(result["provenance"].values())
    out.print(
        f"[bold]{count(result['rows'])} configurations[/] of {count(result['candidates'])}"
        f" ({count(rows)} measured), in {count(result['launches'])} launches:"
        f" {duration(3600 * result['hours'])}, {significant(result['gpu_hours'])} GPU-hours"
    )
    heads: list[str | tuple[str, str]] = [("model on GPU type", "<")]
    heads += ["before", "now", "regret", "then"]
    cells = [
        (
            f"{pair['model_id'].rsplit('/', 1)[-1]} on {pair['hardware']}",
            count(pair["measured"]),
            count(pair["chosen"]),
            _regret(pair["regret_before"]),
            _regret(pair["regret_after"]),
        )
        for pair in result["pairs"]
    ]
    totals = (
        "all",
        count(sum(pair["measured"] for pair in result["pairs"])),
        count(result["rows"]),
        _regret(result["regret_before"]),
        _regret(result["regret_after"]),
    )
    out.print(
        table(
            heads,
            [*cells, totals],
            title="Rows measured and chosen; expected regret of choices by the law",
            highlight=len(cells),
        )
    )
    out.print("[dim]Expected by the law's own lights: what it cannot express is not in it.[/]")
    _print_launches(result["tasks"])
    for note in result["notes"]:
        out.print(f"- {note}", markup=False)
    out.print(f"[dim]computed in {duration(result['seconds'])}[/]")
    if saved_to is not None:
        out.print(f"Written: {saved_to}", markup=False)
        if saved_to.suffix != ".csv":
            out.print(f"Next: energylens run {saved_to} --out DIR", markup=False)


def _regret(value: float | None) -> str:
    return NOTHING if value is None else percent(value)


def _print_launches(tasks: list[dict[str, Any]]) -> None:
    """Print what to measure, launch by launch."""
    launches: dict[int, list[dict[str, Any]]] = {}
    for task in tasks:
        launches.setdefault(task["launch"], []).append(task)
    cells = [
        (number, _launch(rows[0]), _workloads(rows), duration(sum(r["cost_s"] for r in rows)))
        for number, rows in list(launches.items())[:MOST_LAUNCHES]
    ]
    heads: list[str | tuple[str, str]] = ["launch", ("what is started", "<")]
    heads += [("batch x input + output tokens", "<"), "time"]
    out = console()
    out.print(table(heads, cells, title="What to measure, launch by launch"))
    if len(launches) > MOST_LAUNCHES:
        more = len(launches) - MOST_LAUNCHES
        out.print(f"and {count(more)} launches more; --out and --json give all of them")


def _launch(row: dict[str, Any]) -> str:
    name = row["model_id"].rsplit("/", 1)[-1]
    layout = f"t={row['tensor_parallel']} p={row['pipeline_parallel']}"
    return f"{name} on {row['hardware']}, {layout}, {row['precision']}"


def _workloads(rows: list[dict[str, Any]]) -> str:
    return ", ".join(f"{r['batch']}x{r['input_tokens']}+{r['output_tokens']}" for r in rows)
