"""What the dispatcher tells, and asks, whoever keeps the account of a run."""

from __future__ import annotations

from typing import Protocol

from harness.fleet.faults import Fault
from harness.fleet.nodes import NodeFacts
from harness.fleet.schedule import Assignment, Work
from harness.fleet.worker import Outcome


class Listener(Protocol):
    """Hears what happens to works and nodes."""

    def sent(self, assignment: Assignment) -> None:
        """A work is on its way to its nodes."""
        ...

    def started(self, assignment: Assignment) -> None:
        """Its worker has begun."""
        ...

    def ended(self, assignment: Assignment, outcome: Outcome, held_s: float) -> None:
        """A work came back; its nodes were held for so long."""
        ...

    def again(self, assignment: Assignment, fault: Fault, held_s: float) -> None:
        """An attempt failed and the work is tried again."""
        ...

    def lost(self, work: Work, nodes: tuple[str, ...], fault: Fault, held_s: float) -> None:
        """A work is given up."""
        ...

    def found(self, facts: NodeFacts) -> None:
        """A node was looked at, for the first time or again."""
        ...

    def withdrawn(self, assignment: Assignment) -> None:
        """A work that had not begun waits again, because the run is stopping."""
        ...

    def node(self, node_id: str, what: str, detail: str) -> None:
        """A node was `lost`, `quarantined`, `joined`, `unusable`, `slow` or `back`."""
        ...

    def tick(self) -> str:
        """About every quarter of a second; answers why the run should stop, or nothing."""
        ...

    def left_s(self) -> float:
        """Wall time that a launch may take now."""
        ...
