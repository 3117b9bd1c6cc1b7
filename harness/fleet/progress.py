"""Where a run reports to while it goes on; the command line brings its own sinks."""

from __future__ import annotations

from typing import Protocol


class ProgressSink(Protocol):
    """Hears about a run as it happens."""

    def started(self, total: int, already_done: int) -> None:
        """Begin: `total` tasks in the plan, of which some are done from earlier."""
        ...

    def advanced(self, done: int, failed: int, energy_j: float, detail: str) -> None:
        """Go on: so many more tasks are done or failed; their energy; what was measured."""
        ...

    def message(self, text: str) -> None:
        """Tell something that the user should read."""
        ...

    def finished(self, done: int, failed: int, seconds: float) -> None:
        """End: totals of this run."""
        ...


class Quiet:
    """A sink that says nothing."""

    def started(self, total: int, already_done: int) -> None:
        """Say nothing."""

    def advanced(self, done: int, failed: int, energy_j: float, detail: str) -> None:
        """Say nothing."""

    def message(self, text: str) -> None:
        """Say nothing."""

    def finished(self, done: int, failed: int, seconds: float) -> None:
        """Say nothing."""
