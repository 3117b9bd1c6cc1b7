"""Progress of a sweep on screen: a live screen on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from energylens.cli.screen import fleet_screen
from energylens.units import count, duration, energy, significant

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from harness.fleet.progress import ProgressSink
    from harness.fleet.view import RunView

UNCHANGED_S = 60.0
"""A line that says nothing new is printed so often: it shows that the run lives."""


class PlainProgress:
    """Plain lines, at most one every few seconds: for logs, pipes and `ray job submit`.

    Parameters
    ----------
    stream
        Where the lines go; standard error, so that --json stays pure.
    every_s
        Shortest time between two lines.
    clock
        Monotonic seconds; an argument so that tests need no waiting.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        every_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._every_s = every_s
        self._clock = clock
        self._start_s = clock()
        self._last_s = float("-inf")
        self._said: tuple[int, int, int] | None = None
        self._remaining = 0
        self._done = 0
        self._failed = 0
        self._lost = 0
        self._energy_j = 0.0
        self._detail = ""
        self._view: RunView | None = None

    def started(self, total: int, already_done: int) -> None:
        """Say how much there is to do and how much an earlier run did."""
        self._start_s = self._clock()
        self._remaining = total - already_done
        self._done = 0
        resumed = f", {count(already_done)} done before" if already_done else ""
        self._line(f"{count(total)} tasks{resumed}, {count(self._remaining)} to do")

    def advanced(self, done: int, failed: int, energy_j: float, detail: str) -> None:
        """Add tasks that ended since the last call; `failed` of the `done` gave no numbers."""
        self._done += done
        self._failed += failed
        self._energy_j += energy_j
        self._detail = detail
        self._tick()

    def view(self, view: RunView) -> None:
        """Take the counts from the view."""
        self._view = view
        self._done, self._failed, self._lost = view.done, view.failed, view.lost
        self._tick()

    def message(self, text: str) -> None:
        """Print one line at once."""
        self._line(text)

    def finished(self, done: int, failed: int, seconds: float) -> None:
        """Say how it ended; the command prints the summary itself."""
        failures = f", {count(failed)} failed" if failed else ""
        self._line(f"ended: {count(done)} tasks{failures} in {duration(seconds)}")

    def _tick(self) -> None:
        now_s = self._clock()
        now = (self._done, self._failed, self._lost)
        pause_s = self._every_s if now != self._said else max(UNCHANGED_S, self._every_s)
        if now_s - self._last_s < pause_s:
            return
        self._last_s = now_s
        self._said = now
        self._line(self._figures(now_s))

    def _figures(self, now_s: float) -> str:
        parts = [f"{count(self._done)}/{count(self._remaining)} done"]
        if self._failed:
            parts.append(f"{count(self._failed)} failed")
        if self._lost:
            parts.append(f"{count(self._lost)} lost")
        view = self._view
        own = self._done / max(now_s - self._start_s, 1e-9)
        rate = (view.rate_per_s if view else None) or own
        if rate > 0:
            eta_s = view.eta_s if view else None
            left_s = (self._remaining - self._done) / rate if eta_s is None else eta_s
            parts += [f"{rate:.3g} tasks/s", f"about {duration(left_s)} left"]
        if view and view.energy_kwh is not None:
            parts.append(f"{significant(view.energy_kwh)} kWh measured")
        elif self._energy_j:
            parts.append(energy(self._energy_j))
        tail = self._detail
        if view and len(view.nodes) > 1:
            busy = sum(node.state == "busy" for node in view.nodes)
            tail = f"{busy} of {len(view.nodes)} nodes busy"
        return ", ".join(parts) + (f" | {tail}" if tail else "")

    def _line(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class LiveProgress:
    """A live screen for a person at a terminal: one bar here, bar and nodes for a fleet.

    Parameters
    ----------
    console
        Where to draw; a terminal on standard error.
    """

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._failed = 0
        self._energy_j = 0.0
        self._view: RunView | None = None
        self._console = console or Console(stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}", style="dim"),
            console=self._console,
        )
        self._task = self._progress.add_task("measuring", total=None, detail="")
        self._live = Live(console=self._console, get_renderable=self._screen, refresh_per_second=4)

    def started(self, total: int, already_done: int) -> None:
        """Show the bar, with what an earlier run did already filled in."""
        self._progress.update(self._task, total=total, completed=already_done)
        self._live.start()

    def advanced(self, done: int, failed: int, energy_j: float, detail: str) -> None:
        """Move the bar by the tasks that ended since the last call."""
        self._failed += failed
        self._energy_j += energy_j
        self._progress.update(self._task, advance=done, detail=self._detail())

    def view(self, view: RunView) -> None:
        """Take the counts from the view; a fleet's nodes are drawn below the bar."""
        self._view = view
        self._failed = view.failed
        self._progress.update(
            self._task,
            total=view.planned,
            completed=view.already_done + view.done,
            detail=self._detail(),
        )

    def message(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(text, markup=False)

    def finished(self, done: int, failed: int, seconds: float) -> None:
        """Take the live display down."""
        self._live.stop()

    def _detail(self) -> str:
        parts = [energy(self._energy_j)] if self._energy_j else []
        if self._failed:
            parts.append(f"[red]{count(self._failed)} failed[/]")
        if self._view and self._view.lost:
            parts.append(f"[red]{count(self._view.lost)} lost[/]")
        return " ".join(parts)

    def _screen(self) -> RenderableType:
        if self._view is None or len(self._view.nodes) <= 1:
            return self._progress.get_renderable()
        return fleet_screen(self._view, self._console.height)


def make_progress(*, quiet: bool = False) -> ProgressSink:
    """Choose the sink: live on a terminal, plain lines elsewhere or where JSON is asked for."""
    can_draw = sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
    if can_draw and not quiet:
        return LiveProgress()
    return PlainProgress(every_s=15.0 if quiet else 5.0)
