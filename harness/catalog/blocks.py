"""Parameter counts of the building blocks that language models are made of."""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness.catalog.facts import AttentionGroup


@dataclass(frozen=True, slots=True)
class Block:
    """One part of a layer, as counts.

    Attributes
    ----------
    linear
        Parameters of linear layers that every token uses; quantization changes them.
    kept
        Parameters that stay at 16 bits: norms, routers, convolutions, biases, state parameters.
    experts, experts_used
        Parameters of routed experts: all, and those that one token uses.
    attention
        Attention of this part, each with ``layers=1``.
    state_values, state_flops
        Values of the recurrent state of one sequence, and FLOPs of its use for one token.
    """

    linear: int = 0
    kept: int = 0
    experts: int = 0
    experts_used: int = 0
    attention: tuple[AttentionGroup, ...] = ()
    state_values: int = 0
    state_flops: float = 0.0


def norms(width: int, number: int = 1, *, centred: bool = False) -> Block:
    """Return RMS norms of `width`, or layer norms with a bias when `centred`."""
    return Block(kept=width * number * (2 if centred else 1))


def attention(
    hidden: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    *,
    qkv_bias: bool = False,
    out_bias: bool = False,
    qk_norm: bool = False,
    gated: bool = False,
    sinks: bool = False,
    value_is_key: bool = False,
    window: int | None = None,
) -> Block:
    """Return grouped-query attention.

    Parameters
    ----------
    gated
        The query projection also makes an output gate (Qwen3-Next).
    sinks
        One learned sink a head (gpt-oss).
    value_is_key
        No value projection: values are the unrotated keys (Gemma 4).
    window
        Sliding or chunked attention over this many tokens.
    """
    queries = heads * head_dim
    keys = kv_heads * head_dim
    projected = queries * (2 if gated else 1) + keys * (1 if value_is_key else 2)
    return Block(
        linear=hidden * projected + queries * hidden,
        kept=(projected if qkv_bias else 0)
        + (hidden if out_bias else 0)
        + (2 * head_dim if qk_norm else 0)
        + (heads if sinks else 0),
        attention=(AttentionGroup(1, heads, head_dim, head_dim, 2 * keys, window),),
    )


def latent_attention(
    hidden: int,
    heads: int,
    *,
    q_rank: int,
    kv_rank: int,
    nope_dim: int,
    rope_dim: int,
    v_dim: int,
    index_heads: int = 0,
    index_dim: int = 0,
    index_top_k: int | None = None,
) -> Block:
    """Return multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1).

    The cache holds the latent and one rotary key: ``kv_rank + rope_dim`` values a token and layer.
    With an indexer (DeepSeek-V3.2) it also holds the index keys, and attention reads `index_top_k`.
    """
    qk_dim = nope_dim + rope_dim
    queries = hidden * q_rank + q_rank * heads * qk_dim if q_rank else hidden * heads * qk_dim
    keys = hidden * (kv_rank + rope_dim) + kv_rank * heads * (nope_dim + v_dim)
    groups = [AttentionGroup(1, heads, qk_dim, v_dim, kv_rank + rope_dim, top_k=index_top_k)]
    index = 0
    if index_heads:
        index = q_rank * index_heads * index_dim + hidden * (index_dim + index_heads)
        groups.append(AttentionGroup(1, index_heads, index_dim, 0, index_dim))
    return Block(
        linear=queries + keys + heads * v_dim * hidden + index,
        kept=q_rank + kv_rank + (2 * index_dim if index_heads else 0),
        attention=tuple(groups),
    )


def feed_forward(hidden: int, width: int, *, gated: bool = True, bias: bool = False) -> Block:
    """Return an MLP of two matrices, three when `gated`."""
    matrices = 3 if gated else 2
    return Block(
        linear=matrices * hidden * width,
        kept=((matrices - 1) * width + hidden) if bias else 0,
    )


def mixture(
    hidden: int,
    width: int,
    experts: int,
    used: int,
    *,
    shared_width: int = 0,
    gated: bool = True,
    bias: bool = False,
    shared_gate: bool = False,
    router_bias: bool = False,
    latent: int = 0,
) -> Block:
    """Return a mixture of `experts` MLPs of which a token uses `used`, and its router.

    Parameters
    ----------
    shared_width
        Width of the MLP that every token uses besides (0: none); gated when `shared_gate`.
    latent
        Width that tokens are projected to before the experts (0: none; Nemotron-3 Super).
    """
    inner = latent or hidden
    one = feed_forward(inner, width, gated=gated, bias=bias)
    each = one.linear + one.kept
    shared = feed_forward(hidden, shared_width, gated=gated).linear if shared_width else 0
    return Block(
        linear=shared + (2 * hidden * latent if latent else 0),
        kept=hidden * experts + (experts if router_bias else 0) + (hidden if shared_gate else 0),
        experts=experts * each,
        experts_used=used * each,
    )


def mamba1(
    hidden: int,
    inner: int,
    state: int,
    kernel: int,
    rank: int,
    *,
    conv_bias: bool = True,
    bias: bool = False,
    inner_norms: bool = False,
) -> Block:
    """Return a Mamba-1 mixer (arXiv 2312.00752); `inner_norms` as in Jamba."""
    return Block(
        linear=hidden * 2 * inner + inner * (rank + 2 * state) + rank * inner + inner * hidden,
        kept=inner * kernel
        + (inner if conv_bias else 0)
        + inner
        + inner * state
        + inner
        + (2 * inner + hidden if bias else 0)
        + (rank + 2 * state if inner_norms else 0),
        state_values=inner * state + inner * (kernel - 1),
        state_flops=5.0 * inner * state,
    )


def mamba2(
    hidden: int,
    heads: int,
    head_dim: int,
    state: int,
    groups: int,
    kernel: int,
    *,
    conv_bias: bool = True,
    bias: bool = False,
) -> Block:
    """Return a Mamba-2 mixer (arXiv 2405.21060).

    The state is one ``head_dim x state`` matrix a head, and the last ``kernel - 1`` inputs of the
    convolution. Per state value: decay, outer product, sum (3 FLOPs) and read (2).
    """
    inner = heads * head_dim
    convolved = inner + 2 * groups * state
    projected = inner + convolved + heads
    return Block(
        linear=hidden * projected + inner * hidden,
        kept=convolved * kernel
        + (convolved if conv_bias else 0)
        + 3 * heads
        + inner
        + (projected + hidden if bias else 0),
        state_values=inner * state + convolved * (kernel - 1),
        state_flops=5.0 * inner * state,
    )


def gated_delta(
    hidden: int, key_heads: int, value_heads: int, key_dim: int, value_dim: int, kernel: int
) -> Block:
    """Return a gated delta net mixer (arXiv 2412.06464) as in Qwen3-Next and Qwen3.5.

    The state is one ``key_dim x value_dim`` matrix a value head. Per state value: read by the key
    (2 FLOPs), decay (1), rank-one correction (2), read by the query (2).
    """
    keys = key_heads * key_dim
    values = value_heads * value_dim
    convolved = 2 * keys + values
    return Block(
        linear=hidden * (convolved + values) + hidden * 2 * value_heads + values * hidden,
        kept=convolved * kernel + 2 * value_heads + value_dim,
        state_values=value_heads * key_dim * value_dim + convolved * (kernel - 1),
        state_flops=7.0 * value_heads * key_dim * value_dim,
    )


def default_rank(hidden: int) -> int:
    """Return the rank of Mamba-1's time step projection when the config says "auto"."""
    return math.ceil(hidden / 16)
