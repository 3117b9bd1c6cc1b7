"""How a run is getting on, from the files of its folder alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from energylens.rowkinds import time_only, without_numbers

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Status:
    """Counts and rates of a run, live or finished.

    Attributes
    ----------
    state
        `running`, `finished`, `interrupted`, `failed`, `imported` or `not started`. A driver that
        was killed leaves `running` behind; the time of the last event tells.
    planned, done, valid, flagged, time_only, failed, remaining
        Tasks. `done` are measured: valid, flagged, or `time_only`, where the machine has no
        power meter; `failed` were tried and gave no numbers; tasks of a lost launch are
        `remaining`: the next run tries them again.
    rate_per_s
        Tasks that ended per second since the driver last started; None before the first.
    eta_s
        Seconds left at that rate; None when it is not known, 0 when nothing is left.
    energy_j
        Sum of total_energy_j over all rows; None where none has one.
    failures, reasons
        Failed and lost tasks by class; flagged rows by reason code.
    """

    path: Path
    sweep: str | None
    state: str
    planned: int | None
    done: int
    valid: int
    flagged: int
    time_only: int
    failed: int
    remaining: int | None
    rate_per_s: float | None
    eta_s: float | None
    energy_j: float | None
    failures: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    last_event: str | None = None
    last_event_at: str | None = None


def read_status(path: Path) -> Status:
    """Read the status of a run folder.

    Raises
    ------
    StoreError
        When there is no run folder at `path`, or a file of it is torn.
    """
    from harness.store import RunFolder, read_measurements

    folder = RunFolder.open(path)
    events = list(folder.events())
    frame = read_measurements(folder)
    return _status(Path(path), events, _count_rows(frame, events))


@dataclass(frozen=True, slots=True)
class _Rows:
    """What the measurement table says."""

    done: int
    valid: int
    time_only: int
    energy_j: float | None
    reasons: dict[str, int]
    failures: dict[str, int]
    imported: bool


def _count_rows(frame: pd.DataFrame, events: Sequence[Mapping[str, Any]]) -> _Rows:
    failed = {
        str(event.get("task_id")): str(event.get("class", "unknown"))
        for event in events
        if event.get("kind") == "task_failed"
    }
    empty = without_numbers(frame)
    for task_id, codes in frame.loc[empty, ["task_id", "reasons"]].itertuples(index=False):
        failed.setdefault(str(task_id), _class(codes))
    measured = frame[~empty]
    # A task that failed once and was measured by a later attempt is not a failure.
    for task_id in set(failed) & set(measured["task_id"]):
        del failed[task_id]
    valid = measured["valid"].fillna(True).astype(bool)
    timed = time_only(measured)
    reasons = Counter(
        str(code)
        for codes in measured.loc[~valid & ~timed, "reasons"]
        if codes is not None
        for code in codes
    )
    total_j = float(measured["total_energy_j"].sum(min_count=1))
    return _Rows(
        done=len(measured),
        valid=int(valid.sum()),
        time_only=int(timed.sum()),
        energy_j=None if total_j != total_j else total_j,
        reasons=dict(reasons.most_common()),
        failures=dict(Counter(failed.values()).most_common()),
        imported=bool(len(measured)) and bool(measured["provenance"].eq("imported").all()),
    )


def _class(codes: Any) -> str:
    return "unknown" if codes is None or not len(codes) else ", ".join(map(str, codes))


def _status(path: Path, events: Sequence[Mapping[str, Any]], rows: _Rows) -> Status:
    start = max((i for i, e in enumerate(events) if e.get("kind") == "run_started"), default=None)
    current = events[start:] if start is not None else []
    planned = int(current[0]["tasks_planned"]) if current else None
    failed = sum(rows.failures.values())
    remaining = None if planned is None else max(0, planned - rows.done - failed)
    state = _state(current, rows.imported)
    rate = _rate(current)
    last = events[-1] if events else None
    lost = Counter[str]()
    for event in current:
        if event.get("kind") == "launch_lost":
            lost[f"lost: {event.get('class', 'unknown')}"] += int(event.get("tasks", 0))
    return Status(
        path=path,
        sweep=str(current[0].get("sweep")) if current else None,
        state=state,
        planned=planned,
        done=rows.done,
        valid=rows.valid,
        flagged=rows.done - rows.valid - rows.time_only,
        time_only=rows.time_only,
        failed=failed,
        remaining=remaining,
        rate_per_s=rate,
        eta_s=_eta(state, remaining, rate),
        energy_j=rows.energy_j,
        failures={**rows.failures, **lost},
        reasons=rows.reasons,
        last_event=str(last["kind"]) if last else None,
        last_event_at=str(last["time"]) if last else None,
    )


def _state(current: Sequence[Mapping[str, Any]], imported: bool) -> str:
    kinds = {event.get("kind") for event in current}
    if "run_finished" in kinds:
        return "finished"
    for kind, state in (("run_interrupted", "interrupted"), ("run_failed", "failed")):
        if kind in kinds:
            return state
    if current:
        return "running"
    return "imported" if imported else "not started"


def _rate(current: Sequence[Mapping[str, Any]]) -> float | None:
    launches = [event for event in current if event.get("kind") == "launch_finished"]
    if not launches:
        return None
    began = datetime.fromisoformat(str(current[0]["time"]))
    ended = datetime.fromisoformat(str(launches[-1]["time"]))
    seconds = (ended - began).total_seconds()
    tasks = sum(int(event.get("tasks", 0)) for event in launches)
    return tasks / seconds if seconds > 0 and tasks else None


def _eta(state: str, remaining: int | None, rate: float | None) -> float | None:
    if remaining == 0:
        return 0.0
    if state != "running" or remaining is None or rate is None:
        return None
    return remaining / rate
