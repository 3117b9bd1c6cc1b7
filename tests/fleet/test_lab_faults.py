"""Faults of all kinds on a simulated lab: every task ends once, nothing is left behind.

ENERGYLENS_SEEDS=1,2,3 runs the mixed faults once with each of these seeds.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import NODES, Driver, Lab, events, write_sweep
from lab_engine import ONCE

from harness.plan import Plan, make_plan
from harness.store import RunFolder, read_measurements

pytestmark = pytest.mark.ray

SEEDS = [int(seed) for seed in os.environ.get("ENERGYLENS_SEEDS", "1").split(",")]
ENDS_S = 900.0
"""Nothing here may take longer, however busy the machine is."""
TYPES = "H100-SXM5-80GB, A100-SXM4-80GB, L40S-48GB, B200-SXM6-180GB"
MIX = {
    "crash": 3,
    "hang": 2,
    "gpu_memory": 4,
    "host_memory": 2,
    "refuse": 3,
    "kill_launch": 1,
    "kill_worker": 2,
    "orphan": 2,
}
CLASSES = {
    "crash": {"crashed"},
    "hang": {"timed_out"},
    "gpu_memory": {"out_of_memory"},
    "host_memory": {"out_of_memory"},
    "refuse": {"not_supported"},
}
"""What the row of a task says that failed by itself."""
RESOURCES = (
    "import json, ray; ray.init(logging_level='ERROR', log_to_driver=False);"
    "print(json.dumps([ray.cluster_resources(), ray.available_resources()]))"
)


@pytest.fixture(scope="module")
def started() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab.start()


@pytest.fixture
def lab(started: Lab) -> Iterator[Lab]:
    started.mend()
    yield started
    started.write_script({})


def test_500_tasks_with_mixed_faults_and_a_killed_driver_end_once_each(
    lab: Lab, tmp_path: Path
) -> None:
    for seed in SEEDS:
        print(f"seed {seed}")
        lab.mend()
        one_seed(lab, tmp_path / f"seed-{seed}", seed)


def test_bad_full_and_slow_nodes_are_named_and_the_rest_goes_on(lab: Lab, tmp_path: Path) -> None:
    """Workers on one node always die, a disk is full, a node is slow: others do the work."""
    sweep = write_sweep(
        tmp_path / "lab.yaml",
        hardware="H100-SXM5-80GB, A100-SXM4-80GB, L40S-48GB",
        tensor_parallel="1, 2, 4",
        batch="1, 2",
    )
    planned = {t.task_id for t in make_plan(sweep).tasks}
    always = {"h100-b": "kill_worker"}
    if small_disk(lab, "l40s-b"):
        always["l40s-b"] = "fill_disk"
    lab.write_script({"pace_s": 5.0, "nodes": {"a100-b": 3.0}, "open": always})
    out = tmp_path / "run"
    try:
        with Driver(lab, sweep, out) as driver:
            assert driver.wait(ENDS_S) == 0, driver.said()
    finally:
        restore_disk(lab, "l40s-b")
    rows = read_measurements(out)
    assert set(rows["task_id"]) == planned
    assert rows["task_id"].is_unique
    assert rows["total_energy_j"].notna().all()
    log = events(out)
    attempts_add_up(log, whole=True)
    retried = defaultdict(set)
    for event in log:
        if event["kind"] == "launch_retried":
            retried[lab.name_of(event["node"])].add(event["class"])
    assert retried.pop("h100-b") == {"worker_died"}
    assert retried.pop("l40s-b", {"staging_failed"}) == {"staging_failed"}
    assert not retried
    named = {lab.name_of(e["node"]): e["kind"] for e in log if e["kind"].startswith("node_")}
    assert named["h100-b"] == "node_quarantined"
    assert named.get("l40s-b", "node_quarantined") in ("node_quarantined", "node_unusable")
    assert named["a100-b"] == "node_slow"
    assert set(named) <= {"h100-b", "l40s-b", "a100-b"}


def small_disk(lab: Lab, name: str) -> bool:
    """Give a node a disk of 16 MB for its temporary files; says why not where that fails."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        print("no full disk here: mounting a small one needs root")
        return False
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "lab", str(lab.folder / f"tmp-{name}")],
        check=False,
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        print(f"no full disk here: {mounted.stderr.strip()}")
    return mounted.returncode == 0


