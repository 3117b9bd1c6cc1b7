"""Where a run reports to while it goes on; the command line brings its own sinks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from harness.fleet.view import RunView


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

    def view(self, view: RunView) -> None:
        """Look at the whole run, about once a second; its trouble comes as messages too."""
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

    def view(self, view: RunView) -> None:
        """Say nothing."""

    def finished(self, done: int, failed: int, seconds: float) -> None:
        """Say nothing."""
