"""Work of one operator: by hand, against the speed-of-light model, and table row against object."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.engines.twin.work import (
    active_experts,
    causal_pairs,
    work_of_operator,
    work_of_table,
)
from harness.errors import EngineError

sdk = pytest.importorskip("aiconfigurator_core.sdk", reason="aiconfigurator-core is not installed")


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    """Operator lists of four architectures on two ranks; no kernel tables are read."""
    from aiconfigurator_core.sdk import config_builders, models

    logging.disable(logging.WARNING)
    names = {
        "dense": "meta-llama/Meta-Llama-3.1-8B",
        "moe": "Qwen/Qwen3-30B-A3B",
        "mamba": "nvidia/Nemotron-H-56B-Base-8K",
        "mla": "deepseek-ai/DeepSeek-V3",
    }
    settings = {"tp_size": 2, "pp_size": 1, "attention_dp_size": 1}
    return {
        short: models.get_model(
            name,
            config_builders.build_model_config(**settings, moe_tp_size=2, moe_ep_size=1),
            "vllm",
        )
        for short, name in names.items()
    }


def operator(model: Any, name: str) -> Any:
    """The operator of that name in any of the model's lists."""
    lists = (model.encoder_ops, model.context_ops, model.generation_ops)
    return next(op for group in lists for op in group if op._name == name)


