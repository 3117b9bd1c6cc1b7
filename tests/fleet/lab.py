"""A lab of several Ray nodes with GPUs of several types, all on this machine.

    with Lab() as lab:
        lab.start()
        subprocess.run(..., env=lab.environment)      # a driver on the lab
        lab.kill_node("h100-a")                       # as if its power failed

Every node is a real raylet with a scripted NVML library of its own, so that what probes it sees
its GPUs. All processes carry the lab's mark in their environment and are ended by it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "nvml"))

from lab_engine import MARK, NODE, SCRIPT, marked
from scripted import GIB, GpuScript, ScriptedNvml

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TUNING = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_grpc_client_keepalive_time_ms": "10000",
    "RAY_grpc_client_keepalive_timeout_ms": "5000",
}
"""Makes Ray notice a lost node within seconds instead of minutes; on every process."""
QUIET = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # Simulated nodes share one machine: its own memory pressure must not end their workers.
    "RAY_memory_monitor_refresh_ms": "0",
    # What the supervisor of a launch waits beyond a plan; real machines need more.
    "ENERGYLENS_SLACK_S": "3",
    "ENERGYLENS_BEAT_S": "1",
}
STORE_BYTES = 80 * 2**20
SIDE_BY_SIDE = 2
"""Nodes that come up at the same time."""
H100 = GpuScript(name="NVIDIA H100 80GB HBM3", memory_bytes=80 * GIB, idle_w=70.0)
A100 = GpuScript(name="NVIDIA A100-SXM4-80GB", memory_bytes=80 * GIB, idle_w=55.0)
L40S = GpuScript(name="NVIDIA L40S", memory_bytes=45 * GIB, idle_w=35.0)
B200 = GpuScript(name="NVIDIA B200", memory_bytes=179 * GIB, idle_w=140.0)


@dataclass(frozen=True, slots=True)
class LabNode:
    """What one node has.

    Attributes
    ----------
    name
        Short, unique.
    gpu, count
        Type and number of its GPUs.
    environ
        More variables of its processes.
    """

    name: str
    gpu: GpuScript
    count: int
    environ: Mapping[str, str] = field(default_factory=dict)


NODES = (
    LabNode("h100-a", H100, 4),
    LabNode("h100-b", H100, 4),
    LabNode("a100-a", A100, 8),
    LabNode("a100-b", A100, 8),
    LabNode("l40s-a", L40S, 4),
    LabNode("l40s-b", L40S, 4),
    LabNode("b200-a", B200, 8),
)
"""Seven nodes, four types."""


class LabBase:
    """Folder, script and processes of a lab; how its nodes start is for subclasses."""

    def __init__(self) -> None:
        # Ray's sockets need short paths.
        self.folder = Path(tempfile.mkdtemp(prefix="ellab-", dir="/tmp"))
        self.mark = uuid.uuid4().hex
        self.script = self.folder / "script.json"
        self.log = self.folder / "lab.log"
        self.address = ""
        self._nvml: dict[str, ScriptedNvml] = {}
        self.write_script({})

    @property
    def environment(self) -> dict[str, str]:
        """Environment of a driver on this lab; it does not carry the lab's mark."""
        return {**os.environ, **self._common(), "RAY_ADDRESS": self.address}

    def _common(self) -> dict[str, str]:
        paths = [str(HERE), str(ROOT), os.environ.get("PYTHONPATH", "")]
        return {
            **TUNING,
            **QUIET,
            SCRIPT: str(self.script),
            "RAY_TMPDIR": str(self.folder),
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        }

    def _own(self, node: LabNode) -> dict[str, str]:
        """Variables that only the processes of one node have."""
        if node.name not in self._nvml:
            gpus = [_named(node, i) for i in range(node.count)]
            self._nvml[node.name] = ScriptedNvml(gpus, folder=self.folder, capacity=64)
        staging = self.folder / f"tmp-{node.name}"
        staging.mkdir(exist_ok=True)
        nvml = self._nvml[node.name].env
        return {**nvml, NODE: node.name, "TMPDIR": str(staging), **node.environ}

    def write_script(self, rules: Mapping[str, Any]) -> None:
        """Tell the lab's engine how to behave from now on; see `lab_engine`."""
        shutil.rmtree(self.folder / "once", ignore_errors=True)
        (self.folder / "once").mkdir()
        self.log.unlink(missing_ok=True)
        fresh = self.script.with_suffix(".new")
        fresh.write_text(json.dumps({**rules, "folder": str(self.folder)}))
        fresh.replace(self.script)

    def logged(self, what: str | None = None) -> list[dict[str, Any]]:
        """What the lab's engine wrote down, in order; only one kind of it, if asked."""
        if not self.log.exists():
            return []
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line]
        return [line for line in lines if what in (None, line["what"])]

    def processes(self, name: str | None = None) -> list[int]:
        """What runs in the lab, or on one node of it, orphans included."""
        ours = marked(f"{MARK}={self.mark}")
        return ours if name is None else [p for p in marked(f"{NODE}={name}") if p in set(ours)]

    def launches_alive(self) -> list[int]:
        """Processes of the lab that belong to a launch."""
        ours = set(self.processes())
        return [pid for pid in marked("ENERGYLENS_LAUNCH=") if pid in ours]

    def close(self) -> None:
        """End everything that was started, and prove it."""
        deadline = time.monotonic() + 15
        while (left := self.processes()) and time.monotonic() < deadline:
            for pid in left:
                send(pid, signal.SIGKILL)
            time.sleep(0.05)
        shutil.rmtree(self.folder, ignore_errors=True)
        if left:
            raise RuntimeError(f"processes of the lab would not end: {left}")

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Lab(LabBase):
    """A lab whose nodes are children of this process."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes: dict[str, Any] = {}
        self._cluster: Any = None
        self._born = 0

    def start(self, nodes: Sequence[LabNode] = NODES, *, cpus: int = 4) -> Lab:
        """Bring the head and all nodes up.

        The head has no lock and no GPU: nothing is measured where the driver lives.
        """
        with self._handed_on(), _lean():
            from ray.cluster_utils import Cluster

            self._cluster = Cluster(
                initialize_head=True,
                head_node_args={
                    "num_cpus": cpus,
                    "include_dashboard": False,
                    "object_store_memory": STORE_BYTES,
                    "temp_dir": str(self.folder / "ray"),
                },
            )
            self.address = str(self._cluster.address)
            for i, node in enumerate(nodes):
                # A raylet that hears nothing of its agents for 15 s gives up: few at a time.
                self.wait_for(i + 2 - SIDE_BY_SIDE)
                self._add(node, cpus)
            self.wait_for(len(nodes) + 1)
        return self

    def add(self, node: LabNode, *, cpus: int = 4) -> None:
        """Add a node while the lab runs; one that was lost may come back under its name."""
        with self._handed_on(), _lean():
            self._add(node, cpus)
            wanted = str(self.nodes[node.name].node_id)
            deadline = time.monotonic() + 60
            while wanted not in self._cluster.global_state._live_node_ids():
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{node.name} did not come back")
                time.sleep(0.1)

    def mend(self, nodes: Sequence[LabNode] = NODES) -> None:
        """Bring back what was killed or frozen."""
        for node in nodes:
            raylet = self.nodes[node.name].all_processes["raylet"][0].process
            if raylet.poll() is None and _state(raylet.pid) != "T":
                continue
            self.kill_node(node.name)
            raylet.wait()
            self._cluster.worker_nodes.discard(self.nodes.pop(node.name))
            self.add(node)

    def _add(self, node: LabNode, cpus: int) -> None:
        self.nodes[node.name] = self._cluster.add_node(
            wait=False,
            num_cpus=cpus,
            num_gpus=node.count,
            resources={"node_lock": 1},
            labels={"lab": node.name},
            object_store_memory=STORE_BYTES,
            env_vars=self._own(node),
            **self._sockets(node.name),
        )

    def _sockets(self, name: str) -> dict[str, str]:
        """Paths of a node's own: Ray takes the next free one, which two nodes may find at once."""
        folder = self.folder / "sockets"
        folder.mkdir(exist_ok=True)
        self._born += 1
        return {
            f"{kind}_socket_name": str(folder / f"{kind}-{name}-{self._born}")
            for kind in ("raylet", "plasma_store")
        }

    @contextlib.contextmanager
    def _handed_on(self) -> Iterator[None]:
        """Variables that the processes of the lab are born with."""
        with _environment({**self._common(), MARK: self.mark}):
            yield

    def _alive(self) -> int:
        return len(self._cluster.global_state._live_node_ids())

    def wait_for(self, count: int, seconds: float = 60.0) -> None:
        """Wait until the head knows `count` living nodes."""
        deadline = time.monotonic() + seconds
        while self._alive() < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"fewer than {count} nodes came up within {seconds:.0f} s")
            time.sleep(0.1)

    def name_of(self, node_name: str) -> str:
        """Name in this lab of a node that events call HOST/START-OF-ID."""
        start = node_name.rpartition("/")[2]
        found = [n for n, node in self.nodes.items() if str(node.node_id).startswith(start)]
        if len(found) != 1:
            raise LookupError(f"{node_name!r} is none of {sorted(self.nodes)}")
        return found[0]

    def kill_node(self, name: str) -> None:
        """End a node with all that runs on it, at once, as a power cut does."""
        raylet = int(self.nodes[name].all_processes["raylet"][0].process.pid)
        for pid in [raylet, *self.processes(name)]:
            send(pid, signal.SIGKILL)

    def freeze_node(self, name: str) -> None:
        """Stop everything on a node: it does nothing, and says nothing, until it is thawed."""
        for pid in self.processes(name):
            send(pid, signal.SIGSTOP)

    def close(self) -> None:
        """End everything that was started, and prove it."""
        nodes = [*self.nodes.values()]
        if self._cluster is not None and self._cluster.head_node is not None:
            nodes.append(self._cluster.head_node)
            self._cluster.head_node = None
        for pid in self.processes():
            send(pid, signal.SIGKILL)
        for node in nodes:
            node.kill_all_processes(check_alive=False, allow_graceful=False, wait=False)
        self.nodes.clear()
        if self._cluster is not None:
            self._cluster.worker_nodes.clear()
            self._cluster.shutdown()
        super().close()


