"""`plan`, `run` and `import`: how measurements come to be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from energylens.cli.options import JsonOption
from energylens.cli.output import console, print_json, provenance_line, table
from energylens.plain import plain
from energylens.rowkinds import NO_POWER_METER
from energylens.units import count, duration, energy, significant

SweepArgument = Annotated[
    Path, typer.Argument(metavar="SWEEP", help="A sweep file (YAML).", show_default=False)
]
FORMATS = ("mlenergy", "table")
LONGEST_EXAMPLE = 150


def plan(
    sweep: SweepArgument,
    cluster: Annotated[
        bool | None,
        typer.Option(
            "--cluster/--no-cluster",
            help="Look at the nodes too; default: if RAY_ADDRESS is set.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a sweep would do and cost: tasks, launches, skips, hours, energy.

    With a cluster it also says what none of its nodes can do, and how long they take together.
    """
    from harness.plan import make_plan

    planned = make_plan(sweep)
    wanted = bool(os.environ.get("RAY_ADDRESS")) if cluster is None else cluster
    placement = _place(planned) if wanted else None
    if as_json:
        print_json(planned.to_dict() | ({"cluster": placement} if placement else {}))
        return
    _print_plan(planned)
    if placement is not None:
        _print_placement(placement)


def _place(planned: Any) -> Any:
    from harness.fleet.placing import place

    return place(planned)


def _print_placement(placement: Any) -> None:
    from rich.markup import escape

    out = console()
    nodes = placement.inventory
    usable = sum(facts.usable for facts in nodes)
    out.print(f"Cluster: {count(len(nodes))} nodes, {count(usable)} usable")
    if placement.makespan_s is not None:
        out.print(f"All nodes at work, it takes about {duration(placement.makespan_s)}.")
    for each in placement.unplaced:
        out.print(f"[yellow]{count(each.tasks)} tasks cannot be placed:[/] {escape(each.why)}")
    if placement.unplaced:
        out.print("What is wrong with which node: energylens doctor --cluster")


def _print_plan(planned: Any) -> None:
    out = console()
    sweep = planned.sweep
    out.print(f"[bold]{sweep.name}[/]  engine {sweep.engine}")
    rows = [
        (
            row["hardware"],
            count(row["tasks"]),
            count(row["launches"]),
            count(row["skipped"]),
            duration(row["hours"] * 3600),
            significant(row["gpu_hours"]),
            significant(row["energy_kwh"]),
        )
        for row in planned.summary
    ]
    rows.append(
        (
            "all",
            count(len(planned.tasks)),
            count(len(planned.launches)),
            count(sum(planned.skipped.values())),
            duration(planned.cost.duration_s),
            significant(planned.cost.gpu_hours),
            significant(planned.cost.energy_kwh),
        )
    )
    out.print(
        table(
            [("hardware", "<"), "tasks", "launches", "skipped", "time", "GPU-hours", "kWh"],
            rows,
            highlight=len(rows) - 1,
        )
    )
    out.print(
        "[dim]Time, GPU-hours and kWh are projected for real hardware, launch after launch.[/]"
    )
    for gpu in planned.hardware.values():
        if "power_limit_w" in gpu.estimated:
            out.print(
                f"[dim]{gpu.hardware}: no datasheet. Its speed and its power limit of "
                f"{significant(gpu.power_limit_w)} W are assumptions of this plan.[/]"
            )
    if planned.cost.price is not None:
        out.print(f"Cost at the sweep's prices: {significant(planned.cost.price)}")
    if planned.skipped:
        out.print(_skip_table(planned))
    if planned.excluded:
        out.print(f"{count(planned.excluded)} configurations were excluded by the sweep itself.")


def _skip_table(planned: Any) -> Any:
    rows = []
    for reason, number in planned.skipped.items():
        example = next(skip for skip in planned.skips if skip.reason.value == reason)
        where = f"{example.model_id} on {example.hardware}, {example.deployment}"
        text = f"{where}: {example.detail}"
        short = text if len(text) <= LONGEST_EXAMPLE else f"{text[:LONGEST_EXAMPLE]} ..."
        rows.append((count(number), reason.replace("_", " "), short))
    return table(
        ["skipped", ("reason", "<"), ("for example", "<")], rows, title="Not measured, and why"
    )


