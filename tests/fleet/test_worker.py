"""What a worker reports of launches that crash, refuse, hang or go well, and what it sends back."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.catalog import load_model
from harness.fleet import staging, worker
from harness.fleet.janitor import holder, marker
from harness.fleet.worker import LaunchReport, Order, run_order
from harness.launch import LaunchResult, LaunchSpec, run_launch
from harness.spec import Deployment, Workload
from harness.store import RunFolder, read_measurements

LLAMA = "meta-llama/Meta-Llama-3.1-8B"
CONFIG = load_model(LLAMA).config_path.read_text()


def spec(name: str, batch: int, **changes) -> str:
    return LaunchSpec(
        launch_id=name,
        model_id=LLAMA,
        config_path=Path("/nowhere/config.json"),
        deployment=Deployment(hardware="H100-SXM5-80GB"),
        workloads=(Workload(batch=batch, input_tokens=64, output_tokens=8),),
        **changes,
    ).model_dump_json()


def order(*specs: str, isolated: bool = False, deadline_s: float = 60.0) -> Order:
    return Order("t-1", specs, isolated, deadline_s)


def only(outcome: worker.Outcome) -> LaunchReport:
    (report,) = outcome.reports
    return report


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(staging.tempfile, "tempdir", str(folder))
    return folder


def test_rows_come_back_as_files_and_the_model_goes_along_as_text(
    tmp_path: Path, own_temporary_folder: Path
) -> None:
    outcome = run_order(order(spec("a", 1, keep_traces=(0,)), spec("b", 2)), {LLAMA: CONFIG}, None)
    assert [(r.launch_id, r.done, r.ended) for r in outcome.reports] == [("a", 1, ""), ("b", 1, "")]
    folder = RunFolder.create(tmp_path / "run", {})
    folder.commit(outcome.files)
    rows = read_measurements(folder)
    assert sorted(rows["batch"]) == [1, 2]
    assert len(folder.trace_files()) == 1
    energies = sum(r.energy_j for r in outcome.reports if r.energy_j)
    assert energies == pytest.approx(rows["total_energy_j"].sum())
    assert not list(own_temporary_folder.glob(f"{staging.PREFIX}*"))


def test_the_attempt_is_written_into_the_rows(tmp_path: Path) -> None:
    for isolated in (False, True):
        outcome = run_order(
            order(spec("a", 1, attempt=2), isolated=isolated), {LLAMA: CONFIG}, None
        )
        folder = RunFolder.create(tmp_path / str(isolated), {})
        folder.commit(outcome.files)
        assert read_measurements(folder)["attempt"].tolist() == [2]


def test_a_crash_of_one_launch_is_told_and_the_next_ones_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(one: LaunchSpec) -> LaunchResult:
        if one.launch_id == "b":
            raise ZeroDivisionError("by nothing")
        return run_launch(one)

    monkeypatch.setattr(worker, "run_launch", run)
    outcome = run_order(order(spec("a", 1), spec("b", 2), spec("c", 4)), {LLAMA: CONFIG}, None)
    assert [(r.done, r.ended) for r in outcome.reports] == [(1, ""), (0, "launch_crashed"), (1, "")]
    assert outcome.reports[1].detail == "ZeroDivisionError: by nothing"


def test_a_model_that_cannot_be_read_is_refused() -> None:
    report = only(run_order(order(spec("a", 1)), {LLAMA: '{"model_type": "unheard_of"}'}, None))
    assert report.ended == "refused"
    assert "hidden_size" in report.detail


@pytest.mark.parametrize(
    ("program", "ended", "told"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "launch_killed", "code -9"),
        ("raise SystemExit('segment lost')", "launch_crashed", "code 1: segment lost"),
        (
            "import sys; print('noise'); print('error: no such GPU', file=sys.stderr); sys.exit(2)",
            "refused",
            "no such GPU",
        ),
    ],
)
def test_the_end_of_a_launch_process_has_a_class_and_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, ended: str, told: str
) -> None:
    monkeypatch.setattr(sys, "executable", _python(tmp_path, program))
    report = only(run_order(order(spec("a", 1), isolated=True), {LLAMA: CONFIG}, None))
    assert (report.done, report.ended) == (0, ended)
    assert told in report.detail


def test_a_launch_process_that_hangs_is_ended_at_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "print('going to sleep', flush=True)\nimport time\ntime.sleep(600)"
    monkeypatch.setattr(sys, "executable", _python(tmp_path, program))
    started = time.monotonic()
    report = only(
        run_order(order(spec("a", 1), isolated=True, deadline_s=1.0), {LLAMA: CONFIG}, None)
    )
    assert report.ended == "deadline"
    assert report.log == "going to sleep"
    assert time.monotonic() - started < 15


def test_a_launch_knows_its_marker_and_gets_all_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    program = (
        "import json, os\nprint(json.dumps({k: os.environ.get(k) for k in "
        "('ENERGYLENS_LAUNCH', 'ENERGYLENS_HOLDER', 'OMP_NUM_THREADS')}))\nraise SystemExit(1)"
    )
    monkeypatch.setattr(sys, "executable", _python(tmp_path, program))
    report = only(run_order(order(spec("a", 1), isolated=True), {LLAMA: CONFIG}, None))
    expected = {**marker("a"), "OMP_NUM_THREADS": None}
    assert all(f'"{k}": "{v}"' in report.log for k, v in expected.items() if v)
    assert '"OMP_NUM_THREADS": null' in report.log


def test_a_disk_without_room_is_a_fault_of_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "disk_works", lambda folder: f"No space left: {folder}")
    report = only(run_order(order(spec("a", 1), isolated=True), {LLAMA: CONFIG}, None))
    assert report.ended == "staging_failed"
    assert "No space left" in report.detail


def test_a_small_file_system_really_refuses(tmp_path: Path) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    try:
        assert "too large" in staging.disk_works(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert staging.disk_works(tmp_path) == ""
    assert not list(tmp_path.glob(".trial"))


def test_leftovers_are_ended_before_a_launch(tmp_path: Path) -> None:
    gone = subprocess.run(
        [sys.executable, "-c", "import os; from harness.fleet.janitor import holder; "
         "print(holder(os.getpid()))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    orphan = subprocess.Popen(
        ["sleep", "600"],
        env={**os.environ, "ENERGYLENS_LAUNCH": "old", "ENERGYLENS_HOLDER": gone},
        start_new_session=True,
    )
    try:
        outcome = run_order(order(spec("a", 1), isolated=True), {LLAMA: CONFIG}, None)
        assert orphan.wait(timeout=5) != 0
        assert outcome.leftovers == (f"sleep {orphan.pid} of launch old",)
        assert only(outcome).done == 1
    finally:
        orphan.kill()


def test_folders_of_dead_workers_are_swept_and_those_of_living_ones_stay(
    own_temporary_folder: Path,
) -> None:
    mine = holder(os.getpid())
    namespace = mine.rpartition(":")[2]
    dead = own_temporary_folder / f"{staging.PREFIX}{os.getpid()}-1-{namespace}-abc"
    alive = own_temporary_folder / f"{staging.PREFIX}{mine.replace(':', '-')}-abc"
    elsewhere = own_temporary_folder / f"{staging.PREFIX}{os.getpid()}-1-77-abc"
    for folder in (dead, alive, elsewhere):
        folder.mkdir()
    with staging.staging_folder() as folder:
        assert folder.is_dir()
    assert not dead.exists()
    assert alive.exists()
    assert elsewhere.exists()


def test_a_worker_is_ended_only_if_it_is_still_the_same_process() -> None:
    child = subprocess.Popen(["sleep", "600"])
    try:
        _, ticks, _ = holder(child.pid).split(":")
        assert not worker.end_process(child.pid, int(ticks) + 1)
        assert child.poll() is None
        assert worker.end_process(child.pid, int(ticks))
        assert child.wait(timeout=5) == -9
    finally:
        child.kill()


def _python(folder: Path, program: str) -> str:
    """Make a stand-in for the interpreter that runs `program` whatever it is asked for."""
    path = folder / "python"
    (folder / "program.py").write_text(program)
    path.write_text(f"#!/bin/sh\nexec {sys.executable} {folder}/program.py\n")
    path.chmod(0o755)
    return str(path)


def test_what_was_not_reached_is_no_failure() -> None:
    one = LaunchSpec.model_validate_json(spec("a", 1))
    both = one.model_copy(
        update={
            "workloads": (one.workloads[0], Workload(batch=9, input_tokens=64, output_tokens=8))
        }
    )
    first, second = worker.task_ids_of(both)
    row = {"task_id": first, "reasons": [], "total_energy_j": 3.0}
    report = worker._report(both, [row], ((second, "not_reached", "time"),), 1.0)
    assert (report.done, report.failures, report.unreached) == (1, (), 1)


def test_a_temporary_folder_that_is_not_there_is_a_fault_of_the_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gone(*_: object, **__: object) -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(staging.tempfile, "mkdtemp", gone)
    for isolated in (False, True):
        report = only(run_order(order(spec("a", 1), isolated=isolated), {LLAMA: CONFIG}, None))
        assert report.ended == "staging_failed"