class StartedLab(LabBase):
    """A lab of `ray start` commands: nodes of it may lose their head, or live behind a link."""

    def __init__(self) -> None:
        super().__init__()
        self._started: list[subprocess.Popen[bytes]] = []
        self._logs = self.folder / "start.log"

    def head(
        self,
        node: LabNode,
        *,
        ip: str = "127.0.0.1",
        port: int | None = None,
        inside: Sequence[str] = (),
        cpus: int = 4,
    ) -> None:
        """Start a head that measures too.

        Parameters
        ----------
        node
            What it has.
        ip, port
            Where it listens; a free port by default.
        inside
            Words before the command, such as `ip netns exec NAME`.
        cpus
            Processes that Ray may have there.
        """
        port = port or free_port()
        self.address = f"{ip}:{port}"
        more = ["--head", f"--port={port}", "--include-dashboard=false", "--no-monitor"]
        more += [f"--ray-client-server-port={free_port()}", f"--temp-dir={self.folder / 'ray'}"]
        self._ray_start(node, ip, inside, cpus, more)

    def node(self, node: LabNode, *, ip: str, inside: Sequence[str] = (), cpus: int = 4) -> None:
        """Start a node of that head."""
        more = [f"--address={self.address}"]
        self._ray_start(node, ip, inside, cpus, more)

    def _ray_start(
        self, node: LabNode, ip: str, inside: Sequence[str], cpus: int, more: Sequence[str]
    ) -> None:
        command = [
            *inside,
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block"),
            f"--node-ip-address={ip}",
            f"--num-cpus={cpus}",
            f"--num-gpus={node.count}",
            '--resources={"node_lock": 1}',
            f"--object-store-memory={STORE_BYTES}",
            *("--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats"),
            *more,
        ]
        environ = {**os.environ, **self._common(), MARK: self.mark, **self._own(node)}
        with self._logs.open("ab") as stream:
            started = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=environ
            )
        self._started.append(started)
        deadline = time.monotonic() + 90
        while self._logs.read_bytes().count(b"Ray runtime started") < len(self._started):
            if started.poll() is not None or time.monotonic() > deadline:
                said = self._logs.read_bytes()[-2000:]
                raise TimeoutError(f"{node.name} did not come up: {said.decode()}")
            time.sleep(0.1)

    def head_service(self) -> int:
        """Process id of the head's own service (GCS)."""
        return next(pid for pid in self.processes() if _name(pid) == "gcs_server")

    def close(self) -> None:
        """End everything that was started, and prove it."""
        for pid in self.processes():
            send(pid, signal.SIGKILL)
        for started in self._started:
            started.kill()
            started.wait()
        super().close()


