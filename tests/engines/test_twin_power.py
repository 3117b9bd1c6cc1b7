"""The operator power law: its limits, its shape, its committed coefficients and its estimator."""

from __future__ import annotations

import importlib
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
    StateKernel,
    StateLaw,
    Use,
    key_of,
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
    """The calibration script as a module; its helper modules lie beside it."""
    folder = str(repository / "benchmarks")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module("calibrate_twin_power")
    finally:
        sys.path.remove(folder)


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


def test_state_kernels_have_a_law_by_role() -> None:
    assert law_name("mamba2", "causal_conv1d_fn") == law_name("gdn", "causal_conv1d_update")
    assert law_name("gdn", "chunk_gated_delta_rule") == "scan"
    assert law_name("mamba2", "selective_state_update") == "state_update"
    assert law_name("elementwise") == "gemm"


def test_unmeasured_state_kernels_take_the_nearest_one() -> None:
    """A convolution goes by framework (the same code for both kinds), a scan by kind."""
    h200 = key_of("H200-SXM5-141GB", "vllm", "bfloat16", "mamba2")
    use = Use(*(np.array([1e-3]) for _ in Use.__slots__))
    conv1d, scan = LAW.laws["conv1d"], LAW.laws["scan"]
    same_code = key_of("H200-SXM5-141GB", "vllm", "bfloat16", "gdn")
    same_kind = key_of("B200-SXM6-180GB", "trtllm", "bfloat16", "mamba2")
    for law, key in ((conv1d, same_code), (scan, same_kind)):
        assert law.share(use, h200, settled=True) == law.share(use, key, settled=True)


STATE_KERNEL = StateKernel(
    empty=0.05,
    ceiling=0.6,
    drive=1.0,
    batch=1.4,
    length=1.5,
    heads=0.8,
    latency=0.0,
    padding_tokens=30.0,
    full=20.0,
    fill_sharpness=2.0,
    ceiling_latency=0.05,
    ceiling_heads=-0.05,
    gap_s=3e-5,
    carry_1=0.5,
    carry_2=0.1,
)


def test_a_state_kernel_rises_from_empty_to_its_ceiling() -> None:
    batch, length = np.array([1.0, 1.0, 8.0, 64.0]), np.array([1.0, 256.0, 1024.0, 32768.0])
    kernel = replace(STATE_KERNEL, ceiling_latency=0.0)
    share = kernel.share(batch, length, np.full(4, 32.0), np.full(4, 1e-3), settled=True)
    assert np.all(np.diff(share) > 0)
    assert share[0] == pytest.approx(0.05, rel=0.3)
    assert share[-1] == pytest.approx(0.6, rel=0.02)


def test_carry_over_and_gaps_are_in_the_tables_only() -> None:
    one, many = np.array([1.0]), np.array([8.0])

    def share(batch: Any, length: float, settled: bool) -> float:
        use = (batch, np.array([length]), np.array([32.0]), np.array([1e-4]))
        return float(STATE_KERNEL.share(*use, settled=settled)[0])

    duty = 1e-4 / (1e-4 + 3e-5)
    assert share(one, 1.0, False) == pytest.approx(duty * share(one, 1.0, True))
    assert share(many, 4.0, False) == pytest.approx(duty * share(many, 4.0, True))
    assert share(many, 1.0, False) > share(many, 2.0, False) > duty * share(many, 2.0, True)


@given(
    law=st.sampled_from(["conv1d", "scan", "state_update"]),
    sequences=st.floats(1, 1e5),
    length=st.floats(1, 1e7),
    heads=st.floats(0.5, 1e4),
    latency=st.floats(1e-7, 1e3),
    settled=st.booleans(),
)
def test_state_kernels_stay_between_floor_and_limit_far_outside_the_data(
    law: str, sequences: float, length: float, heads: float, latency: float, settled: bool
) -> None:
    one = np.array([1.0])
    fields = dict.fromkeys(Use.__slots__, one) | {
        "latency_s": one * latency,
        "rows": one * sequences * length,
        "sequences": one * sequences,
        "heads": one * heads,
    }
    state = LAW.laws[law]
    assert isinstance(state, StateLaw)
    for key in state.kernels:
        assert 0.0 <= state.share(Use(**fields), key, settled=settled)[0] <= 1.0


def test_formats_and_kernels_of_rows_may_differ_in_one_call() -> None:
    shape = {"rows": [64.0, 64.0], "blocks": 200.0}
    both = LAW.power_w(
        "gemm", 1e12, [1e9, 1e9], 1e-3, H200, ["bf16", "fp8"], number_format=None, **shape
    )
    alone = [
        LAW.power_w("gemm", 1e12, 1e9, 1e-3, H200, p, rows=64.0, blocks=200.0)[0]
        for p in ("bf16", "fp8")
    ]
    np.testing.assert_allclose(both, alone)
    assert both[0] != both[1]


