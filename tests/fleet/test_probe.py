"""The probe on this machine with a scripted driver: what it sees, what it calls a problem."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "nvml"))

from scripted import GIB, GpuScript, ScriptedNvml

from harness.fleet import probe
from harness.fleet.janitor import LAUNCH, marker
from harness.fleet.probe import probe_node

A100_40 = GpuScript(name="NVIDIA A100-SXM4-40GB", memory_bytes=40 * GIB)
A100_80 = GpuScript(name="NVIDIA A100-SXM4-80GB", memory_bytes=80 * GIB)
PCIE = GpuScript(name="NVIDIA A100 80GB PCIe", memory_bytes=80 * GIB)


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Install a scripted driver with the given GPUs."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("RAY_RAYLET_PID", raising=False)
    opened: list[ScriptedNvml] = []

    def make(*gpus: GpuScript, **options: Any) -> ScriptedNvml:
        nvml = ScriptedNvml(gpus, folder=tmp_path, capacity=64, **options)
        nvml.install(monkeypatch)
        opened.append(nvml)
        return nvml

    yield make
    for nvml in opened:
        nvml.path.unlink(missing_ok=True)


def codes(found: dict[str, Any]) -> list[str]:
    return [problem["code"] for problem in found["problems"]]


def test_the_answer_is_plain_and_whole(driver: Any) -> None:
    nvml = driver(GpuScript(), GpuScript())
    found = probe_node()
    assert json.loads(json.dumps(found)) == found
    assert [gpu["uuid"] for gpu in found["gpus"]] == list(nvml.uuids)
    assert {gpu["hardware"] for gpu in found["gpus"]} == {"H100-SXM5-80GB"}
    assert found["driver"] == "scripted-1.0"
    assert found["meter"] == "nvml"
    assert found["engines"].keys() >= {"twin"}
    assert found["versions"].keys() >= {"python", "energylens", "ray"}
    assert found["cpu_hardware"].startswith("CPU-")
    assert found["free_disk_bytes"] > 0
    assert found["problems"] == []


def test_types_with_one_name_are_told_apart_by_memory_and_form(driver: Any) -> None:
    driver(A100_40, A100_80, PCIE)
    assert [gpu["hardware"] for gpu in probe_node()["gpus"]] == [
        "A100-SXM4-40GB",
        "A100-SXM4-80GB",
        "A100-PCIE-80GB",
    ]


def test_a_type_that_the_catalog_lacks_is_named_and_stops_nothing(driver: Any) -> None:
    driver(GpuScript(name="NVIDIA Tomorrow 1TB", memory_bytes=1024 * GIB), GpuScript())
    found = probe_node()
    assert codes(found) == ["unknown_gpu"]
    assert not found["problems"][0]["fatal"]
    assert "NVIDIA Tomorrow 1TB" in found["problems"][0]["detail"]
    assert [gpu["hardware"] for gpu in found["gpus"]] == [None, "H100-SXM5-80GB"]


def test_other_peoples_processes_are_named_and_ours_are_not(driver: Any) -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    ours = subprocess.Popen(sleep, env={**os.environ, **marker("launch-1")})
    theirs = subprocess.Popen(sleep, env={k: v for k, v in os.environ.items() if k != LAUNCH})
    try:
        nvml = driver(GpuScript(), GpuScript())
        nvml.set_processes(0, [ours.pid])
        nvml.set_processes(1, [theirs.pid, 4194301])
        found = probe_node()
    finally:
        for process in (ours, theirs):
            process.kill()
            process.wait()
    assert [gpu["foreign_pids"] for gpu in found["gpus"]] == [[], [theirs.pid, 4194301]]
    assert codes(found) == ["gpu_busy"]
    detail = found["problems"][0]["detail"]
    assert found["problems"][0]["fatal"]
    assert "GPU 1" in detail
    assert f"(pid {theirs.pid})" in detail
    assert " of " in detail  # whose it is
    assert "pid 4194301" in detail  # nothing is known of it, and it is named all the same


def test_gpus_that_the_node_hides_are_not_offered(
    driver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml = driver(GpuScript(), GpuScript(), GpuScript())
    nvml.set_processes(0, [4194301])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", f"2,{nvml.uuids[1]}")
    found = probe_node()
    assert [gpu["uuid"] for gpu in found["gpus"]] == [nvml.uuids[2], nvml.uuids[1]]
    assert found["problems"] == []


def test_ray_hides_gpus_from_a_worker_and_the_raylet_tells_the_truth(
    driver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml = driver(GpuScript(), GpuScript())
    raylet = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "1"},
    )
    try:
        monkeypatch.setenv("RAY_RAYLET_PID", str(raylet.pid))
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        found = probe_node()
    finally:
        raylet.kill()
        raylet.wait()
    assert [gpu["uuid"] for gpu in found["gpus"]] == [nvml.uuids[1]]


def test_slices_and_lost_gpus_are_named(driver: Any) -> None:
    nvml = driver(GpuScript(mig=1), GpuScript(), GpuScript())
    nvml.fault(2, "lost")
    found = probe_node()
    assert codes(found) == ["mig", "gpu_lost"]
    assert [gpu["mig"] for gpu in found["gpus"]] == [True, False, False]
    assert found["gpus"][2]["hardware"] is None
    assert found["meter"] == "nvml"  # of the one that is whole


@pytest.mark.parametrize(("value", "code"), [(4, "no_permission"), (18, "no_power_meter")])
def test_a_driver_that_does_not_start_says_why(driver: Any, value: int, code: str) -> None:
    driver(GpuScript()).fault(0, "init", value=value)
    found = probe_node()
    assert codes(found)[0] == code
    assert found["problems"][0]["fix"]
    assert found["gpus"] == []
    assert found["meter"] in (None, "rapl")


def test_a_gpu_without_a_sensor_is_no_meter(driver: Any) -> None:
    nvml = driver(GpuScript())
    for kind in ("energy_error", "fields_error", "power_error"):
        nvml.fault(0, kind, value=4)
    found = probe_node()
    assert codes(found) == ["no_power_meter"]
    assert found["meter"] is None


def test_a_part_that_fails_is_a_problem_and_the_rest_is_told(
    driver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(GpuScript())

    def broken(_: object) -> str:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(probe, "_processor", broken)
    found = probe_node()
    assert codes(found) == ["probe_failed"]
    assert "processor" in found["problems"][0]["detail"]
    assert found["cpu_hardware"] is None
    assert found["meter"] == "nvml"


def test_engines_are_told_without_being_imported() -> None:
    program = (
        "import sys; from harness.fleet.probe import probe_node; found = probe_node();"
        "assert 'torch' not in sys.modules and 'ray' not in sys.modules, 'imported';"
        "print(found['engines'])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "twin" in ended.stdout
