"""Run launches until a slice of time is over; go on from there in the next call.

slice:  [launch][launch][launch]..|   one that does not fit any more waits for the next slice
events: started, ended            |   what ended is never measured again
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pandas as pd

from harness.catalog import load_hardware
from harness.gpucheck.estimate import correction
from harness.gpucheck.machine import CheckedGpu
from harness.gpucheck.plan import CheckPlan, Pace, PlannedLaunch, second_pass
from harness.measuring.settings import LaunchSpec
from harness.meters.base import SensorFacts
from harness.spec.task import Task
from harness.store import RunFolder, read_measurements

STARTED, ENDED = "gpucheck_started", "gpucheck_ended"
ENOUGH_ROWS = 60
MOST_STARTS = 2
"""A launch that was ended from outside so often is given up."""
BUDGET_FACTOR, BUDGET_SLACK_S = 1.5, 30.0
CLOSING_S = 25.0
"""Time of a launch that its budget does not cover: starting, last idle window, writing."""
FINAL = ("out_of_memory", "pruned", "not_supported", "engine_refused", "workload_refused")
"""Failures that another pass would meet again."""

Launcher = Callable[[LaunchSpec, RunFolder], int]
Tell = Callable[[str], None]


@dataclass(slots=True)
class History:
    """What the events of a run folder say of earlier launches.

    Attributes
    ----------
    ended
        Keys of launches that ended, with their exit codes.
    starts
        How often each was started.
    past
        Model, estimated and real seconds of those that ended well.
    spent_s
        Time of all of them.
    """

    ended: dict[str, int] = field(default_factory=dict)
    starts: Counter[str] = field(default_factory=Counter)
    past: list[tuple[str, float, float]] = field(default_factory=list)
    spent_s: float = 0.0

    @classmethod
    def of(cls, folder: RunFolder) -> History:
        """Read the events."""
        out = cls()
        for event in folder.events():
            key = str(event.get("key"))
            if event["kind"] == STARTED:
                out.starts[key] += 1
            elif event["kind"] == ENDED:
                code, real_s = int(str(event["code"])), float(str(event["seconds"]))
                out.ended[key] = code
                out.spent_s += real_s
                if code == 0:
                    guessed_s = float(str(event["estimated_s"]))
                    out.past.append((str(event["model"]), guessed_s, real_s))
        return out

    def seconds(self, launch: PlannedLaunch) -> float:
        """Estimate a launch, corrected by those that are done."""
        return launch.seconds * correction(self.past, launch.model.model_id)

    def open(self, launch: PlannedLaunch) -> bool:
        """Whether a launch is still to be run."""
        key = launch.spec.key
        return key not in self.ended and self.starts[key] < MOST_STARTS


@dataclass(frozen=True, slots=True)
class SliceResult:
    """What one call did.

    Attributes
    ----------
    launched
        Keys of the launches that ran.
    left
        Launches of the first pass that are left.
    finished
        Whether nothing is left, the second pass included.
    seconds
        How long it took.
    """

    launched: tuple[str, ...]
    left: int
    finished: bool
    seconds: float


class Slice:
    """One call of the check.

    Parameters
    ----------
    folder
        The run folder.
    gpu
        What is measured.
    plan, pace, sensor
        What to do, how closely, and the facts of the sensor.
    slice_s
        How long the call may take.
    launch
        Runs one launch and stores its rows; returns 0 if it did.
    tell
        Is told what happens.
    clock
        Monotonic seconds.
    started_s
        Reading of the clock at which the slice began.
    """

    def __init__(
        self,
        folder: RunFolder,
        gpu: CheckedGpu,
        plan: CheckPlan,
        pace: Pace,
        sensor: SensorFacts,
        slice_s: float,
        *,
        launch: Launcher,
        tell: Tell,
        clock: Callable[[], float] = time.monotonic,
        started_s: float | None = None,
    ) -> None:
        self._folder = folder
        self._gpu = gpu
        self._plan = plan
        self._pace = pace
        self._sensor = sensor
        self._slice_s = slice_s
        self._launch = launch
        self._tell = tell
        self._clock = clock
        self._started_s = clock() if started_s is None else started_s
        self._launched: list[str] = []
        self._second: list[PlannedLaunch] | None = None

    def run(self) -> SliceResult:
        """Run what fits."""
        while True:
            history = History.of(self._folder)
            waiting = self._waiting(history)
            if not waiting:
                break
            left_s = self._slice_s - self._elapsed()
            chosen = next((w for w in waiting if history.seconds(w) <= left_s), None)
            if chosen is None:
                shortest_s = min(history.seconds(w) for w in waiting)
                self._say(
                    f"{len(waiting)} launches wait for another slice; the shortest takes "
                    f"about {shortest_s:.0f} s"
                )
                break
            self._one(chosen, history, left_s)
        history = History.of(self._folder)
        left = sum(history.open(launch) for launch in self._plan.launches)
        finished = not self._waiting(history)
        return SliceResult(tuple(self._launched), left, finished, self._elapsed())

    def _waiting(self, history: History) -> list[PlannedLaunch]:
        """Launches of the first pass that are left; then those of the second."""
        first = [launch for launch in self._plan.launches if history.open(launch)]
        if first or not self._plan.launches:
            return first
        if self._second is None:
            rows = read_measurements(self._folder)
            again = [self._again(launch, rows) for launch in self._plan.launches]
            self._second = [launch for launch in again if launch is not None]
        return [launch for launch in self._second if history.open(launch)]

    def _again(self, launch: PlannedLaunch, rows: pd.DataFrame) -> PlannedLaunch | None:
        """Second pass of a launch: what it may better."""
        by_task = {row["task_id"]: row for _, row in rows.iterrows()}
        wanted = []
        for workload in launch.spec.workloads:
            task = Task(
                model_id=launch.spec.model_id, workload=workload, deployment=launch.spec.deployment
            )
            row = by_task.get(task.task_id)
            if row is None or not set(_codes(row)) & set(FINAL):
                wanted.append(workload)
        if not wanted:
            return None
        hardware = load_hardware(self._gpu.hardware)
        return second_pass(launch, wanted, hardware, self._sensor, self._pace)

    def _one(self, launch: PlannedLaunch, history: History, left_s: float) -> None:
        guess_s = history.seconds(launch)
        budget_s = max(1.0, min(BUDGET_FACTOR * guess_s + BUDGET_SLACK_S, left_s - CLOSING_S))
        protocol = launch.spec.protocol.model_copy(update={"budget_s": budget_s})
        spec = launch.spec.model_copy(update={"protocol": protocol})
        self._say(
            f"{spec.key}: {spec.model_id}, {len(spec.workloads)} workloads, about {guess_s:.0f} s"
        )
        before = read_measurements(self._folder) if spec.attempt > 1 else None
        self._folder.append_event(STARTED, key=spec.key)
        begun_s = self._clock()
        code = self._launch(spec, self._folder)
        seconds = self._clock() - begun_s
        if before is not None:
            keep_better(self._folder, spec, before)
        self._folder.append_event(
            ENDED,
            key=spec.key,
            model=spec.model_id,
            code=code,
            seconds=seconds,
            estimated_s=launch.seconds,
        )
        self._launched.append(spec.key)
        self._report_progress(spec, code, seconds)

    def _report_progress(self, spec: LaunchSpec, code: int, seconds: float) -> None:
        history = History.of(self._folder)
        rows = read_measurements(self._folder)
        valid = int(rows["valid"].fillna(False).astype(bool).sum())
        left = [launch for launch in self._plan.launches if history.open(launch)]
        text = (
            f"{spec.key}: {'done' if code == 0 else f'exit code {code}'} in {seconds:.0f} s; "
            f"{len(rows)} rows, {valid} valid; launches done {len(history.ended)}, left {len(left)}"
        )
        if len(rows) < ENOUGH_ROWS and left:
            more_s = seconds_to(ENOUGH_ROWS - len(rows), left, history)
            text += f"; {ENOUGH_ROWS} rows in about {more_s / 60:.0f} min"
        self._say(text)

    def _say(self, text: str) -> None:
        self._tell(f"[{self._elapsed():4.0f} s] {text}")

    def _elapsed(self) -> float:
        return self._clock() - self._started_s


def seconds_to(rows: int, left: list[PlannedLaunch], history: History) -> float:
    """Seconds until so many more rows are there, or all that are planned."""
    total_s = 0.0
    for launch in left:
        if rows <= 0:
            break
        total_s += history.seconds(launch)
        rows -= len(launch.spec.workloads)
    return total_s


def keep_better(folder: RunFolder, spec: LaunchSpec, before: pd.DataFrame) -> None:
    """Let go of rows of a second attempt that have no energy where the first one has.

    The highest attempt of a task is the one that counts, and a launch that ran out of time must
    not hide what was measured before. Its record names what it did not measure.
    """
    had = before.loc[before["total_energy_j"].notna(), "task_id"]
    for table in folder.result_tables():
        rows = table.to_pandas()
        if "total_energy_j" not in rows:
            rows["total_energy_j"] = float("nan")
        mine = (rows["launch_id"] == spec.launch_id) & (rows["attempt"] == spec.attempt)
        if not mine.any() or not mine.all():
            continue
        worse = rows["total_energy_j"].isna() & rows["task_id"].isin(had)
        if worse.any() and not worse.all():
            folder.write_result(spec.key, spec.deployment.hardware, rows[~worse])
        elif worse.all():
            hardware = folder.partition(spec.deployment.hardware)
            (hardware / f"loose-{spec.key}.parquet").unlink(missing_ok=True)


def _codes(row: pd.Series) -> list[str]:
    codes = row["reasons"]
    return list(codes) if isinstance(codes, (list, tuple)) or hasattr(codes, "tolist") else []
