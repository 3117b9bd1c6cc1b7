"""The order of one launch: warm-up, idle, trials in random order, sentinel, idle, rows.

    idle
    warm up each workload, smallest first       what fails is a row, what must fail too is pruned
    heat until power is flat                    no pause from here to the first window
    for each trial:  sentinel, then the workloads in random order, each a window a phase
    sentinel -> idle -> intervals, verdicts, rows

Trials are the outer loop, so that slow changes of the machine spread over all workloads instead of
lining up with one. Workloads whose interval is narrow enough drop out after `repeats` trials; the
others go on to `max_repeats`, or until the time is spent.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.engines import Phase, Session
from harness.errors import EnergyLensError, EngineError, MeterError, TimedOutError
from harness.measuring.drift import Drift, drift_of
from harness.measuring.idle import Idle, drawn_between, idle_power
from harness.measuring.journal import Journal
from harness.measuring.pruning import must_fail_too, why
from harness.measuring.rows import measured_columns
from harness.measuring.settings import Protocol
from harness.measuring.trials import Trial, TrialPlan, one_trial, phase_samples, whole_window
from harness.measuring.warmup import CHUNK_S, Heated, heat, warm_up
from harness.meters.phases import PhaseEnergies, combine_repeats
from harness.meters.trust import trusted
from harness.spec.task import Task

if TYPE_CHECKING:
    import pandas as pd

SLACK_S = float(os.environ.get("ENERGYLENS_SLACK_S", "120"))
"""Time beyond its plan that a step may take before the supervisor ends the process."""
ADDITIVE_SHARE = 0.02
"""Residual of prefill + decode against the whole that real machines are allowed."""


@dataclass(slots=True)
class Outcome:
    """What a campaign found.

    Attributes
    ----------
    columns
        task_id -> energy, time and trust columns of the row.
    failures
        (task_id, class, detail) of those without a measurement.
    traces
        task_id -> samples of the first trial.
    record
        What happened, as plain values: order, idle powers, warm-up, sentinel, drift.
    """

    columns: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: list[tuple[str, str, str]] = field(default_factory=list)
    traces: dict[str, pd.DataFrame] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)


class Campaign:
    """Measures the tasks of one launch in an open session.

    Parameters
    ----------
    session
        The session; the caller closes it.
    tasks
        What to measure.
    protocol
        How.
    journal
        Where to write what happens.
    keep_traces
        Positions in `tasks` whose samples are kept.
    clock
        Monotonic seconds.
    started_s
        Reading of the clock from which the budget counts.
    stop
        Asked between windows: once it is true no window is begun any more.
    """

    def __init__(
        self,
        session: Session,
        tasks: Sequence[Task],
        protocol: Protocol,
        journal: Journal,
        *,
        keep_traces: Sequence[int] = (),
        clock: Callable[[], float] = time.monotonic,
        started_s: float | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._session = session
        self._tasks = {task.task_id: task for task in tasks}
        self._protocol = protocol
        self._journal = journal
        self._traced = {tasks[i].task_id for i in keep_traces}
        self._clock = clock
        self._started_s = clock() if started_s is None else started_s
        self._stop = stop
        self._stopped = False
        self._out = Outcome()
        recalled = journal.recalled()
        self._trials: dict[str, list[Trial]] = recalled.trials
        self._sentinel = list(recalled.sentinel)
        for task_id, (kind, detail) in recalled.failed.items():
            self._out.failures.append((task_id, kind, detail))
        self._per_run_s: dict[str, dict[Phase, float]] = {}
        self._sentinel_id: str | None = None
        self._meter_error: str | None = None
        self._order: list[list[str]] = []
        self._phases = np.random.default_rng([protocol.seed, 1])

    def run(self) -> Outcome:
        """Measure everything; a workload that fails does not take the others with it."""
        session = self._session
        session.prepare([task.workload for task in self._tasks.values()])
        before = idle_power(session)
        self._warm_up()
        heated = None if session.virtual or self._spent() else self._heat()
        after = before
        try:
            self._measure(before)
            after = idle_power(session)
        except MeterError as error:
            # What was measured before stays; the rest is left to the next run.
            self._meter_error = str(error)
        self._conclude(before, after, heated)
        return self._out

    def _open(self) -> list[str]:
        """Tasks that have not failed, in the order they were given."""
        gone = {task_id for task_id, _, _ in self._out.failures}
        return [task_id for task_id in self._tasks if task_id not in gone]

    def _fail(self, task_id: str, kind: str, detail: str) -> None:
        """Write a failure down, and prune what must fail too."""
        self._out.failures.append((task_id, kind, detail))
        self._out.traces.pop(task_id, None)
        self._journal.failed(task_id, kind, detail)
        self._prune(task_id, kind)

    def _prune(self, task_id: str, kind: str) -> None:
        failed = self._tasks[task_id].workload
        for other in self._open():
            if not self._trials.get(other) and must_fail_too(
                failed, kind, self._tasks[other].workload
            ):
                detail = why(failed, kind)
                self._out.failures.append((other, "pruned", detail))
                self._journal.failed(other, "pruned", detail)

    def _warm_up(self) -> None:
        """Run each workload until its time settles; failures show here first."""
        for task_id, kind, _ in list(self._out.failures):  # of an earlier process
            self._prune(task_id, kind)
        order = self._open()
        if not self._session.virtual:
            order.sort(key=lambda i: _size(self._tasks[i]))
        for task_id in order:
            if task_id not in self._open():
                continue  # pruned in the meantime
            if self._spent():
                self._fail(task_id, "not_reached", "the time of the launch ran out in the warm-up")
                continue
            workload = self._tasks[task_id].workload
            self._begin_warm_up(task_id)

            def check(run_s: float, task_id: str = task_id) -> None:
                self._check_time(run_s)
                self._begin_warm_up(task_id)

            try:
                decodes = self._protocol.decode_windows
                self._per_run_s[task_id] = warm_up(
                    self._session, workload, decode_windows=decodes, check=check
                )
            except EnergyLensError as error:
                kind = getattr(error, "kind", "") or "workload_refused"
                self._fail(task_id, kind, str(error))
                if kind == "engine_broken":
                    raise

    def _begin_warm_up(self, task_id: str) -> None:
        """Tell the journal that one run begins; each has its own deadline."""
        self._journal.begin(task_id, "warm-up", self._protocol.run_timeout_s + SLACK_S)

    def _check_time(self, run_s: float) -> None:
        """Refuse a workload of which one run takes longer than is allowed or left."""
        if run_s > self._protocol.run_timeout_s:
            raise TimedOutError(
                f"one run takes {run_s:.0f} s; {self._protocol.run_timeout_s:.0f} s are allowed",
                fix="raise run_timeout_s, or leave the workload out",
            )
        left = self._left()
        if left is not None and run_s > left:
            raise TimedOutError(
                f"one run takes {run_s:.0f} s; {max(left, 0.0):.0f} s of the budget are left",
                fix="raise budget_s, or leave the workload out",
            )

    def _heat(self) -> Heated | None:
        """Heat with the workload that takes most tokens at once."""
        tasks = [self._tasks[i] for i in self._open()]
        if not tasks:
            return None
        heaviest = max(tasks, key=_size)
        run_s = self._per_run_s[heaviest.task_id]["full"]
        limit_s = self._protocol.warm_up_s
        left = self._left()
        if left is not None:
            limit_s = min(limit_s, left / 4)
        longest_s = limit_s + 2 * max(CHUNK_S, run_s)
        self._journal.begin(heaviest.task_id, "heating", longest_s + SLACK_S)
        return heat(self._session, heaviest.workload, run_s, limit_s)

    def _measure(self, idle: Idle) -> None:
        """All trials."""
        order = np.random.default_rng(self._protocol.seed)
        sentinel = self._sentinel_id = self._sentinel_task()
        for trial in range(self._protocol.most):
            active = [i for i in self._open() if self._wants(i, trial)]
            if not active or self._spent():
                break
            if sentinel is not None:
                self._measure_sentinel(sentinel, idle)
            places = sorted(list(self._tasks).index(i) for i in active)
            names = list(self._tasks)
            drawn = [names[i] for i in order.permutation(places).tolist()]
            self._order.append(drawn)
            for task_id in drawn:
                if self._spent():
                    break
                if task_id in self._open():
                    self._measure_one(task_id, idle, first=trial == 0)
        if sentinel is not None and self._order and not self._stopped:
            self._measure_sentinel(sentinel, idle)

    def _measure_one(self, task_id: str, idle: Idle, *, first: bool) -> None:
        workload = self._tasks[task_id].workload
        plan = self._plan(task_id, idle)
        traces: list[pd.DataFrame] | None = [] if first and task_id in self._traced else None
        planned_s = sum(plan.window_s + 2 * run_s for run_s in plan.per_run_s.values())
        self._journal.begin(task_id, "trial", 4 * planned_s + SLACK_S)
        try:
            trial = one_trial(self._session, workload, plan, traces)
        except EngineError as error:
            self._trials.pop(task_id, None)
            kind = error.kind or "workload_failed"
            self._fail(task_id, kind, str(error))
            if kind == "engine_broken":
                raise
            return
        self._trials.setdefault(task_id, []).append(trial)
        self._journal.trial(task_id, trial)
        if traces:
            import pandas as pd

            self._out.traces[task_id] = pd.concat(traces, ignore_index=True)

    def _plan(self, task_id: str, idle: Idle) -> TrialPlan:
        sensor = self._session.meter.sensor
        window_s = self._protocol.window_s
        if self._session.meter.has_power:
            window_s = max(window_s, sensor.shortest_window_s)
        return TrialPlan(
            self._per_run_s[task_id],
            window_s,
            idle.power_w,
            idle.processes,
            self._protocol.decode_windows,
            float(self._phases.random()),
        )

    def _wants(self, task_id: str, trial: int) -> bool:
        """Whether a task takes part in a trial."""
        done = self._trials.get(task_id, [])
        if trial < len(done):
            return False  # measured by an earlier process of this launch
        return trial < self._protocol.repeats or self._relative_ci(task_id) > (
            self._protocol.target_ci95
        )

    def _relative_ci(self, task_id: str) -> float:
        energies = self._energies()
        found = energies.get(task_id)
        if found is None or not found.total_j > 0:
            return 0.0  # no meter: repeats are all there is
        return found.total_ci95_j / found.total_j

    def _energies(self) -> dict[str, PhaseEnergies]:
        """Intervals of all workloads that were measured so far; their scatter is pooled."""
        done = [i for i in self._open() if self._trials.get(i)]
        if not self._session.meter.has_power:
            return {}
        samples = [phase_samples(self._trials[i]) for i in done]
        tolerance = 0.0 if self._session.virtual else ADDITIVE_SHARE
        return dict(zip(done, combine_repeats(samples, tolerance=tolerance), strict=True))

    def _sentinel_task(self) -> str | None:
        """The workload of median run time; None where a sentinel is not wanted or not needed."""
        wanted = self._protocol.sentinel
        if wanted is None:
            wanted = not self._session.virtual
        candidates = self._open()
        if not wanted or not candidates:
            return None
        candidates.sort(key=lambda i: self._per_run_s[i]["full"])
        return candidates[(len(candidates) - 1) // 2]

    def _measure_sentinel(self, task_id: str, idle: Idle) -> None:
        """One whole window of the sentinel: energy of a run, or its time without a meter."""
        if task_id not in self._open():
            return
        workload = self._tasks[task_id].workload
        plan = self._plan(task_id, idle)
        self._journal.begin(task_id, "sentinel", 4 * plan.window_s + SLACK_S)
        try:
            run_j, run_s = whole_window(self._session, workload, plan)
        except EngineError:
            return  # the workload's own trial will meet it again and say so
        value = run_j if self._session.meter.has_power else run_s
        self._sentinel.append(value)
        self._journal.sentinel(value)

    def _conclude(self, before: Idle, after: Idle, heated: Heated | None) -> None:
        """Intervals, verdicts and columns of everything that was measured."""
        drift = drift_of(self._sentinel)
        idle_w = (before.power_w + after.power_w) / 2
        energies = self._energies()
        meter = self._session.meter
        for task_id in self._open():
            trials = self._trials.get(task_id, [])
            # Who is asked to stop leaves what one repeat says nothing about to the next run.
            enough = min(2, self._protocol.repeats) if self._stopped else 1
            if len(trials) < enough:
                why_not = self._meter_error or "the time of the launch ran out before it"
                self._fail(task_id, "not_reached", why_not)
                continue
            reasons = self._launch_reasons(drift, heated)
            if len(trials) < self._protocol.repeats:
                reasons.add("meter_lost" if self._meter_error else "budget_spent")
            if len(trials) == 1:
                reasons.add("single_repeat")
            energy = energies.get(task_id)
            if energy is not None and self._protocol.max_repeats is not None:
                wide = energy.total_ci95_j > self._protocol.target_ci95 * energy.total_j
                reasons |= {"wide_interval"} if wide else set()
            self._out.columns[task_id] = measured_columns(
                self._tasks[task_id].workload, trials, energy, meter, idle_w, reasons
            )
        self._out.record = self._record(before, after, heated, drift)

    def _launch_reasons(self, drift: Drift, heated: Heated | None) -> set[str]:
        reasons = set()
        if self._session.environment().get("foreign_processes"):
            reasons.add("foreign_process")
        if drift.significant:
            reasons.add("drift")
        if heated is not None and not heated.flat:
            reasons.add("not_flat")
        return reasons

    def _record(
        self, before: Idle, after: Idle, heated: Heated | None, drift: Drift
    ) -> dict[str, Any]:
        return {
            "meter_error": self._meter_error,
            "sensor": asdict(self._session.meter.sensor),
            "sensor_problems": trusted(self._session.meter.sensor)
            if self._session.meter.has_power
            else [],
            "seed": self._protocol.seed,
            "order": self._order,
            "idle_before": before.to_dict(),
            "idle_after": after.to_dict(),
            "drawn_energy_j": None
            if self._session.meter.simulated
            else drawn_between(before, after),
            "warm_up": None
            if heated is None
            else {"flat": heated.flat, "seconds": heated.seconds, "levels": heated.levels},
            "sentinel": {
                "task_id": self._sentinel_id,
                "values": self._sentinel,
                "change": drift.change,
                "stderr": drift.stderr,
                "significant": drift.significant,
            },
            "failures": [list(failure) for failure in self._out.failures],
        }

    def _left(self) -> float | None:
        budget = self._protocol.budget_s
        return None if budget is None else self._started_s + budget - self._clock()

    def _spent(self) -> bool:
        """Whether no window may begin any more: the time is over, or somebody asked to stop."""
        left = self._left()
        self._stopped = self._stopped or self._stop()
        return self._stopped or (left is not None and left <= 0)


def _size(task: Task) -> tuple[int, int]:
    """Order of workloads from light to heavy: tokens at once, then steps."""
    workload = task.workload
    return workload.batch * workload.context_tokens, workload.output_tokens
