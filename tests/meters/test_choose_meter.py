"""Which meter a machine gets, and what is assumed of its sensor."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from pathlib import Path

import pytest

from harness.errors import MeterError
from harness.meters import SensorFacts
from harness.meters.choose import NVIDIA_FACTS, nvidia_facts, open_meter, worst_of
from harness.meters.none import NoMeter

sys.path.insert(0, str(Path(__file__).parents[1] / "nvml"))

from scripted import GpuScript, ScriptedNvml

UUIDS = [f"GPU-00000000-0000-4000-8000-00000000000{i}" for i in range(3)]
GPUS = [GpuScript(uuid=uuid, counter_period_s=0.02) for uuid in UUIDS]


@pytest.fixture
def nvml(tmp_path, monkeypatch):
    with ScriptedNvml(GPUS, folder=tmp_path) as scripted:
        scripted.install(monkeypatch)
        yield scripted


def test_a_cpu_without_counters_gets_no_meter_and_the_reason(tmp_path):
    meter = open_meter("cpu", [], powercap=str(tmp_path))
    assert isinstance(meter, NoMeter)
    assert "no energy counter" in meter.reason


def powercap(root: Path, energy_uj: int) -> str:
    zone = root / "intel-rapl:0"
    zone.mkdir(parents=True, exist_ok=True)
    (zone / "name").write_text("package-0")
    (zone / "max_energy_range_uj").write_text("262143328850")
    with (zone / "energy_uj").open("w") as file:
        file.write(f"{energy_uj:12d}")
    return str(root)


def test_a_cpu_with_counters_gets_them_as_meter_and_host(tmp_path):
    root = powercap(tmp_path, 5_000_000)
    with open_meter("cpu", [], powercap=root) as meter:
        assert (meter.name, meter.scope) == ("rapl", "package")
        assert meter.gpu_uuids == ("package-0",)
        time.sleep(0.1)
        start = time.monotonic_ns()
        time.sleep(0.1)
        powercap(tmp_path, 6_500_000)
        time.sleep(0.1)
        end = time.monotonic_ns()
        samples = meter.read(start, end)
        assert samples.energy_mj[0, -1] - samples.energy_mj[0, 0] == 1500.0
        assert meter.read_host(start, end) == pytest.approx(1.5)
        assert meter.sensor.origin == "assumed"
        assert meter.sensor.shortest_window_s == pytest.approx(1.0)


def test_exactly_the_gpus_of_the_deployment_are_read(nvml, tmp_path):
    chosen = [UUIDS[2], UUIDS[0]]
    facts = SensorFacts(0.02, 1.0, 0.0, origin="characterised")
    asked: list[tuple[str, str]] = []

    def look_up(uuid: str, driver: str) -> SensorFacts | None:
        asked.append((uuid, driver))
        return facts

    root = powercap(tmp_path / "powercap", 7_000_000)
    with open_meter("cuda", chosen, sensor_facts=look_up, powercap=root) as meter:
        assert meter.gpu_uuids == tuple(chosen)
        assert meter.simulated
        assert meter.sensor == dataclasses.replace(facts, poll_period_s=0.02)
        nvml.set_power(2, time.monotonic_ns(), 500.0)
        time.sleep(0.3)
        start = time.monotonic_ns()
        time.sleep(0.5)
        end = time.monotonic_ns()
        samples = meter.read(start, end)
        assert meter.read_host(start, end) == 0.0
    assert asked == [(uuid, "scripted-1.0") for uuid in chosen]
    assert samples.power_w[:, -1].tolist() == [500.0, 70.0]
    first_j, last_j = samples.energy_mj[:, 0] / 1e3, samples.energy_mj[:, -1] / 1e3
    true_j = nvml.true_energy_j(2, int(samples.t_ns[0]), int(samples.t_ns[-1]))
    assert last_j[0] - first_j[0] == pytest.approx(true_j, abs=2 * 0.02 * 500)


def test_without_known_facts_documentation_is_assumed(nvml, tmp_path):
    with open_meter("cuda", UUIDS[:1], powercap=str(tmp_path), environ=os.environ) as meter:
        assert meter.sensor.origin == "assumed"
        assert meter.sensor.sampled_fraction == 0.25
        assert meter.read_host(0, 1) is None


def test_gpus_the_driver_does_not_know_are_refused(nvml):
    with pytest.raises(MeterError, match="knows no GPU GPU-nowhere") as caught:
        open_meter("cuda", ["GPU-nowhere"])
    assert UUIDS[0] in str(caught.value.fix)


def test_a_slice_of_a_gpu_is_refused(tmp_path, monkeypatch):
    gpus = [dataclasses.replace(GPUS[0], mig=1)]
    with ScriptedNvml(gpus, folder=tmp_path) as scripted:
        scripted.install(monkeypatch)
        for name in (UUIDS[0], "MIG-7c9c2e21-0000-0000-0000-000000000000"):
            with pytest.raises(MeterError, match="no power of its own"):
                open_meter("cuda", [name])


def test_a_gpu_with_nothing_but_an_average_gives_times_only(tmp_path, monkeypatch):
    gpus = [dataclasses.replace(GPUS[0], instant_power=False)]
    with ScriptedNvml(gpus, folder=tmp_path) as scripted:
        scripted.install(monkeypatch)
        scripted.fault(0, "energy_error", value=3)
        meter = open_meter("cuda", UUIDS[:1])
    assert isinstance(meter, NoMeter)
    assert "average" in meter.reason


def test_a_driver_that_does_not_start_is_an_error_not_a_machine_without_sensor(nvml, tmp_path):
    nvml.fault(0, "init", value=18)
    with pytest.raises(MeterError):
        open_meter("cuda", UUIDS[:1])


@pytest.mark.parametrize("kind", ["cuda", "rocm"])
def test_gpus_must_be_named(kind):
    with pytest.raises(MeterError, match="names of its GPUs"):
        open_meter(kind, [])


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("NVIDIA A100-SXM4-80GB", 0.25),
        ("NVIDIA H100 80GB HBM3", 0.25),
        ("NVIDIA L40S", 1.0),
        ("Tesla V100-SXM2-16GB", 1.0),
    ],
)
def test_part_time_sensors_are_known_by_name(name, share):
    assert nvidia_facts(name).sampled_fraction == share
    assert nvidia_facts(name).origin == "assumed"


def test_facts_of_several_gpus_are_those_of_the_worst():
    better = dataclasses.replace(
        NVIDIA_FACTS, counter_period_s=0.02, gain_error=0.001, lag_s=0.2, origin="characterised"
    )
    worst = worst_of([better, dataclasses.replace(NVIDIA_FACTS, sampled_fraction=0.25)])
    assert worst.counter_period_s == 0.1
    assert worst.gain_error == NVIDIA_FACTS.gain_error
    assert worst.lag_s == 0.2
    assert worst.sampled_fraction == 0.25
    assert worst.origin == "assumed"
    assert worst_of([better, better]) == better