def test_streaming_kernels_stand_for_a_gemm_of_few_rows() -> None:
    power = LAW.power_w("elementwise", 0.0, 1e9, 1e-3, H200, rows=65536.0)
    assert power == LAW.power_w("gemm", 0.0, 1e9, 1e-3, H200, rows=16.0)


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
        u_compute=rng.uniform(0.001, 0.7, size),
        u_memory=rng.uniform(0.01, 0.9, size),
    )
    key = rng.choice(list(truth.scales), size)
    rows = calibration.Rows(
        use=use,
        floor_w=100 * ones,
        limit_w=700 * ones,
        power_w=ones,
        hardware=np.array([k[0] for k in key]),
        key=key,
        split=np.full(size, "train"),
        operator=np.full(size, "gemm"),
    )
    rows_module = sys.modules["calibrate_twin_power_rows"]
    clean = rows_module.predict(truth, rows)
    noisy = replace(rows, power_w=clean * np.exp(rng.normal(0, 0.03, size)))
    outliers = rng.random(size) < 0.05
    noisy.power_w[outliers] *= 0.5
    law = calibration.fit_law(noisy, ("rows",))
    error = np.abs(rows_module.predict(law, rows) / clean - 1)
    assert np.median(error) < 0.01
    assert law.drivers["rows"] == pytest.approx(0.1, abs=0.03)
    ratio = law.scales["B|f|bfloat16|"] / law.scales["A|f|bfloat16|"]
    assert ratio == pytest.approx(1.25 / 0.8, rel=0.1)


def test_the_state_estimator_recovers_a_known_kernel(calibration: ModuleType) -> None:
    states = sys.modules["calibrate_twin_power_state"]
    predict = sys.modules["calibrate_twin_power_rows"].predict
    rng = np.random.default_rng(1)
    grid = np.array(np.meshgrid(2.0 ** np.arange(8), 2.0 ** np.arange(15), [16.0, 32.0, 64.0]))
    batch, length, heads = grid.reshape(3, -1)
    size = batch.size
    key = key_of("H200-SXM5-141GB", "vllm", "bfloat16", "gdn")
    domain = dict.fromkeys(("batch", "length", "heads", "latency_s"), (1e-9, 1e9))
    truth = StateLaw({key: STATE_KERNEL}, (1, 2, 4, 8), domain, {}, None)
    fields = dict.fromkeys(Use.__slots__, np.ones(size)) | {
        "latency_s": 2e-5 + 3e-10 * batch * length * heads,
        "rows": batch * length,
        "sequences": batch,
        "heads": heads,
    }
    rows = calibration.Rows(
        use=Use(**fields),
        floor_w=np.full(size, 100.0),
        limit_w=np.full(size, 700.0),
        power_w=np.ones(size),
        hardware=np.full(size, "H200-SXM5-141GB"),
        key=np.full(size, key),
        split=np.full(size, "train"),
        operator=np.full(size, "gdn"),
    )
    clean = predict(truth, rows)
    noisy = replace(rows, power_w=clean * np.exp(rng.normal(0, 0.02, size)))
    noisy.power_w[rng.random(size) < 0.1] *= 0.85
    plan = states.StateFit(
        "scan",
        "gdn",
        ("vllm",),
        ("batch", "length", "heads", "padding_tokens", "full", "ceiling_heads", "ceiling_latency"),
        ("ceiling", "empty", "drive", "carry_1", "carry_2", "gap_s"),
        fill_sharpness=2.0,
    )
    law = replace(truth, kernels=states.fit_kernels(noisy, plan))
    assert np.median(np.abs(predict(law, rows) / clean - 1)) < 0.01
    found = law.kernels[key]
    assert found.ceiling == pytest.approx(0.6, rel=0.1)
    assert found.batch == pytest.approx(1.4, rel=0.15)


def test_no_shape_is_in_two_parts(operators: pd.DataFrame) -> None:
    gemm = operators[operators["op"] == "gemm"]
    assert (gemm.groupby(["m", "n", "k"])["split"].nunique() == 1).all()
    parts = operators["split"].value_counts(normalize=True)
    assert parts["train"] == pytest.approx(0.6, abs=0.02)
    assert parts["test"] == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize(
    ("kind", "factor"),
    # The errors of a state law are of both kinds together; those of Mamba2 are the larger.
    [("gemm", 1.6), ("moe", 1.6), ("encoder_attention", 1.6), ("gdn", 1.6), ("mamba2", 2.0)],
)
def test_committed_errors_hold_on_the_measured_tables(
    operators: pd.DataFrame, kind: str, factor: float
) -> None:
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
        laws = {law_name(kind, v) for v in group["kernel_source"].astype(str)}
        known = [LAW.laws[name].errors[hardware]["median"] for name in laws]
        assert error < factor * max(known), (hardware, framework)
