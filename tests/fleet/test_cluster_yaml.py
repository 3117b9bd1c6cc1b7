"""cluster.yaml: Ray's own schema, every command in it, and its nodes started for real."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))

from ray_head import NODE, ROOT, environment, free_ports, node

CLUSTER = ROOT / "cluster.yaml"
COMMANDS = ("head_start_ray_commands", "worker_start_ray_commands", "setup_commands")
HEALTH = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_grpc_client_keepalive_time_ms": "10000",
    "RAY_grpc_client_keepalive_timeout_ms": "5000",
}


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    """The file with Ray's defaults, as `ray up` takes it."""
    from ray.autoscaler._private.util import prepare_config

    prepared: dict[str, Any] = prepare_config(yaml.safe_load(CLUSTER.read_text()))
    return prepared


def ray_words(command: str) -> list[str]:
    """Options that a start command gives to `ray start`."""
    words = shlex.split(command.split("node.sh start", 1)[1])
    assert words
    return words


def test_ray_takes_it(cluster):
    from ray.autoscaler._private.util import validate_config

    validate_config(cluster)
    (kind,) = cluster["available_node_types"].values()
    assert kind["min_workers"] == kind["max_workers"] == len(cluster["provider"]["worker_ips"])


def test_ray_refuses_what_is_wrong_with_it():
    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    wrong = yaml.safe_load(CLUSTER.read_text()) | {"worker_start_commands": []}
    with pytest.raises(jsonschema.ValidationError, match="worker_start_commands"):
        validate_config(prepare_config(wrong))


def test_no_command_of_it_is_ray_stop(cluster):
    for name in (*COMMANDS, "initialization_commands", "head_setup_commands"):
        for command in cluster[name]:
            assert not re.search(r"\bray (stop|down)\b", command)
    assert not re.search(r"^[^#]*\b(ray (stop|down)|pkill|killall)\b", NODE.read_text(), re.M)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_bash(cluster, name):
    assert cluster[name]
    for command in cluster[name]:
        done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
    for script in sorted((ROOT / "scripts").glob("*.sh")):
        subprocess.run(["bash", "-n", str(script)], check=True)
        assert os.access(script, os.X_OK)


@pytest.mark.parametrize("name", COMMANDS[:2])
def test_ray_start_knows_every_option(cluster, name):
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts}
    used = [word.split("=")[0] for word in ray_words(cluster[name][0])]
    assert set(used) <= known
    # What scripts/node.sh adds.
    added = re.search(r"nohup (ray start .*?)\\\n", NODE.read_text())
    assert added
    assert {w for w in added[1].split() if w.startswith("--")} <= known
    assert "--labels" in known


@pytest.mark.parametrize("name", COMMANDS[:2])
def test_nodes_have_tuned_health_checks_and_a_token(cluster, name):
    command = cluster[name][0]
    assert command.startswith("export ")
    words = shlex.split(command.split(";", 1)[0])[1:]
    settings = dict(word.split("=", 1) for word in words)
    assert settings.items() >= HEALTH.items()
    assert settings["RAY_AUTH_MODE"] == "token"
    assert settings["RAY_AUTH_TOKEN_PATH"] == "$HOME/.ray/auth_token"
    assert "~/.ray/auth_token" in cluster["file_mounts"]


def test_the_dashboard_is_on_loopback_and_workers_have_the_lock(cluster):
    assert "--dashboard-host=127.0.0.1" in ray_words(cluster["head_start_ray_commands"][0])
    resources = [
        json.loads(word.split("=", 1)[1])
        for word in ray_words(cluster["worker_start_ray_commands"][0])
        if word.startswith("--resources=")
    ]
    assert resources == [{"node_lock": 1}]


