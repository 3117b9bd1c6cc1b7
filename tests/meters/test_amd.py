"""AMD GPUs of known power behind a stand-in for AMD's library, read in the sampler's process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from harness.errors import MeterError
from harness.meters.choose import open_meter
from harness.meters.records import READING_FIELDS

HERE = Path(__file__).parent
UUIDS = ["00ff74a1-0000-1000-8000-000000000001", "00ff74a1-0000-1000-8000-000000000002"]


class Script:
    """The file that the stand-in reads its GPUs from."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = {
            "gpus": [{"uuid": u, "power_w": 300.0 + 100 * i} for i, u in enumerate(UUIDS)]
        }
        self.save()

    def save(self) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self.state))
        new.replace(self.path)

    def gpu(self, i: int, **changes: object) -> None:
        self.state["gpus"][i].update(changes)
        self.save()

    def environ(self, package: str = "scripted_amdsmi") -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(HERE / package), "AMD_SCRIPT": str(self.path)}

    def meter(self, uuids=UUIDS, package: str = "scripted_amdsmi", **options):
        return open_meter(
            "rocm",
            uuids,
            environ=self.environ(package),
            powercap=str(self.path.parent),
            period_s=0.02,
            **options,
        )


@pytest.fixture
def script(tmp_path):
    return Script(tmp_path / "amd.json")


def read_once(script: Script, polls: int = 1, ids: str = "()", between: str = "") -> list[list]:
    """Rows of a reader in a process of its own."""
    code = (
        "import json, os, sys\n"
        "line = os.dup(1); os.dup2(2, 1)\n"
        "from harness.meters.amd import AmdReader\n"
        f"reader = AmdReader({ids})\n"
        f"for poll in range({polls}):\n"
        "    rows = reader.read(slow=True)\n"
        f"    {between or 'pass'}\n"
        "reader.close()\n"
        "os.write(line, json.dumps([list(reader.device_ids), rows]).encode())\n"
    )
    environ = script.environ()
    environ["PYTHONPATH"] += os.pathsep + str(HERE.parents[1])
    shown = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, env=environ
    )
    return json.loads(shown.stdout)


def field(row: list[float], name: str) -> float:
    return row[READING_FIELDS.index(name)]


def test_energy_is_count_times_resolution(script):
    with script.meter() as meter:
        assert (meter.name, meter.scope, meter.simulated) == ("amdsmi", "socket", False)
        start = time.monotonic_ns()
        time.sleep(0.4)
        end = time.monotonic_ns()
        samples = meter.read(start, end)
        assert samples.gpu_uuids == tuple(UUIDS)
        assert meter.read_host(start, end) is None
    t_s = (samples.t_ns + samples.delay_ns) / 1e9
    for energy_mj, power_w, when in zip(samples.energy_mj, (300, 400), t_s, strict=True):
        slope_w = np.polyfit(when - when[0], energy_mj / 1e3, 1)[0]
        assert slope_w == pytest.approx(power_w, rel=0.02)
    assert samples.power_w[:, -1].tolist() == [300.0, 400.0]
    assert samples.temperature_c is not None
    assert (samples.temperature_c == 61).all()


def test_all_fields_of_a_new_gpu(script):
    script.gpu(0, pids=[7, 8])
    ids, (row, _) = read_once(script)
    assert ids == UUIDS
    assert field(row, "sm_clock_mhz") == 2100
    assert field(row, "mem_clock_mhz") == 1300
    assert field(row, "process_count") == 2
    assert field(row, "throttle_mask") == 0
    assert np.isnan(field(row, "average_power_w"))
    assert field(row, "status") == 0


def test_an_older_gpu_has_average_power_and_other_names(script):
    script.gpu(0, old=True, throttle_status=8)
    _, (row, _) = read_once(script)
    assert np.isnan(field(row, "power_w"))
    assert field(row, "average_power_w") == 300
    assert field(row, "energy_mj") > 0
    assert field(row, "sm_clock_mhz") == 2100
    assert field(row, "throttle_mask") == 8


def test_time_spent_throttled_shows_in_the_mask(script):
    grow = (
        "p = os.environ['AMD_SCRIPT']; s = json.load(open(p)); "
        "s['gpus'][0]['ppt'] = s['gpus'][0].get('ppt', 0) + 5; json.dump(s, open(p, 'w'))"
    )
    _, (throttled, free) = read_once(script, polls=2, between=grow)
    assert field(throttled, "throttle_mask") == 2
    assert field(free, "throttle_mask") == 0


@pytest.mark.parametrize("name", [UUIDS[1], UUIDS[1].upper(), "GPU-hip1", "0000:01:00.0"])
def test_a_gpu_goes_by_any_of_its_names(script, name):
    ids, rows = read_once(script, ids=repr((name,)))
    assert ids == [name]
    assert field(rows[0], "power_w") == 400


def test_energy_that_cannot_be_read_is_nan_with_its_code(script):
    script.gpu(0, energy_error=2)
    _, (row, other) = read_once(script)
    assert np.isnan(field(row, "energy_mj"))
    assert field(row, "power_w") == 300
    assert field(row, "status") == 2
    assert field(other, "status") == 0


def test_a_gpu_lost_on_the_way_is_a_gap_and_the_other_goes_on(script):
    with script.meter() as meter:
        start = time.monotonic_ns()
        time.sleep(0.1)
        script.gpu(0, lost=True)
        time.sleep(0.1)
        samples = meter.read(start, time.monotonic_ns())
        assert meter.statuses() == {UUIDS[0]: 34, UUIDS[1]: 0}
    assert np.isnan(samples.energy_mj[0, -1])
    assert np.isfinite(samples.energy_mj[1]).all()


def test_an_unknown_gpu_is_refused(script):
    with pytest.raises(MeterError, match="finds no GPU nowhere") as caught:
        script.meter(["nowhere"])
    assert UUIDS[0] in str(caught.value.fix)


def test_a_library_that_does_not_open_is_said(script):
    script.state["init"] = 10
    script.save()
    with pytest.raises(MeterError, match="cannot be opened") as caught:
        script.meter()
    assert "render" in str(caught.value.fix)


def test_a_host_without_rocm_is_said(script):
    with pytest.raises(MeterError, match="cannot be loaded") as caught:
        script.meter(package="broken_amdsmi")
    assert "KeyError" in str(caught.value.where)
    assert "amd-smi-lib" in str(caught.value.fix)


def test_this_process_never_imports_the_library():
    code = (
        "import importlib, pkgutil, sys, harness.meters\n"
        "for module in pkgutil.iter_modules(harness.meters.__path__):\n"
        "    importlib.import_module(f'harness.meters.{module.name}')\n"
        "print('amdsmi' in sys.modules)"
    )
    shown = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
    )
    assert shown.stdout.strip() == "False"
