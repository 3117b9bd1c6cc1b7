"""One launch, from spec to rows, on the twin with a known truth."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from harness.catalog import load_model
from harness.engines import Phase, RunStamps
from harness.engines.twin.engine import TwinEngine, TwinSession
from harness.errors import EngineError, RunError
from harness.launch import LaunchSpec, Protocol, main, read_spec, run_launch
from harness.meters.twin import SensorFaults
from harness.spec import Deployment, Workload
from harness.store import RunFolder, read_measurements, read_traces

LLAMA = "meta-llama/Meta-Llama-3.1-8B"
H100 = "H100-SXM5-80GB"
WORK = tuple(
    Workload(batch=b, input_tokens=n, output_tokens=m)
    for b in (1, 8, 32)
    for n, m in ((256, 64), (1024, 128))
)


def spec(**changes: object) -> LaunchSpec:
    return LaunchSpec.model_validate(
        {
            "launch_id": "abc",
            "model_id": LLAMA,
            "config_path": load_model(LLAMA).config_path,
            "deployment": Deployment(hardware=H100, tensor_parallel=2),
            "workloads": WORK,
            "sweep": "test",
            **changes,
        }
    )


def test_rows_hold_the_projected_truth_within_their_intervals() -> None:
    truth_of = TwinSession(
        load_model(LLAMA), Deployment(hardware=H100, tensor_parallel=2), repeat_noise=0.0, seed=0
    ).projection
    hits: list[bool] = []
    for seed in range(8):
        result = run_launch(spec(protocol=Protocol(seed=seed)))
        assert len(result.rows) == len(WORK)
        for work, row in zip(WORK, result.rows, strict=True):
            truth = truth_of(work)
            for phase, value in (
                ("prefill", truth.prefill_j),
                ("decode", truth.decode_j),
                ("total", truth.prefill_j + truth.decode_j),
            ):
                # The gain of the sensor is fixed and unknown: 0.5 % may sit outside.
                slack = 0.01 * value
                interval = row[f"{phase}_energy_j_ci95_j"] + slack
                hits.append(abs(row[f"{phase}_energy_j"] - value) <= interval)
            assert row["provenance"] == "projected"
            assert row["repeats"] == 3
            assert row["window_s"] >= 5.0
            assert row["total_latency_s"] == pytest.approx(
                truth.prefill_s + truth.decode_s, rel=0.1
            )
    assert np.mean(hits) >= 0.95


def test_the_same_seed_gives_the_same_rows() -> None:
    one, two = run_launch(spec()), run_launch(spec())
    for a, b in zip(one.rows, two.rows, strict=True):
        assert a["task_id"] == b["task_id"]
        assert a["total_energy_j"] == b["total_energy_j"]


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        (SensorFaults(freeze_from=0.3), "meter_disagreement"),
        (SensorFaults(backwards_at=0.5), "counter_backwards"),
        (SensorFaults(throttle_from=0.1), "throttled"),
        (SensorFaults(lose_from=0.2, lose_to=0.6), "samples_missing"),
    ],
)
def test_a_faulty_sensor_makes_rows_invalid(
    monkeypatch: pytest.MonkeyPatch, faults: SensorFaults, reason: str
) -> None:
    monkeypatch.setattr("harness.launch.load_engine", lambda name: TwinEngine(faults=faults))
    result = run_launch(spec(workloads=WORK[:2]))
    for row in result.rows:
        assert row["valid"] is False
        assert reason in row["reasons"]


def test_a_refused_deployment_fails_every_task_by_name() -> None:
    result = run_launch(spec(deployment=Deployment(hardware="A100-SXM4-80GB", precision="nvfp4")))
    assert len(result.failures) == len(WORK)
    assert all(row["total_energy_j"] is None for row in result.rows if "total_energy_j" in row)
    assert {row["reasons"][0] for row in result.rows} == {"workload_refused"}


def test_a_workload_refused_in_mid_measurement_does_not_take_the_others_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, calls = TwinSession.run, [0]

    def run(self: TwinSession, workload: Workload, phase: Phase, count: int) -> RunStamps:
        calls[0] += workload == WORK[1]
        if workload == WORK[1] and calls[0] > 4:
            raise EngineError("out of memory")
        return real(self, workload, phase, count)

    monkeypatch.setattr(TwinSession, "run", run)
    result = run_launch(spec(keep_traces=(1,)))
    assert [(kind, detail) for _, kind, detail in result.failures] == [
        ("workload_failed", "out of memory")
    ]
    assert len(result.rows) == len(WORK)
    assert sum(row["valid"] for row in result.rows) == len(WORK) - 1
    assert result.traces == {}


def test_a_launch_leaves_the_manifest_of_its_driver_alone(tmp_path: Path) -> None:
    path, out = tmp_path / "spec.json", tmp_path / "run"
    path.write_text(spec(workloads=WORK[:1]).model_dump_json())
    RunFolder.create(out, {"sweep": "name: text of the file"})
    before = (out / "manifest.json").read_bytes()
    assert main([str(path), "--out", str(out)]) == 0
    assert (out / "manifest.json").read_bytes() == before


def test_one_output_token_has_no_decode_phase() -> None:
    work = Workload(batch=4, input_tokens=512, output_tokens=1)
    row = run_launch(spec(workloads=(work,))).rows[0]
    assert row["decode_energy_j"] is None
    assert row["itl_s"] is None
    assert row["total_energy_j"] == pytest.approx(row["prefill_energy_j"], rel=0.1)


def test_the_module_runs_a_launch_without_ray(tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_text(spec(keep_traces=(1,)).model_dump_json())
    code = (
        "import sys, runpy; sys.argv = ['launch', *sys.argv[1:]]\n"
        "try: runpy.run_module('harness.launch', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "assert 'ray' not in sys.modules\n"
    )
    out = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = read_measurements(out)
    assert len(rows) == len(WORK)
    assert rows["valid"].all()
    trace = read_traces(out)
    assert set(trace["phase"]) >= {"prefill", "decode"}
    assert trace["gpu_uuid"].nunique() == 2
    decode = trace[trace["phase"] == "decode"]["power_w"].mean()
    assert 300 < decode < 700


def test_a_broken_spec_is_a_clear_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RunError, match="cannot read"):
        read_spec(tmp_path / "none.json")
    path = tmp_path / "spec.json"
    text = json.loads(spec().model_dump_json())
    text["protocol"]["repeats"] = 0
    path.write_text(json.dumps(text))
    assert main([str(path), "--out", str(tmp_path / "run")]) == 2
    assert "protocol.repeats" in capsys.readouterr().err
