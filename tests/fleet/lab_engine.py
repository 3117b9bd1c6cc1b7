"""An engine without a model for the lab: quick, on a clock of its own, and as faulty as asked.

How it behaves is read from the file that ENERGYLENS_LAB_SCRIPT names:

    {"folder": "...",                        where it keeps its log
     "pace_s": 0.01,                         real seconds that one workload takes
     "nodes": {"h100-a": 3.0},               how many times slower a node is
     "launches": {"1f2e...": 0.5},           real seconds of a whole launch, by its planned id
     "open": {"h100-b": "kill_worker"},      what happens to every launch of a node
     "tasks": {"9ab3...": "crash"}}          what happens at the first run of a task

Energies are simulated, and the rows say so.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from harness.engines.base import RunStamps
from harness.errors import NotSupportedError, OutOfMemoryError
from harness.meters.twin import Segment, TwinMeter
from harness.spec.task import Task

MARK = "ENERGYLENS_LAB"
NODE = "ENERGYLENS_LAB_NODE"
SCRIPT = "ENERGYLENS_LAB_SCRIPT"
PHASE_S = {"prefill": 0.25, "decode": 0.75, "full": 1.0}
IDLE_W, BUSY_W = 70.0, 400.0

OWN_FAULTS = ("crash", "hang", "gpu_memory", "host_memory", "refuse")
"""Of a workload: its row says so, and the launch goes on."""
ONCE = ("kill_launch", "kill_worker", "kill_node", "freeze_node", "fill_disk", "orphan")
"""Of a node: happen once, and the launch is tried again elsewhere (an orphan only stays)."""


class LabEngine:
    """Opens sessions."""

    name = "lab"
    provenance = "measured"
    isolated = True
    multi_node = True

    def version(self, hardware):
        return "1"

    def open(self, model, deployment, seed):
        return LabSession(model.model_id, deployment, json.loads(script_path().read_text()))


class LabSession:
    """Counts time by itself, so that windows and rests cost nothing."""

    virtual = False
    phases = ("prefill", "decode", "full")

    def __init__(self, model_id: str, deployment: Any, script: dict[str, Any]) -> None:
        self._model_id = model_id
        self._deployment = deployment
        self._script = script
        self._begun: set[str] = set()
        self._count = 1
        self._clock_ns = time.monotonic_ns()
        self.meter = TwinMeter(deployment.hardware, deployment.num_gpus, IDLE_W, seed=0)
        self._log("open")
        always = script.get("open", {}).get(os.environ.get(NODE))
        if always is not None:
            self._do(always)

    def environment(self):
        return {
            "engine": "lab",
            "devices": [{"driver": "scripted-1.0"}],
            "lab_node": os.environ.get(NODE),
            "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
        }

    def prepare(self, workloads):
        self._count = len(workloads)

    def run(self, workload, phase, count):
        task_id = self._task_id(workload)
        if task_id not in self._begun:
            self._begun.add(task_id)
            self._begin(task_id)
        run_s = PHASE_S[phase] * (0.2 + 0.01 * workload.batch)
        start_ns = self._clock_ns
        knots_s = np.array([0.0, run_s])
        self.meter.record(Segment(start_ns, knots_s, knots_s * BUSY_W, count))
        run_ns = round(run_s * 1e9)
        starts = start_ns + run_ns * np.arange(count, dtype=np.int64)
        self._clock_ns += run_ns * count
        share = {"prefill": run_ns, "decode": 0, "full": run_ns // 4}[phase]
        return RunStamps(starts, starts + share, starts + run_ns)

    def rest(self, seconds):
        start_ns = self._clock_ns
        self._clock_ns += round(seconds * 1e9)
        return start_ns, self._clock_ns

    def close(self):
        self._log("close")

    def _task_id(self, workload) -> str:
        return Task(model_id=self._model_id, workload=workload, deployment=self._deployment).task_id

    def _begin(self, task_id: str) -> None:
        """Take the time that this workload takes, and do what the script says."""
        planned = os.environ.get("ENERGYLENS_LAUNCH", "").partition("-")[0]
        whole_s = self._script.get("launches", {}).get(planned)
        pace_s = self._script.get("pace_s", 0.0) if whole_s is None else whole_s / self._count
        pace_s *= self._script.get("nodes", {}).get(os.environ.get(NODE), 1.0)
        time.sleep(pace_s)
        do = self._script.get("tasks", {}).get(task_id)
        if do in ONCE and not self._first(f"{do}-{task_id}"):
            return
        if do is not None:
            self._do(do)

    def _do(self, what: str) -> None:
        self._log(what)
        _ACTIONS[what]()

    def _first(self, name: str) -> bool:
        """Whether nobody did this before, on any node."""
        path = Path(self._script["folder"]) / "once" / name
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def _log(self, what: str, **more: Any) -> None:
        line = {
            "what": what,
            "node": os.environ.get(NODE),
            "launch": os.environ.get("ENERGYLENS_LAUNCH"),
            "pid": os.getpid(),
            "t": time.monotonic(),
            "gpus": self._deployment.num_gpus,
            **more,
        }
        with (Path(self._script["folder"]) / "lab.log").open("a") as stream:
            stream.write(json.dumps(line) + "\n")


def script_path() -> Path:
    """The file that says how to behave."""
    return Path(os.environ[SCRIPT])


def marked(entry: str) -> list[int]:
    """Processes with this entry, `NAME=value` or `NAME=` for any, in their environment."""
    wanted = entry.encode()
    whole = not entry.endswith("=")
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError):
            entries = Path(f"/proc/{name}/environ").read_bytes().split(b"\0")
            if any(e == wanted if whole else e.startswith(wanted) for e in entries):
                found.append(int(name))
    return found


def _crash() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.abort()


def _hang() -> None:
    time.sleep(3600)


def _gpu_memory() -> None:
    raise OutOfMemoryError("CUDA out of memory", where="the lab")


def _refuse() -> None:
    raise NotSupportedError("this input is not supported", where="the lab")


def _host_memory() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_launch() -> None:
    """The supervisor goes; this child hears its pipe close."""
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(3600)


def _kill_worker() -> None:
    os.kill(_parent(os.getppid()), signal.SIGKILL)
    time.sleep(3600)


def _kill_node() -> None:
    """Everything on this node ends at once, the raylet first."""
    _signal_node(signal.SIGKILL)


def _freeze_node() -> None:
    _signal_node(signal.SIGSTOP)
    time.sleep(3600)


def _signal_node(number: signal.Signals) -> None:
    mine = os.getpid()
    raylet = mine
    while _name(raylet) != "raylet":
        raylet = _parent(raylet)
    everything = marked(f"{NODE}={os.environ[NODE]}")
    for pid in [raylet, *(p for p in everything if p not in (raylet, mine)), mine]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _orphan() -> None:
    """Leave a process that nobody waits for, beyond every process group."""
    subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(3600)"],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _fill_disk() -> None:
    """Fill the file system of temporary files; only where that is a small one of its own."""
    folder = Path(tempfile.gettempdir())
    if os.statvfs(folder).f_blocks * os.statvfs(folder).f_frsize > 2**26:
        raise RuntimeError(f"{folder} is no small disk of its own")
    with (folder / "filler").open("wb") as stream, contextlib.suppress(OSError):
        while True:
            stream.write(b"\0" * 2**16)
            stream.flush()


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


_ACTIONS = {
    "crash": _crash,
    "hang": _hang,
    "gpu_memory": _gpu_memory,
    "host_memory": _host_memory,
    "refuse": _refuse,
    "kill_launch": _kill_launch,
    "kill_worker": _kill_worker,
    "kill_node": _kill_node,
    "freeze_node": _freeze_node,
    "fill_disk": _fill_disk,
    "orphan": _orphan,
}
