"""Readers of configs whose every layer has attention: standard, latent, windowed, with experts."""

from __future__ import annotations

from harness.catalog import blocks
from harness.catalog.blocks import Block
from harness.catalog.config_file import ConfigFile
from harness.catalog.language import Language, Sizes
from harness.errors import CatalogError


def read_standard(config: ConfigFile) -> Language:
    """Llama, Mistral, Mixtral, Qwen2, Qwen3, Qwen3-MoE, MiniMax-M2 and who shares their keys."""
    size = Sizes.of(config)
    model_type = config.text("model_type")
    qwen2 = model_type.startswith("qwen2")
    qk_norm = model_type.startswith("qwen3") or config.flag("use_qk_norm", False)
    window = config.count("sliding_window", default=0) or None
    if qwen2 or model_type.startswith("qwen3"):
        window = window if config.flag("use_sliding_window", False) else None
    bias = config.flag("attention_bias", False)
    kinds = config.strings("layer_types", size.layers)
    mixers = [
        blocks.attention(
            size.hidden,
            size.heads,
            size.kv_heads,
            size.head_dim,
            qkv_bias=bias or qwen2,
            out_bias=bias and not qwen2,
            qk_norm=qk_norm,
            window=None if kinds is not None and kinds[layer] == "full_attention" else window,
        )
        for layer in range(size.layers)
    ]
    experts = config.count("num_local_experts", "num_experts", "n_routed_experts", default=0)
    used = config.positive("num_experts_per_tok", "num_experts_per_token") if experts else 0
    width = config.count("intermediate_size", default=0 if experts else None)
    expert_width = config.positive("moe_intermediate_size", "intermediate_size") if experts else 0
    shared = config.count("shared_expert_intermediate_size", "shared_intermediate_size", default=0)
    step = config.positive("decoder_sparse_step", default=1)
    dense_only = config.data.get("mlp_only_layers") or []
    for layer in range(size.layers):
        if experts and (layer + 1) % step == 0 and layer not in dense_only:
            mixers.append(
                blocks.mixture(
                    size.hidden,
                    expert_width,
                    experts,
                    used,
                    shared_width=shared,
                    shared_gate=bool(shared) and model_type.startswith("qwen"),
                )
            )
        else:
            mixers.append(
                blocks.feed_forward(size.hidden, width, bias=config.flag("mlp_bias", False))
            )
    mixers.append(blocks.norms(size.hidden, 2 * size.layers + 1))
    return Language(
        blocks=mixers,
        layers=size.layers,
        hidden_size=size.hidden,
        vocab_size=size.vocab,
        tied=config.flag("tie_word_embeddings", False),
        intermediate_size=width,
        heads=size.heads,
        kv_heads=size.kv_heads,
        head_dim=size.head_dim,
        experts=experts,
        experts_per_token=used,
        expert_intermediate_size=expert_width,
        shared_expert_intermediate_size=shared,
    )


def read_gpt_oss(config: ConfigFile) -> Language:
    """gpt-oss: biases everywhere, attention sinks, every other layer with a window."""
    size = Sizes.of(config)
    kinds = config.strings("layer_types", size.layers) or ["full_attention"] * size.layers
    experts = config.positive("num_local_experts", "num_experts")
    used = config.positive("num_experts_per_tok", "experts_per_token")
    width = config.positive("intermediate_size")
    window = config.count("sliding_window", default=0) or None
    parts = [
        blocks.attention(
            size.hidden,
            size.heads,
            size.kv_heads,
            size.head_dim,
            qkv_bias=True,
            out_bias=True,
            sinks=True,
            window=window if kind == "sliding_attention" else None,
        )
        for kind in kinds
    ]
    mix = blocks.mixture(size.hidden, width, experts, used, bias=True, router_bias=True)
    parts += [mix] * size.layers
    parts.append(blocks.norms(size.hidden, 2 * size.layers + 1))
    return Language(
        blocks=parts,
        layers=size.layers,
        hidden_size=size.hidden,
        vocab_size=size.vocab,
        tied=config.flag("tie_word_embeddings", False),
        intermediate_size=0,
        heads=size.heads,
        kv_heads=size.kv_heads,
        head_dim=size.head_dim,
        experts=experts,
        experts_per_token=used,
        expert_intermediate_size=width,
    )