def row(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame({key: [value] for key, value in columns.items()})


def test_gemm_counts_by_hand() -> None:
    work = work_of_table(row(m=4, n=3, k=5, dtype="bfloat16"), "gemm")
    assert work.flops[0] == 2 * 4 * 3 * 5
    assert work.bytes[0] == 2 * (4 * 5 + 3 * 5 + 4 * 3)


def test_quantised_gemm_reads_narrow_weights_and_writes_bf16() -> None:
    work = work_of_table(row(m=16, n=64, k=32, dtype="nvfp4"), "gemm")
    width = 0.5 + 1 / 16
    assert work.bytes[0] == pytest.approx(16 * 32 * width + 64 * 32 * width + 16 * 64 * 2)
    assert work.precision[0] == "nvfp4"


def test_large_gemm_does_not_overflow_32_bits() -> None:
    frame = row(m=32768, n=65536, k=65536, dtype="fp8").astype(dict.fromkeys("mnk", "Int32"))
    assert work_of_table(frame, "gemm").flops[0] == 2.0 * 32768 * 65536 * 65536


def test_generation_attention_reads_the_cache_once() -> None:
    shape = {"batch_size": 3, "isl": 1, "step": 999, "num_heads": 8, "num_key_value_heads": 2}
    frame = row(**shape, head_dim=64, window_size=0, kv_cache_dtype="fp8", dtype="bfloat16")
    work = work_of_table(frame, "generation_attention")
    assert work.bytes[0] == 3 * 1000 * 2 * 64 * 2 * 1 + 3 * 8 * 64 * 2 * 2
    assert work.flops[0] == 4 * 3 * 8 * 64 * 1000


@given(new=st.integers(1, 300), past=st.integers(0, 300), window=st.integers(0, 400).filter(bool))
def test_window_pairs_follow_the_loop(new: int, past: int, window: int) -> None:
    exact = sum(min(past + i + 1, window) for i in range(new))
    counted = float(causal_pairs(np.float64(new), np.float64(past), np.float64(window)))
    # The formula counts s^2/2 where the loop counts s*(s+1)/2.
    assert 0 <= exact - counted <= new / 2 + 1e-9


@given(tokens=st.integers(1, 100_000), experts=st.integers(1, 512), data=st.data())
def test_experts_active_are_at_least_topk_and_at_most_all(
    tokens: int, experts: int, data: st.DataObject
) -> None:
    topk = data.draw(st.integers(1, experts))
    active = float(active_experts(tokens, experts, topk))
    assert topk * (1 - 1e-9) <= active <= experts * (1 + 1e-9)
    assert active <= tokens * topk * (1 + 1e-9)


def test_one_token_activates_topk_experts() -> None:
    assert float(active_experts(1, 128, 8)) == pytest.approx(8)


def test_expert_parallel_shares_the_work_evenly() -> None:
    shape = {"num_tokens": 64, "hidden_size": 512, "inter_size": 256, "topk": 2}
    whole = row(**shape, num_experts=16, moe_tp_size=1, moe_ep_size=1, dtype="bfloat16")
    half = whole.assign(moe_ep_size=2)
    one, two = work_of_table(whole, "moe"), work_of_table(half, "moe")
    assert two.flops[0] == pytest.approx(one.flops[0] / 2)
    assert two.bytes[0] == pytest.approx(one.bytes[0] / 2)


@pytest.mark.parametrize(
    ("short", "name", "phase", "columns", "kind"),
    [
        (
            "dense",
            "context_qkv_gemm",
            "context",
            {"m": 4096, "n": 3072, "k": 4096, "dtype": "bfloat16"},
            "gemm",
        ),
        (
            "dense",
            "generation_attention",
            "generation",
            {
                "batch_size": 4,
                "isl": 1,
                "step": 1023,
                "num_heads": 16,
                "num_key_value_heads": 4,
                "head_dim": 128,
                "window_size": 0,
                "dtype": "bfloat16",
                "kv_cache_dtype": "bfloat16",
            },
            "generation_attention",
        ),
        (
            "moe",
            "context_moe",
            "context",
            {
                "num_tokens": 4096,
                "hidden_size": 2048,
                "inter_size": 768,
                "topk": 8,
                "num_experts": 128,
                "moe_tp_size": 2,
                "moe_ep_size": 1,
                "dtype": "bfloat16",
                "distribution": "power_law_1.2",
                "kernel_source": "vllm_fused_moe",
            },
            "moe",
        ),
        (
            "mamba",
            "context_mamba_ssm",
            "context",
            {
                "num_tokens": 4096,
                "batch_size": 4,
                "nheads": 256,
                "head_dim": 64,
                "d_state": 256,
                "n_groups": 8,
                "chunk_size": 128,
                "d_conv": 4,
                "dtype": "bfloat16",
                "kernel_source": "mamba_chunk_scan_combined",
            },
            "mamba2",
        ),
    ],
)
def test_operator_and_table_row_of_one_shape_give_the_same_features(
    models: dict[str, Any], short: str, name: str, phase: str, columns: dict[str, Any], kind: str
) -> None:
    of_object = work_of_operator(operator(models[short], name), phase, 4, 1024)
    of_row = work_of_table(row(**columns), kind)
    assert of_object.kind == of_row.kind
    for field in ("flops", "bytes", "rows", "blocks", "head_dim", "window", "skew", "heads"):
        assert getattr(of_object, field) == pytest.approx(getattr(of_row, field)[0]), field
    for field in ("precision", "number_format", "variant"):
        assert getattr(of_object, field) == getattr(of_row, field)[0]


@pytest.mark.parametrize(
    ("short", "name", "phase", "tolerance"),
    [
        ("dense", "context_qkv_gemm", "context", 1e-9),
        ("dense", "generation_ffn2_gemm", "generation", 1e-9),
        ("dense", "context_attention", "context", 2e-3),
        # The new token attends to itself here; the reference leaves it out: 1 in 1,023 keys.
        ("dense", "generation_attention", "generation", 2e-3),
        ("moe", "context_moe", "context", 1e-9),
        ("dense", "context_add_norm_1", "context", 1e-9),
    ],
)
def test_counts_agree_with_the_speed_of_light_model(
    models: dict[str, Any], short: str, name: str, phase: str, tolerance: float
) -> None:
    from aiconfigurator_core.sdk import engine, perf_database

    database = perf_database.get_database("h200_sxm", "vllm", "0.24.0")
    op = operator(models[short], name)
    context = phase == "context"
    light = engine.EngineHandle.for_database(database).evaluate_ops_sol_json(
        engine.build_ops_json([op]),
        is_context=context,
        batch_size=4,
        s=1024,
        x=4096 if context else 4,
    )
    _, _, compute_ms, memory_ms = light[0]
    work = work_of_operator(op, phase, 4, 1024)
    assert work.flops * work.calls / 989e12 * 1e3 == pytest.approx(compute_ms, rel=tolerance)
    assert work.bytes * work.calls / 4.8e12 * 1e3 == pytest.approx(memory_ms, rel=tolerance)


def test_many_shapes_at_once_equal_one_by_one(models: dict[str, Any]) -> None:
    batch, length = np.array([1.0, 8.0, 64.0]), np.array([128.0, 700.0, 4096.0])
    for short, model in models.items():
        lists = (("context", model.context_ops), ("generation", model.generation_ops))
        for phase, group in lists:
            for op in group:
                many = work_of_operator(op, phase, batch, length)
                for i in range(3):
                    one = work_of_operator(op, phase, int(batch[i]), int(length[i]))
                    assert many.flops[i] == one.flops, (short, op._name)
                    assert many.bytes[i] == one.bytes
                    assert many.kind == one.kind


def test_what_no_shape_changes_stays_a_single_value(models: dict[str, Any]) -> None:
    batch = np.array([1.0, 8.0])
    work = work_of_operator(operator(models["mamba"], "context_mamba_conv1d"), "context", batch, 64)
    assert work.flops.shape == work.bytes.shape == work.sequences.shape == (2,)
    assert (work.kind, work.variant) == ("mamba2", "causal_conv1d_fn")
    assert (work.precision, work.number_format, work.calls) == ("bf16", "bfloat16", 54.0)
    assert work.heads == (256 * 64 + 2 * 8 * 256) / 128


def test_a_specification_is_read_once() -> None:
    class Gemm:
        def _spec_json(self) -> str:
            return '{"Gemm": {"name": "g", "n": 3, "k": 5, "quant_mode": "bfloat16"}}'

    first = work_of_operator(Gemm(), "generation", 4, 9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("json.loads", lambda _: pytest.fail("read again"))
        again = work_of_operator(Gemm(), "generation", 4, 9)
    assert first == again
    assert again.flops == 2 * 4 * 3 * 5


def test_every_operator_of_four_architectures_has_a_kind_and_work(models: dict[str, Any]) -> None:
    for model in models.values():
        for phase, group in (("context", model.context_ops), ("generation", model.generation_ops)):
            for op in group:
                work = work_of_operator(op, phase, 2, 256)
                assert work.kind != "other", op._name
                assert np.isfinite(work.flops)
                assert work.bytes > 0


def test_logits_are_computed_for_the_last_token_only(models: dict[str, Any]) -> None:
    op = operator(models["dense"], "context_logits_gemm")
    assert work_of_operator(op, "context", 4, 1024).rows == 4


def test_fallback_counts_as_its_primary_and_overlap_as_its_heavier_part(
    models: dict[str, Any],
) -> None:
    model = models["mla"]
    attention = operator(model, "generation_mla_block")
    assert work_of_operator(attention, "generation", 4, 1024).kind == "mla_generation_module"
    overlap = next(op for op in model.generation_ops if type(op).__name__ == "OverlapOp")
    work = work_of_operator(overlap, "generation", 4, 1024)
    assert work.kind == "moe"
    assert work.number_format == "fp8_block"


def test_unknown_phase_and_format_are_errors_of_ours(models: dict[str, Any]) -> None:
    with pytest.raises(EngineError, match="unknown phase"):
        work_of_operator(operator(models["dense"], "context_qkv_gemm"), "prefill", 1, 1)
    with pytest.raises(EngineError, match="unknown number format"):
        work_of_table(row(m=1, n=1, k=1, dtype="fp3"), "gemm")
    with pytest.raises(EngineError, match="no readable specification"):
        work_of_operator(object(), "context", 1, 1)
