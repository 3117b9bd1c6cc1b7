"""The whole chain on the scripted driver: bindings, reader, polls, load, facts."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripted import GpuScript, ScriptedNvml
from scripted_load import ScriptedLoad

from harness.errors import MeterError
from harness.meters.characterise import QUICK, Timing, characterise
from harness.meters.nvml import NvmlReader
from harness.meters.sensor_findings import Gpu
from harness.meters.sensor_report import Characterisation


def find_out(nvml: ScriptedNvml, timing: Timing = QUICK) -> Characterisation:
    reader = NvmlReader(nvml.uuids, clock=nvml.now_ns)
    try:
        return characterise(
            reader,
            Gpu(nvml.uuids[0], "NVIDIA L40S", reader.driver_version, reader.simulated),
            load=ScriptedLoad(nvml, 0),
            timing=timing,
            clock=nvml.now_ns,
            sleep=nvml.sleep,
        )
    finally:
        reader.close()


@pytest.mark.parametrize(
    "script",
    [
        GpuScript(counter_period_s=0.02, power_period_s=0.02, noise_w=1.0),
        GpuScript(sampled_fraction=0.25, noise_w=2.0),
        GpuScript(sampled_fraction=0.5, counter_period_s=0.05, lag_s=0.05),
        GpuScript(lag_s=0.2, power_lag_s=0.1, power_averaging_s=0.1, gain=1.02),
        GpuScript(power_averaging_s=1.0, counter_phase_s=0.03, power_phase_s=0.07),
        GpuScript(counter_period_s=0.5, lag_s=0.05),
    ],
    ids=["fast", "quarter", "half", "late", "averaged", "slow"],
)
def test_the_sensor_behind_the_bindings_is_found_out(
    script: GpuScript, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ScriptedNvml([script], folder=tmp_path, virtual=True) as nvml:
        nvml.install(monkeypatch)
        found = find_out(nvml)
    assert found.simulated
    assert found.facts.counter_period_s == pytest.approx(script.counter_period_s, rel=0.01)
    assert found.facts.lag_s == pytest.approx(script.lag_s, abs=0.003)
    assert found.facts.sampled_fraction == pytest.approx(script.sampled_fraction, abs=0.02)
    if script.sampled_fraction == 1:
        assert found.facts.power_averaging_s == pytest.approx(script.power_averaging_s, abs=0.006)
    assert found.average_response is not None
    assert found.average_response.width_s == pytest.approx(1.0, abs=0.02)
    assert found.trusted == (script.sampled_fraction == 1)
    assert found.bare is not None
    assert found.bare.power_w == pytest.approx(70 * script.gain, rel=0.01)


def test_without_a_counter_in_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedNvml([GpuScript(noise_w=1.0)], folder=tmp_path, virtual=True) as nvml:
        nvml.install(monkeypatch)
        nvml.fault(0, "energy_error", value=3)
        found = find_out(nvml)
    assert "counter_missing" in found.reasons
    assert not found.facts.has_counter


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [("freeze", 0.0, "counter_frozen"), ("jump", -500.0, "counter_backwards")],
)
def test_a_broken_counter_has_its_code(
    kind: str, value: float, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ScriptedNvml([GpuScript()], folder=tmp_path, virtual=True) as nvml:
        nvml.install(monkeypatch)
        at_ns = nvml.start_ns + (1_000_000 if kind == "freeze" else 8_000_000_000)
        nvml.fault(0, kind, at_ns=at_ns, value=value)
        assert reason in find_out(nvml).reasons


def test_a_gpu_lost_on_the_way_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedNvml([GpuScript()], folder=tmp_path, virtual=True) as nvml:
        nvml.install(monkeypatch)
        nvml.fault(0, "lost", at_ns=nvml.start_ns + 5_000_000_000)
        with pytest.raises(MeterError, match="stopped answering"):
            find_out(nvml)


def test_in_real_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One short run on the real clock: polls come late here, and the facts still hold."""
    script = GpuScript(counter_period_s=0.05, lag_s=0.03, sampled_fraction=0.5, noise_w=1.0)
    timing = Timing(idle_s=0.6, longest_idle_s=0.6, settle_s=0.1, steady_s=0.8, bursts_s=4.0)
    with ScriptedNvml([script], folder=tmp_path) as nvml:
        nvml.install(monkeypatch)
        found = find_out(nvml, timing)
    assert found.facts.counter_period_s == pytest.approx(0.05, rel=0.05)
    assert found.facts.lag_s == pytest.approx(0.03, abs=0.01)
    assert found.facts.sampled_fraction == pytest.approx(0.5, abs=0.15)
    assert "sensor_part_time" in found.reasons
