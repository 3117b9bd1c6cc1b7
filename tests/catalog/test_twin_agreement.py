"""The twin engine counts memory on its own: both counts must agree."""

from __future__ import annotations

from typing import Any

import pytest

from harness.catalog import load_hardware, load_model

GIB = 2**30


@pytest.fixture(scope="module")
def memory() -> Any:
    pytest.importorskip("aiconfigurator_core")
    from aiconfigurator_core.sdk import config, config_builders, models, perf_database
    from aiconfigurator_core.sdk.backends import factory

    hardware = load_hardware("H200")
    database = perf_database.get_database(hardware.twin_system, "vllm", hardware.twin_version)

    def of(model_id: str) -> dict[str, float]:
        experts = load_model(model_id).experts > 0
        built = config_builders.build_model_config(
            tp_size=1,
            pp_size=1,
            attention_dp_size=1,
            moe_tp_size=1 if experts else None,
            moe_ep_size=1 if experts else None,
        )
        model = models.get_model(model_id, built, "vllm")
        request = config.RuntimeConfig(batch_size=8, isl=1024, osl=128)
        summary = factory.get_backend("vllm").run_static(
            model, database, request, "static", 32, 1.0
        )
        found: dict[str, float] = summary.get_memory()
        return found

    return of


@pytest.mark.parametrize(
    "model_id",
    [
        "meta-llama/Meta-Llama-3.1-8B",
        "Qwen/Qwen3-30B-A3B",
        "nvidia/Nemotron-H-56B-Base-8K",
        "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
        "google/gemma-4-26B-A4B",
    ],
)
def test_weights(memory: Any, model_id: str) -> None:
    ours = load_model(model_id).weight_bytes("bf16") / GIB
    assert ours == pytest.approx(memory(model_id)["weights"], rel=0.05)


@pytest.mark.parametrize(
    "model_id",
    [
        "meta-llama/Meta-Llama-3.1-8B",
        "Qwen/Qwen3-VL-8B-Instruct",
        "openai/gpt-oss-20b",
        "google/gemma-4-26B-A4B",
    ],
)
def test_cache_windows_included(memory: Any, model_id: str) -> None:
    ours = 8 * load_model(model_id).kv_bytes_per_sequence(1024 + 128) / GIB
    assert ours == pytest.approx(memory(model_id)["kvcache"], rel=0.01)
