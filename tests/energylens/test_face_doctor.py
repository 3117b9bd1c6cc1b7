"""Doctor: what it says with and without a driver, and what it never does."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from energylens.doctor import Diagnosis, diagnose
from energylens.doctor.devices import cpu_energy, nvidia
from energylens.doctor.host import cluster


@pytest.fixture(scope="module")
def found() -> Diagnosis:
    return diagnose()


def test_both_questions_are_answered_with_a_reason(found: Diagnosis) -> None:
    questions = {v.question: v for v in found.verdicts}
    assert set(questions) == {"can measure energy", "can project energy"}
    assert all(v.reason for v in found.verdicts)
    assert questions["can project energy"].yes


def test_amdsmi_is_looked_for_but_never_imported(found: Diagnosis) -> None:
    assert any(section.title == "AMD GPUs" for section in found.sections)
    assert "amdsmi" not in sys.modules


def test_every_problem_comes_with_what_to_do(found: Diagnosis) -> None:
    for section in found.sections:
        for check in section.checks:
            assert check.fix or check.state in ("ok", "info"), check


def test_the_command_prints_and_speaks_json(cli) -> None:
    result = cli("doctor")
    assert result.exit_code == 0
    assert "can project energy" in result.output
    assert max(map(len, result.output.splitlines())) <= 80
    values = json.loads(cli("doctor", "--json").output)
    assert [v["question"] for v in values["verdicts"]] == [
        "can measure energy",
        "can project energy",
    ]


class Gpus:
    """A driver with two GPUs: one able, one sliced by MIG with a lowered limit and a guest."""

    NVMLError = RuntimeError

    def __init__(self, fail: Exception | None = None) -> None:
        self.fail = fail

    def nvmlInit(self) -> None:
        if self.fail:
            raise self.fail

    def nvmlShutdown(self) -> None: ...

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.1"

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, gpu: int) -> bytes:
        return b"NVIDIA H100"

    def nvmlDeviceGetUUID(self, gpu: int) -> str:
        return f"GPU-{gpu}"

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: int) -> int:
        return 123456

    def nvmlDeviceGetPowerUsage(self, gpu: int) -> int:
        return 90_000

    def nvmlDeviceGetEnforcedPowerLimit(self, gpu: int) -> int:
        return 700_000 if gpu == 0 else 500_000

    def nvmlDeviceGetPowerManagementDefaultLimit(self, gpu: int) -> int:
        return 700_000

    def nvmlDeviceGetMigMode(self, gpu: int) -> tuple[int, int]:
        return (gpu, gpu)

    def nvmlDeviceGetPersistenceMode(self, gpu: int) -> int:
        return 1 - gpu

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: int) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=4242)] if gpu else []


def test_a_machine_with_gpus_is_described_gpu_by_gpu() -> None:
    section, able, reason = nvidia(Gpus())
    states = {check.name: check.state for check in section.checks}
    texts = {check.name: check.text for check in section.checks}
    assert (able, reason) == (True, "1 of 2 GPUs")
    assert texts["GPU 0"] == "NVIDIA H100, GPU-0"
    assert states["GPU 0 energy"] == "ok"
    assert states["GPU 1 MIG"] == "no"
    assert "limit 500 W, factory limit 700 W" in texts["GPU 1 power"]
    assert "pid 4242" in texts["GPU 1 processes"]
    assert states["GPU 1 persistence"] == "warn"


def test_a_driver_that_does_not_start_says_why() -> None:
    missing = type("NVMLError_LibraryNotFound", (RuntimeError,), {"value": 12})
    section, able, reason = nvidia(Gpus(missing("no library")))
    assert not able
    assert reason.startswith("no NVIDIA driver")
    assert section.checks[0].fix


def test_rapl_is_readable_only_where_its_files_are(tmp_path: Path) -> None:
    assert cpu_energy(tmp_path / "none").checks[0].state == "info"
    domain = tmp_path / "intel-rapl:0"
    domain.mkdir()
    assert cpu_energy(tmp_path).checks[0].state == "warn"
    (domain / "energy_uj").write_text("123\n")
    assert cpu_energy(tmp_path).checks[0].state == "ok"


def test_a_cluster_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert cluster().worst == "ok"
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    section = cluster()
    assert section.worst == "no"
    assert "127.0.0.1:9 does not answer" in section.checks[0].text
