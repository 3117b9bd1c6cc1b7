"""What a worker reports of launches that crash, refuse or go well."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness.catalog import load_model
from harness.errors import EnergyLensError, RunError
from harness.fleet import worker
from harness.fleet.driver import _Run
from harness.fleet.progress import Quiet
from harness.launch import LaunchResult, LaunchSpec, run_launch
from harness.spec import Deployment, Workload
from harness.store import RunFolder, read_measurements

LLAMA = "meta-llama/Meta-Llama-3.1-8B"


def spec(name: str, batch: int) -> str:
    return LaunchSpec(
        launch_id=name,
        model_id=LLAMA,
        config_path=load_model(LLAMA).config_path,
        deployment=Deployment(hardware="H100-SXM5-80GB"),
        workloads=(Workload(batch=batch, input_tokens=64, output_tokens=8),),
    ).model_dump_json()


def test_a_crash_of_one_launch_is_told_and_the_next_ones_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(one: LaunchSpec) -> LaunchResult:
        if one.launch_id == "b":
            raise ZeroDivisionError("by nothing")
        return run_launch(one)

    monkeypatch.setattr(worker, "run_launch", run)
    folder = RunFolder.create(tmp_path / "run", {})
    reports = worker.run_batch(
        [spec("a", 1), spec("b", 2), spec("c", 4)], str(folder.path), isolated=False
    )
    assert [(r.done, r.lost) for r in reports] == [(1, 0), (0, 1), (1, 0)]
    assert reports[1].crash == "ZeroDivisionError: by nothing"
    assert len(read_measurements(folder)) == 2
    state = _Run(folder, Quiet())
    for report in reports:
        state._finished(report)
    assert (state.done, state.failed) == (2, 1)
    lost = [event for event in folder.events() if event["kind"] == "launch_lost"]
    assert [(e["launch_ids"], e["class"]) for e in lost] == [(["b"], "launch_crashed")]


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "code -9"),
        ("raise SystemExit('segment lost')", "code 1: segment lost"),
    ],
)
def test_a_launch_process_that_ends_by_itself_does_not_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, told: str
) -> None:
    monkeypatch.setattr(sys, "executable", _python(tmp_path, program))
    report = worker.run_batch([spec("a", 1)], str(tmp_path), isolated=True)[0]
    assert (report.done, report.lost) == (0, 1)
    assert told in report.crash


def test_an_error_for_the_user_in_a_launch_process_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "import sys; print('the disk is full', file=sys.stderr); sys.exit(2)"
    monkeypatch.setattr(sys, "executable", _python(tmp_path, program))
    with pytest.raises(RunError) as caught:
        worker.run_batch([spec("a", 1)], str(tmp_path), isolated=True)
    assert isinstance(caught.value, EnergyLensError)
    assert "the disk is full" in str(caught.value)


def _python(folder: Path, program: str) -> str:
    """Make a stand-in for the interpreter that runs `program` whatever it is asked for."""
    path = folder / "python"
    (folder / "program.py").write_text(program)
    path.write_text(f"#!/bin/sh\nexec {sys.executable} {folder}/program.py\n")
    path.chmod(0o755)
    return str(path)