def read_deepseek(config: ConfigFile) -> Language:
    """DeepSeek-V2, V3, V3.2, R1, Kimi-K2, GLM-5: latent attention, shared and routed experts.

    The multi-token prediction layer (``num_nextn_predict_layers``) is not counted: it is not part
    of plain serving, nor of the published total.
    """
    size = Sizes.of(config)
    index_heads = config.count("index_n_heads", default=0)
    mixer = blocks.latent_attention(
        size.hidden,
        size.heads,
        q_rank=config.count("q_lora_rank", default=0),
        kv_rank=config.positive("kv_lora_rank"),
        nope_dim=config.positive("qk_nope_head_dim"),
        rope_dim=config.positive("qk_rope_head_dim"),
        v_dim=config.positive("v_head_dim"),
        index_heads=index_heads,
        index_dim=config.positive("index_head_dim") if index_heads else 0,
        index_top_k=config.positive("index_topk") if index_heads else None,
    )
    width = config.positive("intermediate_size")
    experts = config.count("n_routed_experts", default=0)
    used = config.positive("num_experts_per_tok") if experts else 0
    expert_width = config.positive("moe_intermediate_size") if experts else 0
    shared = config.count("n_shared_experts", default=0) * expert_width
    first = config.count("first_k_dense_replace", default=0)
    every = config.positive("moe_layer_freq", default=1)
    dense = blocks.feed_forward(size.hidden, width)
    parts = [mixer] * size.layers
    for layer in range(size.layers):
        if experts and layer >= first and layer % every == 0:
            parts.append(
                blocks.mixture(
                    size.hidden,
                    expert_width,
                    experts,
                    used,
                    shared_width=shared,
                    router_bias=config.text("topk_method") == "noaux_tc",
                )
            )
        else:
            parts.append(dense)
    parts.append(blocks.norms(size.hidden, 2 * size.layers + 1))
    predicted = config.count("num_nextn_predict_layers", default=0)
    return Language(
        blocks=parts,
        layers=size.layers,
        hidden_size=size.hidden,
        vocab_size=size.vocab,
        tied=config.flag("tie_word_embeddings", False),
        intermediate_size=width,
        heads=size.heads,
        kv_heads=size.kv_heads,
        head_dim=config.positive("v_head_dim"),
        experts=experts,
        experts_per_token=used,
        expert_intermediate_size=expert_width,
        shared_expert_intermediate_size=shared,
        notes=("the multi-token prediction layer is not counted",) if predicted else (),
    )


def read_llama4(config: ConfigFile) -> Language:
    """Llama 4: experts in every n-th layer beside a shared one, chunked attention in 3 of 4."""
    size = Sizes.of(config)
    experts = config.positive("num_local_experts")
    used = config.positive("num_experts_per_tok")
    width = config.positive("intermediate_size")
    dense_width = config.positive("intermediate_size_mlp")
    step = config.positive("interleave_moe_layer_step")
    chunk = config.count("attention_chunk_size", default=0) or None
    mix = blocks.mixture(size.hidden, width, experts, used, shared_width=width)
    dense = blocks.feed_forward(size.hidden, dense_width)
    parts = [blocks.norms(size.hidden, 2 * size.layers + 1)]
    for layer in range(size.layers):
        whole = (layer + 1) % 4 == 0
        parts.append(
            blocks.attention(
                size.hidden,
                size.heads,
                size.kv_heads,
                size.head_dim,
                window=None if whole else chunk,
            )
        )
        parts.append(mix if (layer + 1) % step == 0 else dense)
    return Language(
        blocks=parts,
        layers=size.layers,
        hidden_size=size.hidden,
        vocab_size=size.vocab,
        tied=config.flag("tie_word_embeddings", False),
        intermediate_size=dense_width if step > 1 else 0,
        heads=size.heads,
        kv_heads=size.kv_heads,
        head_dim=size.head_dim,
        experts=experts,
        experts_per_token=used,
        expert_intermediate_size=width,
        shared_expert_intermediate_size=width,
    )


def read_gemma(config: ConfigFile) -> Language:
    """Gemma 3 and 4: windows in most layers, four norms a layer; Gemma 4 also experts.

    Keys that a Gemma 3 file leaves out have the defaults of ``Gemma3TextConfig``.
    """
    fourth = config.text("model_type").startswith("gemma4")
    hidden = config.positive("hidden_size")
    layers = config.positive("num_hidden_layers")
    heads = config.positive("num_attention_heads", default=8)
    kv_heads = config.positive("num_key_value_heads", default=4)
    head_dim = config.positive("head_dim", default=256)
    window = config.positive("sliding_window", default=1024 if fourth else 4096)
    every = config.positive("sliding_window_pattern", default=6)
    kinds = config.strings("layer_types", layers) or [
        "full_attention" if (layer + 1) % every == 0 else "sliding_attention"
        for layer in range(layers)
    ]
    for key in ("hidden_size_per_layer_input", "num_kv_shared_layers"):
        if config.count(key, default=0):
            raise CatalogError(
                f"no reader for a Gemma model with {key} (per-layer embeddings)",
                where=str(config.path),
                fix="add it to read_gemma in harness/catalog/read_attention.py",
            )
    width = config.positive("intermediate_size")
    experts = config.count("num_experts", default=0)
    used = config.positive("top_k_experts", "num_experts_per_tok") if experts else 0
    expert_width = config.positive("moe_intermediate_size") if experts else 0
    same = config.flag("attention_k_eq_v", False)
    parts = [blocks.feed_forward(hidden, width)] * layers
    parts.append(blocks.norms(hidden, (7 if experts else 4) * layers + 1))
    if experts:
        parts += [blocks.mixture(hidden, expert_width, experts, used)] * layers
        parts += [Block(kept=hidden + experts + 1)] * layers
    for kind in kinds:
        whole = kind == "full_attention"
        parts.append(
            blocks.attention(
                hidden,
                heads,
                config.positive("num_global_key_value_heads", default=kv_heads)
                if whole
                else kv_heads,
                config.positive("global_head_dim", default=head_dim) if whole else head_dim,
                qk_norm=True,
                value_is_key=same and whole,
                window=None if whole else window,
            )
        )
    return Language(
        blocks=parts,
        layers=layers,
        hidden_size=hidden,
        vocab_size=config.positive("vocab_size", default=262_208),
        tied=config.flag("tie_word_embeddings", True),
        intermediate_size=width,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        experts=experts,
        experts_per_token=used,
        expert_intermediate_size=expert_width,
    )
