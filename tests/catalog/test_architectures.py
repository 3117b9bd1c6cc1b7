"""Architectures that ship no config: published sizes from their published shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.catalog import ModelFacts, load_model
from harness.errors import CatalogError

JAMBA = {
    "architectures": ["JambaForCausalLM"],
    "model_type": "jamba",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_experts": 16,
    "num_experts_per_tok": 2,
    "vocab_size": 65536,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_dt_rank": 256,
    "attn_layer_period": 8,
    "attn_layer_offset": 4,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
}
MAMBA1 = {
    "architectures": ["MambaForCausalLM"],
    "model_type": "mamba",
    "hidden_size": 2560,
    "intermediate_size": 5120,
    "num_hidden_layers": 64,
    "state_size": 16,
    "conv_kernel": 4,
    "time_step_rank": 160,
    "vocab_size": 50280,
}
QWEN3_NEXT = {
    "architectures": ["Qwen3NextForCausalLM"],
    "model_type": "qwen3_next",
    "hidden_size": 2048,
    "intermediate_size": 5120,
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "full_attention_interval": 4,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "num_experts": 512,
    "num_experts_per_tok": 10,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "vocab_size": 151936,
    "tie_word_embeddings": False,
}
GRANITE_TINY = {
    "architectures": ["GraniteMoeHybridForCausalLM"],
    "model_type": "granitemoehybrid",
    "hidden_size": 1536,
    "intermediate_size": 512,
    "shared_intermediate_size": 1024,
    "num_hidden_layers": 40,
    "layer_types": ["attention" if layer in (5, 15, 25, 35) else "mamba" for layer in range(40)],
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "num_local_experts": 64,
    "num_experts_per_tok": 6,
    "mamba_n_heads": 48,
    "mamba_d_head": 64,
    "mamba_d_state": 128,
    "mamba_n_groups": 1,
    "mamba_d_conv": 4,
    "vocab_size": 100352,
    "tie_word_embeddings": True,
}
QWEN2_VL = {
    "architectures": ["Qwen2VLForConditionalGeneration"],
    "model_type": "qwen2_vl",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
    "vision_config": {
        "depth": 32,
        "embed_dim": 1280,
        "hidden_size": 3584,
        "num_heads": 16,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "in_chans": 3,
    },
}
QWEN25_VL = {
    **QWEN2_VL,
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "model_type": "qwen2_5_vl",
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "out_hidden_size": 3584,
        "num_heads": 16,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "in_chans": 3,
    },
}


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def reader(config: dict[str, Any]) -> ModelFacts:
        path = tmp_path / "config.json"
        path.write_text(json.dumps(config))
        return load_model(str(path))

    return reader


@pytest.mark.parametrize(
    ("config", "billions"),
    [
        (JAMBA, 51.57),
        (MAMBA1, 2.77),
        (QWEN3_NEXT, 79.67),
        (GRANITE_TINY, 6.94),
        (QWEN2_VL, 8.29),
        (QWEN25_VL, 8.29),
    ],
    ids=[
        "Jamba-v0.1",
        "mamba-2.8b",
        "Qwen3-Next-80B",
        "granite-4.0-h-tiny",
        "Qwen2-VL",
        "Qwen2.5-VL",
    ],
)
def test_published_total(read: Any, config: dict[str, Any], billions: float) -> None:
    assert read(config).params_total / 1e9 == pytest.approx(billions, rel=0.01)


def test_jamba_layers(read: Any) -> None:
    facts = read(JAMBA)
    assert (facts.family, facts.attention_layers, facts.state_layers) == ("ssm", 4, 28)
    assert facts.params_active / 1e9 == pytest.approx(12, rel=0.03)


def test_mamba_1_state(read: Any) -> None:
    facts = read(MAMBA1)
    assert facts.state_bytes_per_sequence == 2 * 64 * (5120 * 16 + 5120 * 3)


def test_native_mamba_1_format_matches_the_hugging_face_one(read: Any) -> None:
    native = {"d_model": 2560, "n_layer": 64, "vocab_size": 50277, "ssm_cfg": {"layer": "Mamba1"}}
    assert read(native).params_total == read(MAMBA1).params_total


def test_layer_types_follow_the_interval_when_not_listed(read: Any) -> None:
    facts = read(QWEN3_NEXT)
    assert (facts.attention_layers, facts.state_layers) == (12, 36)


def test_nemotron_pattern_may_be_a_list(read: Any) -> None:
    config = json.loads(load_model("nvidia/Nemotron-H-56B-Base-8K").config_path.read_text())
    pattern = config.pop("hybrid_override_pattern")
    names = {"M": "mamba", "*": "attention", "-": "mlp"}
    config["layers_block_type"] = [names[letter] for letter in pattern]
    del config["num_hidden_layers"]
    assert read(config).params_total == load_model("nvidia/Nemotron-H-56B-Base-8K").params_total


def test_nemotron_pattern_must_name_every_layer(read: Any) -> None:
    config = json.loads(load_model("nvidia/Nemotron-H-56B-Base-8K").config_path.read_text())
    with pytest.raises(CatalogError, match="hybrid_override_pattern"):
        read({**config, "hybrid_override_pattern": "M-M*"})


@pytest.mark.parametrize(
    "model_id", ["openai/gpt-oss-20b", "Qwen/Qwen3.5-27B", "google/gemma-4-26B-A4B"]
)
def test_layer_types_must_name_every_layer(read: Any, model_id: str) -> None:
    config = json.loads(load_model(model_id).config_path.read_text())
    config.get("text_config", config)["layer_types"].pop()
    with pytest.raises(CatalogError, match="layer_types"):
        read(config)


def test_sparse_attention_keeps_all_and_reads_some(read: Any) -> None:
    dense = json.loads(load_model("deepseek-ai/DeepSeek-V3").config_path.read_text())
    sparse = read({**dense, "index_n_heads": 64, "index_head_dim": 128, "index_topk": 2048})
    whole = load_model("deepseek-ai/DeepSeek-V3")
    assert sparse.kv_bytes_per_token() == 61 * (512 + 64 + 128) * 2
    assert sparse.attention_layers == 61
    assert sparse.flops_per_token(100_000) < whole.flops_per_token(100_000)


def test_windowed_mistral(read: Any) -> None:
    facts = load_model("mistralai/Mistral-7B-v0.1")
    assert facts.kv_bytes_per_sequence(50_000) == facts.kv_bytes_per_sequence(4096)


def test_unknown_architecture_goes_by_the_standard_keys_and_says_so(read: Any) -> None:
    config = json.loads(load_model("Qwen/Qwen3-8B").config_path.read_text())
    facts = read({**config, "model_type": "newcomer", "architectures": ["NewcomerForCausalLM"]})
    assert facts.params_total == pytest.approx(8.19e9, rel=0.01)
    assert "NewcomerForCausalLM" in facts.notes[0]


def test_unknown_recurrent_architecture_is_refused(read: Any) -> None:
    config = json.loads(load_model("Qwen/Qwen3-8B").config_path.read_text())
    with pytest.raises(CatalogError, match="linear_attn_config"):
        read({**config, "model_type": "newcomer", "linear_attn_config": {}})


def test_unknown_vision_tower_is_left_out_and_said(read: Any) -> None:
    config = json.loads(load_model("Qwen/Qwen3-VL-8B-Instruct").config_path.read_text())
    config["vision_config"]["model_type"] = "newcomer_vision"
    facts = read(config)
    assert facts.vision is None
    assert "newcomer_vision" in facts.notes[0]
    with pytest.raises(CatalogError, match="takes no images"):
        facts.visual_tokens(448, 448)
