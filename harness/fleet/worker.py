"""What runs on a node: launches, measured one by one; their files go back to the driver.

order -> janitor -> staging folder -> launch (in a child, or here) -> files and reports
^ a thread beats to the mailbox meanwhile, and hears `stop` and `end`
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import EnergyLensError, StoreError
from harness.fleet.janitor import end_leftovers, holder, marker
from harness.fleet.mailbox import Answer, News
from harness.fleet.staging import disk_works, model_files, staging_folder
from harness.launch import STOP_FILE, LaunchSpec, run_launch
from harness.spec.task import Task

USER_ERROR = 2
"""Exit code of `python -m harness.launch` for what the user has to mend."""
BEAT_S = float(os.environ.get("ENERGYLENS_BEAT_S", "5"))
POLL_S = 0.1
END_GRACE_S = 20.0
"""Time between SIGTERM and SIGKILL: the launch ends its own child first."""
LOG_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker is asked to do.

    Attributes
    ----------
    ticket
        Names the attempt.
    specs
        Launch specs as JSON.
    isolated
        Every launch in a process of its own.
    deadline_s
        Longest time of all of them, from the start.
    gpu_uuids
        GPUs to use, where the whole node is ours; empty: those that Ray gave.
    gang, rank
        Addresses of the nodes that work together, and which of them this is.
    """

    ticket: str
    specs: tuple[str, ...]
    isolated: bool
    deadline_s: float
    gpu_uuids: tuple[str, ...] = ()
    gang: tuple[str, ...] = ()
    rank: int = 0


