"""Hardware `local`: GPUs told by name and memory, CPUs named and described by assumptions."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.catalog import identify, is_cpu, known_hardware, load_hardware, local_hardware
from harness.catalog.cpu import cpu_hardware, cpu_id
from harness.catalog.hardware import numeric_fields
from harness.catalog.local import Gpu, nvidia_gpus, visible
from harness.catalog.machine import Machine, this_machine
from harness.errors import CatalogError

GIB = 2.0**30
MACHINE = Machine(
    "AMD EPYC 9R14 96-Core Processor", 2, frozenset({"avx2"}), 16 * GIB, "MemTotal", None
)


@pytest.mark.parametrize(
    ("name", "gib", "canonical"),
    [
        ("NVIDIA A100-SXM4-40GB", 39.4, "A100-SXM4-40GB"),
        ("NVIDIA A100-SXM4-80GB", 79.3, "A100-SXM4-80GB"),
        ("NVIDIA A100 80GB PCIe", 79.3, "A100-PCIE-80GB"),
        ("NVIDIA H100 80GB HBM3", 79.6, "H100-SXM5-80GB"),
        ("NVIDIA H100 PCIe", 79.6, "H100-PCIE-80GB"),
        ("NVIDIA H200", 139.8, "H200-SXM5-141GB"),
        ("NVIDIA GH200 480GB", 94.5, "GH200-96GB"),
        ("NVIDIA B200", 178.4, "B200-SXM6-180GB"),
        ("NVIDIA L40S", 44.4, "L40S-48GB"),
        ("NVIDIA L4", 22.5, "L4-24GB"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 95.6, "RTX-PRO-6000-96GB"),
        ("Tesla V100-SXM2-32GB", 31.7, "V100-SXM2-32GB"),
        ("AMD Instinct MI300X", 191.7, "MI300X-192GB"),
        ("NVIDIA GB10", None, "GB10-128GB"),
    ],
)
def test_a_gpu_is_told_by_its_name_and_memory(name: str, gib: float | None, canonical: str) -> None:
    assert identify(name, None if gib is None else gib * GIB) == canonical


@pytest.mark.parametrize(
    ("name", "gib"),
    [
        ("NVIDIA A100-PCIE-40GB", 39.4),
        ("NVIDIA H100 NVL", 93.1),
        ("NVIDIA GH200 144G HBM3e", 141.0),
        ("NVIDIA H200 NVL", 139.8),
        ("Tesla V100-SXM2-16GB", 15.8),
        ("NVIDIA GeForce RTX 4090", 24.0),
        ("NVIDIA A100", 39.4),
        ("AMD Instinct MI250X", 64.0),
    ],
)
def test_a_gpu_that_is_only_alike_is_not_taken_for_another(name: str, gib: float) -> None:
    assert identify(name, gib * GIB) is None


def test_local_is_every_gpu_type_of_the_machine_once() -> None:
    gpus = [
        Gpu("NVIDIA H100 80GB HBM3", 79.6 * GIB, "GPU-0"),
        Gpu("NVIDIA L4", 22.5 * GIB, "GPU-1"),
        Gpu("NVIDIA H100 80GB HBM3", 79.6 * GIB, "GPU-2"),
    ]
    found = local_hardware(lambda: gpus)
    assert [each.hardware for each in found] == ["H100-SXM5-80GB", "L4-24GB"]


def test_an_unknown_gpu_is_refused_with_what_to_add() -> None:
    with pytest.raises(CatalogError) as caught:
        local_hardware(lambda: [Gpu("NVIDIA GeForce RTX 4090", 24 * GIB, "GPU-abc")])
    text = str(caught.value)
    assert "NVIDIA GeForce RTX 4090, 24 GiB" in text
    assert "GPU-abc" in text
    assert "hardware.json" in text


def test_local_is_the_cpu_where_there_is_no_gpu() -> None:
    found = local_hardware(lambda: [], lambda: MACHINE)
    assert [each.hardware for each in found] == ["CPU-AMD-EPYC-9R14-2C"]
    assert found[0].memory_bytes == 16 * GIB


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (None, "abc"),
        ("", ""),
        ("-1", ""),
        ("1", "b"),
        ("2,0", "ca"),
        ("GPU-bbbb", "b"),
        ("0,9,1", "a"),
    ],
)
def test_hidden_gpus_do_not_count(text: str | None, shown: str) -> None:
    gpus = [Gpu("NVIDIA L4", None, f"GPU-{letter * 8}") for letter in "abc"]
    environment = {} if text is None else {"CUDA_VISIBLE_DEVICES": text}
    assert "".join(gpu.uuid[-1] for gpu in visible(gpus, environment)) == shown


class NVMLError(Exception):
    """Base of the errors of a scripted NVML."""


def scripted(error: str = "", lost: bool = False) -> Any:
    """Bindings of a machine with one GPU, or one whose driver fails."""
    kind = type(error or "NVMLError_Unknown", (NVMLError,), {})

    def init() -> None:
        if error:
            raise kind(error)

    def memory(handle: int) -> SimpleNamespace:
        if lost:
            raise kind("lost")
        return SimpleNamespace(total=24 * GIB)

    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=init,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=memory,
        nvmlDeviceGetName=lambda handle: b"NVIDIA L4",
        nvmlDeviceGetUUID=lambda handle: "GPU-0",
    )


def test_gpus_are_listed_by_nvml() -> None:
    assert nvidia_gpus(scripted()) == [Gpu("NVIDIA L4", 24 * GIB, "GPU-0")]
    assert nvidia_gpus(scripted(lost=True)) == [Gpu("NVIDIA L4", None, "GPU-0")]


def test_no_driver_is_no_gpu_and_a_broken_one_is_an_error() -> None:
    assert nvidia_gpus(scripted("NVMLError_LibraryNotFound")) == []
    assert nvidia_gpus(scripted("NVMLError_DriverNotLoaded")) == []
    with pytest.raises(CatalogError, match="does not answer"):
        nvidia_gpus(scripted("NVMLError_NoPermission"))


@pytest.mark.parametrize(
    ("model_name", "name"),
    [
        ("AMD EPYC 9R14 96-Core Processor", "CPU-AMD-EPYC-9R14-2C"),
        ("AMD EPYC", "CPU-AMD-EPYC-2C"),
        ("Intel(R) Xeon(R) Platinum 8488C", "CPU-Intel-Xeon-Platinum-8488C-2C"),
        ("Intel(R) Core(TM) i7-9750H CPU @ 2.60GHz", "CPU-Intel-Core-i7-9750H-2C"),
        ("", "CPU-unknown-2C"),
    ],
)
def test_a_cpu_is_named_by_its_model_and_cores(model_name: str, name: str) -> None:
    assert cpu_id(model_name, 2) == name


@given(model_name=st.text(max_size=60), cores=st.integers(1, 512))
def test_every_cpu_has_an_id_that_is_read_back(model_name: str, cores: int) -> None:
    name = cpu_id(model_name, cores)
    assert re.fullmatch(r"[A-Za-z0-9.-]+", name)
    assert is_cpu(name)
    assert load_hardware(name).hardware == name


def test_no_gpu_is_a_cpu() -> None:
    assert not [name for name in known_hardware() if is_cpu(name)]


@pytest.mark.parametrize("machine", [MACHINE, None], ids=["here", "elsewhere"])
def test_every_number_of_a_cpu_has_a_source(machine: Machine | None) -> None:
    facts = cpu_hardware("CPU-AMD-EPYC-9R14-2C", machine)
    said = {name for name, text in facts.sources.items() if text.startswith("estimated:")}
    assert set(facts.sources) == set(numeric_fields(facts))
    assert said == set(facts.estimated)
    assert ("memory_bytes" in facts.estimated) == (machine is None)
    assert {"memory_bandwidth_bytes_per_s", "peak_flops.fp32", "power_limit_w"} <= said
    assert facts.idle_power_w is None
    assert facts.loaded_idle_power_w is None


def test_rates_of_a_cpu_follow_from_its_id() -> None:
    here = cpu_hardware("cpu-amd-epyc-9r14-2c", MACHINE)
    elsewhere = cpu_hardware("CPU-AMD-EPYC-9R14-2C")
    assert here.hardware == elsewhere.hardware
    assert here.peak_flops["fp32"] == elsewhere.peak_flops["fp32"]
    assert here.memory_bandwidth_bytes_per_s == elsewhere.memory_bandwidth_bytes_per_s
    assert here.flops_for("bf16") < here.flops_for("fp32")
    assert elsewhere.memory_bytes == 8 * GIB


def test_another_cpu_is_not_described_by_this_machine() -> None:
    assert cpu_hardware("CPU-AMD-EPYC-9R14-4C", MACHINE).memory_bytes == 16 * GIB
    assert "memory_bytes" in cpu_hardware("CPU-AMD-EPYC-9R14-4C", MACHINE).estimated


def file(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The file system of a machine with 8 processors and 16 GiB."""
    file(tmp_path, "proc/cpuinfo", "processor : 0\nmodel name : A CPU\nflags : avx2 amx_bf16\n")
    file(tmp_path, "proc/meminfo", f"MemTotal: {16 * 2**20} kB\nMemFree: 1 kB\n")
    return tmp_path


