"""`doctor --sensors` on the scripted driver: table, refusals, JSON, what is kept."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path

import pytest

HERE = Path(__file__).parent.parent
sys.path[:0] = [str(HERE / "nvml"), str(HERE / "meters")]

from scripted import GpuScript, ScriptedNvml  # noqa: E402
from scripted_load import ScriptedLoad  # noqa: E402

from energylens.cli.doctor import print_sensors  # noqa: E402
from energylens.doctor.sensors import (  # noqa: E402
    SensorReport,
    cached_section,
    characterise_gpus,
)
from harness.meters.characterise import QUICK, Timing  # noqa: E402

NO_TIME = Timing(idle_s=0.8, longest_idle_s=0.8, settle_s=0.1, steady_s=0.2, bursts_s=0.2)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ENERGYLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path / "cache" / "sensors"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path):
    """Four GPUs: one in order, one that looks part of the time, one sliced, one with a guest."""
    gpus = [
        GpuScript(noise_w=1.0, lag_s=0.02, name="NVIDIA L40S"),
        GpuScript(noise_w=1.0, sampled_fraction=0.25),
        GpuScript(mig=1),
        GpuScript(),
    ]
    with ScriptedNvml(gpus, folder=tmp_path, virtual=True) as nvml:
        nvml.set_processes(3, [4242])
        nvml.install(monkeypatch)
        yield nvml


def look(nvml: ScriptedNvml, timing: Timing = QUICK) -> tuple[SensorReport, list[str]]:
    told: list[str] = []
    report = characterise_gpus(
        timing,
        make_load=lambda uuid: (ScriptedLoad(nvml, nvml.uuids.index(uuid)), ""),
        tell=told.append,
        clock=nvml.now_ns,
        sleep=nvml.sleep,
    )
    return report, told


def test_every_gpu_is_characterised_or_refused_with_the_reason(
    machine: ScriptedNvml, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    report, told = look(machine)
    assert told[0].startswith("Characterising 2 GPUs, about ")
    good, part, sliced, guest = report.gpus
    assert good.found is not None
    assert good.found.trusted
    assert good.found.facts.lag_s == pytest.approx(0.02, abs=0.003)
    assert part.found is not None
    assert part.found.reasons == ("sensor_part_time",)
    assert "MIG" in sliced.refused
    assert "4242" in guest.refused
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    print_sensors(report)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    row = next(line for line in text.splitlines() if line.split()[:1] == ["0"])
    cells = row.split()
    assert cells.pop(4) in ("19", "20", "21")
    assert cells == ["0", "100", "100", "0.0", "100", "70/110", "5.0", "yes"]
    assert "70/110" in text
    assert "sensor_part_time" in text
    assert "scripted driver" in text
    assert "nvidia-smi -i 2 -mig 0" in " ".join(text.split())


def test_doctor_shows_what_is_kept_and_its_age(machine: ScriptedNvml, cache: Path) -> None:
    report, _ = look(machine)
    assert sorted(path.stem for path in cache.glob("*.json")) == sorted(machine.uuids[:2])
    found = report.gpus[0].found
    assert found is not None
    section = cached_section(now=found.measured_at + timedelta(hours=5))
    checks = {check.name: check for check in section.checks}
    assert "5.00 h ago" in checks[machine.uuids[0]].text
    assert "not trusted: looks only part of the time" in checks[machine.uuids[1]].text
    assert checks[machine.uuids[3]].fix == "energylens doctor --sensors"


def test_a_new_driver_makes_them_void(
    machine: ScriptedNvml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look(machine)
    newer = ScriptedNvml(
        [GpuScript(name="NVIDIA L40S")], folder=tmp_path, virtual=True, driver="scripted-2.0"
    )
    newer.install(monkeypatch)
    check = next(c for c in cached_section().checks if c.name == newer.uuids[0])
    assert check.state == "warn"
    assert "now scripted-2.0: void" in check.text


def test_a_cache_that_cannot_be_written_still_shows_the_result(
    machine: ScriptedNvml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("ENERGYLENS_CACHE", str(blocked))
    report, _ = look(machine, NO_TIME)
    assert report.gpus[0].found is not None
    assert report.gpus[0].kept is None
    assert "ENERGYLENS_CACHE" in report.gpus[0].warning


def test_hidden_gpus_are_left_alone(machine: ScriptedNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", machine.uuids[1])
    report, _ = look(machine, NO_TIME)
    assert [gpu.index for gpu in report.gpus] == [1]


def test_a_lost_gpu_and_one_without_permission_are_named(machine: ScriptedNvml) -> None:
    machine.fault(0, "lost")
    for kind in ("energy_error", "fields_error", "power_error"):
        machine.fault(1, kind, value=4)
    report, told = look(machine, NO_TIME)
    assert not report.any_found
    assert report.gpus[0].refused.startswith("lost")
    assert "may read" in report.gpus[1].refused
    assert told[0].startswith("Characterising 0 GPUs")


def test_without_torch_on_the_gpu_periods_are_still_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path, cli
) -> None:
    """The command as a user runs it, in real time, on a driver whose GPU torch does not see."""
    with ScriptedNvml([GpuScript(counter_period_s=0.05)], folder=tmp_path) as nvml:
        nvml.install(monkeypatch)
        result = cli("doctor", "--sensors", "--quick", "--json")
        assert result.exit_code == 0
        (gpu,) = json.loads(result.output)["gpus"]
        assert gpu["found"]["facts"]["counter_period_s"] == pytest.approx(0.05, rel=0.03)
        assert gpu["found"]["facts"]["sampled_fraction"] == 0.25  # assumed of an H100
        assert gpu["found"]["context"] is None
        assert "not_loaded" in gpu["found"]["reasons"]
        assert any("torch" in note for note in gpu["found"]["notes"])


def test_without_a_gpu_it_says_so_and_exits_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path, cli
) -> None:
    with ScriptedNvml([GpuScript()], folder=tmp_path) as nvml:
        nvml.install(monkeypatch)
        nvml.fault(0, "init", value=9)
        result = cli("doctor", "--sensors")
        assert result.exit_code == 1
        assert "No power sensor to characterise here" in result.output
        assert "modprobe" in result.output
        assert max(map(len, result.output.splitlines())) <= 80
        assert json.loads(cli("doctor", "--sensors", "--json").output)["gpus"] == []


def test_quick_alone_is_bad_input(cli) -> None:
    assert cli("doctor", "--quick").exit_code == 2
