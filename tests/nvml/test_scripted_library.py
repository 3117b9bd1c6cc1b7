"""The scripted library itself: what it shows follows from the curve that it was given."""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import VARIANTS, GpuScript, ScriptedNvml

S = 10**9
curves = st.lists(
    st.tuples(st.integers(0, 400_000_000), st.floats(0, 1000)), min_size=0, max_size=12
)


@pytest.fixture
def patch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def opened(nvml: ScriptedNvml, gpu: int = 0) -> object:
    pynvml.nvmlInit()
    return pynvml.nvmlDeviceGetHandleByIndex(gpu)


def counter_j(handle: object) -> float:
    return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3


def looked_at_j(nvml: ScriptedNvml, gpu: GpuScript, now_ns: int) -> float:
    """The sum over ticks, one by one, from the true energy of each look."""
    period = round(gpu.counter_period_s * S)
    width = round(gpu.sampled_fraction * period)
    tick, total = nvml.start_ns + round(gpu.counter_phase_s * S), 0.0
    while tick <= now_ns:
        end = tick - round(gpu.lag_s * S)
        total += nvml.true_energy_j(0, end - width, end) / width * period
        tick += period
    return total


@given(
    steps=curves,
    period=st.sampled_from((0.01, 0.02, 0.1)),
    phase=st.floats(0, 0.01),
    fraction=st.sampled_from((1.0, 0.5, 0.25)),
    lag=st.sampled_from((0.0, 0.05)),
    elapsed=st.integers(0, 3 * S),
)
def test_counter_is_the_sum_of_what_the_sensor_looked_at(
    steps, period, phase, fraction, lag, elapsed
):
    gpu = GpuScript(
        counter_period_s=period,
        counter_phase_s=phase,
        sampled_fraction=fraction,
        lag_s=lag,
        gain=1.02,
        counter_start_mj=5e6,
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        pytest.MonkeyPatch.context() as patch,
        ScriptedNvml([gpu], folder=Path(folder), virtual=True) as nvml,
    ):
        nvml.install(patch)
        handle = opened(nvml)
        t = nvml.start_ns
        for gap, power in steps:
            t += gap
            nvml.set_power(0, t, power)
        nvml.advance(elapsed)
        expected = 5000 + 1.02 * looked_at_j(nvml, gpu, nvml.now_ns())
        assert counter_j(handle) == pytest.approx(expected, abs=2e-3, rel=1e-9)


def test_true_energy_is_the_area_under_the_curve(tmp_path):
    with ScriptedNvml([GpuScript(idle_w=50)], folder=tmp_path, virtual=True) as nvml:
        t = nvml.start_ns
        nvml.set_power(0, t + S, 300.0)
        nvml.set_power(0, t + 3 * S, 100.0)
        assert nvml.true_energy_j(0, t, t + 4 * S) == pytest.approx(50 + 600 + 100)
        assert nvml.true_energy_j(0, t + 2 * S, t + 3 * S) == pytest.approx(300)
        assert nvml.true_energy_j(0, t - S, t) == pytest.approx(50)
        assert [nvml.true_power_w(0, t + x) for x in (0, S, 5 * S)] == [50, 300, 100]


@pytest.mark.parametrize("width", [0.0, 0.1, 1.0])
def test_power_is_the_trailing_mean_at_the_last_tick(tmp_path, patch, width):
    gpu = GpuScript(power_averaging_s=width, power_period_s=0.05, average_width_s=1.0)
    with ScriptedNvml([gpu], folder=tmp_path, virtual=True) as nvml:
        nvml.install(patch)
        handle = opened(nvml)
        nvml.set_power(0, nvml.start_ns + S, 670.0)
        nvml.advance(S + 320_000_000)  # the last tick was 0.30 s after the step
        instant, average = (
            f.value.uiVal / 1e3 for f in pynvml.nvmlDeviceGetFieldValues(handle, [186, 185])
        )
        assert average == pytest.approx(70 + 600 * 0.3, abs=1e-3)
        assert instant == pytest.approx(250 if width == 1.0 else 670, abs=1e-3)
        assert pynvml.nvmlDeviceGetPowerUsage(handle) / 1e3 == pytest.approx(average)


def test_noise_has_the_stated_spread_and_is_the_same_for_the_same_tick(tmp_path, patch):
    with ScriptedNvml([GpuScript(noise_w=5, idle_w=300)] * 2, folder=tmp_path, virtual=True) as n:
        n.install(patch)
        one, other = opened(n), opened(n, 1)
        seen = []
        for _ in range(2000):
            n.advance(100_000_000)
            seen.append(
                [
                    pynvml.nvmlDeviceGetFieldValues(h, [186])[0].value.uiVal / 1e3
                    for h in (one, one, other)
                ]
            )
        first, again, second = np.array(seen).T
        assert (first == again).all()
        assert first.mean() == pytest.approx(300, abs=0.5)
        assert first.std() == pytest.approx(5, rel=0.1)
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.1


