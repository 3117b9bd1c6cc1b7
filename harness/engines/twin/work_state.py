"""FLOPs and bytes of state kernels: Mamba2 and gated delta net, scans and convolutions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from harness.engines.twin.work_types import Columns, Counts, tiles

_STATE_BYTES = 2.0


def _conv1d(tokens: Any, sequences: Any, channels: Any, width: Any, update: bool) -> Counts:
    """Count a causal depthwise convolution; `update`: one token, which rewrites its state."""
    flops = 2.0 * width * tokens * channels
    state = 2.0 * width * sequences * channels * _STATE_BYTES if update else 0.0
    moved = tokens * channels * 2 * 2.0 + state
    blocks = sequences * tiles(tokens / sequences) * tiles(channels)
    return Counts(flops, moved, tokens, blocks, channels / 128.0)


def _pick(variant: Any, kernels: Mapping[str, Callable[[], Counts]]) -> Counts:
    """Count by the kernel that is named, row by row where `variant` is an array.

    A kernel that no formula knows counts as missing (nan).
    """
    if isinstance(variant, str):
        known = kernels.get(variant)
        return known() if known else Counts(np.nan, np.nan, np.nan, np.nan, np.nan)
    masks = [np.asarray(variant) == name for name in kernels]
    counts = [count() for count in kernels.values()]
    return Counts(
        *(
            np.select(masks, [getattr(count, field) for count in counts], np.nan)
            for field in Counts.__slots__
        )
    )


def mamba2(c: Columns) -> Counts:
    """Mamba2 kernels (Dao and Gu 2024, arXiv 2405.21060, section 6: chunked scan)."""
    tokens, b = c["num_tokens"], c["batch_size"]
    heads, p, n, groups = c["nheads"], c["head_dim"], c["d_state"], c["n_groups"]
    channels = heads * p + 2.0 * groups * n

    def scan() -> Counts:
        chunk = np.minimum(c["chunk_size"], tokens / b)
        scores = 2.0 * tokens * chunk * (n * groups + p * heads)
        states = 4.0 * tokens * n * p * heads
        streams = tokens * (4.0 * heads * p + 4.0 * groups * n + 4.0 * heads)
        chunk_states = 8.0 * tokens / chunk * heads * p * n
        blocks = np.ceil(tokens / chunk) * heads
        return Counts(scores + states, streams + chunk_states, tokens, blocks, heads)

    def update() -> Counts:
        state = 2.0 * b * heads * p * n * _STATE_BYTES
        streams = b * (4.0 * heads * p + 4.0 * groups * n)
        return Counts(6.0 * b * heads * p * n, state + streams, b, b * heads, heads)

    return _pick(
        c["variant"],
        {
            "causal_conv1d_fn": lambda: _conv1d(tokens, b, channels, c["d_conv"], False),
            "causal_conv1d_update": lambda: _conv1d(tokens, b, channels, c["d_conv"], True),
            "mamba_chunk_scan_combined": scan,
            "selective_state_update": update,
        },
    )


_GDN_CHUNK = 64.0  # tokens a chunk in the flash-linear-attention kernels


def gdn(c: Columns) -> Counts:
    """Gated delta net kernels (Yang et al. 2024, arXiv 2412.06464, section 3.3: chunked form)."""
    tokens, b = c["num_tokens"], c["batch_size"]
    k_heads, dk = c["num_k_heads"], c["head_k_dim"]
    v_heads, dv = c["num_v_heads"], c["head_v_dim"]
    channels = 2.0 * k_heads * dk + v_heads * dv
    streams = 4.0 * tokens * (k_heads * dk + v_heads * dv)

    def scan() -> Counts:
        chunk = np.minimum(_GDN_CHUNK, tokens / b)
        flops = 2.0 * tokens * v_heads * (chunk * (3.0 * dk + 2.0 * dv) + 3.0 * dk * dv)
        values = 4.0 * tokens * v_heads * (dk + dv + chunk)
        states = 4.0 * tokens / chunk * v_heads * dk * dv
        return Counts(flops, streams + values + states, tokens, b * v_heads, v_heads)

    def update() -> Counts:
        state = 8.0 * b * v_heads * dk * dv  # FP32, read and written
        flops = 8.0 * tokens * v_heads * dk * dv
        return Counts(flops, state + streams, tokens, b * v_heads, v_heads)

    return _pick(
        c["variant"],
        {
            "causal_conv1d_fn": lambda: _conv1d(tokens, b, channels, c["d_conv"], False),
            "causal_conv1d_update": lambda: _conv1d(tokens, b, channels, c["d_conv"], True),
            "chunk_gated_delta_rule": scan,
            "fused_recurrent_gated_delta_rule": update,
            "fused_sigmoid_gating_delta_rule_update": update,
        },
    )
