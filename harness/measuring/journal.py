"""What a launch writes down as it goes, so that a crash costs one window and no more.

    {"kind": "begin", "task_id": ..., "what": "decode", "deadline_s": 620}
    {"kind": "trial", "task_id": ..., "trial": {...}}
    {"kind": "failed", "task_id": ..., "class": "out_of_memory", "detail": ...}

The supervisor of the launch reads it to see what was under way when the process died or hung; the
next process reads it to go on from there.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from harness.measuring.trials import Trial


@dataclass(slots=True)
class Recalled:
    """What an earlier process of the same launch wrote.

    Attributes
    ----------
    trials
        task_id -> trials in order.
    failed
        task_id -> (class, detail).
    sentinel
        Values of the sentinel in order.
    under_way
        task_id, phase and deadline (seconds) of what was begun last, and when on the monotonic
        clock, nanoseconds; None if nothing was begun.
    """

    trials: dict[str, list[Trial]] = field(default_factory=dict)
    failed: dict[str, tuple[str, str]] = field(default_factory=dict)
    sentinel: list[float] = field(default_factory=list)
    under_way: tuple[str, str, float, int] | None = None


class Journal(Protocol):
    """Hears what a launch does."""

    def begin(self, task_id: str, what: str, deadline_s: float) -> None:
        """Something begins that must end within `deadline_s`."""
        ...

    def trial(self, task_id: str, trial: Trial) -> None:
        """A trial is done."""
        ...

    def sentinel(self, value: float) -> None:
        """The sentinel was measured."""
        ...

    def failed(self, task_id: str, kind: str, detail: str) -> None:
        """A workload ended without a measurement."""
        ...

    def recalled(self) -> Recalled:
        """What earlier processes wrote."""
        ...


class NoJournal:
    """Writes nothing: for launches that run in the process of their driver."""

    def begin(self, task_id: str, what: str, deadline_s: float) -> None:
        """Write nothing."""

    def trial(self, task_id: str, trial: Trial) -> None:
        """Write nothing."""

    def sentinel(self, value: float) -> None:
        """Write nothing."""

    def failed(self, task_id: str, kind: str, detail: str) -> None:
        """Write nothing."""

    def recalled(self) -> Recalled:
        """Nothing was written."""
        return Recalled()


class FileJournal:
    """Appends one line of JSON a record, each with one write.

    Parameters
    ----------
    path
        The file; made if missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, task_id: str, what: str, deadline_s: float) -> None:
        """Write what begins, when, and its deadline."""
        self._write(
            "begin", task_id=task_id, what=what, deadline_s=deadline_s, t_ns=time.monotonic_ns()
        )

    def trial(self, task_id: str, trial: Trial) -> None:
        """Write a trial."""
        self._write("trial", task_id=task_id, trial=trial.to_dict())

    def sentinel(self, value: float) -> None:
        """Write a value of the sentinel."""
        self._write("sentinel", value=value)

    def failed(self, task_id: str, kind: str, detail: str) -> None:
        """Write a failure."""
        self._write("failed", task_id=task_id, **{"class": kind}, detail=detail)

    def recalled(self) -> Recalled:
        """Read the whole file; a line torn by a crash is passed over."""
        out = Recalled()
        for record in self._records():
            kind = record.get("kind")
            if kind == "trial":
                trial = Trial.from_dict(record["trial"])
                out.trials.setdefault(record["task_id"], []).append(trial)
            elif kind == "failed":
                out.failed[record["task_id"]] = (record["class"], record["detail"])
            elif kind == "sentinel":
                out.sentinel.append(record["value"])
            elif kind == "begin":
                out.under_way = (
                    record["task_id"],
                    record["what"],
                    record["deadline_s"],
                    record["t_ns"],
                )
        return out

    def _records(self) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        with self.path.open(encoding="utf-8") as stream:
            for line in stream:
                try:
                    record = json.loads(line)
                except ValueError:
                    continue
                if isinstance(record, dict):
                    yield record

    def _write(self, kind: str, **fields: Any) -> None:
        line = json.dumps({"kind": kind, **fields}).encode() + b"\n"
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.write(handle, line)
        finally:
            os.close(handle)
