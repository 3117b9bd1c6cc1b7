"""The live screen of a fleet: bar, speed, what was used so far, failures, nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from energylens.cli.nodes import choose_nodes, node_table, rest_line, stopping_line
from energylens.units import count, duration, percent, significant

if TYPE_CHECKING:
    from rich.console import RenderableType

    from harness.fleet.view import RunView

MOST_NODES = 12
MOST_CLASSES = 4
OTHER_LINES = 10
"""Lines of a screen that are not nodes: bar, figures, failures, heads, and a free one."""


def fleet_screen(view: RunView, height: int) -> RenderableType:
    """Draw a run on a fleet.

    Parameters
    ----------
    view
        The run at this moment.
    height
        Lines of the terminal; fewer nodes are shown on a low one.
    """
    from rich.console import Group
    from rich.text import Text

    lines: list[RenderableType] = [_bar(view), Text(speed_line(view)), Text(used_line(view))]
    for word, classes in (("failed", view.failures), ("lost", view.losses)):
        if classes:
            lines.append(Text(f"{word}: {class_words(classes)}", style="red"))
    if view.stopping:
        lines.append(Text(stopping_line(view), style="yellow"))
    most = max(3, min(MOST_NODES, height - OTHER_LINES))
    shown, rest = choose_nodes(view.nodes, most)
    lines += [Text(), node_table(shown)]
    if rest:
        lines.append(Text(rest_line(rest), style="dim"))
    return Group(*lines)


def _bar(view: RunView) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    ended = view.already_done + view.done
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(no_wrap=True, overflow="ellipsis", max_width=24)
    grid.add_column(ratio=1)
    grid.add_column(no_wrap=True)
    grid.add_row(
        Text(view.sweep, style="bold"),
        ProgressBar(total=max(view.planned, 1), completed=ended),
        f"{count(ended)}/{count(view.planned)}  {percent(share(view), 2)}",
    )
    return grid


def share(view: RunView) -> float | None:
    """Share of the plan that has a row; None where nothing is planned."""
    return (view.already_done + view.done) / view.planned if view.planned else None


def speed_line(view: RunView) -> str:
    """Write the rate, the time left and the launches."""
    speed = [f"{significant(view.rate_per_s)} tasks/s"] if view.rate_per_s else []
    if view.eta_s is not None:
        speed.append(f"{duration(view.eta_s, 2)} left")
    launches = [
        f"{count(view.launches_running)} launches running",
        f"{count(view.launches_waiting)} waiting",
    ]
    if view.retries:
        launches.append(f"{count(view.retries)} tried again")
    return " | ".join(", ".join(part) for part in (speed, launches) if part)


def used_line(view: RunView) -> str:
    """Write time, energy, GPU-hours and cost so far, each with its budget where it has one."""
    hours = view.limits.get("max_hours")
    parts = [duration(view.seconds) + (f" of {duration(3600 * hours)}" if hours else "")]
    for value, key, text in (
        (view.energy_kwh, "max_kwh", "{} kWh measured"),
        (view.gpu_hours or None, "max_gpu_hours", "{} GPU-hours"),
        (view.cost or None, "max_cost", "cost {}"),
    ):
        limit = view.limits.get(key)
        if value is not None or limit is not None:
            used = significant(value)
            parts.append(text.format(f"{used} of {significant(limit)}" if limit else used))
    return f"so far: {', '.join(parts)}"


def class_words(classes: Mapping[str, int]) -> str:
    """Write classes of failures, the most frequent first: `12 out of memory, 3 timed out`."""
    ordered = sorted(classes.items(), key=lambda item: -item[1])
    words = [f"{count(tasks)} {name.replace('_', ' ')}" for name, tasks in ordered[:MOST_CLASSES]]
    more = ordered[MOST_CLASSES:]
    if more:
        words.append(f"{count(sum(tasks for _, tasks in more))} for other reasons")
    return ", ".join(words)
