from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.catalog import known_hardware, load_hardware
from harness.catalog.hardware import DATA, numeric_fields, read_hardware
from harness.errors import CatalogError

CANONICAL = [
    "A100-SXM4-40GB",
    "A100-SXM4-80GB",
    "A100-PCIE-80GB",
    "H100-SXM5-80GB",
    "H100-PCIE-80GB",
    "GH200-96GB",
    "H200-SXM5-141GB",
    "B200-SXM6-180GB",
    "B300-SXM6-288GB",
    "GB200-186GB",
    "GB300-288GB",
    "L40S-48GB",
    "RTX-PRO-6000-96GB",
    "L4-24GB",
    "A30-24GB",
    "A2-16GB",
    "GB10-128GB",
    "V100-SXM2-32GB",
    "MI300X-192GB",
    "MI250X-128GB",
]
NAMES = [name for each in CANONICAL for name in (each, *load_hardware(each).aliases)]


def test_known_hardware() -> None:
    assert known_hardware() == CANONICAL


@pytest.mark.parametrize(
    ("alias", "canonical"),
    [
        ("H100", "H100-SXM5-80GB"),
        ("H100_SXM", "H100-SXM5-80GB"),
        ("A100", "A100-SXM4-80GB"),
        ("H200", "H200-SXM5-141GB"),
        ("B200_SXM", "B200-SXM6-180GB"),
        ("rtx_pro_6000_server", "RTX-PRO-6000-96GB"),
        ("NVIDIA H100 80GB HBM3", "H100-SXM5-80GB"),
        ("NVIDIA A100 80GB PCIe", "A100-PCIE-80GB"),
        ("AMD Instinct MI300X", "MI300X-192GB"),
    ],
)
def test_alias(alias: str, canonical: str) -> None:
    assert load_hardware(alias).hardware == canonical


@given(name=st.sampled_from(NAMES), upper=st.booleans())
def test_names_do_not_mind_case(name: str, upper: bool) -> None:
    changed = name.upper() if upper else name.lower()
    assert load_hardware(f" {changed} ") is load_hardware(name)


def test_no_name_means_two_types() -> None:
    owner: dict[str, str] = {}
    for canonical in CANONICAL:
        for name in (canonical, *load_hardware(canonical).aliases):
            key = re.sub(r"[\s_-]+", "-", name.lower())
            assert owner.setdefault(key, canonical) == canonical


@pytest.mark.parametrize("name", CANONICAL)
def test_every_number_has_a_source(name: str) -> None:
    hardware = load_hardware(name)
    for field in numeric_fields(hardware):
        assert hardware.sources[field].strip(), field


@pytest.mark.parametrize("name", CANONICAL)
def test_estimates_are_flagged_and_only_estimates(name: str) -> None:
    hardware = load_hardware(name)
    said = {field for field, source in hardware.sources.items() if source.startswith("estimated:")}
    assert said == set(hardware.estimated)


@pytest.mark.parametrize("name", CANONICAL)
def test_numbers_hold_together(name: str) -> None:
    hardware = load_hardware(name)
    flops = hardware.peak_flops
    idle = hardware.idle_power_w or 0.0
    assert hardware.loaded_idle_power_w is not None
    assert idle < hardware.loaded_idle_power_w < 0.4 * hardware.power_limit_w
    if hardware.vendor == "nvidia":
        assert flops["fp16"] >= flops.get("bf16", 0.0)
    if "fp8" in flops:
        assert flops["fp8"] == pytest.approx(2 * flops["bf16"], rel=0.03)
    gib = float(re.search(r"(\d+)GB$", name).group(1))  # type: ignore[union-attr]
    assert hardware.memory_bytes == pytest.approx(gib * 2**30, rel=0.08)


@pytest.mark.parametrize("name", CANONICAL)
def test_flops_for_every_precision(name: str) -> None:
    hardware = load_hardware(name)
    widest = hardware.flops_for("fp16")
    for precision in ("nvfp4", "mxfp4", "int4", "fp8", "bf16"):
        assert hardware.flops_for(precision) >= 0.9 * widest
    with pytest.raises(CatalogError, match="fp6"):
        hardware.flops_for("fp6")


def test_hardware_crosses_a_process_border() -> None:
    hardware = load_hardware("H100")
    copy = pickle.loads(pickle.dumps(hardware))
    assert copy == hardware
    assert hash(copy) == hash(hardware)


def test_flops_widen_to_what_the_hardware_has() -> None:
    assert load_hardware("A100").flops_for("fp8") == 312e12
    assert load_hardware("V100").flops_for("bf16") == 125e12
    assert load_hardware("B200").flops_for("nvfp4") == 9000e12
    assert load_hardware("H100").flops_for("fp8") == 1979e12


def test_twin_tables_exist() -> None:
    pytest.importorskip("aiconfigurator_core")
    from aiconfigurator_core.sdk import perf_database

    supported = perf_database.get_supported_databases()
    found = 0
    for name in CANONICAL:
        hardware = load_hardware(name)
        assert (hardware.twin_system is None) == (hardware.twin_version is None)
        if hardware.twin_system is not None:
            assert hardware.twin_version in supported[hardware.twin_system]["vllm"]
            found += 1
    assert found == 9


@pytest.mark.parametrize(
    "name", [name for name in CANONICAL if load_hardware(name).twin_system is not None]
)
def test_datasheet_agrees_with_the_twin_tables(name: str) -> None:
    core = pytest.importorskip("aiconfigurator_core")
    import yaml

    hardware = load_hardware(name)
    path = Path(core.__file__).parent / "systems" / f"{hardware.twin_system}.yaml"
    gpu = yaml.safe_load(path.read_text())["gpu"]
    assert hardware.memory_bandwidth_bytes_per_s == pytest.approx(gpu["mem_bw"], rel=0.01)
    assert hardware.peak_flops["bf16"] == pytest.approx(gpu["bfloat16_tc_flops"], rel=0.01)
    assert hardware.power_limit_w == gpu["power"]
    assert hardware.memory_bytes == pytest.approx(gpu["mem_capacity"], rel=0.01)


def test_unknown_hardware_names_close_matches() -> None:
    with pytest.raises(CatalogError) as caught:
        load_hardware("H100-SXM4")
    assert "H100-SXM5-80GB" in str(caught.value)


@pytest.fixture
def broken(tmp_path: Path) -> Any:
    def change(edit: Any) -> Path:
        data = json.loads(DATA.read_text())
        edit(data)
        path = tmp_path / "hardware.json"
        path.write_text(json.dumps(data))
        return path

    return change


def test_number_without_a_source_is_refused(broken: Any) -> None:
    path = broken(lambda data: data["L4-24GB"]["sources"].pop("peak_flops.fp8"))
    with pytest.raises(CatalogError, match=r"L4-24GB: no source for peak_flops\.fp8"):
        read_hardware(path)


def test_alias_of_two_types_is_refused(broken: Any) -> None:
    path = broken(lambda data: data["L4-24GB"]["aliases"].append("h100"))
    with pytest.raises(CatalogError, match="means both"):
        read_hardware(path)


@pytest.mark.parametrize(
    ("key", "value"), [("memory_bytes", -1), ("peak_flops", {}), ("color", "red")]
)
def test_wrong_entry_is_refused(broken: Any, key: str, value: object) -> None:
    path = broken(lambda data: data["L4-24GB"].update({key: value}))
    with pytest.raises(CatalogError, match=f"L4-24GB: {key}"):
        read_hardware(path)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_broken_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "hardware.json"
    path.write_text(text)
    with pytest.raises(CatalogError, match="hardware data"):
        read_hardware(path)
