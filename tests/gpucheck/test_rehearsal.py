"""The whole GPU check against the scripted driver: real engine, real reader, known truth."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field

import numpy as np
import powered_engine
import pytest
from powered_engine import DECODE_W, IDLE_W, LIBRARY, PREFILL_W
from scripted import GpuScript, ScriptedNvml
from scripted_load import ScriptedLoad
from tiny_models import images, video, write_config

import harness.engines
from harness.catalog import load_model
from harness.gpucheck.check import run_check
from harness.gpucheck.plan import CheckPlan, Pace, PlannedLaunch, deployment_on
from harness.gpucheck.results import SIZE_LIMIT_BYTES
from harness.gpucheck.sensor import characterise_gpu
from harness.launch import run_launch, store_result
from harness.measuring import campaign, idle, warmup
from harness.measuring.settings import LaunchSpec, Protocol
from harness.meters.characterise import Timing
from harness.spec import Task, Workload
from harness.store import RunFolder, read_measurements, read_traces

COUNTER_S = 0.015
TIMING = Timing(idle_s=0.8, longest_idle_s=0.8, settle_s=0.3, steady_s=2.5, bursts_s=3.0)
BUSY = {"samples_missing", "window_too_short", "drift", "not_additive"}
"""What a busy test machine may do to a row; the row says so, and is not valid."""
PACE = Pace(repeats=1, check_repeats=2, again=2, window_s=0.5, warm_up_s=1.0)


@dataclass
class Rehearsal:
    out: object
    plan: CheckPlan
    truth: dict = field(default_factory=dict)
    characterised: int = 0
    results: list = field(default_factory=list)
    said: list = field(default_factory=list)

    @property
    def rows(self):
        return read_measurements(self.out)


def _plan(folder, hardware) -> CheckPlan:
    def text(batch, tokens, output):
        return Workload(batch=batch, input_tokens=tokens, output_tokens=output)

    facts = {n: load_model(str(write_config(folder, n))) for n in NAMES}
    vision = facts["qwen3_vl"]
    workloads = {
        "llama": (text(2, 96, 16), text(4, 128, 24)),
        "qwen3_moe": (text(1, 128, 16),),
        "nemotron_h": (text(1, 96, 24),),
        "qwen3_vl": (
            images(vision, 1, 160, batch=1, output_tokens=16),
            video(vision, 4, 128, batch=1),
        ),
    }
    launches = []
    for number, name in enumerate(NAMES):
        check = number == 0
        spec = LaunchSpec(
            launch_id=f"rehearsal-{name}",
            model_id=f"tiny/{name}",
            config_path=facts[name].config_path,
            deployment=deployment_on(hardware).model_copy(update={"precision": "fp32"}),
            workloads=workloads[name],
            protocol=Protocol(
                repeats=PACE.check_repeats if check else PACE.repeats,
                window_s=PACE.window_s,
                warm_up_s=PACE.warm_up_s,
                decode_windows=check,
                sentinel=None if check else False,
            ),
            sweep="gpu-check",
            keep_traces=(0,),
        )
        launches.append(PlannedLaunch(spec, facts[name], 20.0))
    return CheckPlan(tuple(launches))


PHASES = (("prefill", "prefill"), ("decode", "decode"), ("total", "full"))
NAMES = ("llama", "qwen3_moe", "nemotron_h", "qwen3_vl")


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    from harness.catalog import load_hardware

    folder = tmp_path_factory.mktemp("rehearsal")
    gpu = GpuScript(counter_period_s=COUNTER_S, power_period_s=COUNTER_S, noise_w=1.0)
    with pytest.MonkeyPatch.context() as patch, ScriptedNvml([gpu], folder=folder) as nvml:
        nvml.install(patch)
        patch.setenv(LIBRARY, str(nvml.library))
        patch.delenv("ENERGYLENS_CACHE", raising=False)
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        patch.setitem(harness.engines._REGISTRY, "transformers", "powered_engine:PoweredEngine")
        patch.setattr(idle, "IDLE_WINDOW_S", 0.6)
        patch.setattr(warmup, "CHUNK_S", 0.4)
        hardware = load_hardware("H100-SXM5-80GB")
        done = Rehearsal(folder / "run", _plan(folder, hardware))
        _record_truth(patch, nvml, done)

        def characterise(found):
            done.characterised += 1
            load = ScriptedLoad(nvml, 0, PREFILL_W, IDLE_W)
            return characterise_gpu(found, timing=TIMING, make_load=lambda uuid: (load, ""))

        def launch(spec: LaunchSpec, run: RunFolder) -> int:
            store_result(spec, run_launch(spec), run.path)
            return 0

        def call(plan, slice_s):
            done.results.append(
                run_check(
                    done.out,
                    plan=plan,
                    pace=PACE,
                    launch=launch,
                    characterise=characterise,
                    slice_s=slice_s,
                    tell=done.said.append,
                )
            )

        call(done.plan, 20.0)  # characterises; no launch of 20 s fits any more
        _skip_second_pass(patch)
        call(done.plan, 300.0)
        call(done.plan, 300.0)
        yield done


def _skip_second_pass(patch) -> None:
    """Leave the second pass out: it is tested without engines, in test_gpucheck_slices."""
    from harness.gpucheck.slices import Slice

    patch.setattr(Slice, "_again", lambda self, launch, rows: None)


def _record_truth(patch, nvml, done) -> None:
    """Keep the true energies of one run of every window that a trial is made of."""
    one_trial = campaign.one_trial

    def spied(session, workload, plan, traces=None):
        before = len(powered_engine.LOG)
        trial = one_trial(session, workload, plan, traces)
        last = {phase: stamps for _, phase, stamps in powered_engine.LOG[before:]}
        true = {phase: _true_run_j(nvml, stamps) for phase, stamps in last.items()}
        done.truth.setdefault(workload, []).append(true)
        return trial

    patch.setattr(campaign, "one_trial", spied)


def _true_run_j(nvml, stamps) -> float:
    runs = zip(stamps.starts_ns, stamps.ends_ns, strict=True)
    return float(np.mean([nvml.true_energy_j(0, int(a), int(b)) for a, b in runs]))


def _truth(rehearsal):
    """Yield each row with its true energies of one run: phase -> joules."""
    rows = {row["task_id"]: row for _, row in rehearsal.rows.iterrows()}
    for launch in rehearsal.plan.launches:
        spec = launch.spec
        for workload in spec.workloads:
            task = Task(model_id=spec.model_id, workload=workload, deployment=spec.deployment)
            trials = rehearsal.truth[workload]
            true = {phase: np.mean([t[phase] for t in trials]) for phase in trials[0]}
            yield rows[task.task_id], true


def test_the_sensor_is_characterised_once_and_kept(rehearsal):
    assert rehearsal.characterised == 1
    found = json.loads((rehearsal.out / "sensors.json").read_text())[0]
    assert found["facts"]["counter_period_s"] == pytest.approx(COUNTER_S, rel=0.05)
    assert found["facts"]["origin"] == "characterised"
    assert found["simulated"] is True


def test_slices_stop_in_time_and_resume_without_measuring_again(rehearsal):
    short, whole, again = rehearsal.results
    assert (short.launched, short.left) == ((), 4)
    assert len(whole.launched) == 4
    assert whole.left == 0
    assert again.launched == ()
    assert again.finished
    assert again.seconds < 5


def test_all_rows_are_there_and_valid(rehearsal):
    rows = rehearsal.rows
    assert len(rows) == 6
    assert rows["total_energy_j"].notna().all()
    flagged = rows.loc[~rows["valid"].astype(bool), "reasons"]
    assert all(set(codes) & BUSY for codes in flagged), list(flagged)
    assert len(flagged) <= 2, list(flagged)
    assert set(rows["modality"]) == {"text", "image", "video"}
    assert set(rows["family"]) == {"dense", "moe", "ssm"}
    assert (rows["attempt"] == 1).all()


def test_a_scripted_sensor_never_makes_measured_rows(rehearsal):
    rows = rehearsal.rows
    assert set(rows["provenance"]) == {"projected"}
    assert set(rows["meter"]) == {"nvml"}
    assert "no GPU took part" in (rehearsal.out / "report.md").read_text()


def test_energies_are_the_true_ones(rehearsal):
    errors = [
        (phase, row[f"{name}_energy_j"] / true[phase] - 1)
        for row, true in _truth(rehearsal)
        for name, phase in PHASES
        if phase in true and "samples_missing" not in row["reasons"]
    ]
    for phase in ("prefill", "decode", "full"):
        worst = max((abs(error) for name, error in errors if name == phase), default=np.nan)
        print(f"{phase}: largest error {100 * worst:.2f} %")
    assert {phase for phase, _ in errors} >= {"prefill", "full"}
    assert max(abs(error) for _, error in errors) < 0.02, errors


def test_intervals_cover_the_truth(rehearsal):
    """Single repeats know only their sensor: most of them cover, and none is far off."""
    ratios = [
        abs(row[f"{name}_energy_j"] - true[phase]) / row[f"{name}_energy_j_ci95_j"]
        for row, true in _truth(rehearsal)
        for name, phase in PHASES
        if phase in true and "samples_missing" not in row["reasons"]
    ]
    assert np.mean(np.array(ratios) <= 1) >= 0.75, ratios
    assert max(ratios) < 3, ratios


def test_powers_of_the_phases_are_those_that_were_drawn(rehearsal):
    """Whatever way decode was told apart: joules over seconds give the scripted powers back."""
    rows = rehearsal.rows
    rows = rows[rows["valid"].astype(bool)]
    for name, power_w in (("prefill", PREFILL_W), ("decode", DECODE_W)):
        found_w = rows[f"{name}_energy_j"] / rows[f"{name}_latency_s"]
        assert found_w.median() == pytest.approx(power_w, rel=0.04)


def test_results_are_small_whole_and_say_what_happened(rehearsal):
    out = rehearsal.out
    summary = json.loads((out / "summary.json").read_text())
    assert summary["rows"]["valid"] == rehearsal.rows["valid"].astype(bool).sum() >= 4
    assert summary["launches"]["ended"] == 4
    assert summary["folder_bytes"] < SIZE_LIMIT_BYTES / 5
    assert summary["folder_small"]
    report = (out / "report.md").read_text()
    for text in ("H100-SXM5-80GB", "tiny/nemotron_h", "| video |", "counter every"):
        assert text in report
    with (out / "traces_summary.csv").open() as stream:
        traces = list(csv.DictReader(stream))
    assert {t["launch_id"] for t in traces} == {f"rehearsal-{name}" for name in NAMES}
    prefill = [float(t["power_peak_w"]) for t in traces if t["phase"] == "prefill"]
    assert prefill == pytest.approx([PREFILL_W] * 4, rel=0.01)
    assert len(read_traces(out)["key"].unique()) == 4


def test_progress_is_told(rehearsal):
    text = "\n".join(rehearsal.said)
    assert "characterising the power sensor" in text
    assert "launches wait for another slice" in text
    assert "60 rows in about" in text
    assert "6 rows, " in text
