"""Readers of configs with recurrent layers: Mamba, linear attention and their hybrids."""

from __future__ import annotations

from harness.catalog import blocks
from harness.catalog.blocks import Block
from harness.catalog.config_file import ConfigFile
from harness.catalog.language import Language, Sizes
from harness.errors import CatalogError


def read_qwen_linear(config: ConfigFile) -> Language:
    """Qwen3-Next and Qwen3.5: gated delta nets, every fourth layer gated attention."""
    size = Sizes.of(config)
    every = config.positive("full_attention_interval", default=4)
    kinds = config.strings("layer_types", size.layers) or [
        "full_attention" if (layer + 1) % every == 0 else "linear_attention"
        for layer in range(size.layers)
    ]
    whole = blocks.attention(
        size.hidden, size.heads, size.kv_heads, size.head_dim, qk_norm=True, gated=True
    )
    linear = blocks.gated_delta(
        size.hidden,
        config.positive("linear_num_key_heads"),
        config.positive("linear_num_value_heads"),
        config.positive("linear_key_head_dim"),
        config.positive("linear_value_head_dim"),
        config.positive("linear_conv_kernel_dim"),
    )
    parts = [whole if kind == "full_attention" else linear for kind in kinds]
    experts = config.count("num_experts", default=0)
    used = config.positive("num_experts_per_tok") if experts else 0
    expert_width = config.positive("moe_intermediate_size") if experts else 0
    shared = config.count("shared_expert_intermediate_size", default=0) if experts else 0
    width = config.count("intermediate_size", default=0 if experts else None)
    step = config.positive("decoder_sparse_step", default=1)
    dense_only = config.data.get("mlp_only_layers") or []
    for layer in range(size.layers):
        if experts and (layer + 1) % step == 0 and layer not in dense_only:
            parts.append(
                blocks.mixture(
                    size.hidden, expert_width, experts, used, shared_width=shared, shared_gate=True
                )
            )
        else:
            parts.append(blocks.feed_forward(size.hidden, width))
    parts.append(blocks.norms(size.hidden, 2 * size.layers + 1))
    return Language(
        blocks=parts,
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


def read_nemotron_h(config: ConfigFile) -> Language:
    """Nemotron-H, Nemotron Nano 2 and Nemotron 3: one mixer or MLP a layer, by a pattern.

    ``M`` is Mamba-2, ``*`` attention, ``-`` an MLP, ``E`` experts; newer files spell the pattern as
    a list, ``layers_block_type``. MLPs have two matrices (squared ReLU).
    """
    named = config.strings("layers_block_type")
    letters = {"mamba": "M", "attention": "*", "mlp": "-", "moe": "E"}
    pattern = config.text("hybrid_override_pattern") or "".join(
        letters.get(name, "?") for name in named or []
    )
    size = Sizes.of(config, layers=len(pattern))
    if set(pattern) - set("M*-E") or len(pattern) != size.layers:
        raise CatalogError(
            f"hybrid_override_pattern {pattern!r} must name {size.layers} layers by M, *, - or E",
            where=str(config.path),
            fix="use the config.json as its publisher wrote it",
        )
    width = config.positive("intermediate_size") if "-" in pattern else 0
    experts = used = expert_width = shared = 0
    kinds: dict[str, Block] = {
        "*": blocks.attention(
            size.hidden,
            size.heads,
            size.kv_heads,
            size.head_dim,
            qkv_bias=config.flag("attention_bias", False),
            out_bias=config.flag("attention_bias", False),
        ),
        "-": blocks.feed_forward(
            size.hidden, width, gated=False, bias=config.flag("mlp_bias", False)
        ),
    }
    if "M" in pattern:
        kinds["M"] = blocks.mamba2(
            size.hidden,
            config.positive("mamba_num_heads"),
            config.positive("mamba_head_dim"),
            config.positive("ssm_state_size"),
            config.positive("n_groups"),
            config.positive("conv_kernel"),
            conv_bias=config.flag("use_conv_bias", True),
            bias=config.flag("mamba_proj_bias", False),
        )
    if "E" in pattern:
        experts = config.positive("n_routed_experts")
        used = config.positive("num_experts_per_tok")
        expert_width = config.positive("moe_intermediate_size")
        shared = config.count("moe_shared_expert_intermediate_size", default=0)
        shared *= config.count("n_shared_experts", default=1)
        kinds["E"] = blocks.mixture(
            size.hidden,
            expert_width,
            experts,
            used,
            shared_width=shared,
            gated=False,
            router_bias=True,
            latent=config.count("moe_latent_size", default=0),
        )
    parts = [kinds[letter] for letter in pattern]
    parts.append(blocks.norms(size.hidden, size.layers + 1))
    return Language(
        blocks=parts,
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


def read_mamba(config: ConfigFile) -> Language:
    """Mamba and Mamba-2 in the Hugging Face format."""
    hidden = config.positive("hidden_size")
    layers = config.positive("num_hidden_layers")
    state = config.positive("state_size")
    kernel = config.positive("conv_kernel", default=4)
    second = config.text("model_type") == "mamba2"
    if second:
        mixer = blocks.mamba2(
            hidden,
            config.positive("num_heads"),
            config.positive("head_dim"),
            state,
            config.positive("n_groups"),
            kernel,
            conv_bias=config.flag("use_conv_bias", True),
            bias=config.flag("use_bias", False),
        )
    else:
        inner = config.positive("intermediate_size", default=2 * hidden)
        automatic = config.data.get("time_step_rank") == "auto"
        mixer = blocks.mamba1(
            hidden,
            inner,
            state,
            kernel,
            blocks.default_rank(hidden) if automatic else config.positive("time_step_rank"),
            conv_bias=config.flag("use_conv_bias", True),
            bias=config.flag("use_bias", False),
        )
    parts = [mixer] * layers + [blocks.norms(hidden, layers + 1)]
    vocab = config.positive("vocab_size")
    return Language(
        blocks=parts,
        layers=layers,
        hidden_size=hidden,
        vocab_size=vocab,
        tied=config.flag("tie_word_embeddings", not second),
    )


def read_mamba_ssm(config: ConfigFile) -> Language:
    """Mamba and Mamba-2 in the format of the ``mamba_ssm`` package (d_model, n_layer, ssm_cfg).

    Keys that the file leaves out have the defaults of that package.
    """
    hidden = config.positive("d_model")
    layers = config.positive("n_layer")
    options = config.section("ssm_cfg") or ConfigFile({}, config.path, "ssm_cfg.")
    if config.data.get("attn_layer_idx") or config.count("d_intermediate", default=0):
        raise CatalogError(
            "no reader for a mamba_ssm model with attention or MLP layers",
            where=str(config.path),
            fix="add it to read_mamba_ssm in harness/catalog/read_recurrent.py",
        )
    inner = hidden * options.positive("expand", default=2)
    kernel = options.positive("d_conv", default=4)
    if options.text("layer", "Mamba1") == "Mamba2":
        head_dim = options.positive("headdim", default=64)
        mixer = blocks.mamba2(
            hidden,
            inner // head_dim,
            head_dim,
            options.positive("d_state", default=128),
            options.positive("ngroups", default=1),
            kernel,
        )
    else:
        state = options.positive("d_state", default=16)
        mixer = blocks.mamba1(hidden, inner, state, kernel, blocks.default_rank(hidden))
    multiple = config.positive("pad_vocab_size_multiple", default=8)
    vocab = -(-config.positive("vocab_size") // multiple) * multiple
    parts = [mixer] * layers + [blocks.norms(hidden, layers + 1)]
    return Language(
        blocks=parts,
        layers=layers,
        hidden_size=hidden,
        vocab_size=vocab,
        tied=config.flag("tie_embeddings", True),
    )


def read_granite_hybrid(config: ConfigFile) -> Language:
    """Granite 4 hybrid: Mamba-2 or attention, then a shared MLP, in some models also experts."""
    size = Sizes.of(config)
    kinds = config.strings("layer_types", size.layers) or config.strings(
        "layers_block_type", size.layers
    )
    if kinds is None:
        raise CatalogError(
            "the model config has no key layer_types",
            where=str(config.path),
            fix="add layer_types to the file, as its publisher wrote it",
        )
    bias = config.flag("attention_bias", False)
    whole = blocks.attention(
        size.hidden, size.heads, size.kv_heads, size.head_dim, qkv_bias=bias, out_bias=bias
    )
    recurrent = blocks.mamba2(
        size.hidden,
        config.positive("mamba_n_heads"),
        config.positive("mamba_d_head"),
        config.positive("mamba_d_state"),
        config.positive("mamba_n_groups"),
        config.positive("mamba_d_conv"),
        conv_bias=config.flag("mamba_conv_bias", True),
        bias=config.flag("mamba_proj_bias", False),
    )
    shared = config.positive("shared_intermediate_size")
    experts = config.count("num_local_experts", default=0)
    used = config.positive("num_experts_per_tok") if experts else 0
    width = config.positive("intermediate_size") if experts else 0
    parts = [whole if kind == "attention" else recurrent for kind in kinds]
    after = (
        blocks.mixture(size.hidden, width, experts, used, shared_width=shared)
        if experts
        else blocks.feed_forward(size.hidden, shared)
    )
    parts += [after] * size.layers
    parts.append(blocks.norms(size.hidden, 2 * size.layers + 1))
    return Language(
        blocks=parts,
        layers=size.layers,
        hidden_size=size.hidden,
        vocab_size=size.vocab,
        tied=config.flag("tie_word_embeddings", False),
        intermediate_size=0 if experts else shared,
        heads=size.heads,
        kv_heads=size.kv_heads,
        head_dim=size.head_dim,
        experts=experts,
        experts_per_token=used,
        expert_intermediate_size=width,
        shared_expert_intermediate_size=shared if experts else 0,
    )


def read_jamba(config: ConfigFile) -> Language:
    """Jamba: Mamba-1 with attention every n-th layer, experts every k-th."""
    size = Sizes.of(config)
    inner = size.hidden * config.positive("mamba_expand", default=2)
    rank = config.data.get("mamba_dt_rank", "auto")
    recurrent = blocks.mamba1(
        size.hidden,
        inner,
        config.positive("mamba_d_state", default=16),
        config.positive("mamba_d_conv", default=4),
        blocks.default_rank(size.hidden) if rank == "auto" else config.positive("mamba_dt_rank"),
        conv_bias=config.flag("mamba_conv_bias", True),
        bias=config.flag("mamba_proj_bias", False),
        inner_norms=True,
    )
    whole = blocks.attention(size.hidden, size.heads, size.kv_heads, size.head_dim)
    width = config.positive("intermediate_size")
    experts = config.positive("num_experts", default=16)
    used = config.positive("num_experts_per_tok", default=2)
    dense = blocks.feed_forward(size.hidden, width)
    mix = blocks.mixture(size.hidden, width, experts, used)
    period, offset = (
        config.positive("attn_layer_period", default=8),
        config.count("attn_layer_offset", default=4),
    )
    every, first = (
        config.positive("expert_layer_period", default=2),
        config.count("expert_layer_offset", default=1),
    )
    parts = [blocks.norms(size.hidden, 2 * size.layers + 1)]
    for layer in range(size.layers):
        parts.append(whole if layer % period == offset else recurrent)
        parts.append(mix if experts > 1 and layer % every == first else dense)
    single = experts == 1
    return Language(
        blocks=parts,
        layers=size.layers,
        hidden_size=size.hidden,
        vocab_size=size.vocab,
        tied=config.flag("tie_word_embeddings", False),
        intermediate_size=width,
        heads=size.heads,
        kv_heads=size.kv_heads,
        head_dim=size.head_dim,
        experts=0 if single else experts,
        experts_per_token=0 if single else used,
        expert_intermediate_size=0 if single else width,
    )
