"""FLOPs, bytes and tiles of every operator kind from its shape, named as the tables name it.

Everything is float64: m*n*k overflows 32 bits. The shape columns may be arrays or numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from harness.engines.twin.work_state import gdn, mamba2
from harness.engines.twin.work_types import OUTPUT_BYTES, Columns, Counts, OperatorWork, tiles


def _gemm(c: Columns) -> Counts:
    m, n, k = c["m"], c["n"], c["k"]
    moved = m * k * c["activation_bytes"] + n * k * c["weight_bytes"] + m * n * OUTPUT_BYTES
    return Counts(2.0 * m * n * k, moved, m, tiles(m) * tiles(n))


def causal_pairs(new: Any, past: Any, window: Any) -> Any:
    """Query-key pairs of a causal attention over `new` tokens after `past` cached ones.

    Counts s^2/2 for the triangle, as the speed-of-light model of aiconfigurator does.
    A query sees at most `window` keys where window > 0.
    """
    if not np.any(window > 0):
        return new * past + new**2 / 2.0
    growing = np.clip(_reach(window) - past, 0.0, new)
    flat = np.where(window > 0, window, 0.0) * (new - growing)
    return growing * past + growing**2 / 2.0 + flat


def _reach(window: Any) -> Any:
    """Keys that a query can see: the window, or all where there is none."""
    return np.where(window > 0, window, np.inf)


def _context_attention(c: Columns) -> Counts:
    b, s, past = c["batch_size"], c["isl"], c["step"]
    heads, kv_heads, d = c["num_heads"], c["num_key_value_heads"], c["head_dim"]
    flops = 4.0 * b * heads * d * causal_pairs(s, past, c["window_size"])
    moved = b * s * heads * d * 2 * 2.0 + b * (s + past) * kv_heads * d * 2 * c["kv_bytes"]
    return Counts(flops, moved, b * s, b * heads * tiles(s))


def _generation_attention(c: Columns) -> Counts:
    b, d = c["batch_size"], c["head_dim"]
    heads, kv_heads, window = c["num_heads"], c["num_key_value_heads"], c["window_size"]
    keys = np.minimum(c["step"] + 1.0, _reach(window))
    moved = b * heads * d * 2 * 2.0 + b * keys * kv_heads * d * 2 * c["kv_bytes"]
    return Counts(4.0 * b * heads * d * keys, moved, b, b * kv_heads * tiles(keys))


def _encoder_attention(c: Columns) -> Counts:
    b, s, heads, d = c["batch_size"], c["isl"], c["num_heads"], c["head_dim"]
    return Counts(
        4.0 * b * heads * d * s * s, 4.0 * b * s * heads * d * 2.0, b * s, b * heads * tiles(s)
    )


def active_experts(tokens: Any, experts: Any, topk: Any) -> Any:
    """Experts that at least one of `tokens` chooses, if choices are independent and even.

    E * (1 - (1 - k/E)^tokens).
    """
    return experts * (1.0 - (1.0 - topk / experts) ** tokens)


def _moe(c: Columns) -> Counts:
    tokens, hidden, topk, experts = c["num_tokens"], c["hidden_size"], c["topk"], c["num_experts"]
    ranks = c["moe_ep_size"]
    inner = c["inter_size"] / c["moe_tp_size"]
    matrices = np.where(c["gated"] > 0, 3.0, 2.0)
    pairs = tokens * topk / ranks
    active = active_experts(tokens, experts, topk) / ranks
    weights = active * matrices * hidden * inner * c["weight_bytes"]
    values = pairs * (hidden * (c["activation_bytes"] + OUTPUT_BYTES) + matrices * inner * 2.0)
    blocks = np.maximum(active, 1.0) * tiles(pairs / active) * tiles(inner)
    return Counts(2.0 * matrices * pairs * hidden * inner, weights + values, pairs, blocks)


# Multi-head latent attention of DeepSeek-V3 (arXiv 2412.19437, table of hyper-parameters).
_MLA_HIDDEN, _MLA_Q_RANK, _MLA_KV_RANK, _MLA_ROPE, _MLA_HEAD = 7168.0, 1536.0, 512.0, 64.0, 128.0
_MLA_QK = _MLA_HEAD + _MLA_ROPE
_MLA_CACHE = _MLA_KV_RANK + _MLA_ROPE


def _mla_context(c: Columns) -> Counts:
    b, s, past, heads = c["batch_size"], c["isl"], c["step"], c["num_heads"]
    flops = 2.0 * b * heads * (_MLA_QK + _MLA_HEAD) * causal_pairs(s, past, 0.0)
    values = b * s * heads * 2.0 * (_MLA_QK + _MLA_HEAD) * 2.0
    return Counts(
        flops, values + b * (s + past) * _MLA_CACHE * c["kv_bytes"], b * s, b * heads * tiles(s)
    )


def _mla_generation(c: Columns) -> Counts:
    b, heads, keys = c["batch_size"], c["num_heads"], c["step"] + 1.0
    per_key = _MLA_CACHE + _MLA_KV_RANK
    moved = b * keys * _MLA_CACHE * c["kv_bytes"] + b * heads * per_key * 2.0
    return Counts(2.0 * b * heads * per_key * keys, moved, b, b * tiles(keys) * tiles(heads))


def _with_projections(c: Columns, core: Counts) -> Counts:
    """Add the projections around a latent attention; absorbing them needs the same weights."""
    down = _MLA_HIDDEN * (_MLA_Q_RANK + _MLA_CACHE)
    up = c["num_heads"] * (_MLA_Q_RANK * _MLA_QK + _MLA_KV_RANK * 2.0 * _MLA_HEAD)
    weights = down + up + c["num_heads"] * _MLA_HEAD * _MLA_HIDDEN
    values = core.rows * 2.0 * (_MLA_HIDDEN + _MLA_Q_RANK + _MLA_CACHE) * 2.0
    return Counts(
        core.flops + 2.0 * core.rows * weights,
        core.bytes + weights * c["weight_bytes"] + values,
        core.rows,
        core.blocks,
    )


def _streamed(c: Columns) -> Counts:
    """Kernels that only move data: `bytes_per_token` a row, no counted arithmetic."""
    rows = c["num_tokens"]
    return Counts(0.0 * rows, rows * c["bytes_per_token"], rows, tiles(rows))


FORMULAS: dict[str, Callable[[Columns], Counts]] = {
    "gemm": _gemm,
    "context_attention": _context_attention,
    "generation_attention": _generation_attention,
    "encoder_attention": _encoder_attention,
    "moe": _moe,
    "mamba2": mamba2,
    "gdn": gdn,
    "mla_context": _mla_context,
    "mla_generation": _mla_generation,
    "mla_context_module": lambda c: _with_projections(c, _mla_context(c)),
    "mla_generation_module": lambda c: _with_projections(c, _mla_generation(c)),
    "elementwise": _streamed,
    "embedding": _streamed,
    "communication": _streamed,
    "other": _streamed,
}

STATE_KINDS = frozenset({"mamba2", "gdn"})
KINDS_WITHOUT_SEQUENCES = frozenset(
    {"gemm", "moe", "elementwise", "embedding", "communication", "other"}
)


def skew(distribution: str) -> float:
    """Exponent of a routing distribution's name: power_law_1.2 -> 1.2, balanced -> 0."""
    name = str(distribution)
    return float(name.removeprefix("power_law_")) if name.startswith("power_law_") else 0.0


def evaluate(kind: str, columns: Mapping[str, Any], **facts: Any) -> OperatorWork:
    """Apply the formula of `kind` to columns named as in the tables.

    Parameters
    ----------
    kind
        One of `KINDS`.
    columns
        Shape columns, arrays or numbers; also weight_bytes, activation_bytes and kv_bytes (a
        value), gated (1 or 0) and variant.
    facts
        Fields of `OperatorWork` that no formula gives: precision, number_format, skew, calls.
    """
    counts = FORMULAS[kind](columns)
    return OperatorWork(
        kind=kind,
        flops=counts.flops,
        bytes=counts.bytes,
        rows=counts.rows,
        blocks=counts.blocks,
        heads=counts.heads,
        sequences=np.nan if kind in KINDS_WITHOUT_SEQUENCES else columns["batch_size"],
        variant=columns["variant"] if kind in STATE_KINDS else "",
        head_dim=columns.get("head_dim", 0.0),
        window=columns.get("window_size", 0.0),
        **facts,
    )
