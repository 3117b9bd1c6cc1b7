"""The driver of a run: sweep -> plan -> launches that are missing -> Ray -> run folder.

The run folder is the only state. A run that is started again reads which tasks are done and
does the rest; two drivers cannot work on one folder at the same time.
"""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.engines import load_engine
from harness.errors import RunError
from harness.fleet.cluster import NODE_LOCK, ray_cluster
from harness.fleet.dispatch import Batch, BatchFailure, dispatch
from harness.fleet.progress import ProgressSink, Quiet
from harness.fleet.worker import LaunchReport
from harness.launch import LaunchSpec, Protocol
from harness.plan import Plan, RememberingEstimator, default_estimator, make_plan
from harness.spec import Sweep, load_sweep
from harness.store import RunFolder, StoreError, code_version
from harness.store.files import write_atomic

BATCH_TASKS = 96
"""Tasks in a batch of pooled launches: a second or two of work, so that progress is seen."""

LAUNCH_DEADLINE_S = 3600.0
"""Time that one launch may take, waiting for a worker included; twin launches take seconds."""

DEADLINE_FACTOR = 5.0
"""A real launch may take so many times its plan, if that is longer."""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a run did.

    Attributes
    ----------
    folder
        The run folder.
    planned, already_done, done, failed
        Tasks in the plan, with a row from earlier runs, with a row from now (also one that says
        why it failed), failed now (also those of lost launches, which have no row).
    flagged
        Reason code -> rows measured now that carry it.
    seconds, energy_j
        Wall time of this run, and energy of one run of every task done now (None where no
        task has one).
    skips
        Reason -> configurations that the plan left out.
    """

    folder: Path
    planned: int
    already_done: int
    done: int
    failed: int
    flagged: dict[str, int]
    seconds: float
    energy_j: float | None
    skips: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "folder": str(self.folder),
            "planned": self.planned,
            "already_done": self.already_done,
            "done": self.done,
            "failed": self.failed,
            "flagged": self.flagged,
            "seconds": round(self.seconds, 3),
            "energy_j": self.energy_j,
            "skips": self.skips,
        }


def run_sweep(
    sweep_path: Path | str,
    out: Path | str,
    *,
    progress: ProgressSink | None = None,
    workers: int | None = None,
) -> RunSummary:
    """Do a sweep, or what is missing of it.

    Parameters
    ----------
    sweep_path
        Sweep file.
    out
        Run folder; made if missing, resumed if not.
    progress
        Where to report to.
    workers
        Processes on this machine; ignored when RAY_ADDRESS names a cluster.

    Raises
    ------
    EnergyLensError
        On anything that the user has to mend; what was measured stays in the folder.
    KeyboardInterrupt
        Passed on, after the folder was left clean.
    """
    started = time.monotonic()
    sink = progress or Quiet()
    sweep = load_sweep(Path(sweep_path))
    real = load_engine(sweep.engine).isolated
    isolated = sweep.isolate_launches or real
    out = Path(out).absolute()
    memory = RememberingEstimator(default_estimator(sweep.engine), out / "plan.parquet")
    plan = make_plan(sweep, estimator=memory)
    folder = RunFolder.create(out, {})
    with folder.lock():
        _refuse_other_sweep(folder, sweep)
        manifest = _manifest(sweep, plan)
        folder.update_manifest(manifest)
        memory.save(write_atomic)
        state = _Run(folder, sink)
        specs = missing_launches(sweep, plan, folder.done_task_ids())
        missing = sum(len(s.workloads) for s in specs)
        already = len(plan.tasks) - missing
        folder.append_event(
            "run_started",
            sweep=sweep.name,
            tasks_planned=len(plan.tasks),
            tasks_already_done=already,
            launches=len(specs),
            # The manifest tells of the latest run; rows of earlier ones may be of other code.
            git_commit=manifest["git_commit"],
            versions=manifest["versions"],
        )
        sink.started(len(plan.tasks), already)
        try:
            if specs:
                batches = _batches(specs, 1 if isolated else BATCH_TASKS, _deadlines(plan))
                state.work(batches, isolated, real, workers)
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            # Whatever goes wrong while cleaning up, the first error is the one to hear of.
            with suppress(Exception):
                state.close("run_interrupted" if interrupted else "run_failed", started, error)
            raise
        state.close("run_finished", started)
    return RunSummary(
        folder.path,
        len(plan.tasks),
        already,
        state.done,
        state.failed,
        state.flagged,
        time.monotonic() - started,
        state.energy_j,
        plan.skipped,
    )


class _Run:
    """Counts of one run, and what is written down as outcomes come in."""

    def __init__(self, folder: RunFolder, sink: ProgressSink) -> None:
        self.folder = folder
        self.sink = sink
        self.done = 0
        self.failed = 0
        self.energy_j: float | None = None
        self.flagged: dict[str, int] = {}

    def work(
        self, batches: Sequence[Batch], isolated: bool, real: bool, workers: int | None
    ) -> None:
        """Run all batches; real ones measure alone on their node."""
        with ray_cluster(workers) as resources:
            if real:
                _check_resources(batches, resources)
            slots = resources[NODE_LOCK] if real else 2 * resources.get("CPU", 1)
            for outcome in dispatch(
                batches,
                str(self.folder.path),
                slots=int(slots),
                isolated=isolated,
                exclusive=real,
                on_retry=self._retry,
            ):
                if isinstance(outcome, BatchFailure):
                    specs = [LaunchSpec.model_validate_json(s) for s in outcome.batch.specs]
                    tasks = sum(len(spec.workloads) for spec in specs)
                    self._lost(outcome.batch.launch_ids, tasks, outcome.kind, outcome.detail)
                else:
                    for report in outcome:
                        self._finished(report)

    def close(self, kind: str, started: float, error: BaseException | None = None) -> None:
        """Compact what is there and write the last event, whatever happened."""
        seconds = time.monotonic() - started
        why = {} if error is None else {"class": type(error).__name__, "detail": str(error)}
        try:
            rows = self.folder.compact()
            self.folder.append_event("compacted", rows=rows)
            self.folder.append_event(
                kind, done=self.done, failed=self.failed, seconds=seconds, **why
            )
        except StoreError:
            if kind == "run_finished":
                raise
            # The disk is what failed: the rows on it stay, and the first error says so.
        self.sink.finished(self.done, self.failed, seconds)

    def _finished(self, report: LaunchReport) -> None:
        if report.crash:
            self._lost([report.launch_id], report.lost, "launch_crashed", report.crash)
            return
        self.done += report.done
        self.failed += len(report.failures)
        if report.energy_j is not None:
            self.energy_j = (self.energy_j or 0.0) + report.energy_j
        for reason, count in report.flagged.items():
            self.flagged[reason] = self.flagged.get(reason, 0) + count
        self.folder.append_event(
            "launch_finished",
            launch_id=report.launch_id,
            hardware=report.hardware,
            model_id=report.model_id,
            tasks=report.done,
            failed=len(report.failures),
            seconds=round(report.seconds, 3),
            energy_j=report.energy_j,
        )
        for task_id, kind, detail in report.failures:
            self.folder.append_event(
                "task_failed", task_id=task_id, **{"class": kind}, detail=detail
            )
        self.sink.advanced(
            report.done,
            len(report.failures),
            report.energy_j or 0.0,
            f"{report.model_id} on {report.hardware}",
        )

    def _lost(self, launch_ids: Sequence[str], tasks: int, kind: str, detail: str) -> None:
        """Write lost launches down; their tasks have no row, so the next run tries them again."""
        self.failed += tasks
        self.folder.append_event(
            "launch_lost",
            launch_ids=list(launch_ids),
            tasks=tasks,
            **{"class": kind},
            detail=detail,
        )
        self.sink.message(f"{tasks} tasks lost: {kind}: {detail}")

    def _retry(self, batch: Batch, reason: str) -> None:
        self.folder.append_event("launch_retried", launch_ids=list(batch.launch_ids), reason=reason)
        self.sink.message(f"{reason}: {len(batch.specs)} launches are tried again")


def missing_launches(sweep: Sweep, plan: Plan, done: set[str]) -> list[LaunchSpec]:
    """Launches of a plan with the workloads that are not done, in the order of the plan.

    Traces are kept for the first `keep_traces` tasks of an even spread over the plan.
    """
    wanted = _traced(plan, sweep.keep_traces)
    out = []
    for launch in plan.launches:
        tasks = [t for t in launch.tasks if t.task_id not in done]
        if not tasks:
            continue
        ids = hashlib.sha256("".join(t.task_id for t in tasks).encode()).hexdigest()[:8]
        out.append(
            LaunchSpec(
                launch_id=f"{launch.launch_id}-{ids}",
                model_id=launch.model_id,
                config_path=plan.models[launch.model_id].config_path.absolute(),
                deployment=launch.deployment,
                workloads=tuple(t.workload for t in tasks),
                protocol=_protocol(sweep, launch.deployment.engine),
                sweep=sweep.name,
                keep_traces=tuple(i for i, t in enumerate(tasks) if t.task_id in wanted),
                engine_options=_engine_options(sweep, launch.deployment.engine),
            )
        )
    return out


def _protocol(sweep: Sweep, engine: str) -> Protocol:
    if engine == "twin":
        return Protocol(repeats=sweep.repeats, window_s=sweep.window_s, seed=sweep.twin.seed)
    return Protocol(repeats=sweep.repeats, window_s=sweep.window_s, **sweep.measuring.model_dump())


def _engine_options(sweep: Sweep, engine: str) -> dict[str, Any]:
    if engine == "twin":
        return {"repeat_noise": sweep.twin.repeat_noise}
    if engine == "transformers":
        return sweep.transformers.model_dump()
    return {}


def _deadlines(plan: Plan) -> dict[str, float]:
    """Launch id -> longest time of it: plans of real engines are rough."""
    return {
        launch.launch_id: max(LAUNCH_DEADLINE_S, DEADLINE_FACTOR * launch.cost.duration_s)
        for launch in plan.launches
    }


def _check_resources(batches: Sequence[Batch], resources: Mapping[str, float]) -> None:
    """Refuse what could never be placed: Ray would wait for it in silence."""
    if not resources.get(NODE_LOCK):
        raise RunError(
            "no node of this cluster offers the lock that keeps measurements apart",
            where=f"Ray resource {NODE_LOCK!r}",
            fix=f"start every node with --resources='{{\"{NODE_LOCK}\": 1}}'",
        )
    needed = max(batch.num_gpus for batch in batches)
    there = int(resources.get("GPU", 0))
    if needed > there:
        raise RunError(
            f"a launch needs {needed} GPUs and Ray sees {there} here",
            where="this machine or cluster",
            fix="choose a deployment that fits, or start Ray with --num-gpus where it finds none",
        )


def _traced(plan: Plan, count: int) -> set[str]:
    if not count:
        return set()
    step = max(1, len(plan.tasks) // count)
    return {t.task_id for t in plan.tasks[::step][:count]}


def _batches(specs: Sequence[LaunchSpec], size: int, deadlines: Mapping[str, float]) -> list[Batch]:
    """Group neighbouring launches until a batch holds `size` tasks."""
    out: list[Batch] = []
    group: list[LaunchSpec] = []
    for spec in specs:
        group.append(spec)
        if sum(len(s.workloads) for s in group) >= size:
            out.append(_batch(group, deadlines))
            group = []
    if group:
        out.append(_batch(group, deadlines))
    return out


def _batch(group: Sequence[LaunchSpec], deadlines: Mapping[str, float]) -> Batch:
    return Batch(
        tuple(s.launch_id for s in group),
        tuple(s.model_dump_json() for s in group),
        sum(deadlines[s.launch_id.partition("-")[0]] for s in group),
        max(_gpus(s) for s in group),
    )


def _gpus(spec: LaunchSpec) -> int:
    """GPUs that a launch really occupies: none for the twin, or where the CPU computes."""
    deployment = spec.deployment
    on_cpu = deployment.hardware.startswith("CPU") or spec.engine_options.get("device") == "cpu"
    return 0 if deployment.engine == "twin" or on_cpu else deployment.num_gpus


def _refuse_other_sweep(folder: RunFolder, sweep: Sweep) -> None:
    """A run folder belongs to one sweep by name; its content may grow."""
    for event in folder.events():
        if event.get("kind") == "run_started" and event.get("sweep") != sweep.name:
            raise RunError(
                f"this folder holds the sweep {event.get('sweep')!r}, not {sweep.name!r}",
                where=str(folder.path),
                fix="choose another folder with --out, or the sweep that it was made with",
            )


def _manifest(sweep: Sweep, plan: Plan) -> dict[str, object]:
    from importlib.metadata import version

    packages = ["energylens", "ray", "aiconfigurator-core", "pyarrow", "pandas", "numpy"]
    packages += ["torch", "transformers"] if sweep.engine == "transformers" else []
    return {
        "sweep_name": sweep.name,
        "sweep": sweep.text,
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
        "git_commit": code_version()[1],
        "inventory": {"host": platform.node(), "platform": platform.platform()},
        "tasks_planned": len(plan.tasks),
        "skips": plan.skipped,
    }
