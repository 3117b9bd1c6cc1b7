"""Plan, slices, resume, second pass, report and fit: no engine, and a clock of its own."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime

import numpy as np
import pytest
from scripted import GpuScript, ScriptedNvml

from harness.catalog import load_hardware, load_model
from harness.errors import MeterError
from harness.gpucheck.__main__ import main
from harness.gpucheck.check import run_check, supervised
from harness.gpucheck.estimate import correction, scan_bytes
from harness.gpucheck.machine import check_packages, find_gpu
from harness.gpucheck.plan import deployment_on, make_check_plan, pace_for
from harness.gpucheck.workloads import GROUPS, workloads_of
from harness.meters.choose import NVIDIA_FACTS
from harness.plan.roofline import RooflineEstimator
from harness.spec import Task, Workload
from harness.spec.task import task_columns
from harness.store import RunFolder, conform, read_measurements

H200 = "H200-SXM5-141GB"
FAST = dataclasses.replace(NVIDIA_FACTS, counter_period_s=0.02)


def test_the_list_is_wide_enough_and_in_useful_order():
    plan = make_check_plan(load_hardware(H200), FAST)
    workloads = [w for launch in plan.launches for w in launch.spec.workloads]
    assert plan.rows >= 66
    assert not plan.left_out
    assert all(5 <= len(launch.spec.workloads) <= 8 for launch in plan.launches)
    assert {w.modality for w in workloads} == {"text", "image", "video"}
    assert {w.batch for w in workloads} == {1, 2, 4, 8, 16, 32, 64}
    assert min(w.input_tokens for w in workloads) == 128
    assert max(w.input_tokens for w in workloads) == 4096
    assert {min(w.output_tokens for w in workloads), max(w.output_tokens for w in workloads)} == {
        32,
        256,
    }
    families = [launch.model.family for launch in plan.launches[:4]]
    assert sorted(families) == ["dense", "dense", "moe", "ssm"]
    checks = [launch for launch in plan.launches if launch.spec.protocol.decode_windows]
    assert len({launch.model.model_id for launch in checks}) == len(checks) == 4
    assert all(launch.spec.protocol.repeats == 3 for launch in checks)


@pytest.mark.parametrize("group", GROUPS, ids=[group.kind for group in GROUPS])
def test_every_model_sees_different_sizes(group):
    found = workloads_of(load_model(group.candidates[0]), group)
    assert len(set(found)) == len(found) == sum(group.launches)
    assert all(w.batch * w.input_tokens <= group.most_tokens for w in found)
    assert len({w.batch for w in found}) >= 4
    assert len({w.output_tokens for w in found}) >= 3


@pytest.mark.parametrize("period_s", [0.02, 0.1])
def test_no_launch_is_longer_than_a_slice(period_s):
    sensor = dataclasses.replace(NVIDIA_FACTS, counter_period_s=period_s)
    for name in (H200, "H100-SXM5-80GB"):
        plan = make_check_plan(load_hardware(name), sensor)
        assert max(launch.seconds for launch in plan.launches) < 480 / 2


def test_a_slow_counter_gets_long_windows_and_single_repeats():
    pace = pace_for(NVIDIA_FACTS)
    assert (pace.repeats, pace.window_s) == (1, pytest.approx(5.0))
    assert (pace_for(FAST).repeats, pace_for(FAST).window_s) == (2, 1.0)


def test_what_does_not_fit_is_replaced_or_left_out_with_the_reason():
    plan = make_check_plan(load_hardware("L4-24GB"), FAST)
    assert any("Qwen/Qwen3-30B-A3B: its weights take" in text for text in plan.left_out)
    assert {launch.model.family for launch in plan.launches} <= {"dense", "ssm", "moe"}
    memory = load_hardware("L4-24GB").memory_bytes
    for launch in plan.launches:
        assert launch.model.weight_bytes("bf16") < memory
        assert all(scan_bytes(launch.model, w) < memory for w in launch.spec.workloads)


def test_real_times_correct_the_estimates():
    past = [("a", 10.0, 20.0), ("a", 10.0, 30.0), ("b", 10.0, 5.0)]
    assert correction([], "a") == 1.0
    assert correction(past, "a") == 2.5
    assert correction(past, "c") == 2.0
    assert correction([("a", 10.0, 1000.0)], "a") == 4.0


def test_list_needs_no_gpu(capsys):
    assert main(["--list", "--counter-period-s", "0.02"]) == 0
    text = capsys.readouterr().out
    assert "68 rows, 10 launches" in text
    assert "Qwen/Qwen3-30B-A3B" in text


def test_list_of_an_unknown_gpu_is_one_clear_error(capsys):
    assert main(["--list", "--hardware", "H9000"]) == 2
    assert "unknown hardware" in capsys.readouterr().err


def test_without_a_gpu_it_says_so_and_exits_2(tmp_path, capsys, monkeypatch):
    import pynvml

    def missing(*_):
        raise pynvml.NVMLError_LibraryNotFound()

    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    monkeypatch.setattr(pynvml, "nvmlInitWithFlags", missing)
    assert main(["--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "run").exists()


def test_missing_packages_are_named_together():
    with pytest.raises(Exception, match="needs no_such_one, no_such_two"):
        check_packages(("json", "no_such_one", "no_such_two"))


class Bench:
    """A scripted GPU, a clock that launches move, and launches that project their rows."""

    def __init__(self, folder):
        self.folder = folder
        self.now_s = 0.0
        self.real_s = {}
        self.ran = []
        self.budgets = []
        self.unmeasured = set()

    def clock(self):
        return self.now_s

    def launch(self, spec, folder):
        self.ran.append(spec.key)
        self.budgets.append(spec.protocol.budget_s)
        self.now_s += self.real_s.get(spec.key, 100.0)
        model = load_model(str(spec.config_path))
        hardware = load_hardware(spec.deployment.hardware)
        rows = []
        for workload in spec.workloads:
            task = Task(model_id=spec.model_id, workload=workload, deployment=spec.deployment)
            row = {
                **task_columns(task, model),
                "attempt": spec.attempt,
                "sweep": spec.sweep,
                "provenance": "projected",
                "launch_id": spec.launch_id,
                "measured_at": datetime.now(UTC),
                "valid": False,
                "reasons": ["timed_out"],
            }
            if spec.key not in self.unmeasured:
                found = RooflineEstimator().estimate(model, hardware, spec.deployment, [workload])
                scatter = 1 + 0.01 * np.sin(len(rows))
                share = found[0].prefill_s / (found[0].prefill_s + found[0].decode_s)
                total_j = found[0].energy_j * scatter
                row |= {
                    "total_energy_j": total_j,
                    "prefill_energy_j": share * total_j,
                    "decode_energy_j": (1 - share) * total_j,
                    "total_energy_j_ci95_j": 0.01 * total_j,
                    "prefill_latency_s": found[0].prefill_s,
                    "decode_latency_s": found[0].decode_s,
                    "valid": True,
                    "reasons": [],
                }
            rows.append(row)
        folder.write_result(spec.key, spec.deployment.hardware, conform(rows))
        return 0

    def refuse(self, gpu):
        raise MeterError("not here")

    def call(self, slice_s, **options):
        said = []
        result = run_check(
            self.folder,
            slice_s=slice_s,
            launch=self.launch,
            characterise=self.refuse,
            tell=said.append,
            clock=self.clock,
            **options,
        )
        return result, "\n".join(said)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    gpu = GpuScript(name="NVIDIA H200", memory_bytes=141 * 10**9)
    with ScriptedNvml([gpu], folder=tmp_path, virtual=True) as nvml:
        nvml.install(monkeypatch)
        monkeypatch.delenv("ENERGYLENS_CACHE", raising=False)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        assert find_gpu().hardware == H200
        yield Bench(tmp_path / "run")
    monkeypatch.delenv("ENERGYLENS_CACHE", raising=False)


def test_slices_end_in_time_and_go_on_where_they_stopped(bench):
    first, said = bench.call(480.0)
    assert first.seconds <= 480
    assert len(first.launched) == len(set(bench.ran)) >= 2
    assert "60 rows in about" in said
    assert "documentation is assumed" in said
    second, _ = bench.call(480.0)
    assert not set(first.launched) & set(second.launched)
    assert len(bench.ran) == len(set(bench.ran))
    assert all(budget <= 480 for budget in bench.budgets)


def test_all_slices_together_measure_everything_then_measure_it_again(bench):
    for _ in range(20):
        result, said = bench.call(480.0)
        if result.finished:
            break
    assert result.finished
    assert "all is done" in said
    rows = read_measurements(bench.folder)
    assert len(rows) == 68
    assert (rows["attempt"] == 2).all()
    firsts = [key for key in bench.ran if key.endswith("-1")]
    assert bench.ran[: len(firsts)] == firsts
    summary = json.loads((bench.folder / "summary.json").read_text())
    assert summary["rows"]["enough"]
    assert summary["rows"]["by_model"]["Qwen/Qwen3-30B-A3B"]["valid"] == 13
    result, _ = bench.call(480.0)
    assert result.launched == ()


def test_a_second_pass_never_hides_what_the_first_one_measured(bench):
    key = f"gpu-check-{H200}-dense-1"
    bench.unmeasured = {f"{key}-2"}
    while not bench.call(2000.0)[0].finished:
        pass
    assert f"{key}-2" in bench.ran
    rows = read_measurements(bench.folder)
    assert len(rows) == 68
    assert rows["total_energy_j"].notna().all()
    assert (rows.loc[rows["launch_id"] == key, "attempt"] == 1).all()


def test_a_launch_that_is_ended_from_outside_twice_is_given_up(bench):
    class Killed(BaseException):
        pass

    def kill(spec, folder):
        raise Killed

    real = bench.launch
    bench.launch = kill
    for _ in range(2):
        with pytest.raises(Killed):
            bench.call(480.0)
    bench.launch = real
    while not bench.call(2000.0)[0].finished:
        pass
    key = f"gpu-check-{H200}-dense-1-1"
    assert key not in bench.ran
    assert key in json.loads((bench.folder / "summary.json").read_text())["launches"]["given_up"]
    assert f"launch {key} was ended from outside twice" in (bench.folder / "report.md").read_text()


def test_launches_longer_than_thought_stretch_the_estimates_of_the_rest(bench):
    plan = make_check_plan(load_hardware(H200), NVIDIA_FACTS)
    for launch in plan.launches:
        bench.real_s[launch.spec.key] = 2.2 * launch.seconds
    bench.call(1000.0)
    assert len(bench.ran) == 2  # the second one was still thought to be short
    result, said = bench.call(300.0)
    assert result.launched == ()
    assert "wait for another slice" in said


def test_the_result_is_a_run_folder_that_fit_takes(bench, tmp_path):
    import energylens

    while not bench.call(2000.0)[0].finished:
        pass
    fitted = energylens.fit(str(bench.folder))
    rows = read_measurements(bench.folder)
    predicted = fitted.predict(rows)
    error = np.abs(predicted / rows["total_energy_j"].to_numpy() - 1)
    assert np.median(error) < 0.2


def test_launches_run_in_watched_processes_by_default(tmp_path):
    from harness.measuring.settings import LaunchSpec

    model = load_model("meta-llama/Meta-Llama-3.1-8B")
    folder = RunFolder.create(tmp_path / "run", {})
    spec = LaunchSpec(
        launch_id="watched",
        model_id=model.model_id,
        config_path=model.config_path,
        deployment=deployment_on(load_hardware("H100-SXM5-80GB")).model_copy(
            update={"engine": "twin"}
        ),
        workloads=(Workload(batch=1, input_tokens=128, output_tokens=32),),
    )
    assert supervised(spec, folder) == 0
    assert len(read_measurements(folder)) == 1
