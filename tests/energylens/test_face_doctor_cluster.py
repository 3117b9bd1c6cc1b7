"""`doctor --cluster`: a real small cluster, a cluster that is not there, a lab on paper."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "nvml"))

from scripted import GpuScript, ScriptedNvml

from energylens.cli.doctor import print_cluster
from energylens.doctor.fleet import ClusterReport, gathered_problems
from harness.fleet.nodes import GpuFacts, NodeFacts, Problem


def node(index: int, *problems: Problem, gpus: int = 8, locks: float = 1.0) -> NodeFacts:
    name = "H100-SXM5-80GB"
    return NodeFacts(
        f"{index:06x}" * 9,
        f"10.0.0.{index}",
        f"compute-rack-07-node-{index:03d}.lab.example.org",
        ray_gpus=float(gpus),
        locks=locks,
        gpus=tuple(GpuFacts(f"GPU-{index}-{i}", name, name, 80 * 2**30) for i in range(gpus)),
        meter="nvml",
        engines={"twin": "0.1.0", "transformers": "5.23.0", "vllm": "0.20.1"},
        problems=problems,
    )


FULL = Problem("disk_full", "3 MiB free in /tmp", "free at least 1 GiB")
SKEW = Problem("clock_off", "its clock is 4.0 s ahead", "turn on chrony", fatal=False)
LAB = ClusterReport(
    "10.0.0.1:6379",
    (
        node(1),
        node(2, FULL),
        node(3, SKEW),
        node(4, SKEW),
        node(5, Problem("no_lock", "it offers no lock", "start it with one", False), locks=0.0),
        NodeFacts("f" * 56, "10.0.0.9", "n9", problems=(Problem("no_answer", "silent", "look"),)),
    ),
)


def test_a_lab_fits_80_columns_and_every_node_has_a_verdict(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    print_cluster(LAB)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    plain = " ".join(text.split())
    assert "6 nodes, 3 can measure" in plain
    assert text.count("measures") == 3
    for word in ("takes nothing", "projects only", "what to do: free at least 1 GiB", "no_answer"):
        assert word in plain


def test_one_problem_of_many_nodes_is_told_once_and_the_fatal_ones_first() -> None:
    found = gathered_problems(LAB.nodes)
    assert [problem.code for problem, _ in found] == [
        "disk_full",
        "no_answer",
        "clock_off",
        "no_lock",
    ]
    many = [node(i, SKEW) for i in range(9)]
    ((_, names),) = gathered_problems(many)
    assert names.endswith("and 5 more")


def test_the_report_is_plain_for_programs() -> None:
    values = json.loads(json.dumps(LAB.to_dict()))
    assert values["measuring"] == 3
    assert [each["can_measure"] for each in values["nodes"]] == [
        True,
        False,
        True,
        True,
        False,
        False,
    ]
    assert values["nodes"][1]["problems"][0]["code"] == "disk_full"


def test_a_cluster_that_is_not_there_is_an_error_of_the_user(
    cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    result = cli("doctor", "--cluster")
    assert result.exit_code == 2
    assert "nobody answers" in result.output
    assert "RAY_ADDRESS=127.0.0.1:9" in result.output
    assert "what to do" in result.output


def test_cluster_and_sensors_are_two_questions(cli) -> None:
    result = cli("doctor", "--cluster", "--sensors")
    assert result.exit_code == 2
    assert "--cluster looks at nodes" in result.output


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedNvml]:
    """A cluster of one node with two scripted GPUs, named by RAY_ADDRESS."""
    from ray.cluster_utils import Cluster

    short = Path(tempfile.mkdtemp(prefix="el-", dir="/tmp"))
    for key, value in {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with ScriptedNvml([GpuScript(), GpuScript()], folder=tmp_path, capacity=64) as nvml:
        made = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 1,
                "num_gpus": 2,
                "include_dashboard": False,
                "resources": {"node_lock": 1},
                "temp_dir": str(short),
                "env_vars": nvml.env,
            },
        )
        monkeypatch.setenv("RAY_ADDRESS", made.address)
        try:
            yield nvml
        finally:
            made.shutdown()
            shutil.rmtree(short, ignore_errors=True)


@pytest.mark.ray
def test_a_real_cluster_is_probed_and_the_exit_code_tells(cli, cluster: ScriptedNvml) -> None:
    result = cli("doctor", "--cluster", "--json")
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert values["measuring"] == 1
    (found,) = values["nodes"]
    assert found["hardware"]["H100-SXM5-80GB"] == 2
    assert [gpu["uuid"] for gpu in found["gpus"]] == list(cluster.uuids)

    cluster.set_processes(1, [1])
    result = cli("doctor", "--cluster")
    assert result.exit_code == 1
    assert "gpu_busy" in result.output
    assert "2 x H100-SXM5-80GB" in result.output
