"""How a run is getting on, from the files of its folder alone, on any machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from energylens.runevents import EventTally, Example, time_of
from energylens.runrows import RowCounts, count_rows

if TYPE_CHECKING:
    from harness.fleet.view import NodeView, RunView
    from harness.store import RunFolder

SILENT_S = 30.0
"""A driver that lives writes its progress every few seconds."""

GOES_ON = ("running", "silent", "not started")


@dataclass(frozen=True, slots=True)
class Status:
    """Counts and rates of a run, live or finished.

    Attributes
    ----------
    path
        The run folder.
    state
        `running`, `silent`, `finished`, `stopped`, `interrupted`, `failed`, `imported` or
        `not started`. `silent`: the run has not ended, but its driver has written no progress
        for more than 30 s.
    planned, done, valid, flagged, time_only, failed, remaining
        Tasks. `done` are measured: valid, flagged, or `time_only`, where the machine has no
        power meter; `failed` were tried and gave no numbers; tasks of a lost launch are
        `remaining`: the next run tries them again.
    rate_per_s
        Tasks that end per second: lately, as the driver says, or since it last started; None
        before the first.
    eta_s
        Seconds left at that rate; None when it is not known, 0 when nothing is left.
    energy_j
        Sum of total_energy_j over all rows; None where none has one.
    failures, reasons
        Failed and lost tasks by class; flagged rows by reason code.
    stopping
        Why no launches are started any more, or why the run stopped; empty otherwise.
    progress_age_s
        Seconds since the driver last wrote its progress; None where it never did in this run.
    launches_running, launches_waiting
        Launches, by the driver's last word.
    energy_kwh, gpu_hours, cost
        What this run used so far, by the driver's last word; None where not known.
    attempts, retried
        Attempt -> launches that began it; class -> launches that were tried again.
    examples
        Class -> one failure of it, with the end of its log.
    unplaceable
        Why no node can take them -> tasks.
    nodes, slow
        Nodes of this run; node -> its time over that of its like.
    """

    path: str
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
    stopping: str = ""
    progress_age_s: float | None = None
    launches_running: int | None = None
    launches_waiting: int | None = None
    energy_kwh: float | None = None
    gpu_hours: float | None = None
    cost: float | None = None
    attempts: dict[int, int] = field(default_factory=dict)
    retried: dict[str, int] = field(default_factory=dict)
    examples: dict[str, Example] = field(default_factory=dict)
    unplaceable: dict[str, int] = field(default_factory=dict)
    nodes: tuple[NodeView, ...] = ()
    slow: dict[str, float] = field(default_factory=dict)
    last_event: str | None = None
    last_event_at: str | None = None

    @property
    def goes_on(self) -> bool:
        """Whether more is to be expected; a silent driver may be started again."""
        return self.state in GOES_ON


def read_status(
    path: Path | str, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> Status:
    """Read the status of a run folder.

    Parameters
    ----------
    path
        The folder, or its address on object storage, as `RunFolder.open` takes it.
    now
        The time to which ages count; an argument so that tests need no waiting.

    Raises
    ------
    StoreError
        When there is no run folder at `path`, or a file of it is torn.
    """
    from harness.store import RunFolder

    folder = RunFolder.open(path)
    # Rows are written before their events: read in the other order, no task is missed.
    tally = EventTally(folder.events())
    rows = count_rows(folder, tally.failed)
    return _status(_shown(path), tally, rows, _last_word(folder, tally, now()))


def _shown(path: Path | str) -> str:
    """Write the path; pathlib takes one slash of `s3://` away."""
    text = str(path)
    return (
        text.replace("s3:/", "s3://", 1) if text.startswith("s3:/") and text[4:5] != "/" else text
    )


@dataclass(frozen=True, slots=True)
class _Word:
    """What the driver wrote last in this run."""

    view: RunView
    age_s: float


def _last_word(folder: RunFolder, tally: EventTally, now: datetime) -> _Word | None:
    """Read progress.json; None if there is none of the current run, or it cannot be read."""
    from harness.fleet.view import RunView

    values = read_progress(folder)
    if values is None or tally.start is None:
        return None
    with suppress(ValueError, TypeError, KeyError, AttributeError):
        written = time_of(values["time"])
        if written >= time_of(tally.start["time"]):
            view = RunView.from_dict(values["view"])
            return _Word(view, max(0.0, (now - written).total_seconds()))
    return None


def read_progress(folder: RunFolder) -> Mapping[str, Any] | None:
    """Read what the driver writes every few seconds; None if it is missing or torn."""
    try:
        values = json.loads((folder.path / "progress.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def _status(path: str, tally: EventTally, rows: RowCounts, word: _Word | None) -> Status:
    planned = int(tally.start["tasks_planned"]) if tally.start else None
    failed = sum(rows.failures.values())
    remaining = None if planned is None else max(0, planned - rows.done - failed)
    state = tally.state or ("imported" if rows.imported else "not started")
    if state == "running" and word is not None and word.age_s > SILENT_S:
        state = "silent"
    view = word.view if word else None
    live = view if state == "running" else None
    rate = (live.rate_per_s if live else None) or tally.rate_per_s
    eta_s = live.eta_s if live else None
    return Status(
        path=path,
        sweep=str(tally.start.get("sweep")) if tally.start else None,
        state=state,
        planned=planned,
        done=rows.done,
        valid=rows.valid,
        flagged=rows.done - rows.valid - rows.time_only,
        time_only=rows.time_only,
        failed=failed,
        remaining=remaining,
        rate_per_s=rate,
        eta_s=_eta(state, remaining, rate) if eta_s is None else eta_s,
        energy_j=rows.energy_j,
        failures={**rows.failures, **{f"lost: {k}": n for k, n in tally.lost.most_common()}},
        reasons=rows.reasons,
        stopping=tally.stopping or (live.stopping if live else ""),
        progress_age_s=word.age_s if word else None,
        launches_running=live.launches_running if live else None,
        launches_waiting=live.launches_waiting if live else None,
        energy_kwh=view.energy_kwh if view else None,
        gpu_hours=view.gpu_hours if view else None,
        cost=view.cost if view else None,
        attempts=dict(sorted(tally.attempts.items())),
        retried=dict(tally.retried.most_common()),
        examples=tally.examples,
        unplaceable=dict(tally.unplaceable),
        nodes=_nodes(tally, view),
        slow=tally.slow,
        last_event=str(tally.last["kind"]) if tally.last else None,
        last_event_at=str(tally.last["time"]) if tally.last else None,
    )


def _nodes(tally: EventTally, view: RunView | None) -> tuple[NodeView, ...]:
    """Nodes by the driver's last word, or as far as events tell."""
    if view is not None and view.nodes:
        if tally.end is None:
            return view.nodes
        # The driver's last word may be from just before the last launches ended.
        return tuple(
            node if node.troubled else replace(node, state="idle", doing="", since_s=0.0)
            for node in view.nodes
        )
    if tally.start is None or tally.last is None:
        return ()
    seconds = (time_of(tally.last["time"]) - time_of(tally.start["time"])).total_seconds()
    return tally.nodes(seconds)


def _eta(state: str, remaining: int | None, rate: float | None) -> float | None:
    if remaining == 0:
        return 0.0
    if state != "running" or remaining is None or rate is None:
        return None
    return remaining / rate
