"""NVML reader where something is wrong: a clear error at the start, NaN and a code afterwards."""

from __future__ import annotations

import math
import os

import pytest
from scripted import GpuScript

from harness.errors import MeterError
from harness.meters.base import READING_FIELDS, Reader
from harness.meters.nvml import NvmlReader, device_environment, find_devices, visible_devices

S = 10**9


def read(reader: Reader, device: int = 0) -> dict[str, float]:
    return dict(zip(READING_FIELDS, reader.read(True)[device], strict=True))


def nan_fields(seen: dict[str, float]) -> set[str]:
    return {name for name, value in seen.items() if math.isnan(value)}


EVERYTHING = set(READING_FIELDS) - {"status", "delay_s"}


@pytest.mark.parametrize(
    ("code", "what", "fix"),
    [
        (9, "not loaded", "modprobe nvidia"),
        (18, "different versions", "reboot"),
        (4, "may not talk", "/dev/nvidia"),
        (12, "no NVIDIA driver", "--gpus all"),
        (999, "error 999", "nvidia-smi"),
    ],
)
def test_nvml_that_does_not_start(scripted, code, what, fix):
    nvml = scripted([GpuScript()])
    nvml.fault(0, "init", value=code)
    for call in (find_devices, visible_devices, lambda: NvmlReader(nvml.uuids)):
        with pytest.raises(MeterError, match=what) as caught:
            call()
        assert caught.value.where
        assert fix in str(caught.value.fix)
    nvml.fault(0, "init", value=0)
    assert len(find_devices()) == 1


def test_no_driver_on_the_machine(monkeypatch):
    import pynvml

    if os.path.exists("/dev/nvidiactl"):
        pytest.skip("this machine has an NVIDIA driver")
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    with pytest.raises(MeterError, match="no NVIDIA driver"):
        find_devices()


def test_a_lost_gpu_leaves_the_others_alone(scripted):
    nvml = scripted([GpuScript()] * 8)
    reader = NvmlReader(nvml.uuids)
    read(reader)
    nvml.fault(3, "lost", at_ns=nvml.now_ns() + S)
    assert read(reader, 3)["status"] == 0
    nvml.advance(2 * S)
    seen = [read(reader, i) for i in range(8)]
    assert [s["status"] for s in seen] == [0, 0, 0, 15, 0, 0, 0, 0]
    assert nan_fields(seen[3]) == EVERYTHING
    assert all(not nan_fields(s) for i, s in enumerate(seen) if i != 3)


def test_a_gpu_that_comes_back_is_read_again(scripted):
    nvml = scripted([GpuScript()])
    reader = NvmlReader(nvml.uuids)
    nvml.fault(0, "lost", at_ns=nvml.now_ns() + S, until_ns=nvml.now_ns() + 2 * S)
    nvml.advance(S)
    assert read(reader)["status"] == 15
    nvml.advance(S)
    assert not nan_fields(read(reader))


def test_a_gpu_lost_before_the_start(scripted):
    nvml = scripted([GpuScript()] * 2)
    nvml.fault(1, "lost")
    with pytest.raises(MeterError, match="lost") as caught:
        NvmlReader(nvml.uuids)
    assert caught.value.where == nvml.uuids[1]
    with pytest.raises(MeterError, match="lost"):
        device_environment(nvml.uuids[1])
    found = find_devices()
    assert [d.lost for d in found] == [0, 15]
    assert found[0].uuid == nvml.uuids[0]


@pytest.mark.parametrize("code", [3, 4])
def test_without_the_counter_energy_is_missing_and_never_zero(scripted, code):
    nvml = scripted([GpuScript()])
    nvml.fault(0, "energy_error", value=code)
    assert not find_devices()[0].has_counter
    reader = NvmlReader(nvml.uuids)
    assert not reader.has_counter
    seen = read(reader)
    assert nan_fields(seen) == {"energy_mj"}
    assert seen["power_w"] == 70


def test_a_counter_refused_in_mid_run(scripted):
    nvml = scripted([GpuScript()])
    reader = NvmlReader(nvml.uuids)
    nvml.fault(0, "energy_error", at_ns=nvml.now_ns() + S, value=4)
    nvml.advance(S)
    seen = read(reader)
    assert nan_fields(seen) == {"energy_mj"}
    assert (seen["status"], seen["power_w"]) == (4, 70)


def test_a_missing_energy_call_falls_back_on_the_field(scripted):
    nvml = scripted([GpuScript()], variant="without_event_reasons")
    reader = NvmlReader(nvml.uuids)
    nvml.fault(0, "throttle", value=0x8)
    assert read(reader)["throttle_mask"] == 0x8  # by the old name of the call
    nvml = scripted([GpuScript()], variant="without_event_reasons,without_throttle")
    assert nan_fields(read(NvmlReader(nvml.uuids))) == {"throttle_mask"}


