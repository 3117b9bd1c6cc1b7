"""NVML reader: what it reports of scripted GPUs is the truth that was scripted."""

from __future__ import annotations

import ctypes
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import GpuScript, ScriptedNvml

from harness.errors import MeterError
from harness.meters.base import READING_FIELDS, Reader
from harness.meters.nvml import (
    THROTTLE_BITS,
    NvmlReader,
    device_environment,
    find_devices,
    visible_devices,
)
from harness.meters.nvml_sensor import same_counter

S = 10**9
AT_START_MJ = 1_000_007_000
"""The counter has stepped once when a script begins, at 70 W."""
V100 = GpuScript(
    name="Tesla V100-SXM2-16GB",
    compute_major=7,
    instant_power=False,
    power_usage_averaged=False,
)


def read(reader: Reader, device: int = 0, slow: bool = True) -> dict[str, float]:
    return dict(zip(READING_FIELDS, reader.read(slow)[device], strict=True))


class Answers:
    """A call of one number that answers what it is told to."""

    def __init__(self, answers: list[tuple[int, int]]) -> None:
        self._answers = iter(answers)

    def read(self) -> tuple[int, int]:
        return next(self._answers)


class CountingLibrary:
    """The real library, and the names of the functions that were called."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.called: list[str] = []
        self._library = library

    def __getattr__(self, name: str) -> Callable[..., int]:
        function = getattr(self._library, name)

        def call(*arguments: object) -> int:
            self.called.append(name)
            return function(*arguments)

        return call


def test_every_field_is_read(scripted):
    nvml = scripted([GpuScript(temperature_c=61, sm_clock_mhz=1755, mem_clock_mhz=2619)])
    nvml.set_power(0, nvml.start_ns, 400.0)
    nvml.set_processes(0, [7, 8, 9])
    reader = NvmlReader(nvml.uuids, clock=nvml.now_ns)
    nvml.advance(10 * S)
    seen = read(reader)
    assert seen == {
        "energy_mj": pytest.approx(1e9 + 7000 + 4e6),
        "power_w": pytest.approx(400),
        "average_power_w": pytest.approx(400),
        "temperature_c": 61,
        "sm_clock_mhz": 1755,
        "mem_clock_mhz": 2619,
        "throttle_mask": 0,
        "process_count": 3,
        "status": 0,
        "delay_s": 0,
    }
    reader.close()
    reader.close()


@given(
    powers=st.lists(st.floats(0, 1000), min_size=1, max_size=10),
    gaps=st.lists(st.integers(S // 10, S), min_size=10, max_size=10),
)
def test_counter_differences_are_true_energy_between_ticks(powers, gaps):
    with (
        tempfile.TemporaryDirectory() as folder,
        pytest.MonkeyPatch.context() as patch,
        ScriptedNvml(
            [GpuScript(counter_period_s=0.01)] * 2, folder=Path(folder), virtual=True
        ) as nvml,
    ):
        nvml.install(patch)
        reader = NvmlReader(nvml.uuids, clock=nvml.now_ns)
        first = read(reader, 1)["energy_mj"]
        t = nvml.start_ns
        for power, gap in zip(powers, gaps, strict=False):
            nvml.set_power(1, t, power)
            t += gap
        nvml.advance(20 * S)
        seen_j = (read(reader, 1)["energy_mj"] - first) / 1e3
        assert seen_j == pytest.approx(
            nvml.true_energy_j(1, nvml.start_ns, nvml.now_ns()), abs=2e-3
        )
        reader.close()


def test_average_power_of_a_short_burst_is_not_its_power(scripted):
    nvml = scripted([GpuScript(idle_w=120)])
    reader = NvmlReader(nvml.uuids)
    nvml.set_power(0, nvml.start_ns + S, 650.0)
    nvml.advance(S + 400_000_000)
    seen = read(reader)
    assert seen["power_w"] == pytest.approx(650)
    assert seen["average_power_w"] == pytest.approx(0.4 * 650 + 0.6 * 120)


def test_devices_come_in_the_order_asked_for(scripted):
    nvml = scripted([GpuScript(idle_w=100.0 * (i + 1)) for i in range(8)])
    reader = NvmlReader([nvml.uuids[i] for i in (5, 0, 7)])
    assert reader.device_ids == (nvml.uuids[5], nvml.uuids[0], nvml.uuids[7])
    assert [r[1] for r in reader.read(False)] == [600, 100, 800]


def test_delay_grows_with_the_position_of_the_device(scripted):
    nvml = scripted([GpuScript()] * 8, virtual=False)
    for gpu in range(8):
        nvml.fault(gpu, "slow", value=500)
    reader = NvmlReader(nvml.uuids)
    delays = [r[READING_FIELDS.index("delay_s")] for r in reader.read(False)]
    assert delays == sorted(delays)
    assert 0.00025 <= delays[0] <= 0.01
    assert delays[7] >= 7 * 2 * 0.0005  # two calls of 0.5 ms on each GPU before it


def test_slow_fields_are_carried_over_but_throttling_is_not(scripted):
    nvml = scripted([GpuScript()])
    reader = NvmlReader(nvml.uuids)
    assert math.isnan(read(reader, slow=False)["temperature_c"])
    read(reader, slow=True)
    nvml.set_state(0, temperature_c=80.0)
    nvml.fault(0, "throttle", at_ns=nvml.now_ns(), value=0x40)
    carried = read(reader, slow=False)
    assert carried["temperature_c"] == 35
    assert carried["throttle_mask"] == 0x40
    assert read(reader, slow=True)["temperature_c"] == 80


@pytest.mark.parametrize(
    ("raw", "seen"),
    [(0x0, 0), (0x1, 0), (0x2, 0), (0x100, 0), (0x103, 0), (0x4, 0x4), (0x1 | 0x40, 0x40)]
    + [(bit, bit) for bit in THROTTLE_BITS],
)
def test_only_reasons_that_hold_clocks_down_count(scripted, raw, seen):
    nvml = scripted([GpuScript(throttle_mask=raw)])
    assert read(NvmlReader(nvml.uuids))["throttle_mask"] == seen


def test_module_scope_has_the_energy_of_the_whole_module(scripted):
    gpu = GpuScript(name="NVIDIA GH200 480GB", module_extra_w=90.0, idle_w=100.0)
    nvml = scripted([gpu])
    whole, part = NvmlReader(nvml.uuids, "module"), NvmlReader(nvml.uuids, "gpu")
    before = [read(r)["energy_mj"] for r in (whole, part)]
    nvml.advance(10 * S)
    after = [read(r)["energy_mj"] for r in (whole, part)]
    assert [(b - a) / 1e3 for a, b in zip(before, after, strict=True)] == [1900, 1000]
    assert [read(r)["power_w"] for r in (whole, part)] == [190, 100]
    assert whole.scope == "module"


def test_a_driver_that_ignores_the_scope_has_no_counter_of_the_module(scripted):
    nvml = scripted([GpuScript(module_extra_w=90.0, scoped_energy=False)])
    reader = NvmlReader(nvml.uuids, "module")
    assert not reader.has_counter
    assert math.isnan(read(reader)["energy_mj"])
    assert read(reader)["power_w"] == 160


def test_before_ampere_power_usage_is_the_instant_power(scripted):
    nvml = scripted([V100])
    nvml.set_power(0, nvml.start_ns + S, 270.0)
    nvml.advance(S + 200_000_000)
    seen = read(NvmlReader(nvml.uuids))
    assert seen["power_w"] == pytest.approx(270)
    assert math.isnan(seen["average_power_w"])


@pytest.mark.parametrize("kind", [0, 1, 2, 3, 4])
def test_fields_may_come_as_any_number_type(scripted, kind):
    nvml = scripted([GpuScript(power_value_type=kind)])
    assert read(NvmlReader(nvml.uuids))["power_w"] == 70


@pytest.mark.parametrize("kind", [0, 1, 2, 3, 4])
def test_the_type_of_a_field_may_change_while_it_is_read(scripted, kind):
    nvml = scripted([GpuScript(power_value_type=1), GpuScript()])
    reader = NvmlReader(nvml.uuids)
    for shown in (1, kind, 77, kind, 1):
        nvml.set_state(0, power_value_type=shown)
        for _ in range(2):
            seen = [read(reader, i) for i in (0, 1)]
            assert seen[0]["power_w"] == (
                70 if shown != 77 else pytest.approx(math.nan, nan_ok=True)
            )
            assert seen[0]["energy_mj"] == seen[1]["energy_mj"] == AT_START_MJ
            assert (seen[1]["power_w"], seen[1]["average_power_w"]) == (70, 70)


def test_a_field_that_was_refused_is_read_again(scripted):
    nvml = scripted([GpuScript()])
    reader = NvmlReader(nvml.uuids)
    refused_ns = nvml.now_ns() + S
    nvml.fault(0, "energy_error", at_ns=refused_ns, until_ns=refused_ns + S, value=4)
    seen = []
    for _ in range(3):
        seen.append(read(reader))
        nvml.advance(S)
    assert [s["status"] for s in seen] == [0, 4, 0]
    assert [s["energy_mj"] for s in seen[::2]] == [AT_START_MJ, AT_START_MJ + 140_000]
    assert math.isnan(seen[1]["energy_mj"])
    assert [s["power_w"] for s in seen] == [70, 70, 70]


def test_the_call_for_energy_steps_in_for_refused_fields(scripted):
    nvml = scripted([GpuScript()])
    reader = NvmlReader(nvml.uuids)
    nvml.fault(0, "fields_error", value=999)
    nvml.advance(S)
    seen = read(reader)
    assert (seen["energy_mj"], seen["status"], seen["throttle_mask"]) == (
        AT_START_MJ + 70_000,
        999,
        0,
    )


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [(0, 0, True), (-1, 3, True), (5, 5, False), (-9, -1, False), (1, -1, False)],
)
def test_the_field_of_energy_is_used_where_it_lies_between_two_calls(scripted, before, after, same):
    nvml = scripted([GpuScript()])
    import pynvml

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByUUID(nvml.uuids[0])
    call = Answers([(AT_START_MJ + before, 0), (AT_START_MJ + after, 0)])
    assert same_counter(pynvml, handle, call) is same
    nvml.fault(0, "energy_error", value=3)
    assert not same_counter(pynvml, handle, Answers([(0, 0), (0, 0)]))
    pynvml.nvmlShutdown()


def test_a_poll_is_two_calls_of_the_library(scripted, monkeypatch):
    nvml = scripted([GpuScript()])
    import pynvml

    library = CountingLibrary(pynvml.nvmlLib)
    monkeypatch.setattr(pynvml, "nvmlLib", library)
    reader = NvmlReader(nvml.uuids)
    library.called.clear()
    reader.read(False)
    assert library.called == ["nvmlDeviceGetFieldValues", "nvmlDeviceGetCurrentClocksEventReasons"]


def test_all_gpus_are_found_and_described(scripted):
    nvml = scripted(
        [GpuScript(power_limit_w=500.0), GpuScript(mig=1, ecc=-1, persistence=False), V100]
    )
    nvml.set_processes(0, [4242])
    first, second, third = find_devices()
    assert (first.index, first.uuid, first.name) == (0, nvml.uuids[0], "NVIDIA H100 80GB HBM3")
    assert (first.power_limit_w, first.default_power_limit_w) == (500, 700)
    assert first.process_pids == (4242,)
    assert (first.driver_version, first.simulated) == ("scripted-1.0", True)
    assert (first.mig_enabled, second.mig_enabled) == (False, True)
    assert (first.ecc, second.ecc) == (True, None)
    assert (first.persistence, second.persistence) == (True, False)
    assert (first.compute_capability, third.compute_capability) == ((9, 0), (7, 0))
    assert (third.has_counter, third.has_instant_power, third.has_average_power) == (
        True,
        True,
        False,
    )


def test_environment_of_a_device(scripted):
    nvml = scripted([GpuScript(), GpuScript(power_limit_w=350.0, throttle_mask=0x5)])
    nvml.set_processes(1, [99])
    found = device_environment(nvml.uuids[1])
    assert found["uuid"] == nvml.uuids[1]
    assert (found["driver"], found["cuda_driver"]) == ("scripted-1.0", "13.0")
    assert (found["power_limit_w"], found["default_power_limit_w"]) == (350, 700)
    assert (found["persistence"], found["ecc"], found["mig"]) == (True, True, False)
    assert (found["sm_clock_mhz"], found["temperature_c"]) == (1980, 35)
    assert found["throttle_mask"] == 0x4
    assert found["process_pids"] == [99]
    assert found["simulated"] is True


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (None, [0, 1, 2, 3]),
        ("", []),
        ("NoDevFiles", []),
        ("2", [2]),
        ("3,1", [3, 1]),
        (" 3 , 1 ", [3, 1]),
        ("1,-1,2", [1]),
        ("0,,2", [0]),
        ("uuid 2,0", [2, 0]),
        ("prefix 3", [3]),
    ],
)
def test_devices_of_cuda_by_uuid(scripted, words, wanted):
    nvml = scripted([GpuScript()] * 4)
    if words is not None:
        words = words.replace("uuid 2", nvml.uuids[2]).replace("prefix 3", nvml.uuids[3][:12])
    environ = {} if words is None else {"CUDA_VISIBLE_DEVICES": words}
    assert visible_devices(environ) == [nvml.uuids[i] for i in wanted]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("4", "4 names no GPU"),
        ("GPU-nothing", "names no GPU"),
        ("GPU-0000", "names 4 GPUs"),
        ("nonsense", "names no GPU"),
        ("1,1", "named twice"),
        ("MIG-4c1f", "a slice has no power of its own"),
    ],
)
def test_devices_of_cuda_that_cannot_be_mapped(scripted, words, error):
    scripted([GpuScript()] * 4)
    with pytest.raises(MeterError, match=error) as caught:
        visible_devices({"CUDA_VISIBLE_DEVICES": words})
    assert words in str(caught.value)
    assert caught.value.fix


def test_indices_on_a_mixed_machine_need_the_order_of_the_bus(scripted):
    nvml = scripted([V100, GpuScript(uuid="GPU-fast")])
    for environ in ({"CUDA_VISIBLE_DEVICES": "0"}, {}):
        with pytest.raises(MeterError, match="different types") as caught:
            visible_devices(environ)
        assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in str(caught.value)
    by_bus = {"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert visible_devices(by_bus) == [nvml.uuids[0]]
    assert visible_devices({"CUDA_VISIBLE_DEVICES": "GPU-fast"}) == ["GPU-fast"]


def test_reading_needs_no_heavy_package(scripted):
    nvml = scripted([GpuScript()])
    code = (
        "import sys, types\n"
        "from pathlib import Path\n"
        "package = types.ModuleType('harness.meters')\n"
        "package.__path__ = [sys.argv[1]]\n"
        "sys.modules['harness.meters'] = package\n"
        "from harness.meters.nvml import NvmlReader\n"
        "assert NvmlReader(sys.argv[2:]).read(True)[0][1] == 70\n"
        "print(*(m for m in ('numpy', 'pandas', 'torch', 'pydantic') if m in sys.modules))\n"
    )
    import harness.meters

    done = subprocess.run(
        [sys.executable, "-c", code, harness.meters.__path__[0], *nvml.uuids],
        cwd=Path(harness.meters.__path__[0]).parent.parent,
        env={"PATH": "", **nvml.env},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_nvml_is_not_loaded_at_import():
    code = "import sys, harness.meters.nvml; print('pynvml' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