def test_another_process_sees_what_is_appended_while_it_reads(tmp_path):
    code = """
import sys, pynvml
pynvml.nvmlInit()
h = pynvml.nvmlDeviceGetHandleByIndex(1)
for line in sys.stdin:
    print(pynvml.nvmlDeviceGetTotalEnergyConsumption(h), flush=True)
"""
    with (
        ScriptedNvml([GpuScript()] * 2, folder=tmp_path, virtual=True) as nvml,
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={"PATH": "", **nvml.env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as child,
    ):
        assert child.stdin is not None
        assert child.stdout is not None
        seen = []
        for power in (100, 500, 900):
            nvml.set_power(1, nvml.now_ns(), power)
            nvml.advance(S)
            child.stdin.write("\n")
            child.stdin.flush()
            seen.append(int(child.stdout.readline()))
        child.stdin.close()
    assert np.diff(seen).tolist() == [500_000, 900_000]


def test_power_can_be_scripted_from_a_second_mapping(tmp_path):
    with ScriptedNvml([GpuScript()], folder=tmp_path, virtual=True) as nvml:
        other = ScriptedNvml.attach(nvml.path, nvml.library)
        other.set_power(0, nvml.start_ns, 400.0)
        assert nvml.true_energy_j(0, nvml.start_ns, nvml.start_ns + S) == pytest.approx(400)


def test_a_hundred_thousand_breakpoints_stay_quick(tmp_path, patch):
    gpu = GpuScript(sampled_fraction=0.25, counter_period_s=0.02)
    with ScriptedNvml([gpu], folder=tmp_path, virtual=True) as nvml:
        nvml.install(patch)
        handle = opened(nvml)
        for i in range(100_000):
            nvml.set_power(0, nvml.start_ns + i * 1_000_000, 100 + 500 * (i % 2))
        nvml.advance(100 * S)
        began = time.perf_counter()
        for _ in range(1000):
            counter_j(handle)
        assert time.perf_counter() - began < 0.5  # 500 us a read; it takes about 2


def test_mistakes_in_a_script_are_refused(tmp_path):
    with ScriptedNvml([GpuScript()], folder=tmp_path, virtual=True, capacity=2) as nvml:
        nvml.set_power(0, 100, 1.0)
        with pytest.raises(ValueError, match="past"):
            nvml.set_power(0, 99, 1.0)
        nvml.set_power(0, 100, 2.0)
        with pytest.raises(ValueError, match="room"):
            nvml.set_power(0, 101, 1.0)
        with pytest.raises(IndexError):
            nvml.set_power(1, 100, 1.0)
        with pytest.raises(AttributeError):
            nvml.set_state(0, temprature_c=1.0)
    with pytest.raises(ValueError, match="17 GPUs"):
        ScriptedNvml([GpuScript()] * 17, folder=tmp_path)
    with pytest.raises(ValueError, match="unknown variant"):
        ScriptedNvml([GpuScript()], folder=tmp_path, variant="without_everything")


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_missing_symbol_is_function_not_found(tmp_path, patch, variant):
    calls = {
        "without_energy": pynvml.nvmlDeviceGetTotalEnergyConsumption,
        "without_power": pynvml.nvmlDeviceGetPowerUsage,
        "without_fields": lambda h: pynvml.nvmlDeviceGetFieldValues(h, [186]),
        "without_event_reasons": pynvml.nvmlDeviceGetCurrentClocksEventReasons,
        "without_throttle": pynvml.nvmlDeviceGetCurrentClocksThrottleReasons,
    }
    with ScriptedNvml([GpuScript()], folder=tmp_path, virtual=True, variant=variant) as nvml:
        nvml.install(patch)
        handle = opened(nvml)
        with pytest.raises(pynvml.NVMLError) as caught:
            calls[variant](handle)
        assert caught.value.value == pynvml.NVML_ERROR_FUNCTION_NOT_FOUND


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA H200", "H200"),
        ("Tesla V100-SXM2-16GB", "V100"),
    ],
)
def test_ray_detects_the_gpus(tmp_path, name, kind):
    pytest.importorskip("ray")
    code = (
        "from ray._private.accelerators.nvidia_gpu import NvidiaGPUAcceleratorManager as m;"
        "print(m.get_current_node_num_accelerators(), m.get_current_node_accelerator_type())"
    )
    with ScriptedNvml([GpuScript(name=name)] * 4, folder=tmp_path) as nvml:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={"PATH": "", **nvml.env},
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout.split() == ["4", kind]


def test_the_bindings_agree_on_every_structure(tmp_path, patch):
    gpu = GpuScript(uuid="GPU-abc", memory_bytes=1000, memory_used_bytes=10, module_extra_w=80)
    with ScriptedNvml([gpu], folder=tmp_path, virtual=True) as nvml:
        nvml.install(patch)
        handle = opened(nvml)
        nvml.set_processes(0, [11, 12], memory_bytes=[5, 7])
        assert pynvml.nvmlSystemGetDriverVersion() == "scripted-1.0"
        assert pynvml.nvmlDeviceGetUUID(handle) == "GPU-abc"
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        assert (memory.total, memory.used, memory.free) == (1000, 22, 978)
        assert pynvml.nvmlDeviceGetMemoryInfo(handle, pynvml.nvmlMemory_v2).used == 22
        found = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        assert [(p.pid, p.usedGpuMemory) for p in found] == [(11, 5), (12, 7)]
        bus = pynvml.nvmlDeviceGetPciInfo(handle).busId
        again = pynvml.nvmlDeviceGetHandleByPciBusId(bus)
        assert pynvml.nvmlDeviceGetIndex(again) == 0
        module, gpu_w, none = pynvml.nvmlDeviceGetFieldValues(
            handle, [(186, 1), (186, 0), (186, 2)]
        )
        assert module.value.uiVal - gpu_w.value.uiVal == 80_000
        assert none.nvmlReturn == pynvml.NVML_ERROR_NOT_SUPPORTED
        assert pynvml.nvmlDeviceGetCudaComputeCapability(handle) == (9, 0)
        assert not math.isnan(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
