"""The operator power law: its limits, its shape, its committed coefficients and its estimator."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.catalog import known_hardware, load_hardware
from harness.engines.twin.power import (
    DRIVERS,
    KindLaw,
    Use,
    law_name,
    load_power_law,
    peak_flops,
    saturate,
)
from harness.engines.twin.work import KINDS, work_of_table
from harness.errors import EngineError

LAW = load_power_law()
H200 = load_hardware("H200")
GPUS = ("H200-SXM5-141GB", "B200-SXM6-180GB", "A100-SXM4-80GB", "H100-SXM5-80GB", "L40S-48GB")
PHYSICAL = ("gemm", "moe", "context_attention", "generation_attention", "encoder_attention")


@pytest.fixture(scope="module")
def calibration(repository: Path) -> ModuleType:
    """The calibration script as a module."""
    path = repository / "benchmarks" / "calibrate_twin_power.py"
    spec = importlib.util.spec_from_file_location("calibrate_twin_power", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def operators(calibration: ModuleType, shared_data: Path) -> pd.DataFrame:
    """The measured operator tables, with canonical GPU names and the split."""
    frame: pd.DataFrame = calibration.load_operators(shared_data / "aiconfigurator_ops")
    return frame


@given(
    kind=st.sampled_from(KINDS),
    gpu=st.sampled_from(GPUS),
    flops=st.floats(0, 1e16),
    moved=st.floats(1, 1e13),
    latency=st.floats(1e-6, 10),
    rows=st.floats(1, 1e6),
    settled=st.booleans(),
)
def test_power_stays_between_floor_and_limit(
    kind: str, gpu: str, flops: float, moved: float, latency: float, rows: float, settled: bool
) -> None:
    hardware = load_hardware(gpu)
    power = LAW.power_w(kind, flops, moved, latency, hardware, rows=rows, settled=settled)
    assert power.shape == (1,)
    assert LAW.floor_w(hardware) <= power[0] + 1e-9
    assert power[0] <= hardware.power_limit_w + 1e-9


@pytest.mark.parametrize("kind", PHYSICAL)
def test_more_bytes_in_the_same_time_never_cost_less(kind: str) -> None:
    moved = np.linspace(0.05, 0.9, 30) * 1e-3 * H200.memory_bandwidth_bytes_per_s
    power = LAW.power_w(kind, 1e9, moved, 1e-3, H200)
    assert np.all(np.diff(power) >= -1e-9)
    assert power[-1] > power[0]


@pytest.mark.parametrize("kind", ["gemm", "moe", "context_attention", "encoder_attention"])
def test_more_flops_in_the_same_time_cost_more(kind: str) -> None:
    flops = np.linspace(0.02, 0.5, 30) * 1e-3 * H200.peak_flops["bf16"]
    power = LAW.power_w(kind, flops, 1e8, 1e-3, H200)
    assert np.all(np.diff(power) >= -1e-9)


def test_a_busy_gemm_meets_the_power_limit() -> None:
    flops = 0.7e-3 * H200.peak_flops["bf16"]
    power = LAW.power_w("gemm", flops, 1e8, 1e-3, H200, rows=8192, blocks=4096)
    assert power[0] > 0.95 * H200.power_limit_w


def test_the_tables_never_read_more_than_the_settled_power() -> None:
    latency = np.array([1e-5, 1e-4, 1e-3, 1e-2])
    moved = 0.5 * latency * H200.memory_bandwidth_bytes_per_s
    settled = LAW.power_w("generation_attention", 0.0, moved, latency, H200)
    read = LAW.power_w("generation_attention", 0.0, moved, latency, H200, settled=False)
    assert np.all(read < settled)
    assert (settled / read)[0] > (settled / read)[-1]


def test_a_lower_power_limit_holds() -> None:
    power = LAW.power_w("gemm", 5e11, 1e8, 1e-3, H200, power_limit_w=350.0)
    assert power[0] <= 350.0
    assert LAW.power_w("gemm", 5e11, 1e8, 1e-3, H200)[0] > 350.0


def test_arrays_of_kinds_equal_single_calls() -> None:
    kinds = ["gemm", "moe", "elementwise", "communication", "other", "gdn"]
    variants = ["", "", "", "", "", "chunk_gated_delta_rule"]
    together = LAW.power_w(kinds, 1e11, np.full(6, 1e8), 1e-3, H200, variant=variants)
    alone = [
        LAW.power_w(kind, 1e11, 1e8, 1e-3, H200, variant=variant)[0]
        for kind, variant in zip(kinds, variants, strict=True)
    ]
    np.testing.assert_allclose(together, alone)


def test_missing_work_gives_missing_power_but_communication_needs_none() -> None:
    assert np.isnan(LAW.power_w("gemm", np.nan, 1e8, 1e-3, H200)[0])
    assert np.isnan(LAW.power_w("gemm", 1e9, 1e8, 0.0, H200)[0])
    drawn = LAW.power_w("communication", np.nan, np.nan, 1e-3, H200)[0]
    assert LAW.waiting_w(H200) < drawn < H200.power_limit_w


def test_every_catalogued_gpu_has_a_power_for_every_kind() -> None:
    for name in known_hardware():
        hardware = load_hardware(name)
        power = LAW.power_w(list(KINDS), 1e9, np.full(len(KINDS), 1e7), 1e-4, hardware)
        assert np.all(np.isfinite(power)), name
        assert LAW.uncertainty("gemm", name) > 0


def test_gpus_without_operator_power_take_the_law_scaled_by_limits() -> None:
    a100 = load_hardware("A100-SXM4-80GB")
    h100 = load_hardware("H100-SXM5-80GB")

    def share(hardware: Any) -> float:
        seconds = 1e-3
        flops = 0.3 * seconds * hardware.peak_flops["bf16"]
        moved = 0.3 * seconds * hardware.memory_bandwidth_bytes_per_s
        power = LAW.power_w("moe", flops, moved, seconds, hardware)[0]
        floor = LAW.floor_w(hardware)
        return float((power - floor) / (hardware.power_limit_w - floor))

    assert share(a100) == pytest.approx(share(h100))
    assert LAW.uncertainty("moe", "A100-SXM4-80GB") >= LAW.uncertainty("moe", H200.hardware)


def test_idle_unknown_falls_back_step_by_step() -> None:
    nothing = replace(H200, hardware="X", loaded_idle_power_w=None, idle_power_w=None)
    bare = replace(nothing, idle_power_w=60.0)
    assert LAW.floor_w(bare) == 60.0
    assert LAW.floor_w(nothing) == pytest.approx(0.15 * 700)


def test_peak_of_a_missing_format_is_the_next_wider_one() -> None:
    assert peak_flops(H200, "nvfp4") == H200.peak_flops["fp8"]
    assert peak_flops(load_hardware("V100"), "fp8") == peak_flops(load_hardware("V100"), "fp16")
    with pytest.raises(EngineError, match="no peak"):
        peak_flops(H200, "fp3")


def test_unknown_kind_is_an_error_of_ours() -> None:
    with pytest.raises(EngineError, match="no power law"):
        LAW.power_w("sorting", 1.0, 1.0, 1.0, H200)


def test_scale_of_an_unknown_key_comes_from_its_nearest() -> None:
    law = LAW.laws["gemm"]
    unknown, _ = law.scale_and_gap("A100-SXM4-80GB|vllm|nvfp4|")
    assert unknown == law.scales["B200-SXM6-180GB|vllm|nvfp4|"]


@given(x=st.floats(1e-6, 1e3), sharpness=st.floats(1, 8))
def test_saturation_is_below_one_and_linear_when_small(x: float, sharpness: float) -> None:
    value = float(saturate(np.array([x]), sharpness)[0])
    assert value <= min(x, 1.0) * (1 + 1e-9)
    assert value >= min(x, 1.0) / 2 - 1e-12


def test_drivers_are_zero_at_their_reference_and_where_missing() -> None:
    missing = Use(*(np.array([np.nan]) for _ in Use.__slots__))
    for name, driver in DRIVERS.items():
        assert driver(missing)[0] == 0.0, name


def test_state_kernels_share_laws_by_variant() -> None:
    assert law_name("mamba2", "causal_conv1d_fn") == law_name("gdn", "causal_conv1d_update")
    assert law_name("gdn", "chunk_gated_delta_rule") == "scan"
    assert law_name("elementwise") == "gemm"


def test_the_estimator_recovers_a_known_law(calibration: ModuleType) -> None:
    rng = np.random.default_rng(0)
    size = 1500
    truth = KindLaw(
        sharpness=2.0,
        base=0.1,
        compute=1.2,
        compute_exponent=0.7,
        memory=0.9,
        memory_exponent=0.8,
        drivers={"rows": 0.1},
        domain={"rows": (-10.0, 10.0)},
        scales={"A|f|bfloat16|": 0.8, "B|f|bfloat16|": 1.25},
        gaps_s={"A|f|bfloat16|": 3e-5, "B|f|bfloat16|": 1e-4},
        errors={},
        transfer_error=None,
    )
    ones = np.ones(size)
    use = Use(*(ones for _ in Use.__slots__))
    use = replace(
        use,
        latency_s=10 ** rng.uniform(-4.3, -2, size),
        rows=10 ** rng.uniform(0, 4.5, size),
    )
    key = rng.choice(list(truth.scales), size)
    rows = calibration.Rows(
        use=use,
        u_compute=rng.uniform(0.001, 0.7, size),
        u_memory=rng.uniform(0.01, 0.9, size),
        floor_w=100 * ones,
        limit_w=700 * ones,
        power_w=ones,
        hardware=np.array([k[0] for k in key]),
        key=key,
        split=np.full(size, "train"),
        operator=np.full(size, "gemm"),
    )
    clean = calibration.predict(truth, rows)
    noisy = replace(rows, power_w=clean * np.exp(rng.normal(0, 0.03, size)))
    outliers = rng.random(size) < 0.05
    noisy.power_w[outliers] *= 0.5
    law = calibration.fit_law(noisy, ("rows",))
    error = np.abs(calibration.predict(law, rows) / clean - 1)
    assert np.median(error) < 0.01
    assert law.drivers["rows"] == pytest.approx(0.1, abs=0.03)
    ratio = law.scales["B|f|bfloat16|"] / law.scales["A|f|bfloat16|"]
    assert ratio == pytest.approx(1.25 / 0.8, rel=0.1)


def test_no_shape_is_in_two_parts(operators: pd.DataFrame) -> None:
    gemm = operators[operators["op"] == "gemm"]
    assert (gemm.groupby(["m", "n", "k"])["split"].nunique() == 1).all()
    parts = operators["split"].value_counts(normalize=True)
    assert parts["train"] == pytest.approx(0.6, abs=0.02)
    assert parts["test"] == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("kind", ["gemm", "moe", "encoder_attention"])
def test_committed_errors_hold_on_the_measured_tables(operators: pd.DataFrame, kind: str) -> None:
    frame = operators[operators["op"] == kind]
    frame = frame[(frame["split"] == "test") & (frame["latency_ms"] > 0.05)]
    for (hardware, framework), group in frame.groupby(["hardware", "framework"]):
        power = LAW.power_of_work(
            work_of_table(group, kind),
            group["latency_ms"].to_numpy(np.float64) / 1e3,
            load_hardware(hardware),
            framework=framework,
            settled=False,
        )
        error = np.median(np.abs(power / group["power_w"].to_numpy(np.float64) - 1))
        assert error < 1.6 * LAW.laws[kind].errors[hardware]["median"], (hardware, framework)