@dataclass(frozen=True, slots=True)
class LaunchReport:
    """What the driver needs to know about a launch that ended by itself.

    Attributes
    ----------
    launch_id, model_id, hardware
        Which.
    done
        Rows that it gave, also those that say why there is no measurement.
    seconds
        Its duration.
    energy_j
        Energy of one run of each task; None where no task has one.
    drawn_energy_j
        What its GPUs drew from the first idle window to the last, by their counters; None
        without a sensor, and for projections.
    failures
        (task_id, class, detail) of tasks without a measurement.
    flagged
        Reason code -> rows that carry it.
    unreached
        Tasks that the time of the launch, or a stop, left no time for: no row, no failure.
    ended
        Class of the end of a launch that gave no rows; empty for one that went well.
    detail, log
        What is known about that end, and the last lines that it said.
    """

    launch_id: str
    model_id: str
    hardware: str
    done: int
    seconds: float
    energy_j: float | None
    drawn_energy_j: float | None = None
    failures: tuple[tuple[str, str, str], ...] = ()
    flagged: Mapping[str, int] = field(default_factory=dict)
    unreached: int = 0
    ended: str = ""
    detail: str = ""
    log: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Reports of an order, and the files to put into the run folder.

    Attributes
    ----------
    reports
        One a launch.
    files
        Path relative to the run folder -> content.
    leftovers
        What the janitor ended before, in words.
    """

    reports: tuple[LaunchReport, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)
    leftovers: tuple[str, ...] = ()


def run_order(order: Order, models: Mapping[str, str], mailbox: Any) -> Outcome:
    """Run the launches of an order one after the other.

    Parameters
    ----------
    order
        What to do.
    models
        model_id -> text of its config.json.
    mailbox
        Handle of the driver's mailbox, or None.

    Returns
    -------
    Outcome
        A launch that fails is a report, and the next ones go on.
    """
    with Pulse(order.ticket, mailbox, order.rank) as pulse:
        if order.rank:
            return _hold(order, pulse)
        found = end_leftovers() if order.isolated else []
        told = tuple(f"{each.name} {each.pid} of launch {each.launch_id}" for each in found)
        try:
            paths = model_files(models)
            run = _isolated if order.isolated else _pooled
            reports, files = run(order, paths, pulse)
        except (StoreError, OSError) as error:
            specs = [LaunchSpec.model_validate_json(text) for text in order.specs]
            failed = tuple(_no_rows(s, 0.0, "staging_failed", str(error)) for s in specs)
            return Outcome(failed, leftovers=told)
    return Outcome(tuple(reports), files, told)


def _hold(order: Order, pulse: Pulse) -> Outcome:
    """Keep this node for its gang until the leading node is done."""
    deadline = time.monotonic() + order.deadline_s
    while pulse.answer != "end" and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return Outcome(())


class Pulse:
    """Beats to the driver in a thread, and keeps what it answered last."""

    def __init__(self, ticket: str, mailbox: Any, rank: int = 0) -> None:
        self.answer: Answer = "go"
        self._mailbox = mailbox
        self._over = threading.Event()
        pid, ticks, _ = holder(os.getpid()).split(":")
        self._who = (ticket, int(pid), int(ticks or 0), rank)
        self._thread = threading.Thread(target=self._beat, daemon=True, name="pulse")

    def __enter__(self) -> Pulse:
        if self._mailbox is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _beat(self) -> None:
        import ray

        ticket, pid, ticks, rank = self._who
        started = True
        while True:
            news = News(ticket, started, pid, ticks, rank)
            # A driver that is gone takes this process with it; until then go on.
            with suppress(Exception):
                self.answer = ray.get(self._mailbox.post.remote(news), timeout=4 * BEAT_S)
            started = False
            if self._over.wait(BEAT_S):
                return


def _pooled(
    order: Order, paths: Mapping[str, Path], pulse: Pulse
) -> tuple[list[LaunchReport], dict[str, bytes]]:
    """Run launches in this process; their rows go back in one file for each GPU type."""
    from harness.store import RunFolder, conform

    reports: list[LaunchReport] = []
    rows: dict[str, list[dict[str, Any]]] = {}
    with staging_folder() as staging:
        folder = RunFolder.create(staging, {})
        for text in order.specs:
            if pulse.answer != "go" and reports:
                break
            spec = _localised(text, paths)
            started = time.monotonic()
            try:
                result = run_launch(spec)
                for task_id, trace in result.traces.items():
                    folder.write_trace(f"{task_id}-{spec.attempt}", trace)
                if result.failures:
                    record = {"spec": spec.model_dump(mode="json"), "failures": result.failures}
                    folder.write_launch(spec.key, record)
            except (StoreError, OSError):
                raise
            except Exception as error:
                kind = "refused" if isinstance(error, EnergyLensError) else "launch_crashed"
                detail = str(error) if kind == "refused" else f"{type(error).__name__}: {error}"
                reports.append(_no_rows(spec, time.monotonic() - started, kind, detail))
                continue
            rows.setdefault(spec.deployment.hardware, []).extend(result.rows)
            seconds = time.monotonic() - started
            reports.append(_report(spec, result.rows, tuple(result.failures), seconds))
        for hardware, some in rows.items():
            folder.write_result(order.ticket, hardware, conform(some))
        return reports, folder.packed()


def _isolated(
    order: Order, paths: Mapping[str, Path], pulse: Pulse
) -> tuple[list[LaunchReport], dict[str, bytes]]:
    """Run each launch in a child that dies with this worker."""
    reports: list[LaunchReport] = []
    files: dict[str, bytes] = {}
    deadline = time.monotonic() + order.deadline_s
    for text in order.specs:
        spec = _localised(text, paths)
        with staging_folder() as staging:
            report = _in_child(order, spec, staging, pulse, deadline)
            if not report.ended:
                from harness.store import RunFolder

                files |= RunFolder.open(staging / "run").packed()
        reports.append(report)
    return reports, files


def _in_child(
    order: Order, spec: LaunchSpec, staging: Path, pulse: Pulse, deadline: float
) -> LaunchReport:
    started = time.monotonic()
    wrong = disk_works(staging)
    if wrong:
        return _no_rows(spec, 0.0, "staging_failed", f"no room for a launch's files: {wrong}")
    path, out, log = staging / "spec.json", staging / "run", staging / "log.txt"
    path.write_text(spec.model_dump_json(), encoding="utf-8")
    stop_file = staging / "stop"
    with log.open("wb") as stream:
        # In this worker's process group, so that it dies with it.
        child = subprocess.Popen(
            [sys.executable, "-m", "harness.launch", str(path), "--out", str(out)],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=_launch_environment(order, spec, stop_file),
        )
    late = _wait(child, pulse, stop_file, deadline)
    seconds = time.monotonic() - started
    said = _end_of(log)
    if child.returncode == 0:
        return _stored_report(spec, out, seconds)
    if late:
        what = f"ended after {seconds:.0f} s: {late}"
        return _no_rows(spec, seconds, "deadline", what, said)
    wrong = disk_works(staging)
    last = said.splitlines()[-1][:300] if said else "no message"
    if wrong:
        return _no_rows(spec, seconds, "staging_failed", f"no room for its files: {wrong}", said)
    if child.returncode == USER_ERROR:
        first = next((line for line in said.splitlines() if line.startswith("error:")), last)
        return _no_rows(spec, seconds, "refused", first.removeprefix("error: "), said)
    kind = "launch_killed" if child.returncode < 0 else "launch_crashed"
    what = f"the launch process ended with code {child.returncode}: {last}"
    return _no_rows(spec, seconds, kind, what, said)


def _wait(child: subprocess.Popen[bytes], pulse: Pulse, stop_file: Path, deadline: float) -> str:
    """Wait for a child; return why it was ended, or nothing if it ended by itself."""
    late = ""
    try:
        while child.poll() is None:
            if pulse.answer == "stop" and not stop_file.exists():
                stop_file.touch()
            if pulse.answer == "end":
                late = "the driver ended it"
            elif time.monotonic() > deadline:
                late = "its time was over"
            if late:
                break
            with suppress(subprocess.TimeoutExpired):
                child.wait(POLL_S)
    finally:
        _end(child)
    return late


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(END_GRACE_S)
    if child.poll() is None:
        child.kill()
        child.wait()


def _launch_environment(order: Order, spec: LaunchSpec, stop_file: Path) -> dict[str, str]:
    """Environment of a launch: marked, and free of the one thread that Ray gives its workers."""
    few = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    kept = {key: value for key, value in os.environ.items() if key not in few}
    if order.gpu_uuids:
        kept["CUDA_VISIBLE_DEVICES"] = ",".join(order.gpu_uuids)
    if order.gang:
        kept["ENERGYLENS_GANG"] = ",".join(order.gang)
    return {**kept, **marker(spec.launch_id), STOP_FILE: str(stop_file)}


def _localised(text: str, paths: Mapping[str, Path]) -> LaunchSpec:
    """A spec whose model is read from this node's own disk."""
    spec = LaunchSpec.model_validate_json(text)
    path = paths.get(spec.model_id)
    return spec if path is None else spec.model_copy(update={"config_path": path})