@pytest.fixture
def home() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="elhome", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def sockets(env: dict[str, str]) -> str:
    """Resources of the nodes as Ray sees them."""
    code = (
        "import json, ray; ray.init(address='auto', log_to_driver=False, logging_level='ERROR');"
        "print(json.dumps([[n['Resources'], n['Labels'], n['Alive']] for n in ray.nodes()]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.ray
def test_its_commands_start_a_cluster_and_stop_ends_that_alone(cluster, home):
    """The commands as `ray up` runs them, on one machine: other ports, a short folder."""
    gcs, dashboard, client = free_ports(3)
    (home / ".energylens").mkdir()
    shutil.copytree(ROOT / "scripts", home / ".energylens" / "scripts")
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("0123456789abcdef0123456789abcdef")
    common = {"HOME": str(home), "RAY_HEAD_IP": "127.0.0.1"}
    envs = [environment(home / name, **common) for name in ("head", "worker")]
    for env in envs:
        del env["RAY_AUTH_MODE"]
    small = f"--object-store-memory=134217728 --num-cpus=1 --temp-dir={home / 'r'}"
    replaced = {
        "--autoscaling-config=~/ray_bootstrap_config.yaml": f"--ray-client-server-port={client}",
        "--port=6379": f"--port={gcs} --node-ip-address=127.0.0.1",
        ":6379": f":{gcs} --node-ip-address=127.0.0.1 --labels=energylens.io/hardware=A30-24GB",
        "--dashboard-port=8265": f"--dashboard-port={dashboard}",
    }
    bystander = subprocess.Popen(["bash", "-c", "exec -a raylet sleep 300"])
    try:
        for name, env in zip(COMMANDS[:2], envs, strict=True):
            command = cluster[name][0]
            for old, new in replaced.items():
                command = command.replace(old, new)
            start = f"true && ({command} --dashboard-agent-listen-port=0 {small})"
            for again in ("started as process", "already runs"):
                done = subprocess.run(
                    ["bash", "-c", start], env=env, capture_output=True, text=True,
                    timeout=240, check=False,
                )  # fmt: skip
                assert done.returncode == 0, done.stdout + done.stderr
                assert again in done.stdout
        token = {"RAY_AUTH_MODE": "token", "RAY_ADDRESS": f"127.0.0.1:{gcs}"}
        nodes = json.loads(sockets({**envs[0], **token}))
        assert [n[2] for n in nodes] == [True, True]
        assert sorted(n[0].get("node_lock", 0) for n in nodes) == [0, 1]
        assert sorted(n[1].get("energylens.io/hardware", "") for n in nodes) == ["", "A30-24GB"]
        children = [
            (int(entry.name), (entry / "cmdline").read_bytes())
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and str(home / "r") in _command_line(entry)
        ]
        assert len(children) > 4
    finally:
        ended = [node(env, "stop") for env in reversed(envs)]
        alive = bystander.poll() is None
        bystander.kill()
        bystander.wait()
    assert [done.stdout.strip() for done in ended] == ["node.sh: stopped"] * 2
    assert alive
    deadline = time.monotonic() + 20
    while left := [pid for pid, line in children if _command_line(Path(f"/proc/{pid}"))
                   and (Path(f"/proc/{pid}") / "cmdline").read_bytes() == line]:  # fmt: skip
        assert time.monotonic() < deadline, left
        time.sleep(0.2)
    assert node(envs[0], "status").returncode == 1


def _command_line(entry: Path) -> str:
    try:
        return (entry / "cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def test_stop_touches_no_process_that_took_an_old_id(tmp_path):
    other = subprocess.Popen(["sleep", "60"])
    try:
        (tmp_path / "pid").write_text(f"{other.pid} 1\n")
        done = node(environment(tmp_path), "stop")
        assert done.returncode == 0
        assert "nothing of ours" in done.stdout
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_node_that_cannot_start_says_why(tmp_path):
    done = node(environment(tmp_path), "start", "--no-such-option")
    assert done.returncode == 2
    assert "no-such-option" in done.stderr
    assert node(environment(tmp_path), "status").returncode == 1
    assert node(environment(tmp_path), "dance").returncode == 2
