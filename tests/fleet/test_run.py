"""Real runs on a private local Ray: whole, resumed, interrupted, killed, refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from harness.errors import RunError, StoreError
from harness.fleet import Budget, rescue, run_sweep
from harness.fleet.view import RunView
from harness.plan import make_plan
from harness.store import RunFolder, read_measurements, read_traces

pytestmark = pytest.mark.ray

DRIVER = """\
import sys
from harness.fleet import run_sweep
try:
    run_sweep(sys.argv[1], sys.argv[2], workers=1)
except KeyboardInterrupt:
    sys.exit(130)
"""


class Heard:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.total = self.already = self.done = self.failed = 0
        self.joules = 0.0
        self.messages: list[str] = []
        self.views: list[RunView] = []
        self.ended = False

    def started(self, total: int, already_done: int) -> None:
        self.total, self.already = total, already_done

    def advanced(self, done: int, failed: int, energy_j: float, detail: str) -> None:
        self.done += done
        self.failed += failed
        self.joules += energy_j

    def message(self, text: str) -> None:
        self.messages.append(text)

    def view(self, view: RunView) -> None:
        self.views.append(view)

    def finished(self, done: int, failed: int, seconds: float) -> None:
        self.ended = True


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob("*") if p.name.endswith(".tmp")]


def test_a_run_measures_every_task_once_and_resumes_with_nothing_to_do(
    sweep_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    planned = {t.task_id for t in make_plan(sweep_file).tasks}
    heard = Heard()
    summary = run_sweep(sweep_file, out, progress=heard, workers=2)
    rows = read_measurements(out)
    assert set(rows["task_id"]) == planned
    assert rows["task_id"].is_unique
    assert (summary.done, summary.failed) == (len(planned), 0)
    assert (heard.total, heard.done, heard.ended) == (len(planned), len(planned), True)
    assert heard.joules == pytest.approx(rows["total_energy_j"].sum())
    assert heard.views[-1].done == len(planned)
    assert heard.views[-1].energy_kwh is None, "a projection draws nothing"
    kept = RunFolder.open(out).read_progress()
    assert kept is not None
    assert RunView.from_dict(kept["view"]).done == len(planned)
    assert read_traces(out)["key"].nunique() == 3
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["sweep"] == sweep_file.read_text()
    assert manifest["versions"]["ray"]
    before = {p: p.stat().st_mtime_ns for p in (out / "measurements").rglob("*.parquet")}

    started = time.monotonic()
    again = run_sweep(sweep_file, out)
    assert (again.done, again.already_done) == (0, len(planned))
    assert time.monotonic() - started < 10
    assert {p: p.stat().st_mtime_ns for p in before} == before
    kinds = [event["kind"] for event in RunFolder.open(out).events()]
    assert kinds.count("run_finished") == 2
    begun = [e for e in RunFolder.open(out).events() if e["kind"] == "run_started"]
    assert [e["versions"] for e in begun] == [manifest["versions"]] * 2
    assert [e["git_commit"] for e in begun] == [manifest["git_commit"]] * 2
    assert not leftovers(out)


def start_driver(sweep: Path, out: Path) -> subprocess.Popen[str]:
    """Run the driver in a process group of its own, as a shell would."""
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(sweep), str(out)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for_rows(process: subprocess.Popen[str], out: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stdout and process.stdout.read()
        if any((out / "measurements").rglob("*.parquet")):
            return
        time.sleep(0.02)
    pytest.fail("no result within the time")


@pytest.fixture
def long_sweep(tmp_path: Path, sweep_file: Path) -> Path:
    text = sweep_file.read_text().replace("name: small", "name: long")
    text = text.replace("batch: [1, 8]", "batch: [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32]")
    text = text.replace("output_tokens: [32, 64]", "output_tokens: [32, 64, 96, 128, 192, 256]")
    path = tmp_path / "long.yaml"
    path.write_text(text.replace("repeats: 3", "repeats: 5"))
    return path


def settled(out: Path) -> pd.DataFrame:
    """Rows once no worker of a killed driver is finishing its last launch any more."""
    rows = read_measurements(out)
    while True:
        time.sleep(3)
        again = read_measurements(out)
        if len(again) == len(rows):
            return rows
        rows = again


@pytest.mark.parametrize("signal_sent", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_leaves_a_clean_folder_and_goes_on_where_it_was(
    long_sweep: Path, tmp_path: Path, signal_sent: signal.Signals
) -> None:
    out = tmp_path / "run"
    driver = start_driver(long_sweep, out)
    try:
        wait_for_rows(driver, out)
        if signal_sent == signal.SIGINT:
            driver.send_signal(signal.SIGINT)
        else:
            os.killpg(driver.pid, signal.SIGKILL)
        code = driver.wait(timeout=60)
    finally:
        if driver.poll() is None:
            os.killpg(driver.pid, signal.SIGKILL)
    said = driver.stdout.read() if driver.stdout else ""
    assert code == (130 if signal_sent == signal.SIGINT else -signal.SIGKILL), said
    planned = {t.task_id for t in make_plan(long_sweep).tasks}
    first = settled(out)
    assert 0 < len(first) < len(planned)
    kinds = [event["kind"] for event in RunFolder.open(out).events()]
    if signal_sent == signal.SIGINT:
        assert kinds[-1] == "run_interrupted"
        assert not leftovers(out)
    summary = run_sweep(long_sweep, out, workers=2)
    assert summary.already_done == len(first)
    rows = read_measurements(out)
    assert set(rows["task_id"]) == planned
    kept = rows.set_index("task_id").loc[first["task_id"], "total_energy_j"]
    assert (kept.to_numpy() == first["total_energy_j"].to_numpy()).all()


def test_two_drivers_on_one_folder_are_refused(sweep_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code = (
        "import sys, time\nfrom harness.store import RunFolder\n"
        "with RunFolder.create(sys.argv[1], {}).lock():\n"
        "    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(out)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "held"
        with pytest.raises(StoreError, match=str(holder.pid)):
            run_sweep(sweep_file, out)
    finally:
        holder.communicate("")


def test_a_folder_of_another_sweep_is_refused(
    sweep_file: Path, long_sweep: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with RunFolder.create(out, {}).lock():
        RunFolder.open(out).append_event("run_started", sweep="other", tasks_planned=1)
    with pytest.raises(RunError, match="other"):
        run_sweep(sweep_file, out)


def test_isolated_launches_run_in_processes_of_their_own(sweep_file: Path, tmp_path: Path) -> None:
    text = sweep_file.read_text().replace("name: small", "name: isolated")
    text = text.replace("hardware: [H100, H200]", "hardware: [H100]\nisolate_launches: true")
    text = text.replace(
        "models: [meta-llama/Meta-Llama-3.1-8B, Qwen/Qwen3-30B-A3B]",
        "models: [meta-llama/Meta-Llama-3.1-8B]",
    )
    text = text.replace("tensor_parallel: [1, 2]", "tensor_parallel: [1]")
    sweep_file.write_text(text)
    summary = run_sweep(sweep_file, tmp_path / "run", workers=2)
    assert summary.failed == 0
    assert summary.done == len(make_plan(sweep_file).tasks) == 8
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["sweep"] == text
    assert manifest["sweep_name"] == "isolated"


def test_the_address_of_a_dashboard_is_no_address_for_a_driver(
    sweep_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    with pytest.raises(RunError, match="dashboard") as caught:
        run_sweep(sweep_file, tmp_path / "run")
    assert "harness.fleet.jobs submit" in str(caught.value)


def test_an_unreachable_cluster_is_one_clear_error(
    sweep_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(RunError, match="nobody answers"):
        run_sweep(sweep_file, tmp_path / "run")


def test_a_spent_budget_ends_the_run_cleanly_and_the_next_run_goes_on(
    long_sweep: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    heard = Heard()
    first = run_sweep(long_sweep, out, progress=heard, workers=1, budget=Budget(max_hours=1e-6))
    assert first.stopped == "the budget of 1e-06 h of wall time is spent"
    assert first.done < first.planned
    kinds = [event["kind"] for event in RunFolder.open(out).events()]
    assert kinds[-1] == "run_stopped"
    assert any("stopping" in text for text in heard.messages)


def test_a_budget_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(RunError, match="more than 0"):
        Budget(max_kwh=0)


def test_hardware_that_no_node_has_is_named_at_once(sweep_file: Path, tmp_path: Path) -> None:
    text = sweep_file.read_text().replace("keep_traces: 3", "engine: transformers")
    sweep_file.write_text(text)
    with pytest.raises(RunError, match="no node of this cluster can do any of it") as caught:
        run_sweep(sweep_file, tmp_path / "run")
    assert "H100-SXM5-80GB" in str(caught.value)
    assert "doctor --cluster" in str(caught.value)
    events = [e for e in RunFolder.open(tmp_path / "run").events() if e["kind"] == "unplaceable"]
    assert sum(e["tasks"] for e in events) == len(make_plan(sweep_file).tasks)


def test_what_the_run_folder_did_not_take_is_kept_and_taken_in_by_the_next_run(
    sweep_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rescue.tempfile, "tempdir", str(tmp_path))
    out = tmp_path / "run"
    full = StoreError("The disk is full.", where=str(out), fix="free space")

    def refuse(self: RunFolder, files: object) -> None:
        if self.path == out:
            raise full
        commit(self, files)

    commit = RunFolder.commit
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "commit", refuse)
        with pytest.raises(StoreError, match="disk is full"):
            run_sweep(sweep_file, out, workers=1)
    assert len(read_measurements(out)) == 0
    summary = run_sweep(sweep_file, out, workers=1)
    assert summary.already_done > 0
    assert summary.already_done + summary.done == summary.planned
    assert len(read_measurements(out)) == summary.planned
    assert not rescue.rescue_folder(str(out.resolve())).exists()


def test_results_are_kept_for_the_folder_however_it_is_named_and_a_half_rescue_harms_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rescue.tempfile, "tempdir", str(tmp_path))
    folder = RunFolder.create(tmp_path / "a" / "run", {})
    address = rescue.address_of(folder)
    monkeypatch.chdir(tmp_path / "a")
    assert rescue.address_of(RunFolder.open("run")) == address
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "b")
    assert rescue.address_of(RunFolder.create("run", {})) != address
    files = {"launches/x-1.json": b"{}"}
    kept = rescue.rescue(address, files)
    assert rescue.take_in_rescued(folder, address) == 1
    assert folder.launch_record("x-1") == {}
    (kept / "measurements").mkdir(parents=True)
    assert rescue.take_in_rescued(folder, address) == 0
    assert not kept.exists()