def run(
    sweep: SweepArgument,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Run folder.", show_default=False)
    ],
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes on this machine; default: all.", show_default=False),
    ] = None,
    max_hours: Annotated[
        float | None,
        typer.Option(help="Stop after so many hours of wall time.", show_default=False),
    ] = None,
    max_gpu_hours: Annotated[
        float | None,
        typer.Option(help="Stop after so many GPU-hours.", show_default=False),
    ] = None,
    max_kwh: Annotated[
        float | None,
        typer.Option(help="Stop after so many measured kWh of the GPUs.", show_default=False),
    ] = None,
    max_cost: Annotated[
        float | None,
        typer.Option(help="Stop at this cost, at the prices of the sweep.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Do a sweep on local Ray, or on the cluster of RAY_ADDRESS; resumes by itself.

    Limits replace those of the sweep. At a limit, and at Ctrl-C, launches under way finish the
    window that they measure and write their rows; a second Ctrl-C ends them at once.
    """
    from energylens.cli.progress import make_progress
    from harness.fleet import Budget, run_sweep

    summary = run_sweep(
        sweep,
        out,
        progress=make_progress(quiet=as_json),
        workers=workers,
        budget=Budget(max_hours, max_gpu_hours, max_kwh, max_cost),
    )
    if as_json:
        print_json(summary)
    else:
        _print_run(summary)


def _print_run(summary: Any) -> None:
    from rich.markup import escape

    out = console()
    rate = summary.done / summary.seconds if summary.seconds > 0 else None
    failed = f", [red]{count(summary.failed)} failed[/]" if summary.failed else ""
    out.print(
        f"[bold]{count(summary.done)} tasks done{failed}[/] in {duration(summary.seconds)}"
        f" ({significant(rate)} tasks/s), {count(summary.already_done)} done before,"
        f" {count(summary.planned)} planned"
    )
    if summary.energy_j:
        out.print(f"energy of one run of each task: {energy(summary.energy_j)}")
    elif summary.flagged.get(NO_POWER_METER):
        out.print("no power meter on this machine: times were measured, energies stay empty")
    if summary.flagged:
        out.print(
            table(
                [("flagged because", "<"), "rows"],
                [(code, count(rows)) for code, rows in summary.flagged.items()],
            )
        )
    if summary.drawn_energy_kwh is not None:
        out.print(
            f"drawn by the GPUs while measuring: {significant(summary.drawn_energy_kwh)} kWh "
            f"in {significant(summary.gpu_hours)} GPU-hours"
        )
    for sentence in summary.unplaced:
        out.print(f"[yellow]not placed:[/] {escape(sentence)}")
    if summary.lost:
        out.print(
            f"[red]{count(summary.lost)} tasks lost[/] (no row; run again to try them again): "
            "energylens status shows why"
        )
    if summary.unreached:
        out.print(
            f"{count(summary.unreached)} tasks were not reached in the time of their launches; "
            "run again to measure them"
        )
    if summary.stopped:
        out.print(f"[yellow]stopped:[/] {escape(summary.stopped)}; run again to go on")
    out.print(f"Written: {summary.location}", markup=False)


def import_(
    data_format: Annotated[
        str, typer.Argument(metavar="FORMAT", help="mlenergy or table.", show_default=False)
    ],
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The data.", show_default=False)],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Run folder.", show_default=False)
    ],
    as_json: JsonOption = False,
) -> None:
    """Bring other people's measurements into a run folder.

    mlenergy: the JSON files that the ML.ENERGY benchmark publishes. table: the
    measurement table as CSV or Parquet (see docs).
    """
    from harness.errors import ImportDataError
    from harness.importers import import_data

    if data_format not in FORMATS:
        raise ImportDataError(
            f"unknown format {data_format!r}", where="FORMAT", fix=f"one of {', '.join(FORMATS)}"
        )
    summary = import_data(data_format, path, out)
    if as_json:
        print_json(summary)
    else:
        _print_import(plain(summary), out)


def _print_import(summary: dict[str, Any], folder: Path) -> None:
    out = console()
    out.print(provenance_line(["imported"]))
    rows = [
        (name.replace("_", " "), _short(value))
        for name, value in summary.items()
        if value not in (None, [], {}, "")
    ]
    out.print(table([("import", "<"), ("", "<")], rows))
    out.print(f"Written: {folder}", markup=False)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_short(item)}" for key, item in value.items())
    if isinstance(value, list):
        shown = ", ".join(str(item) for item in value[:6])
        return shown + (f" and {len(value) - 6} more" if len(value) > 6 else "")
    return count(value) if isinstance(value, int) else str(value)