def restore_disk(lab: Lab, name: str) -> None:
    subprocess.run(
        ["umount", "-l", str(lab.folder / f"tmp-{name}")], check=False, capture_output=True
    )


def one_seed(lab: Lab, folder: Path, seed: int) -> None:
    folder.mkdir()
    sweep = write_sweep(
        folder / "lab.yaml",
        hardware=TYPES,
        tensor_parallel="1, 2, 4",
        batch="1, 2, 3, 4, 6, 8, 12",
        output_tokens="32, 64",
        run_timeout_s="2",
    )
    plan = make_plan(sweep)
    planned = {t.task_id for t in plan.tasks}
    assert len(planned) >= 500
    script = chaos(plan, seed)
    lab.write_script({"pace_s": 0.01, "tasks": script})
    out = folder / "run"
    kill_after = random.Random(seed).randint(6, 12)
    with Driver(lab, sweep, out) as driver:
        driver.wait_for(lambda: len(events(out, "launch_finished")) >= kill_after, ENDS_S)
        driver.process.kill()
        driver.process.wait()
    first = events(out)
    with Driver(lab, sweep, out) as driver:
        assert driver.wait(ENDS_S) == 0, driver.said()
    second = events(out)[len(first) :]

    happened = Counter(line["what"] for line in lab.logged() if line["what"] in {*MIX, *ONCE})
    print(f"{dict(happened)}, {len(second)} events after the driver was killed")
    assert all(happened[fault] for fault in ("kill_node", "freeze_node", "kill_worker", "crash"))
    every_task_ended_once(out, planned, script, second)
    attempts_add_up(first, whole=False)
    attempts_add_up(second, whole=True)
    retries_went_elsewhere(lab, [*first, *second])
    nothing_is_left(lab, out)


def chaos(plan: Plan, seed: int) -> dict[str, str]:
    """task_id -> what happens to it, each in a launch of its own."""
    draw = random.Random(seed)
    launches = list(plan.launches)
    draw.shuffle(launches)
    script = {}

    def strike(what: str, hardware: str | None = None) -> None:
        chosen = next(x for x in launches if hardware in (None, x.deployment.hardware))
        launches.remove(chosen)
        script[draw.choice(chosen.tasks).task_id] = what

    # These take a node for good: of two types, so that each keeps one.
    lost = draw.sample(["H100-SXM5-80GB", "A100-SXM4-80GB", "L40S-48GB"], 2)
    for what, hardware in zip(("kill_node", "freeze_node"), lost, strict=True):
        strike(what, hardware)
    (whole,) = {"H100-SXM5-80GB", "A100-SXM4-80GB", "L40S-48GB"} - set(lost)
    strike("kill_worker", whole)
    strike("kill_launch", whole)
    for what, count in MIX.items():
        for _ in range(count):
            strike(what)
    return script


def every_task_ended_once(
    out: Path, planned: set[str], script: dict[str, str], ended: list[dict[str, Any]]
) -> None:
    rows = read_measurements(out)
    assert rows["task_id"].is_unique
    lost = [event for event in ended if event["kind"] == "launch_lost"]
    given_up = [task_id for event in lost for task_id in event["task_ids"]]
    assert sorted([*rows["task_id"], *given_up]) == sorted(planned)
    for event in lost:
        assert event["class"]
        assert event["detail"]
        assert event["log"] or event["class"] not in ("launch_killed", "launch_crashed")
    failed = {
        event["task_id"]: event
        for event in events(out, "task_failed")
        if event["class"] != "pruned"
    }
    by_id = rows.set_index("task_id")
    for task_id, what in script.items():
        if what in CLASSES and task_id in by_id.index:
            assert set(by_id.loc[task_id, "reasons"]) <= {*CLASSES[what], "pruned"}, what
            assert "pruned" in by_id.loc[task_id, "reasons"] or failed[task_id]["detail"]
    without = rows[rows["total_energy_j"].isna()]
    assert all(len(reasons) == 1 for reasons in without["reasons"])
    own = {task_id for task_id, what in script.items() if what in CLASSES}
    unasked = without[~without["task_id"].isin(own)]
    assert {reason for reasons in unasked["reasons"] for reason in reasons} <= {"pruned"}


