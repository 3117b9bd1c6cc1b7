"""Watches the process of a real launch: a crash or a hang costs the workload under way, not more.

    supervisor --- stdin pipe ---> child: python -m harness.launch SPEC --journal FILE
        |  reads FILE: what is under way, until when
        '- child died or is late: that workload failed; a new child does the rest

The child ends when the pipe closes, so that nothing holds a GPU after the supervisor is gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from harness.errors import RunError
from harness.measuring.journal import FileJournal
from harness.measuring.settings import LaunchSpec
from harness.spec.task import Task

MOST_RESTARTS = 5
"""Processes of one launch that may end by themselves before the rest is given up."""
LAST_RESTART = 3 * MOST_RESTARTS
START_DEADLINE_S = 600.0
"""Longest time for a process to import its libraries and begin."""
POLL_S = 0.2
GRACE_S = 15.0
"""Time between SIGTERM and SIGKILL."""
TAIL_CHARACTERS = 2000


def supervise(spec: LaunchSpec, out: Path) -> int:
    """Run a launch in children until every workload has a row.

    Parameters
    ----------
    spec
        The launch.
    out
        The run folder, made already.

    Returns
    -------
    int
        Exit code: 0, or 2 for what the user has to mend.

    Raises
    ------
    RunError
        If its processes end by themselves again and again, even with nothing left to run.
    """
    with tempfile.TemporaryDirectory(prefix="energylens-launch-") as folder:
        path = Path(folder) / "spec.json"
        path.write_text(spec.model_dump_json(), encoding="utf-8")
        journal = FileJournal(Path(folder) / "journal.jsonl")
        ends = 0
        while ends < LAST_RESTART:
            nothing_to_run = _left(spec, journal) == 0
            journal.begin("", "start", START_DEADLINE_S)
            code, said, late = _one_child(path, out, journal)
            if code in (0, 2):
                return code
            ends += 1
            if nothing_to_run:
                break
            _write_down(spec, journal, code, said, late)
            if ends >= MOST_RESTARTS:
                _give_up(
                    spec,
                    journal,
                    f"{ends} processes of this launch ended by themselves",
                    also_measured=ends >= 2 * MOST_RESTARTS,
                )
        raise RunError(
            f"{ends} processes of this launch ended by themselves, the last with nothing to run",
            where=f"{spec.model_id} on {spec.deployment.summary}",
            fix=f"run `python -m harness.launch` by hand and look at what it says: {said[-500:]}",
        )


def _one_child(path: Path, out: Path, journal: FileJournal) -> tuple[int, str, bool]:
    """Run one child; return its exit code, the end of what it said, and whether it was late."""
    arguments = [sys.executable, "-m", "harness.launch", str(path), "--out", str(out)]
    with subprocess.Popen(
        [*arguments, "--journal", str(journal.path)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as child:
        tail = _Tail(child)
        late = False
        deadline = _Deadline(journal)
        try:
            while child.poll() is None:
                time.sleep(POLL_S)
                if deadline.passed():
                    late = True
                    _end(child)
        finally:
            if child.poll() is None:
                _end(child)
        return int(child.returncode), tail.text(), late


class _Deadline:
    """When what is under way must be over; the journal is read again when it has grown."""

    def __init__(self, journal: FileJournal) -> None:
        self._journal = journal
        self._size = -1
        self._at_ns: float = float("inf")

    def passed(self) -> bool:
        """Whether the process is late."""
        size = self._journal.path.stat().st_size if self._journal.path.exists() else 0
        if size != self._size:
            self._size = size
            under_way = self._journal.recalled().under_way
            if under_way is not None:
                self._at_ns = under_way[3] + 1e9 * under_way[2]
        return time.monotonic_ns() > self._at_ns


def _end(child: subprocess.Popen[str]) -> None:
    child.terminate()
    try:
        child.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


class _Tail:
    """Passes the child's standard error on and keeps its end."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._kept = ""
        self._stream = child.stderr
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        if self._stream is None:
            return
        for line in self._stream:
            sys.stderr.write(line)
            self._kept = (self._kept + line)[-TAIL_CHARACTERS:]

    def text(self) -> str:
        """The end of what was said, once the child has ended."""
        self._thread.join(timeout=5)
        return self._kept.strip()


def _write_down(spec: LaunchSpec, journal: FileJournal, code: int, said: str, late: bool) -> None:
    """Charge the end of a process to the workload that was under way."""
    recalled = journal.recalled()
    task_id, what = recalled.under_way[:2] if recalled.under_way else ("", "start")
    last = said.splitlines()[-1][:300] if said else "nothing on its standard error"
    kind, how = _how_it_ended(code, last, late)
    if not task_id:
        _give_up(spec, journal, f"{how} while the engine was brought up ({what}): {last}", kind)
    elif task_id not in recalled.failed:
        # With kind engine_broken the child has written the failure itself.
        journal.failed(task_id, kind, f"{how} in {what}: {last}")


def _how_it_ended(code: int, last: str, late: bool) -> tuple[str, str]:
    """Class of an end, and words for it."""
    if late:
        return "timed_out", "the process was ended because it did not come back"
    if code == -signal.SIGKILL:
        return "out_of_memory", "the process was killed (by the kernel, where memory ran out)"
    if code < 0:
        name = str(-code)
        with contextlib.suppress(ValueError):
            name = signal.Signals(-code).name
        return "crashed", f"the process died of {name}"
    if "out of memory" in last.lower() or "MemoryError" in last:
        return "out_of_memory", f"the process ended with code {code}"
    return "crashed", f"the process ended with code {code}"


def _left(spec: LaunchSpec, journal: FileJournal) -> int:
    """Workloads that have not failed."""
    return len(spec.workloads) - len(journal.recalled().failed)


def _give_up(
    spec: LaunchSpec,
    journal: FileJournal,
    detail: str,
    kind: str = "crashed",
    *,
    also_measured: bool = False,
) -> None:
    """Fail every workload that is left; the next child then does little more than write rows.

    Workloads that have trials are spared at first: what was measured is not thrown away.
    """
    recalled = journal.recalled()
    for workload in spec.workloads:
        task = Task(model_id=spec.model_id, workload=workload, deployment=spec.deployment)
        measured = task.task_id in recalled.trials and not also_measured
        if task.task_id not in recalled.failed and not measured:
            journal.failed(task.task_id, kind, detail)


def end_with_parent() -> None:
    """End this process as soon as its standard input closes: its supervisor is gone then.

    Raises
    ------
    RunError
        If there is no standard input to watch.
    """
    if sys.stdin is None:
        raise RunError("a supervised launch needs the pipe of its supervisor", where="stdin")
    descriptor = sys.stdin.fileno()

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(descriptor, 1024):
                pass
        os._exit(4)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()
