"""Tiny models of many families, as real config.json files that catalog and transformers read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.catalog import ModelFacts, load_model
from harness.engines.transformers.engine import TransformersEngine
from harness.engines.transformers.session import TransformersSession
from harness.meters.none import NoMeter
from harness.spec import Deployment, Workload

SHAPE = {"batch": 2, "input_tokens": 128, "output_tokens": 13}
VOCAB = 2048
IMAGE, VIDEO, START, END = 2040, 2041, 2042, 2043

_TEXT: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "vocab_size": VOCAB,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "bfloat16",
}

_QWEN2_VL_TOWER: dict[str, Any] = {
    "model_type": "qwen2_vl",
    "depth": 2,
    "embed_dim": 64,
    "hidden_size": 256,
    "mlp_ratio": 4,
    "num_heads": 4,
    "in_channels": 3,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}

_QWEN3_VL_TOWER: dict[str, Any] = {
    "model_type": "qwen3_vl",
    "depth": 3,
    "hidden_size": 64,
    "hidden_act": "gelu_pytorch_tanh",
    "intermediate_size": 128,
    "num_heads": 4,
    "in_channels": 3,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 256,
    "num_position_embeddings": 256,
    "deepstack_visual_indexes": [0, 1],
}

_MARKS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
}

_MOE = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 192}

_MAMBA2 = {
    "mamba_n_heads": 16,
    "mamba_d_head": 32,
    "mamba_d_state": 32,
    "mamba_n_groups": 1,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_chunk_size": 64,
}


def _text(architecture: str, model_type: str, **more: Any) -> dict[str, Any]:
    return {"architectures": [architecture], "model_type": model_type, **_TEXT, **more}


CONFIGS: dict[str, dict[str, Any]] = {
    "llama": _text("LlamaForCausalLM", "llama"),
    "qwen3": _text("Qwen3ForCausalLM", "qwen3", tie_word_embeddings=True),
    "mixtral": _text(
        "MixtralForCausalLM",
        "mixtral",
        num_local_experts=4,
        num_experts_per_tok=2,
        intermediate_size=384,
        sliding_window=None,
    ),
    "qwen3_moe": _text(
        "Qwen3MoeForCausalLM",
        "qwen3_moe",
        **_MOE,
        decoder_sparse_step=1,
        mlp_only_layers=[],
        norm_topk_prob=True,
    ),
    "mamba": {
        "architectures": ["MambaForCausalLM"],
        "model_type": "mamba",
        "hidden_size": 192,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "state_size": 16,
        "conv_kernel": 4,
        "expand": 2,
        "time_step_rank": 12,
        "vocab_size": VOCAB,
        "use_bias": False,
        "use_conv_bias": True,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    },
    "mamba2": {
        "architectures": ["Mamba2ForCausalLM"],
        "model_type": "mamba2",
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "state_size": 32,
        "num_heads": 16,
        "head_dim": 32,
        "n_groups": 1,
        "conv_kernel": 4,
        "expand": 2,
        "chunk_size": 64,
        "vocab_size": VOCAB,
        "use_bias": False,
        "use_conv_bias": True,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    },
    "mamba_ssm": {
        "d_model": 256,
        "d_intermediate": 0,
        "n_layer": 3,
        "vocab_size": VOCAB - 3,
        "ssm_cfg": {"layer": "Mamba2"},
        "attn_layer_idx": [],
        "attn_cfg": {},
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 16,
        "tie_embeddings": True,
    },
    "granitemoehybrid": _text(
        "GraniteMoeHybridForCausalLM",
        "granitemoehybrid",
        **_MAMBA2,
        layer_types=["mamba", "mamba", "attention", "mamba"],
        shared_intermediate_size=384,
        intermediate_size=192,
        num_local_experts=4,
        num_experts_per_tok=2,
        position_embedding_type="nope",
    ),
    "nemotron_h": _text(
        "NemotronHForCausalLM",
        "nemotron_h",
        num_hidden_layers=5,
        hybrid_override_pattern="M-M*-",
        mamba_num_heads=16,
        mamba_head_dim=32,
        ssm_state_size=32,
        n_groups=2,
        conv_kernel=4,
        expand=2,
        chunk_size=64,
        mamba_hidden_act="silu",
        mlp_hidden_act="relu2",
        use_conv_bias=True,
        attention_head_dim=32,
    ),
    "jamba": _text(
        "JambaForCausalLM",
        "jamba",
        attn_layer_period=4,
        attn_layer_offset=2,
        expert_layer_period=2,
        expert_layer_offset=1,
        num_experts=4,
        num_experts_per_tok=2,
        mamba_d_state=16,
        mamba_d_conv=4,
        mamba_expand=2,
        mamba_dt_rank=16,
        use_mamba_kernels=False,
    ),
    "qwen2_vl": _text(
        "Qwen2VLForConditionalGeneration",
        "qwen2_vl",
        **_MARKS,
        vision_config=_QWEN2_VL_TOWER,
        rope_scaling={"type": "mrope", "mrope_section": [4, 6, 6]},
        use_sliding_window=False,
        sliding_window=8192,
    ),
    "qwen3_vl": {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        **_MARKS,
        "tie_word_embeddings": False,
        "text_config": {
            **_TEXT,
            "model_type": "qwen3_vl_text",
            "rope_scaling": {
                "rope_type": "default",
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
        },
        "vision_config": _QWEN3_VL_TOWER,
    },
    "qwen3_5": {
        "architectures": ["Qwen3_5ForConditionalGeneration"],
        "model_type": "qwen3_5",
        **_MARKS,
        "tie_word_embeddings": False,
        "text_config": {
            **_TEXT,
            "model_type": "qwen3_5_text",
            "full_attention_interval": 4,
            "linear_num_key_heads": 4,
            "linear_num_value_heads": 8,
            "linear_key_head_dim": 32,
            "linear_value_head_dim": 32,
            "linear_conv_kernel_dim": 4,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 0.5,
                "mrope_section": [4, 2, 2],
                "mrope_interleaved": True,
            },
        },
        "vision_config": {
            **_QWEN3_VL_TOWER,
            "model_type": "qwen3_5",
            "deepstack_visual_indexes": [],
        },
    },
    "gemma3": {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "boi_token_index": START,
        "eoi_token_index": END,
        "image_token_index": IMAGE,
        "mm_tokens_per_image": 16,
        "text_config": {
            **_TEXT,
            "model_type": "gemma3_text",
            "num_hidden_layers": 6,
            "sliding_window": 32,
            "sliding_window_pattern": 3,
            "query_pre_attn_scalar": 32,
            "hidden_activation": "gelu_pytorch_tanh",
            "tie_word_embeddings": True,
        },
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 112,
            "patch_size": 14,
            "vision_use_head": False,
        },
    },
    "gpt_oss": _text(
        "GptOssForCausalLM",
        "gpt_oss",
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=32,
        layer_types=["sliding_attention", "full_attention"] * 2,
        attention_bias=True,
        quantization_config={"quant_method": "mxfp4"},
    ),
    "deepseek_v3": _text(
        "DeepseekV3ForCausalLM",
        "deepseek_v3",
        num_key_value_heads=8,
        head_dim=16,
        q_lora_rank=64,
        kv_lora_rank=32,
        qk_nope_head_dim=16,
        qk_rope_head_dim=16,
        v_head_dim=16,
        n_routed_experts=8,
        n_shared_experts=1,
        num_experts_per_tok=2,
        moe_intermediate_size=128,
        first_k_dense_replace=1,
        moe_layer_freq=1,
        n_group=2,
        topk_group=1,
        norm_topk_prob=True,
        routed_scaling_factor=1.0,
        num_nextn_predict_layers=1,
        auto_map={"AutoConfig": "configuration_deepseek.DeepseekV3Config"},
        quantization_config={"quant_method": "fp8"},
    ),
}


def write_config(folder: Path, name: str, **changes: Any) -> Path:
    """Write one config.json and return its path; `changes` replace keys."""
    path = folder / name / "config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**CONFIGS[name], **changes}))
    return path


def images(facts: ModelFacts, number: int, side: int, **more: int) -> Workload:
    """A workload with square images."""
    tokens = number * facts.visual_tokens(side, side)
    sizes = {"image_height": side, "image_width": side}
    return Workload(
        modality="image", images=number, visual_tokens=tokens, **sizes, **{**SHAPE, **more}
    )


def video(facts: ModelFacts, frames: int, side: int, **more: int) -> Workload:
    """A workload with a video clip of square frames."""
    tokens = facts.video_tokens(frames, side, side)
    sizes = {"image_height": side, "image_width": side}
    return Workload(
        modality="video", frames=frames, visual_tokens=tokens, **sizes, **{**SHAPE, **more}
    )


def open_tiny(
    folder: Path, name: str, precision: Any = "fp32", seed: int = 0, **options: Any
) -> TransformersSession:
    """Bring a tiny model up on the CPU, on one thread, without a power sensor."""
    facts = load_model(str(write_config(folder, name)))
    engine = TransformersEngine(threads=1, meter_factory=lambda kind, uuids: NoMeter(), **options)
    deployment = Deployment(engine="transformers", hardware="CPU", precision=precision)
    return engine.open(facts, deployment, seed)
