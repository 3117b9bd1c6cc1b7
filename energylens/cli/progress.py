"""Progress of a sweep on screen: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from energylens.units import count, duration, energy

if TYPE_CHECKING:
    from harness.fleet.progress import ProgressSink


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
        self._remaining = 0
        self._done = 0
        self._failed = 0
        self._energy_j = 0.0

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
        now_s = self._clock()
        if now_s - self._last_s < self._every_s:
            return
        self._last_s = now_s
        spent_s = max(now_s - self._start_s, 1e-9)
        rate = self._done / spent_s
        left_s = (self._remaining - self._done) / rate if rate > 0 else None
        failures = f", {count(self._failed)} failed" if self._failed else ""
        self._line(
            f"{count(self._done)}/{count(self._remaining)} done{failures}, "
            f"{rate:.3g} tasks/s, about {duration(left_s)} left"
            + (f", {energy(self._energy_j)}" if self._energy_j else "")
            + (f" | {detail}" if detail else "")
        )

    def message(self, text: str) -> None:
        """Print one line at once."""
        self._line(text)

    def finished(self, done: int, failed: int, seconds: float) -> None:
        """Say how it ended; the command prints the summary itself."""
        failures = f", {count(failed)} failed" if failed else ""
        self._line(f"ended: {count(done)} tasks{failures} in {duration(seconds)}")

    def _line(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class LiveProgress:
    """A live bar with rate and time left, for a person at a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
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
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}", style="dim"),
            console=Console(stderr=True, highlight=False),
            transient=False,
        )
        self._task = self._progress.add_task("measuring", total=None, detail="")

    def started(self, total: int, already_done: int) -> None:
        """Show the bar, with what an earlier run did already filled in."""
        self._progress.start()
        self._progress.update(self._task, total=total, completed=already_done)

    def advanced(self, done: int, failed: int, energy_j: float, detail: str) -> None:
        """Move the bar by the tasks that ended since the last call."""
        self._failed += failed
        self._energy_j += energy_j
        parts = [energy(self._energy_j)] if self._energy_j else []
        if self._failed:
            parts.append(f"[red]{count(self._failed)} failed[/]")
        self._progress.update(self._task, advance=done, detail=" ".join(parts))

    def message(self, text: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(text, markup=False)

    def finished(self, done: int, failed: int, seconds: float) -> None:
        """Take the live display down."""
        self._progress.stop()


def make_progress(*, quiet: bool = False) -> ProgressSink:
    """Choose the sink: live on a terminal, plain lines elsewhere or where JSON is asked for."""
    if sys.stderr.isatty() and not quiet:
        return LiveProgress()
    return PlainProgress(every_s=15.0 if quiet else 5.0)