class Driver:
    """`energylens run` in a process of its own, as a user starts it.

    Parameters
    ----------
    lab
        Where its launches go.
    sweep, out
        Sweep file and run folder.
    inside
        Words before the command.
    """

    def __init__(self, lab: LabBase, sweep: Path, out: Path, *, inside: Sequence[str] = ()) -> None:
        self.out = out
        self._log = lab.folder / f"driver-{time.monotonic_ns()}.log"
        command = [*inside, sys.executable, "-m", "energylens", "run", str(sweep)]
        with self._log.open("wb") as stream:
            self.process = subprocess.Popen(
                [*command, "--out", str(out)],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=lab.environment,
            )

    def said(self) -> str:
        """All that it printed."""
        return self._log.read_text(errors="replace")

    def wait(self, seconds: float) -> int:
        """Exit code; fails with what it said if it takes longer."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"no end within {seconds:.0f} s: {self.said()[-3000:]}") from None

    def wait_for(self, what: Callable[[], Any], seconds: float) -> Any:
        """Wait until `what` gives something true, while the driver runs; give that."""
        deadline = time.monotonic() + seconds
        while not (found := what()):
            if self.process.poll() is not None:
                raise AssertionError(f"the driver ended before: {self.said()[-3000:]}")
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds:.0f} s: {self.said()[-3000:]}")
            time.sleep(0.05)
        return found

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def events(out: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """Whole lines of a run's event log so far; only one kind, if asked."""
    path = out / "events.jsonl"
    text = path.read_text() if path.exists() else ""
    lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return [line for line in lines if kind in (None, line["kind"])]


