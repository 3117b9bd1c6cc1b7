"""What runs on a worker: launches, measured and written to the run folder one by one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import EnergyLensError, RunError
from harness.launch import LaunchSpec, run_launch, store_result

USER_ERROR = 2
"""Exit code of `python -m harness.launch` for what the user has to mend."""


@dataclass(frozen=True, slots=True)
class LaunchReport:
    """What the driver needs to know about a finished launch; the rows are on disk already."""

    launch_id: str
    model_id: str
    hardware: str
    done: int
    seconds: float
    energy_j: float | None
    failures: tuple[tuple[str, str, str], ...] = ()
    flagged: dict[str, int] = field(default_factory=dict)
    """Reason code -> rows that carry it."""
    lost: int = 0
    """Tasks of a launch that crashed; they have no row, so the next run tries them again."""
    crash: str = ""
    """What the crash said."""


class LaunchCrashedError(RuntimeError):
    """The process of a launch ended by itself: a result of that launch, not of the run."""


def run_batch(specs: Sequence[str], out: str, isolated: bool) -> list[LaunchReport]:
    """Run launches one after the other; each is committed before the next one starts.

    Parameters
    ----------
    specs
        Launch specs as JSON.
    out
        The run folder, on a file system that this worker sees.
    isolated
        Give every launch a process of its own.

    Returns
    -------
    list of LaunchReport
        One a launch. A launch that crashes is reported as lost and the next ones go on.

    Raises
    ------
    EnergyLensError
        What the user has to mend: it would meet every other launch too.
    """
    reports = []
    for text in specs:
        spec = LaunchSpec.model_validate_json(text)
        started = time.monotonic()
        try:
            report = _in_child(spec, text, out) if isolated else _in_process(spec, out)
        except EnergyLensError:
            raise
        except Exception as error:
            report = LaunchReport(
                spec.launch_id,
                spec.model_id,
                spec.deployment.hardware,
                0,
                time.monotonic() - started,
                None,
                lost=len(spec.workloads),
                crash=f"{type(error).__name__}: {error}"[:300],
            )
        reports.append(report)
    return reports


def _in_process(spec: LaunchSpec, out: str) -> LaunchReport:
    started = time.monotonic()
    result = run_launch(spec)
    store_result(spec, result, Path(out))
    rows = [row for row in result.rows if row.get("total_energy_j") is not None]
    flags = Counter(reason for row in rows for reason in row["reasons"])
    return LaunchReport(
        spec.launch_id,
        spec.model_id,
        spec.deployment.hardware,
        len(result.rows),
        time.monotonic() - started,
        _sum([row["total_energy_j"] for row in rows]),
        tuple(result.failures),
        dict(flags),
    )


def _in_child(spec: LaunchSpec, text: str, out: str) -> LaunchReport:
    """Run one launch in a child of this worker's process group, so that it dies with it."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="energylens-launch-") as folder:
        path = Path(folder) / "spec.json"
        path.write_text(text)
        child = subprocess.run(
            [sys.executable, "-m", "harness.launch", str(path), "--out", out],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=_launch_environment(spec),
            check=False,
        )
    if child.returncode not in (0, USER_ERROR):
        last = (child.stderr.strip().splitlines() or ["no message on its standard error"])[-1]
        raise LaunchCrashedError(f"the launch process ended with code {child.returncode}: {last}")
    if child.returncode:
        raise RunError(
            "the launch process met an error that has to be mended",
            where=f"{spec.model_id} on {spec.deployment.summary}",
            fix=child.stderr[-2000:].strip() or "no message on its standard error",
        )
    return _stored_report(spec, out, time.monotonic() - started)


def _launch_environment(spec: LaunchSpec) -> dict[str, str]:
    """Environment of a launch: marked, and free of the one thread that Ray gives its workers."""
    few = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    kept = {key: value for key, value in os.environ.items() if key not in few}
    return {**kept, "ENERGYLENS_LAUNCH": spec.launch_id}


def _stored_report(spec: LaunchSpec, out: str, seconds: float) -> LaunchReport:
    """Report of a launch from the rows that its process wrote."""
    import pyarrow.parquet as pq

    from harness.store import RunFolder

    folder = RunFolder.open(out)
    path = folder.partition(spec.deployment.hardware) / f"loose-{spec.key}.parquet"
    # The file alone, not the folder's partitions around it.
    columns = ["task_id", "total_energy_j", "reasons"]
    rows = pq.ParquetFile(path).read(columns).to_pylist() if path.exists() else []
    failures = _failures(folder.launch_record(spec.key))
    failed = {task_id for task_id, _, _ in failures}
    measured = [row for row in rows if row["task_id"] not in failed]
    flags = Counter(reason for row in measured for reason in row["reasons"] or ())
    return LaunchReport(
        spec.launch_id,
        spec.model_id,
        spec.deployment.hardware,
        len(rows),
        seconds,
        _sum([row["total_energy_j"] for row in measured]),
        failures,
        dict(flags),
    )


def _sum(energies_j: Sequence[float | None]) -> float | None:
    """Sum of what is known; None where nothing is."""
    known = [energy_j for energy_j in energies_j if energy_j is not None]
    return float(sum(known)) if known else None


def _failures(record: Mapping[str, Any] | None) -> tuple[tuple[str, str, str], ...]:
    """(task_id, class, detail) of each task without a measurement, from a launch's record."""
    found = (record or {}).get("failures") or []
    return tuple((str(task_id), str(kind), str(detail)) for task_id, kind, detail in found)


def user_error(error: BaseException) -> EnergyLensError | None:
    """Find the error with a message for the user behind whatever Ray wrapped around it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, EnergyLensError):
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__
    return None