def attempts_add_up(log: list[dict[str, Any]], *, whole: bool) -> None:
    """Every attempt that began ended once: in rows, in another attempt, or given up."""
    began: dict[str, set[int]] = defaultdict(set)
    ends: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for event in log:
        match event["kind"]:
            case "launch_started":
                assert event["attempt"] not in began[event["launch_id"]]
                began[event["launch_id"]].add(event["attempt"])
            case "launch_finished" | "launch_retried":
                ends[event["launch_id"]].append((event["attempt"], event["kind"]))
            case "launch_lost":
                for launch_id in event["launch_ids"]:
                    ends[launch_id].append((event["attempts"], event["kind"]))
    for launch_id, attempts in ends.items():
        numbers = [number for number, _ in attempts]
        assert numbers == list(range(1, len(numbers) + 1)), (launch_id, attempts)
        kinds = [kind for _, kind in attempts]
        assert set(kinds[:-1]) <= {"launch_retried"}, (launch_id, attempts)
        if whole:
            assert kinds[-1] in ("launch_finished", "launch_lost"), (launch_id, attempts)
    for launch_id, numbers in began.items():
        open_ends = numbers - {number for number, _ in ends[launch_id]}
        assert not open_ends if whole else len(open_ends) <= 1, launch_id


def retries_went_elsewhere(lab: Lab, log: list[dict[str, Any]]) -> None:
    """The attempt after a fault began on another node, where the type has another that lives."""
    types = {node.name: node.gpu.name for node in NODES}
    gone = {lab.name_of(e["node"]) for e in log if e["kind"] in ("node_lost", "node_quarantined")}
    began = {
        (e["launch_id"], e["attempt"]): e["node"] for e in log if e["kind"] == "launch_started"
    }
    seen = 0
    for event in log:
        if event["kind"] != "launch_retried":
            continue
        failed_on = lab.name_of(event["node"])
        others = [n for n in types if types[n] == types[failed_on] and n not in {failed_on, *gone}]
        then = began.get((event["launch_id"], event["attempt"] + 1))
        if others and then is not None:
            seen += 1
            assert lab.name_of(then) != failed_on
    print(f"{seen} retries with a choice of nodes went elsewhere")
    assert seen


def nothing_is_left(lab: Lab, out: Path) -> None:
    """No process of a launch, no lock on a node, no lock on the folder."""
    lab.mend()  # what a frozen node holds ends with it
    deadline = time.monotonic() + 30
    while left := lab.launches_alive():
        assert time.monotonic() < deadline, left
        time.sleep(0.2)
    deadline = time.monotonic() + 30
    while True:
        answer = subprocess.run(
            [sys.executable, "-c", RESOURCES],
            env=lab.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        there, free = json.loads(answer.stdout.strip().splitlines()[-1])
        if free.get("node_lock") == there["node_lock"] == len(NODES):
            break
        assert time.monotonic() < deadline, (there, free)
    with RunFolder.open(out).lock():
        pass


def test_a_gang_has_its_nodes_alone_and_gpus_are_shared_where_the_sweep_allows_it(
    lab: Lab, tmp_path: Path
) -> None:
    sweep = write_sweep(tmp_path / "lab.yaml", tensor_parallel="1, 2, 4", batch="1")
    sweep.write_text(sweep.read_text() + "pipeline_parallel: [1, 2]\nfleet: {isolation: gpu}\n")
    plan = make_plan(sweep)
    gpus = {launch.launch_id: launch.deployment.num_gpus for launch in plan.launches}
    assert sorted(set(gpus.values())) == [1, 2, 4, 8], "a gang is larger than any node"
    lab.write_script({"pace_s": 2.0})
    out = tmp_path / "run"
    with Driver(lab, sweep, out) as driver:
        assert driver.wait(ENDS_S) == 0, driver.said()
    log = events(out)
    attempts_add_up(log, whole=True)
    assert set(read_measurements(out)["task_id"]) == {task.task_id for task in plan.tasks}
    held: Counter[str] = Counter()
    launches: Counter[str] = Counter()
    most_launches = 0
    for event in log:
        if event["kind"] not in ("launch_started", "launch_finished"):
            continue
        count = gpus[event["launch_id"].partition("-")[0]]
        nodes = event["node"].split(", ")
        assert len(nodes) == (2 if count == 8 else 1)
        sign = 1 if event["kind"] == "launch_started" else -1
        for node in nodes:
            held[node] += sign * count // len(nodes)
            launches[node] += sign
            assert 0 <= held[node] <= 4, "more GPUs than the node has"
            most_launches = max(most_launches, launches[node])
    assert most_launches > 1
    assert not any(held.values())