def test_a_library_without_field_values(scripted):
    nvml = scripted([GpuScript()], variant="without_fields")
    nvml.advance(2 * S)
    seen = read(NvmlReader(nvml.uuids))
    assert nan_fields(seen) == {"power_w"}
    assert (seen["energy_mj"], seen["average_power_w"]) == (1e9 + 21 * 7e3, 70)
    info = find_devices()[0]
    assert (info.has_counter, info.has_instant_power, info.has_average_power) == (True, False, True)


def test_a_library_without_the_energy_call_and_field(scripted):
    nvml = scripted([GpuScript()], variant="without_energy")
    assert nan_fields(read(NvmlReader(nvml.uuids))) == {"energy_mj"}


def test_a_gpu_without_any_reading_is_refused(scripted):
    nvml = scripted([GpuScript()], variant="without_energy,without_power")
    nvml.fault(0, "fields_error", value=3)
    with pytest.raises(MeterError, match="no energy counter and no power reading") as caught:
        NvmlReader(nvml.uuids)
    assert caught.value.where == nvml.uuids[0]
    with pytest.raises(MeterError, match="at scope module"):
        NvmlReader(nvml.uuids, "module")


@pytest.mark.parametrize(
    ("fault", "missing", "status"),
    [
        ("instant_error", {"power_w"}, 3),
        ("average_error", {"average_power_w"}, 3),
        ("fields_error", {"power_w", "average_power_w"}, 3),
        ("state_error", EVERYTHING - {"energy_mj", "power_w", "average_power_w"}, 0),
    ],
)
def test_readings_refused_in_mid_run(scripted, fault, missing, status):
    nvml = scripted([GpuScript()])
    reader = NvmlReader(nvml.uuids)
    nvml.fault(0, fault, value=3)
    seen = read(reader)
    assert nan_fields(seen) == missing
    assert seen["status"] == status


@pytest.mark.parametrize("fault", ["instant_error", "fields_error"])
def test_readings_refused_from_the_start_are_no_failure(scripted, fault):
    nvml = scripted([GpuScript()])
    nvml.fault(0, fault, value=3)
    seen = read(NvmlReader(nvml.uuids))
    assert nan_fields(seen) == {"power_w"}
    assert (seen["status"], seen["average_power_w"]) == (0, 70)


def test_a_field_of_an_unknown_type_is_missing(scripted):
    nvml = scripted([GpuScript()])
    reader = NvmlReader(nvml.uuids)
    nvml.set_state(0, power_value_type=77)
    assert nan_fields(read(reader)) == {"power_w", "average_power_w"}


def test_what_the_counter_does_is_passed_on_as_it_is(scripted):
    nvml = scripted([GpuScript(idle_w=100.0, counter_start_mj=1e6)] * 4)
    t = nvml.start_ns
    nvml.fault(0, "freeze", at_ns=t + 2 * S, until_ns=t + 4 * S)
    nvml.fault(1, "jump", at_ns=t + 2 * S, value=-50.0)
    nvml.fault(2, "wrap", value=1200.0)
    nvml.fault(3, "zero")
    reader = NvmlReader(nvml.uuids)
    seen = []
    for _ in range(5):
        nvml.advance(S)
        seen.append([r[0] / 1e3 for r in reader.read(False)])
    frozen, jump, wrap, zero = zip(*seen, strict=True)
    start = 1010
    assert frozen == tuple(start + x for x in (100, 200, 200, 400, 500))
    assert jump == tuple(start + x for x in (100, 150, 250, 350, 450))
    assert wrap == (1110, 10, 110, 210, 310)
    assert zero == (0,) * 5


def test_mig_is_refused(scripted):
    nvml = scripted([GpuScript(), GpuScript(mig=1)])
    for call in (
        lambda: NvmlReader(nvml.uuids),
        lambda: NvmlReader(["MIG-0f1"]),
        lambda: visible_devices({"CUDA_VISIBLE_DEVICES": "1"}),
    ):
        with pytest.raises(MeterError, match="slice has no power of its own"):
            call()
    assert visible_devices({"CUDA_VISIBLE_DEVICES": "0"}) == [nvml.uuids[0]]
    with pytest.raises(MeterError) as caught:
        NvmlReader(nvml.uuids)
    assert "-i 1 -mig 0" in str(caught.value)


def test_an_unknown_uuid_or_scope(scripted):
    nvml = scripted([GpuScript()])
    with pytest.raises(MeterError, match="no GPU of this UUID") as caught:
        NvmlReader(["GPU-nothing"])
    assert caught.value.where == "GPU-nothing"
    with pytest.raises(MeterError, match="board"):
        NvmlReader(nvml.uuids, "board")


def test_a_failed_start_lets_nvml_go(scripted):
    import pynvml

    scripted([GpuScript()])
    with pytest.raises(MeterError):
        NvmlReader(["GPU-nothing"])
    with pytest.raises(pynvml.NVMLError) as caught:
        pynvml.nvmlDeviceGetCount()
    assert caught.value.value == pynvml.NVML_ERROR_UNINITIALIZED


def test_a_machine_without_gpus(scripted):
    scripted([])
    assert find_devices() == []
    assert visible_devices({}) == []
    with pytest.raises(MeterError, match="names no GPU"):
        visible_devices({"CUDA_VISIBLE_DEVICES": "0"})