def _end_of(log: Path) -> str:
    with suppress(OSError):
        return log.read_bytes()[-LOG_CHARACTERS:].decode("utf-8", "replace").strip()
    return ""


def _no_rows(
    spec: LaunchSpec, seconds: float, ended: str, detail: str, log: str = ""
) -> LaunchReport:
    """Report of a launch that gave nothing; the next run tries its tasks again."""
    return LaunchReport(
        spec.launch_id,
        spec.model_id,
        spec.deployment.hardware,
        0,
        seconds,
        None,
        ended=ended,
        detail=detail[:1000],
        log=log,
    )


def _report(
    spec: LaunchSpec,
    rows: Sequence[Mapping[str, Any]],
    failures: tuple[tuple[str, str, str], ...],
    seconds: float,
    drawn_j: float | None = None,
) -> LaunchReport:
    written = {row["task_id"] for row in rows}
    # What was not reached is told as a failure of the launch, but it is none of the task.
    failures = tuple(failure for failure in failures if failure[0] in written)
    failed = {task_id for task_id, _, _ in failures}
    measured = [row for row in rows if row["task_id"] not in failed]
    flags = Counter(reason for row in measured for reason in row["reasons"] or ())
    known = [j for row in measured if (j := row.get("total_energy_j")) is not None]
    return LaunchReport(
        spec.launch_id,
        spec.model_id,
        spec.deployment.hardware,
        len(rows),
        seconds,
        float(sum(known)) if known else None,
        drawn_j,
        failures,
        dict(flags),
        len(spec.workloads) - len(written),
    )


def _stored_report(spec: LaunchSpec, out: Path, seconds: float) -> LaunchReport:
    """Report of a launch from the files that its process wrote."""
    import pyarrow.parquet as pq

    from harness.store import RunFolder

    folder = RunFolder.open(out)
    path = folder.partition(spec.deployment.hardware) / f"loose-{spec.key}.parquet"
    # The file alone, not the folder's partitions around it.
    columns = ["task_id", "total_energy_j", "reasons", "provenance"]
    rows = pq.ParquetFile(path).read(columns).to_pylist() if path.exists() else []
    record = folder.launch_record(spec.key) or {}
    failures = tuple((str(i), str(kind), str(what)) for i, kind, what in _listed(record))
    sensed = any(row["provenance"] == "measured" for row in rows)
    measuring = record.get("measuring")
    drawn_j = measuring.get("drawn_energy_j") if isinstance(measuring, dict) and sensed else None
    return _report(spec, rows, failures, seconds, drawn_j)


def task_ids_of(spec: LaunchSpec) -> list[str]:
    """Ids of the tasks of a launch, in the order of its workloads."""
    return [
        Task(model_id=spec.model_id, workload=workload, deployment=spec.deployment).task_id
        for workload in spec.workloads
    ]


def _listed(record: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    return list(record.get("failures") or [])


def end_process(pid: int, ticks: int, *, kill: Callable[[int, int], None] = os.kill) -> bool:
    """End a worker that does not listen any more, if it is still the same process.

    Returns
    -------
    bool
        Whether it was there.
    """
    if not holder(pid).startswith(f"{pid}:{ticks}:"):
        return False
    kill(pid, 9)
    return True