SWEEP = """\
name: lab
engine: lab_engine:LabEngine
models: [{models}]
hardware: [{hardware}]
tensor_parallel: [{tensor_parallel}]
repeats: 1
window_s: 1
launch_s: 0
keep_traces: 1
measuring: {{sentinel: false, warm_up_s: 6, run_timeout_s: {run_timeout_s}}}
blocks:
  - modality: text
    batch: [{batch}]
    input_tokens: [128]
    output_tokens: [{output_tokens}]
"""


def write_sweep(path: Path, **values: str) -> Path:
    """A sweep of the lab's engine; values replace those of a small one."""
    small = {
        "models": "Qwen/Qwen3-0.6B, Qwen/Qwen3-1.7B, Qwen/Qwen3-8B",
        "hardware": "H100-SXM5-80GB",
        "tensor_parallel": "1",
        "run_timeout_s": "30",
        "batch": "1, 2, 4, 8",
        "output_tokens": "32",
    }
    path.write_text(SWEEP.format(**{**small, **values}))
    return path


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may be gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def _state(pid: int) -> str:
    """State of a process as the kernel writes it: R, S, T for stopped, Z; empty if it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def _named(node: LabNode, index: int) -> GpuScript:
    """One GPU of a node; its UUID tells where it is."""
    key = uuid.uuid5(uuid.NAMESPACE_OID, f"{node.name}/{index}")
    return replace(node.gpu, uuid=f"GPU-{key}")


@contextlib.contextmanager
def _lean() -> Iterator[None]:
    """Start nodes without waiting for each, and without the agents of Ray's dashboard."""
    from ray._private import services, utils

    ports = ("node_manager", "runtime_env_agent", "metrics_agent", "metrics_export")
    unknown = {f"{name}_port": 0 for name in ports} | {"dashboard_agent_listen_port": 0}
    kept = services.get_node, utils.get_dashboard_dependency_error
    services.get_node = lambda *_: unknown
    utils.get_dashboard_dependency_error = lambda: ImportError("not wanted here")
    try:
        yield
    finally:
        services.get_node, utils.get_dashboard_dependency_error = kept


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Hold variables of this process for the length of the block: Ray hands them on."""
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, old in before.items():
            if old is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = old
