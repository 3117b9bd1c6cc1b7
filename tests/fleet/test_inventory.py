"""Inventory: verdicts on plain facts, and a real cluster of mixed nodes with a scripted driver."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent.parent / "nvml"))

from scripted import GIB, GpuScript, ScriptedNvml

from harness.fleet.inventory import (
    can_measure,
    probe_again,
    take_inventory,
    unplaceable,
    why_not,
)
from harness.fleet.nodes import GpuFacts, Need, NodeFacts, Problem
from harness.fleet.verdicts import HARDWARE_LABEL, clock_offset, facts_of

OURS = {"python": "3.11.7", "ray": "2.60.0", "energylens": "0.1.0", "commit": "abc"}
H100 = {
    "uuid": "GPU-1",
    "name": "NVIDIA H100 80GB HBM3",
    "hardware": "H100-SXM5-80GB",
    "memory_bytes": 80 * GIB,
    "foreign_pids": [],
    "mig": False,
}
ANSWER: dict[str, Any] = {
    "gpus": [H100],
    "driver": "580.1",
    "meter": "nvml",
    "cpu_hardware": "CPU-X-2C",
    "engines": {"twin": "0.1.0", "transformers": "5.0"},
    "versions": OURS,
    "free_disk_bytes": 50 * GIB,
    "staging": "/tmp",
    "leftovers": [],
    "problems": [],
}
NODE = {
    "NodeID": "ab" * 28,
    "NodeManagerAddress": "10.0.0.1",
    "NodeManagerHostname": "n1",
    "Alive": True,
    "Resources": {"CPU": 8.0, "GPU": 1.0, "memory": 1e9, "node_lock": 1.0},
    "Labels": {},
}


def judged(
    *, resources: dict[str, float] | None = None, label: str = "", pings: Any = (), **answer: Any
) -> NodeFacts:
    """Facts of a node in order, but for what is given."""
    node = {
        **NODE,
        "Resources": {**NODE["Resources"], **(resources or {})},
        "Labels": {HARDWARE_LABEL: label} if label else {},
    }
    return facts_of(node, {**ANSWER, **answer}, pings=pings, ours=OURS)


def codes(facts: NodeFacts) -> set[str]:
    return {problem.code for problem in facts.problems}


def test_a_node_in_order_has_no_problem() -> None:
    facts = judged(label="H100", pings=[(10.0, 10.1, 10.2)])
    assert facts.problems == ()
    assert can_measure(facts)
    assert facts.name == "n1/ababab"
    assert facts.hardware == {"H100-SXM5-80GB": 1, "CPU-X-2C": 1}


@pytest.mark.parametrize(
    ("facts", "code", "fatal"),
    [
        (judged(resources={"node_lock": 0}), "no_lock", False),
        (judged(resources={"GPU": 2}), "gpu_count", True),
        (judged(resources={"GPU": 0}), "gpu_count", False),
        (judged(free_disk_bytes=2**30 - 1), "disk_full", True),
        (judged(label="A100"), "label_mismatch", False),
        (judged(label="no such thing"), "label_mismatch", False),
        (judged(versions={**OURS, "energylens": "0.0.9"}), "version_mismatch", True),
        (judged(versions={**OURS, "commit": "abd"}), "version_mismatch", True),
        (judged(versions={**OURS, "ray": "2.59.0"}), "version_mismatch", True),
        (judged(pings=[(0.0, 3.0, 0.5)]), "clock_off", False),
        (judged(pings=[(0.0, -3.0, 0.5)]), "clock_off", False),
        (judged(gpus=[], label="L40S"), "declared", False),
        (judged(gpus=[]), "gpu_count", True),
    ],
)
def test_what_is_wrong_has_a_code_numbers_and_a_fix(
    facts: NodeFacts, code: str, fatal: bool
) -> None:
    assert codes(facts) == {code}
    (problem,) = facts.problems
    assert (problem.fatal, facts.usable) == (fatal, not fatal)
    assert problem.fix
    if code == "no_lock":
        assert not can_measure(facts)


@pytest.mark.parametrize(
    "facts",
    [
        judged(free_disk_bytes=2**30),
        judged(versions={**OURS, "python": "3.11.9"}),
        judged(versions={**OURS, "commit": "abc-dirty"}),
        judged(versions={k: v for k, v in OURS.items() if k != "commit"}),
        judged(pings=[(0.0, 1.2, 0.5)]),  # 0.95 s at most sure: within the second
        judged(pings=[(0.0, 9.0, 14.0)]),  # so slow an answer tells nothing
        judged(free_disk_bytes=None),
    ],
)
def test_what_is_not_surely_wrong_is_not_called_so(facts: NodeFacts) -> None:
    assert facts.problems == ()


def test_declared_gpus_are_as_many_as_ray_counts() -> None:
    facts = judged(gpus=[], label="L40S", resources={"GPU": 4})
    assert [gpu.uuid for gpu in facts.gpus] == [f"declared-{i}" for i in range(4)]
    assert facts.hardware["L40S-48GB"] == 4


@given(
    truth=st.floats(-1e4, 1e4),
    trips=st.lists(st.tuples(st.floats(0, 5), st.floats(0, 5)), min_size=1, max_size=5),
)
def test_the_clock_offset_is_right_within_its_error(
    truth: float, trips: list[tuple[float, float]]
) -> None:
    pings = [(100.0, 100.0 + out + truth, 100.0 + out + back) for out, back in trips]
    offset_s, error_s = clock_offset(pings)
    assert offset_s is not None
    assert abs(offset_s - truth) <= error_s + 1e-9


def test_no_exchange_no_offset() -> None:
    assert clock_offset([]) == (None, 0.0)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (None, "no_answer"),
        (ConnectionError("the node is gone"), "no_answer"),
        (RuntimeError("ModuleNotFoundError: No module named 'harness'"), "not_installed"),
        (RuntimeError("ModuleNotFoundError: No module named 'pydantic'"), "not_installed"),
        (RuntimeError("ModuleNotFoundError: No module named 'harness.fleet'"), "version_mismatch"),
        (RuntimeError("ImportError: cannot import name 'probe_node'"), "version_mismatch"),
    ],
)
def test_a_node_that_does_not_tell_is_named_with_the_reason(
    answer: BaseException | None, code: str
) -> None:
    facts = facts_of(NODE, answer, ours=OURS, waited_s=60)
    assert codes(facts) == {code}
    assert not facts.usable
    assert facts.problems[0].fix


def node(name: str, hardware: str = "", count: int = 0, **fields: Any) -> NodeFacts:
    gpus = tuple(GpuFacts(f"{name}-{i}", hardware, hardware, 80 * GIB) for i in range(count))
    known: dict[str, Any] = {
        "cpus": 8.0,
        "ray_gpus": float(count),
        "locks": 1.0,
        "meter": "nvml",
        "engines": {"twin": "1", "transformers": "5"},
    }
    return NodeFacts(name * 6, "10.0.0.1", name, gpus=gpus, **{**known, **fields})


FOUR = Need("A100-SXM4-80GB", 4, 1, "transformers")


@pytest.mark.parametrize(
    ("facts", "need", "words"),
    [
        (node("a", "A100-SXM4-80GB", 4), FOUR, None),
        (node("a", "A100-SXM4-80GB", 4), Need("", 0), None),
        (node("a", "A100-SXM4-80GB", 4), replace(FOUR, engine="mine:Engine"), None),
        (node("a", "A100-SXM4-40GB", 8), FOUR, "has 8 x A100-SXM4-40GB"),
        (node("a", "A100-SXM4-80GB", 2), FOUR, "has 2 x A100-SXM4-80GB"),
        (node("a", "A100-SXM4-80GB", 4, ray_gpus=3.0), FOUR, "and offers 3"),
        (node("a", "A100-SXM4-80GB", 4), replace(FOUR, engine="vllm"), "lacks vllm"),
        (node("a", "A100-SXM4-80GB", 4, locks=0.0), FOUR, "no lock"),
        (node("a", "A100-SXM4-80GB", 4, locks=0.0), Need("", 0), None),
        (node("a", cpu_hardware="CPU-X-2C"), Need("CPU-X-2C", 0, 1, "transformers"), None),
        (node("a", cpu_hardware="CPU-X-2C"), Need("CPU-X-2C", 1, 1, "transformers"), None),
        (node("a", cpu_hardware="CPU-X-2C"), Need("CPU-Y-9C", 1, 1, "transformers"), "CPU-X-2C"),
        (
            node("a", "A100-SXM4-80GB", 4, problems=(Problem("disk_full", "0 MiB", "free"),)),
            Need("", 0),
            "disk_full",
        ),
    ],
)
def test_why_a_node_cannot_take_a_launch(facts: NodeFacts, need: Need, words: str | None) -> None:
    reason = why_not(facts, need)
    if words is None:
        assert reason is None
    else:
        assert reason is not None
        assert words in reason


def test_a_meter_is_asked_for_only_where_it_is_needed() -> None:
    blind = node("a", "A100-SXM4-80GB", 4, meter=None)
    assert why_not(blind, FOUR) is None
    assert "power meter" in (why_not(blind, FOUR, power=True) or "")


def test_what_can_never_be_placed_is_said_with_each_nodes_reason() -> None:
    lab = [
        node("n1", "A100-SXM4-80GB", 4),
        node("n2", "H100-SXM5-80GB", 8, engines={"twin": "1"}),
        *(node(f"m{i}", "L40S-48GB", 2) for i in range(5)),
    ]
    big = Need("H100-SXM5-80GB", 8, 1, "transformers")
    gang = Need("A100-SXM4-80GB", 4, 2, "transformers")
    found = unplaceable([big, FOUR, gang, Need("", 0), big], lab)
    assert list(found) == [big, gang]
    assert found[big].startswith("needs 8 x H100-SXM5-80GB and transformers; ")
    assert "n1/n1n1n1 has 4 x A100-SXM4-80GB" in found[big]
    assert "n2/n2n2n2 lacks transformers" in found[big]
    assert "m0/m0m0m0, m1/m1m1m1 and 3 more (each) has 2 x L40S-48GB" in found[big]
    assert "only 1 can" in found[gang]
    assert unplaceable([FOUR], []) == {
        FOUR: "needs 4 x A100-SXM4-80GB and transformers; there are no nodes"
    }


# --- a real cluster ---


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A head without GPUs and three nodes: in order, busy with a guest, without the package."""
    import ray
    from ray.cluster_utils import Cluster

    folder = tmp_path_factory.mktemp("lab")
    short = Path(tempfile.mkdtemp(prefix="el-", dir="/tmp"))
    shadow = folder / "shadow" / "harness"
    shadow.mkdir(parents=True)
    (shadow / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'harness'\")")
    patch = pytest.MonkeyPatch()
    for key, value in {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}.items():
        patch.setenv(key, value)
    for key in ("RAY_ADDRESS", "CUDA_VISIBLE_DEVICES"):
        patch.delenv(key, raising=False)
    # Workers get the folder that the driver works in before all else.
    patch.chdir(folder)
    good = ScriptedNvml([GpuScript(), GpuScript()], folder=folder, capacity=64)
    busy = ScriptedNvml(
        [GpuScript(name="NVIDIA A100-SXM4-40GB", memory_bytes=40 * GIB)],
        folder=folder,
        capacity=64,
    )
    busy.set_processes(0, [os.getpid()])
    lock = {"node_lock": 1}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 1,
            "include_dashboard": False,
            "resources": lock,
            "temp_dir": str(short),
        },
    )
    made: dict[str, Any] = {}
    try:
        made["good"] = cluster.add_node(
            wait=False, num_cpus=1, num_gpus=2, resources=lock, env_vars=good.env
        )
        made["busy"] = cluster.add_node(
            wait=False,
            num_cpus=1,
            num_gpus=1,
            env_vars=busy.env,
            labels={HARDWARE_LABEL: "A100-SXM4-80GB"},
        )
        made["bare"] = cluster.add_node(
            wait=False,
            num_cpus=1,
            num_gpus=1,
            resources=lock,
            env_vars={"PYTHONPATH": str(shadow.parent)},
        )
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        ids = {name: each.node_id for name, each in made.items()}
        yield SimpleNamespace(cluster=cluster, nodes=made, ids=ids, busy=busy)
    finally:
        ray.shutdown()
        cluster.shutdown()
        patch.undo()
        shutil.rmtree(short, ignore_errors=True)


