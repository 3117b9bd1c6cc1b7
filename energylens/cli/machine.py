"""`status`: how a run is getting on, once or again and again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from energylens.cli.nodes import choose_nodes, node_table, rest_line
from energylens.cli.options import JsonOption, RunArgument
from energylens.cli.output import console, print_json, table
from energylens.cli.screen import class_words
from energylens.units import NOTHING, count, duration, energy, quantity, significant

if TYPE_CHECKING:
    from rich.console import RenderableType

    from energylens.status import Status

WATCH_S = 5.0
MOST_NODES = 24
MOST_EXAMPLES = 5
OTHER_LINES = 12
"""Lines of a screen that are not nodes."""
_STYLE = {"running": "green", "finished": "green", "silent": "red", "failed": "red"}


def status(
    directory: RunArgument,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Show it again every few seconds until the run ends (Ctrl-C leaves)."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say how a run is getting on: counts, rate, failures by class, nodes, time left."""
    from energylens.status import read_status

    if watch:
        _watch(lambda: read_status(directory), as_json)
        return
    found = read_status(directory)
    if as_json:
        print_json(found)
    else:
        console().print(status_screen(found))


def _watch(read: Callable[[], Status], as_json: bool) -> None:
    """Show the status until the run ends; JSON is one document a line."""
    from rich.live import Live

    from energylens.plain import plain

    out = console()
    live = Live(console=out, auto_refresh=False, vertical_overflow="crop")
    draws = out.is_terminal and not as_json
    try:
        if draws:
            live.start()
        while True:
            started_s = time.monotonic()
            found = read()
            if as_json:
                print(json.dumps(plain(found), ensure_ascii=False, allow_nan=False), flush=True)
            elif draws:
                live.update(status_screen(found, height=out.height), refresh=True)
            else:
                out.print(status_screen(found))
            if not found.goes_on:
                return
            # A large run takes long to read: looking at it must not keep a core busy.
            time.sleep(max(WATCH_S, 4 * (time.monotonic() - started_s)))
    except KeyboardInterrupt:
        return
    finally:
        if draws:
            live.stop()


def status_screen(found: Status, *, height: int | None = None) -> RenderableType:
    """Draw a status; on a screen of `height` lines, the less urgent parts are left out."""
    from rich.console import Group
    from rich.text import Text

    low = height is not None
    head = Text.assemble((found.sweep or found.path, "bold"), "  ", _state(found))
    parts: list[RenderableType] = [head, *(Text(line) for line in _lines(found))]
    parts.append(_compact(found) if low else table([("tasks", "<"), ""], _counts(found)))
    if found.failures and not low:
        parts.append(table([("failures by class", "<"), "tasks"], found.failures.items()))
    for why, tasks in found.unplaceable.items():
        parts.append(Text(f"{count(tasks)} tasks cannot be placed: {why}", style="yellow"))
    if found.reasons and not low:
        parts.append(table([("flagged because", "<"), "rows"], found.reasons.items()))
    if len(found.nodes) > 1 or any(node.troubled for node in found.nodes):
        most = MOST_NODES if height is None else max(3, height - OTHER_LINES)
        shown, rest = choose_nodes(found.nodes, most)
        parts += [Text(), node_table(shown, fold=not low)]
        if rest:
            parts.append(Text(rest_line(rest), style="dim"))
    if not low:
        parts += _slow(found) + _examples(found)
    if found.last_event:
        parts.append(Text(f"last event: {found.last_event} at {found.last_event_at}"))
    return Group(*parts)


def _state(found: Status) -> tuple[str, str]:
    return found.state, _STYLE.get(found.state, "yellow")


def _lines(found: Status) -> list[str]:
    """Write what the state means and what to do about it."""
    age = duration(found.progress_age_s, 2)
    if found.state == "silent":
        return [f"no word from the driver for {age}; run it again to resume"]
    if found.state == "stopped":
        why = [f"why: {found.stopping}"] if found.stopping else []
        return [*why, "run it again to do the rest (with a larger budget, if one was reached)"]
    if found.state in ("interrupted", "failed"):
        return ["run it again to do the rest"]
    lines = [f"stopping: {found.stopping}"] if found.stopping else []
    if found.state == "running" and found.progress_age_s is not None:
        launches = (
            f", {count(found.launches_running)} launches running,"
            f" {count(found.launches_waiting)} waiting"
        )
        lines.append(f"the driver wrote {age} ago{launches}")
    return lines


def _energy(found: Status) -> str:
    if found.energy_j is None and found.time_only:
        return "no power meter"
    return energy(found.energy_j)


def _rate(found: Status) -> str:
    return f"{quantity(found.rate_per_s)} tasks/s" if found.rate_per_s else NOTHING


def _used(found: Status) -> list[tuple[str, str, str]]:
    """What this run used so far, as far as it is known: name, value, both in a few words."""
    kwh, hours, cost = (significant(v) for v in (found.energy_kwh, found.gpu_hours, found.cost))
    return [
        *(
            [("measured in this run", f"{kwh} kWh", f"{kwh} kWh measured")]
            if found.energy_kwh
            else []
        ),
        *([("GPU-hours of this run", hours, f"{hours} GPU-hours")] if found.gpu_hours else []),
        *([("cost of this run", cost, f"cost {cost}")] if found.cost else []),
    ]


def _counts(found: Status) -> list[tuple[str, str]]:
    attempts = sum(number for attempt, number in found.attempts.items() if attempt > 1)
    return [
        ("planned", count(found.planned)),
        ("done", count(found.done)),
        ("  valid", count(found.valid)),
        ("  flagged", count(found.flagged)),
        *([("  times only", count(found.time_only))] if found.time_only else []),
        ("failed", count(found.failed)),
        ("remaining", count(found.remaining)),
        ("rate", _rate(found)),
        ("time left", duration(found.eta_s)),
        ("energy of the work", _energy(found)),
        *((name, value) for name, value, _ in _used(found)),
        *([("launches", count(sum(found.attempts.values())))] if found.attempts else []),
        *([("  second tries and later", count(attempts))] if attempts else []),
    ]


def _compact(found: Status) -> RenderableType:
    """The counts in a few lines."""
    from rich.text import Text

    shown = [
        f"{count(found.done)} of {count(found.planned)} done ({count(found.flagged)} flagged)",
        f"{count(found.failed)} failed",
        f"{count(found.remaining)} remaining",
    ]
    left = [f"{duration(found.eta_s, 2)} left"] if found.eta_s is not None else []
    speed = [_rate(found), *left, *(words for _, _, words in _used(found))]
    lines = [", ".join(shown), ", ".join(speed)]
    out = Text("\n".join(lines))
    if found.failures:
        out.append(f"\nfailed: {class_words(found.failures)}", style="red")
    return out


def _slow(found: Status) -> list[RenderableType]:
    from rich.text import Text

    return [
        Text(f"slow: {name} takes {ratio:.2g} times as long as its like", style="yellow")
        for name, ratio in found.slow.items()
    ]


def _examples(found: Status) -> list[RenderableType]:
    """Show one failure of each class, with the end of its log."""
    from rich.text import Text

    out: list[RenderableType] = []
    for kind, example in list(found.examples.items())[:MOST_EXAMPLES]:
        where = f" on {example.node}" if example.node else ""
        out.append(Text(f"{kind}, for example {example.what}{where}: {example.detail}"))
        out += [
            Text(f"  | {line}", style="dim", no_wrap=True, overflow="ellipsis")
            for line in example.log
        ]
    return out
