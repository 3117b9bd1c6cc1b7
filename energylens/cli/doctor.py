"""`doctor`: what this machine can measure, and how its power sensors behave."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import typer

from energylens.cli.options import JsonOption
from energylens.cli.output import console, print_json, table
from energylens.units import NOTHING, percent, significant

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from energylens.doctor import Diagnosis
    from energylens.doctor.fleet import ClusterReport
    from energylens.doctor.sensors import GpuSensor, SensorReport
    from harness.meters.sensor_report import Characterisation, IdlePower

_MARK = {"ok": "[green]ok  [/]", "warn": "[yellow]warn[/]", "no": "[red]no  [/]", "info": "    "}


def doctor(
    sensors: Annotated[
        bool,
        typer.Option(
            "--sensors",
            help="Characterise the power sensor of every NVIDIA GPU (under 1 min each).",
        ),
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="With --sensors: half the time, coarser.")
    ] = False,
    cluster: Annotated[
        bool,
        typer.Option(
            "--cluster", help="Probe every node of the cluster of RAY_ADDRESS, or of a local Ray."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what this machine can measure and project, and what is in the way."""
    if cluster:
        _cluster(sensors or quick, as_json)
        return
    if sensors:
        _sensors(quick, as_json)
        return
    if quick:
        from harness.errors import EnergyLensError

        raise EnergyLensError(
            "--quick says how to characterise sensors, and none was asked for",
            where="energylens doctor --quick",
            fix="energylens doctor --sensors --quick",
        )
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


def _cluster(also_sensors: bool, as_json: bool) -> None:
    from energylens.doctor.fleet import inspect_cluster

    if also_sensors:
        from harness.errors import EnergyLensError

        raise EnergyLensError(
            "--cluster looks at nodes, --sensors at the sensors of one machine",
            where="energylens doctor --cluster --sensors",
            fix="energylens doctor --sensors, on the node in question",
        )
    report = inspect_cluster()
    if as_json:
        print_json(report.to_dict())
    else:
        print_cluster(report)
    if not report.measuring:
        raise typer.Exit(1)


def print_cluster(report: ClusterReport) -> None:
    """Print one table of all nodes, then every problem with what to do about it."""
    from rich.text import Text

    from energylens.doctor.fleet import gathered_problems, node_row

    out = console()
    where = f"cluster at {report.address}" if report.address else "Ray on this machine"
    count = len(report.nodes)
    out.print(f"{where}: {count} node{'s' * (count != 1)}, {report.measuring} can measure")
    columns = [("node", "<"), ("hardware", "<"), ("engines", "<"), ("verdict", "<")]
    out.print(table(columns, [node_row(facts) for facts in report.nodes]))
    for problem, names in gathered_problems(report.nodes):
        text = Text.assemble((f"{problem.code}: ", "bold"), f"{names}: {problem.detail}")
        if problem.fix:
            text.append(f"\nwhat to do: {problem.fix}", style="dim")
        out.print(_marked(_MARK["no" if problem.fatal else "warn"], text))
    for facts in report.nodes:
        if facts.leftovers:
            pids = ", ".join(map(str, facts.leftovers[:5]))
            text = Text.assemble(
                ("leftovers: ", "bold"),
                f"{facts.name}: processes of launches that are gone (pid {pids}); "
                "they are ended before the next launch",
            )
            out.print(_marked(_MARK["info"], text))


def _sensors(quick: bool, as_json: bool) -> None:
    from energylens.doctor.sensors import characterise_gpus
    from harness.meters.characterise import FULL, QUICK

    def tell(text: str) -> None:
        if not as_json:
            console().print(text, markup=False)

    report = characterise_gpus(QUICK if quick else FULL, tell=tell)
    if as_json:
        print_json(report)
    else:
        print_sensors(report)
    if not report.any_found:
        raise typer.Exit(1)


def print_sensors(report: SensorReport) -> None:
    """Print one table of all sensors, then what each row means for whoever measures."""
    out = console()
    if report.reason:
        out.print(f"No power sensor to characterise here: {report.reason}", markup=False)
        return
    found = [(gpu.index, gpu.found) for gpu in report.gpus if gpu.found is not None]
    if found:
        heads = ["", "counter", "power", "mean", "lag", "sampled", "idle", "window"]
        units = ["GPU", "ms", "ms", "ms", "ms", "%", "W", "s"]
        heads = ["\n".join(pair) for pair in zip(heads, units, strict=True)]
        rows = [(*_row(index, c), "yes" if c.trusted else "no") for index, c in found]
        out.print(table([*heads, ("\ntrusted", "|")], rows))
    for gpu in report.gpus:
        _print_gpu(gpu)


def _row(index: int, found: Characterisation) -> tuple[str, ...]:
    """Cells of one GPU; what was only assumed is a dash."""
    facts = found.facts
    answered = found.counter_response if facts.has_counter else found.power_response
    mean = found.power_response or found.average_response
    return (
        str(index),
        ("" if found.counter.resolved else "<") + _ms(facts.counter_period_s)
        if facts.has_counter
        else NOTHING,
        _ms(facts.power_period_s),
        _ms(facts.power_averaging_s if mean else math.nan),
        _ms(facts.lag_s if answered else math.nan),
        NOTHING
        if math.isnan(found.sampled_fraction_stderr)
        else f"{100 * facts.sampled_fraction:.0f}",
        "/".join(_watts(idle) for idle in (found.bare, found.context)),
        significant(facts.shortest_window_s, 2),
    )


def _ms(seconds: float) -> str:
    """Milliseconds without a unit: the nearest whole one, or a tenth below 10."""
    if math.isnan(seconds):
        return NOTHING
    return f"{1e3 * seconds:.0f}" if round(1e3 * seconds, 1) >= 10 else f"{1e3 * seconds:.1f}"


def _watts(idle: IdlePower | None) -> str:
    return NOTHING if idle is None else f"{idle.power_w:.0f}"


def _print_gpu(gpu: GpuSensor) -> None:
    from rich.text import Text

    from harness.meters.trust import WORDS

    out = console()
    title = Text.assemble((f"GPU {gpu.index}: ", "bold"), f"{gpu.name}, {gpu.uuid}")
    if gpu.found is None:
        out.print(title)
        out.print(_marked(_MARK["no"], Text(f"not characterised: {gpu.refused}")))
        return
    found = gpu.found
    if found.simulated:
        title.append(" (scripted driver, no GPU)", style="yellow")
    out.print(title)
    for reason in found.reasons:
        out.print(_marked(_MARK["warn"], Text(f"{WORDS.get(reason, reason)} ({reason})")))
    for note in found.notes:
        out.print(_marked(_MARK["info"], Text(note)))
    if found.agreement == found.agreement:
        text = f"counter over integral of power under load: {percent(found.agreement)} off"
        out.print(_marked(_MARK["ok" if abs(found.agreement) <= 0.05 else "warn"], Text(text)))
    if found.load_w == found.load_w:
        text = f"{significant(found.load_w)} W under the load of this check"
        out.print(_marked(_MARK["info"], Text(text)))
    stored = f"kept in {gpu.kept}" if gpu.kept else f"not kept: {gpu.warning}"
    out.print(_marked(_MARK["ok" if gpu.kept else "warn"], Text(stored)))
