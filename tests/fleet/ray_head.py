"""A Ray cluster of one test, started and ended by scripts/node.sh: own ports, folder and token."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NODE = ROOT / "scripts" / "node.sh"


@dataclass(frozen=True, slots=True)
class Head:
    """A head node: its job server, the folder of node.sh, and what its processes see."""

    address: str
    gcs: str
    folder: Path
    env: dict[str, str]


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Environment of a node: our Python first, no settings of another Ray."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "ENERGYLENS_"))}
    return {
        **kept,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "ENERGYLENS_NODE": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        **more,
    }


def node(env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """Call scripts/node.sh."""
    return subprocess.run(
        ["bash", str(NODE), *words],
        env=env,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@contextmanager
def ray_head(**more: str) -> Iterator[Head]:
    """Hold a head node with a job server; `more` is added to its environment."""
    # Ray's sockets need a short path.
    temp = Path(tempfile.mkdtemp(prefix="elray", dir="/tmp"))
    env = environment(temp / "node", **more)
    gcs, dashboard, client = free_ports(3)
    try:
        done = node(
            env,
            "start",
            "--head",
            f"--port={gcs}",
            f"--dashboard-port={dashboard}",
            f"--ray-client-server-port={client}",
            "--dashboard-agent-listen-port=0",
            "--dashboard-host=127.0.0.1",
            "--node-ip-address=127.0.0.1",
            f"--temp-dir={temp / 'ray'}",
            "--num-cpus=2",
            "--object-store-memory=134217728",
            '--resources={"node_lock":1}',
        )
        assert done.returncode == 0, done.stdout + done.stderr
        yield Head(f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{gcs}", temp / "node", env)
    finally:
        ended = node(env, "stop")
        shutil.rmtree(temp, ignore_errors=True)
    assert ended.returncode == 0, ended.stderr