@pytest.mark.ray
class TestCluster:
    """In any order: each test leaves the nodes as it found them."""

    def test_every_node_is_told_apart(self, lab: SimpleNamespace) -> None:
        found = {facts.node_id: facts for facts in take_inventory(90.0)}
        assert len(found) == 4
        good, busy, bare = (found[lab.ids[name]] for name in ("good", "busy", "bare"))
        assert good.hardware["H100-SXM5-80GB"] == 2
        assert good.problems == ()
        assert can_measure(good)
        assert good.clock_offset_s == pytest.approx(0.0, abs=0.9)
        assert codes(busy) == {"gpu_busy", "label_mismatch", "no_lock"}
        assert busy.gpus[0].foreign_pids == (os.getpid(),)
        assert codes(bare) == {"not_installed"}
        need = Need("A100-SXM4-40GB", 1, 1, "twin")
        sentence = unplaceable([need], tuple(found.values()))[need]
        assert "works for others" in sentence
        assert "not_installed" in sentence

    def test_a_node_that_is_free_again_is_taken_back(self, lab: SimpleNamespace) -> None:
        lab.busy.set_processes(0, [])
        try:
            facts = probe_again(lab.ids["busy"], 60.0)
        finally:
            lab.busy.set_processes(0, [os.getpid()])
        assert facts.usable
        assert "gpu_busy" not in codes(facts)

    def test_a_frozen_node_is_named_after_the_timeout(self, lab: SimpleNamespace) -> None:
        raylet = lab.nodes["bare"].all_processes["raylet"][0].process
        raylet.send_signal(signal.SIGSTOP)
        try:
            start = time.monotonic()
            facts = probe_again(lab.ids["bare"], 2.0)
            assert time.monotonic() - start < 10
        finally:
            raylet.send_signal(signal.SIGCONT)
        assert codes(facts) == {"no_answer"}

    def test_a_node_that_is_gone_is_said_to_be(self, lab: SimpleNamespace) -> None:
        gone = lab.cluster.add_node(num_cpus=1)
        lab.cluster.remove_node(gone, allow_graceful=True)
        facts = probe_again(gone.node_id, 10.0)
        assert codes(facts) == {"no_answer"}
        assert not facts.usable
        assert facts.node_id == gone.node_id
        assert codes(probe_again("00" * 28)) == {"no_answer"}
