"""Crashes, hangs and lost memory cost one workload; everything else is measured and on disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.catalog import load_model
from harness.launch import LaunchSpec, Protocol, main
from harness.spec import Deployment, Workload
from harness.store import RunFolder, read_measurements

LLAMA = "meta-llama/Meta-Llama-3.1-8B"


def spec(batches: list[int], **changes: object) -> LaunchSpec:
    protocol = Protocol(repeats=2, window_s=0.02, warm_up_s=0.1, **changes.pop("protocol", {}))
    return LaunchSpec.model_validate(
        {
            "launch_id": "unruly",
            "model_id": LLAMA,
            "config_path": load_model(LLAMA).config_path,
            "deployment": Deployment(
                engine="unruly_engine:UnrulyEngine", hardware="H100-SXM5-80GB"
            ),
            "workloads": tuple(
                Workload(batch=b, input_tokens=64, output_tokens=8) for b in batches
            ),
            "protocol": protocol,
            **changes,
        }
    )


def launch(tmp_path: Path, one: LaunchSpec) -> tuple[int, Path]:
    path, out = tmp_path / "spec.json", tmp_path / "run"
    path.write_text(one.model_dump_json())
    return main([str(path), "--out", str(out)]), out


def outcomes(out: Path) -> dict[int, str]:
    """Batch -> `measured`, or the class of its failure."""
    rows = read_measurements(out)
    assert rows["task_id"].is_unique
    return {
        int(row.batch): "measured" if row.prefill_latency_s > 0 else row.reasons[0]
        for row in rows.itertuples()
    }


def test_every_workload_ends_once_with_its_class(tmp_path: Path) -> None:
    code, out = launch(tmp_path, spec([1, 2, 13, 16, 18, 20, 31]))
    assert code == 0
    assert outcomes(out) == {
        1: "measured",
        2: "measured",
        13: "crashed",
        16: "measured",
        18: "measured",
        20: "measured",
        31: "not_supported",
    }
    record = RunFolder.open(out).launch_record("unruly-1")
    assert record is not None
    details = {tuple(f)[1]: f[2] for f in record["failures"]}
    assert "SIGSEGV" in details["crashed"]
    rows = read_measurements(out).set_index("batch")
    assert rows.loc[1, "total_energy_j"] != rows.loc[1, "total_energy_j"]  # null without a meter
    assert "no_power_meter" in rows.loc[1, "reasons"]
    assert not rows["valid"].any()
    assert rows.loc[1, "provenance"] == "measured"


def test_what_must_fail_too_is_pruned_and_says_why(tmp_path: Path) -> None:
    code, out = launch(tmp_path, spec([1, 19, 24, 64]))
    assert code == 0
    assert outcomes(out) == {1: "measured", 19: "out_of_memory", 24: "pruned", 64: "pruned"}
    record = RunFolder.open(out).launch_record("unruly-1")
    assert record is not None
    pruned = [detail for _, kind, detail in record["failures"] if kind == "pruned"]
    assert all("batch 19" in detail and "ran out of memory" in detail for detail in pruned)


def test_a_process_that_the_kernel_kills_ran_out_of_memory(tmp_path: Path) -> None:
    code, out = launch(tmp_path, spec([1, 23, 32]))
    assert code == 0
    assert outcomes(out) == {1: "measured", 23: "out_of_memory", 32: "pruned"}


def test_a_hang_is_ended_and_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENERGYLENS_SLACK_S", "1")
    one = spec([1, 17, 30], protocol={"run_timeout_s": 1.0})
    began = time.monotonic()
    code, out = launch(tmp_path, one)
    assert code == 0
    assert outcomes(out) == {1: "measured", 17: "timed_out", 30: "pruned"}
    assert time.monotonic() - began < 60


def test_a_broken_engine_is_replaced(tmp_path: Path) -> None:
    code, out = launch(tmp_path, spec([1, 29, 40]))
    assert code == 0
    assert outcomes(out) == {1: "measured", 29: "engine_broken", 40: "measured"}


def test_a_deployment_that_crashes_while_loading_fails_all_and_ends(tmp_path: Path) -> None:
    code, out = launch(tmp_path, spec([1, 2], engine_options={"open_crash": True}))
    assert code == 0
    assert outcomes(out) == {1: "crashed", 2: "crashed"}


def test_a_run_longer_than_the_budget_is_recorded_not_waited_for(tmp_path: Path) -> None:
    one = spec([1, 2], engine_options={"run_s": 1.0}, protocol={"budget_s": 1.5})
    code, out = launch(tmp_path, one)
    assert code == 0
    assert outcomes(out) == {1: "timed_out", 2: "pruned"}


def test_nothing_is_left_running_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    one = spec([1, 17], engine_options={"log": str(log)})
    path = tmp_path / "spec.json"
    path.write_text(one.model_dump_json())
    supervisor = subprocess.Popen(
        [sys.executable, "-m", "harness.launch", str(path), "--out", str(tmp_path / "run")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while " 17 " not in (log.read_text() if log.exists() else ""):
        assert time.monotonic() < deadline
        assert supervisor.poll() is None
        time.sleep(0.05)
    child = int(log.read_text().split()[0])
    os.kill(supervisor.pid, signal.SIGKILL)
    supervisor.wait()
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        state = Path(f"/proc/{child}/stat").read_text().split()[2]
        if state == "Z":
            break
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{child}").exists()


def test_a_foreign_engine_that_is_not_there_is_a_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = spec([1]).model_copy(
        update={"deployment": Deployment(engine="nowhere:Engine", hardware="H100-SXM5-80GB")}
    )
    code, _ = launch(tmp_path, one)
    assert code == 2
    assert "nowhere" in capsys.readouterr().err


def test_asked_to_stop_it_writes_what_it_has_and_leaves_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stop").touch()
    monkeypatch.setenv("ENERGYLENS_STOP_FILE", str(tmp_path / "stop"))
    code, out = launch(tmp_path, spec([1, 2]))
    assert code == 0
    assert len(read_measurements(out)) == 0
    record = RunFolder.open(out).launch_record("unruly-1")
    assert record is not None
    assert [kind for _, kind, _ in record["failures"]] == ["not_reached"] * 2