def test_a_machine_without_limits_has_all_of_itself(root: Path) -> None:
    machine = this_machine(root, affinity=8)
    assert machine == Machine(
        "A CPU", 8, frozenset({"avx2", "amx_bf16"}), 16 * GIB, "MemTotal of this machine", None
    )
    facts = cpu_hardware(cpu_id(machine.cpu_model, 8), machine)
    assert facts.flops_for("bf16") == facts.flops_for("fp32")


def test_limits_of_the_control_group_and_of_those_around_it_count(root: Path) -> None:
    file(root, "proc/self/cgroup", "0::/system/job\n")
    file(root, "sys/fs/cgroup/system/job/cpu.max", "max 100000")
    file(root, "sys/fs/cgroup/system/cpu.max", "350000 100000")
    file(root, "sys/fs/cgroup/system/job/memory.max", str(4 * 2**30))
    machine = this_machine(root, affinity=8)
    assert machine.cores == 3
    assert machine.memory_bytes == 4 * GIB
    assert "control group" in machine.memory_source
    assert this_machine(root, affinity=2).cores == 2


def test_limits_of_old_control_groups_count(root: Path) -> None:
    file(root, "proc/self/cgroup", "5:memory:/a\n4:cpu,cpuacct:/a\n1:name=systemd:/a\n")
    file(root, "sys/fs/cgroup/memory/a/memory.limit_in_bytes", str(2**30))
    file(root, "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "50000")
    file(root, "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000")
    machine = this_machine(root, affinity=8)
    assert (machine.cores, machine.memory_bytes) == (1, GIB)


def test_the_power_limit_is_that_of_all_packages_or_an_assumption(root: Path) -> None:
    for package, watts in ((0, 225), (1, 225)):
        base = f"sys/class/powercap/intel-rapl:{package}"
        file(root, f"{base}/name", f"package-{package}\n")
        file(root, f"{base}/constraint_0_power_limit_uw", f"{watts}000000\n")
    file(root, "sys/class/powercap/intel-rapl:0:0/name", "core\n")
    machine = this_machine(root, affinity=8)
    assert machine.power_limit_w == 450.0
    facts = cpu_hardware("CPU-A-8C", machine)
    assert facts.power_limit_w == 450.0
    assert "power_limit_w" not in facts.estimated
    (root / "sys/class/powercap/intel-rapl:1/constraint_0_power_limit_uw").unlink()
    assert this_machine(root, affinity=8).power_limit_w is None


def test_this_machine_is_read() -> None:
    machine = this_machine()
    assert machine.cores >= 1
    assert machine.memory_bytes > 2**28
    assert machine.cpu_model
