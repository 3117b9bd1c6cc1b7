"""What one operator call has to do: FLOPs, bytes and the shape facts that its power depends on.

The same formulas serve two callers. `work_of_table` takes the columns of a measured operator
table (one row a kernel); `work_of_operator` takes an operator object of `aiconfigurator_core`
at a phase, batch and length, writes its shape into the same column names and calls the same
formulas. Everything is float64: m*n*k overflows 32 bits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from harness.errors import EngineError

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]
Columns = Mapping[str, Any]

KINDS: tuple[str, ...] = (
    "gemm",
    "context_attention",
    "generation_attention",
    "encoder_attention",
    "moe",
    "mamba2",
    "gdn",
    "mla_context",
    "mla_generation",
    "mla_context_module",
    "mla_generation_module",
    "elementwise",
    "embedding",
    "communication",
    "other",
)


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """Widths of one quantisation mode.

    Attributes
    ----------
    precision
        Name of the arithmetic, as in the hardware facts: bf16, fp8, int8 or nvfp4.
    weight_bytes, activation_bytes
        Bytes a weight or an input value takes in memory, block scales included.
    """

    precision: str
    weight_bytes: float
    activation_bytes: float


_NVFP4_BYTES = 0.5 + 1 / 16  # one FP8 scale a block of 16 values
_MXFP4_BYTES = 0.5 + 1 / 32  # one 8-bit exponent a block of 32 values

NUMBER_FORMATS: dict[str, NumberFormat] = {
    "bfloat16": NumberFormat("bf16", 2, 2),
    "float16": NumberFormat("bf16", 2, 2),
    "fp8": NumberFormat("fp8", 1, 1),
    "fp8_static": NumberFormat("fp8", 1, 1),
    "fp8_ootb": NumberFormat("fp8", 1, 1),
    "fp8_block": NumberFormat("fp8", 1, 1),
    "sq": NumberFormat("int8", 1, 1),
    "int8": NumberFormat("int8", 1, 1),
    "int8_wo": NumberFormat("bf16", 1, 2),
    "int4_wo": NumberFormat("bf16", 0.5, 2),
    "nvfp4": NumberFormat("nvfp4", _NVFP4_BYTES, _NVFP4_BYTES),
    "nvfp4_wo": NumberFormat("bf16", _NVFP4_BYTES, 2),
    "w4a16_nvfp4": NumberFormat("bf16", _NVFP4_BYTES, 2),
    "w4afp8": NumberFormat("fp8", 0.5, 1),
    "w4a16_mxfp4": NumberFormat("bf16", _MXFP4_BYTES, 2),
    "w4a16_mxfp4_cutlass": NumberFormat("bf16", _MXFP4_BYTES, 2),
    "w4a8_mxfp4_mxfp8": NumberFormat("fp8", _MXFP4_BYTES, 1),
    "w4a8_mxfp4_mxfp8_trtllm": NumberFormat("fp8", _MXFP4_BYTES, 1),
}
_OUTPUT_BYTES = 2.0  # results are written as bf16
_STATE_BYTES = 2.0


@dataclass(frozen=True, slots=True)
class OperatorWork:
    """Work of one operator call on one GPU; `work_of_table` gives every field as an array.

    Attributes
    ----------
    kind
        One of `KINDS`.
    flops
        Floating-point operations, a multiply-add counted as two.
    bytes
        Bytes that cross the memory bus if each operand crosses once: weights, inputs,
        outputs, cache, state.
    rows
        Rows the kernel works on: tokens in prefill, sequences in a decode step, token-expert
        pairs on this GPU in a mixture of experts.
    blocks
        Tiles of work that can run side by side (128 rows or cache positions each).
    sequences
        Sequences in the call; nan where the kernel does not know sequences (GEMM, experts).
    precision
        Arithmetic of the FLOPs: bf16, fp8, int8 or nvfp4.
    number_format
        Quantisation mode of the operands as the tables name it (bfloat16, fp8_block, ...).
    variant
        Kernel within the kind, e.g. "causal_conv1d_fn"; the empty string where there is one.
    head_dim, window, skew
        Attention head size and sliding window (0: none); exponent of the expert popularity
        (0: balanced). Zero where they mean nothing.
    calls
        How often the model runs it in one pass (its layer count).
    """

    kind: Any
    flops: Any
    bytes: Any
    rows: Any
    blocks: Any
    sequences: Any = np.nan
    precision: Any = "bf16"
    number_format: Any = "bfloat16"
    variant: Any = ""
    head_dim: Any = 0.0
    window: Any = 0.0
    skew: Any = 0.0
    calls: Any = 1.0


@dataclass(frozen=True, slots=True)
class _Counts:
    """FLOPs, bytes, rows and blocks: what a formula returns."""

    flops: Any
    bytes: Any
    rows: Any
    blocks: Any


def _tiles(count: Any, size: float = 128.0) -> Any:
    return np.ceil(count / size)


def _gemm(c: Columns) -> _Counts:
    m, n, k = c["m"], c["n"], c["k"]
    moved = m * k * c["activation_bytes"] + n * k * c["weight_bytes"] + m * n * _OUTPUT_BYTES
    return _Counts(2.0 * m * n * k, moved, m, _tiles(m) * _tiles(n))


def causal_pairs(new: Any, past: Any, window: Any) -> Any:
    """Query-key pairs of a causal attention over `new` tokens after `past` cached ones.

    Counts s^2/2 for the triangle, as the speed-of-light model of aiconfigurator does.
    A query sees at most `window` keys where window > 0.
    """
    limit = np.where(window > 0, window, np.inf)
    growing = np.clip(limit - past, 0.0, new)
    flat = np.where(window > 0, window, 0.0) * (new - growing)
    return growing * past + growing**2 / 2.0 + flat


def _context_attention(c: Columns) -> _Counts:
    b, s, past = c["batch_size"], c["isl"], c["step"]
    heads, kv_heads, d = c["num_heads"], c["num_key_value_heads"], c["head_dim"]
    flops = 4.0 * b * heads * d * causal_pairs(s, past, c["window_size"])
    moved = b * s * heads * d * 2 * 2.0 + b * (s + past) * kv_heads * d * 2 * c["kv_bytes"]
    return _Counts(flops, moved, b * s, b * heads * _tiles(s))


def _generation_attention(c: Columns) -> _Counts:
    b, d = c["batch_size"], c["head_dim"]
    heads, kv_heads, window = c["num_heads"], c["num_key_value_heads"], c["window_size"]
    keys = np.where(window > 0, np.minimum(c["step"] + 1.0, window), c["step"] + 1.0)
    moved = b * heads * d * 2 * 2.0 + b * keys * kv_heads * d * 2 * c["kv_bytes"]
    return _Counts(4.0 * b * heads * d * keys, moved, b, b * kv_heads * _tiles(keys))


def _encoder_attention(c: Columns) -> _Counts:
    b, s, heads, d = c["batch_size"], c["isl"], c["num_heads"], c["head_dim"]
    return _Counts(
        4.0 * b * heads * d * s * s, 4.0 * b * s * heads * d * 2.0, b * s, b * heads * _tiles(s)
    )


def active_experts(tokens: Any, experts: Any, topk: Any) -> Any:
    """Experts that at least one of `tokens` chooses, if choices are independent and even.

    E * (1 - (1 - k/E)^tokens).
    """
    return experts * (1.0 - (1.0 - topk / experts) ** tokens)


def _moe(c: Columns) -> _Counts:
    tokens, hidden, topk, experts = c["num_tokens"], c["hidden_size"], c["topk"], c["num_experts"]
    ranks = c["moe_ep_size"]
    inner = c["inter_size"] / c["moe_tp_size"]
    matrices = np.where(c["gated"] > 0, 3.0, 2.0)
    pairs = tokens * topk / ranks
    active = active_experts(tokens, experts, topk) / ranks
    weights = active * matrices * hidden * inner * c["weight_bytes"]
    values = pairs * (hidden * (c["activation_bytes"] + _OUTPUT_BYTES) + matrices * inner * 2.0)
    blocks = np.maximum(active, 1.0) * _tiles(pairs / active) * _tiles(inner)
    return _Counts(2.0 * matrices * pairs * hidden * inner, weights + values, pairs, blocks)


def _conv1d(tokens: Any, sequences: Any, channels: Any, width: Any, update: Any) -> _Counts:
    """Count a causal depthwise convolution; `update`: one token, which rewrites its state."""
    flops = 2.0 * width * tokens * channels
    state = np.where(update, 2.0 * width * sequences * channels * _STATE_BYTES, 0.0)
    moved = tokens * channels * 2 * 2.0 + state
    blocks = sequences * _tiles(tokens / sequences) * _tiles(channels)
    return _Counts(flops, moved, tokens, blocks)


def _pick(variant: Any, counts: Mapping[str, _Counts]) -> _Counts:
    """Take, row by row, the counts of the kernel that the row names."""
    names = np.asarray(variant)
    masks = [names == name for name in counts]
    return _Counts(
        *(
            np.select(masks, [getattr(v, field) for v in counts.values()], np.nan)
            for field in ("flops", "bytes", "rows", "blocks")
        )
    )


def _mamba2(c: Columns) -> _Counts:
    """Mamba2 kernels (Dao and Gu 2024, arXiv 2405.21060, section 6: chunked scan)."""
    tokens, b = c["num_tokens"], c["batch_size"]
    heads, p, n, groups = c["nheads"], c["head_dim"], c["d_state"], c["n_groups"]
    channels = heads * p + 2.0 * groups * n
    chunk = np.minimum(c["chunk_size"], tokens / b)
    scores = 2.0 * tokens * chunk * (n * groups + p * heads)
    states = 4.0 * tokens * n * p * heads
    streams = tokens * (4.0 * heads * p + 4.0 * groups * n + 4.0 * heads)
    chunk_states = 8.0 * tokens / chunk * heads * p * n
    scan = _Counts(scores + states, streams + chunk_states, tokens, np.ceil(tokens / chunk) * heads)
    update = _Counts(
        6.0 * b * heads * p * n,
        2.0 * b * heads * p * n * _STATE_BYTES + b * (4.0 * heads * p + 4.0 * groups * n),
        b,
        b * heads,
    )
    return _pick(
        c["variant"],
        {
            "causal_conv1d_fn": _conv1d(tokens, b, channels, c["d_conv"], False),
            "causal_conv1d_update": _conv1d(tokens, b, channels, c["d_conv"], True),
            "mamba_chunk_scan_combined": scan,
            "selective_state_update": update,
        },
    )


_GDN_CHUNK = 64.0  # tokens a chunk in the flash-linear-attention kernels


def _gdn(c: Columns) -> _Counts:
    """Gated delta net kernels (Yang et al. 2024, arXiv 2412.06464, section 3.3: chunked form)."""
    tokens, b = c["num_tokens"], c["batch_size"]
    k_heads, dk = c["num_k_heads"], c["head_k_dim"]
    v_heads, dv = c["num_v_heads"], c["head_v_dim"]
    channels = 2.0 * k_heads * dk + v_heads * dv
    chunk = np.minimum(_GDN_CHUNK, tokens / b)
    flops = 2.0 * tokens * v_heads * (chunk * (3.0 * dk + 2.0 * dv) + 3.0 * dk * dv)
    streams = 4.0 * tokens * (k_heads * dk + v_heads * dv)
    between = 4.0 * tokens * v_heads * (dk + dv + chunk) + 4.0 * tokens / chunk * v_heads * dk * dv
    scan = _Counts(flops, streams + between, tokens, b * v_heads)
    state = 8.0 * b * v_heads * dk * dv  # FP32, read and written
    update = _Counts(8.0 * tokens * v_heads * dk * dv, state + streams, tokens, b * v_heads)
    return _pick(
        c["variant"],
        {
            "causal_conv1d_fn": _conv1d(tokens, b, channels, c["d_conv"], False),
            "causal_conv1d_update": _conv1d(tokens, b, channels, c["d_conv"], True),
            "chunk_gated_delta_rule": scan,
            "fused_recurrent_gated_delta_rule": update,
            "fused_sigmoid_gating_delta_rule_update": update,
        },
    )


# Multi-head latent attention of DeepSeek-V3 (arXiv 2412.19437, table of hyper-parameters).
_MLA_HIDDEN, _MLA_Q_RANK, _MLA_KV_RANK, _MLA_ROPE, _MLA_HEAD = 7168.0, 1536.0, 512.0, 64.0, 128.0
_MLA_QK = _MLA_HEAD + _MLA_ROPE
_MLA_CACHE = _MLA_KV_RANK + _MLA_ROPE


def _mla_context(c: Columns) -> _Counts:
    b, s, past, heads = c["batch_size"], c["isl"], c["step"], c["num_heads"]
    flops = 2.0 * b * heads * (_MLA_QK + _MLA_HEAD) * causal_pairs(s, past, np.zeros_like(s))
    values = b * s * heads * 2.0 * (_MLA_QK + _MLA_HEAD) * 2.0
    return _Counts(
        flops, values + b * (s + past) * _MLA_CACHE * c["kv_bytes"], b * s, b * heads * _tiles(s)
    )


def _mla_generation(c: Columns) -> _Counts:
    b, heads, keys = c["batch_size"], c["num_heads"], c["step"] + 1.0
    per_key = _MLA_CACHE + _MLA_KV_RANK
    moved = b * keys * _MLA_CACHE * c["kv_bytes"] + b * heads * per_key * 2.0
    return _Counts(2.0 * b * heads * per_key * keys, moved, b, b * _tiles(keys) * _tiles(heads))


def _with_projections(c: Columns, core: _Counts) -> _Counts:
    """Add the projections around a latent attention; absorbing them needs the same weights."""
    down = _MLA_HIDDEN * (_MLA_Q_RANK + _MLA_CACHE)
    up = c["num_heads"] * (_MLA_Q_RANK * _MLA_QK + _MLA_KV_RANK * 2.0 * _MLA_HEAD)
    weights = down + up + c["num_heads"] * _MLA_HEAD * _MLA_HIDDEN
    values = core.rows * 2.0 * (_MLA_HIDDEN + _MLA_Q_RANK + _MLA_CACHE) * 2.0
    return _Counts(
        core.flops + 2.0 * core.rows * weights,
        core.bytes + weights * c["weight_bytes"] + values,
        core.rows,
        core.blocks,
    )


def _streamed(c: Columns) -> _Counts:
    """Kernels that only move data: `bytes_per_token` a row, no counted arithmetic."""
    rows = c["num_tokens"]
    return _Counts(0.0 * rows, rows * c["bytes_per_token"], rows, _tiles(rows))


_FORMULAS: dict[str, Callable[[Columns], _Counts]] = {
    "gemm": _gemm,
    "context_attention": _context_attention,
    "generation_attention": _generation_attention,
    "encoder_attention": _encoder_attention,
    "moe": _moe,
    "mamba2": _mamba2,
    "gdn": _gdn,
    "mla_context": _mla_context,
    "mla_generation": _mla_generation,
    "mla_context_module": lambda c: _with_projections(c, _mla_context(c)),
    "mla_generation_module": lambda c: _with_projections(c, _mla_generation(c)),
    "elementwise": _streamed,
    "embedding": _streamed,
    "communication": _streamed,
    "other": _streamed,
}

TABLE_SHAPE_COLUMNS: tuple[str, ...] = (
    *("m", "n", "k", "batch_size", "isl", "step", "num_heads", "num_key_value_heads", "head_dim"),
    *("window_size", "tp_size", "num_tokens", "hidden_size", "inter_size", "topk", "num_experts"),
    *("moe_tp_size", "moe_ep_size", "seq_len", "d_model", "d_state", "d_conv", "nheads"),
    *("n_groups", "chunk_size", "num_k_heads", "head_k_dim", "num_v_heads", "head_v_dim"),
)


def _number_format(name: str, where: str) -> NumberFormat:
    try:
        return NUMBER_FORMATS[name]
    except KeyError:
        raise EngineError(
            f"unknown number format {name!r} of an operator",
            where=where,
            fix=f"known formats: {', '.join(NUMBER_FORMATS)}",
        ) from None


def _skew(distribution: str) -> float:
    """Exponent of a routing distribution's name: power_law_1.2 -> 1.2, balanced -> 0."""
    name = str(distribution)
    return float(name.removeprefix("power_law_")) if name.startswith("power_law_") else 0.0


def work_of_table(frame: pd.DataFrame, kind: str) -> OperatorWork:
    """Work of every row of a measured operator table.

    Parameters
    ----------
    frame
        Rows of one operator kind, with the column names of the published operator tables
        (m, n, k, batch_size, isl, ..., dtype, kv_cache_dtype, gemm_type, distribution,
        kernel_source); n rows.
    kind
        One of `KINDS`.

    Returns
    -------
    OperatorWork
        Fields are arrays of shape (n,); `kind` stays a string.
    """
    import pandas as pd

    def text(column: str, default: str) -> list[str]:
        if column not in frame:
            return [default] * len(frame)
        return [default if pd.isna(value) else str(value) for value in frame[column]]

    columns: dict[str, Any] = {
        name: frame[name].astype("float64").to_numpy(dtype=np.float64, na_value=np.nan)
        for name in TABLE_SHAPE_COLUMNS
        if name in frame
    }
    names = text("gemm_type" if kind.endswith("_module") else "dtype", "bfloat16")
    if kind == "generation_attention" or kind == "mla_generation":
        names = ["bfloat16"] * len(frame)
    cache = text("kv_cache_dtype", "bfloat16")
    variants = np.array(text("kernel_source", ""))
    return _work(
        kind,
        columns,
        names=names,
        cache_names=cache,
        variants=variants,
        skews=[_skew(name) for name in text("distribution", "balanced")],
        gated=np.array([not name.endswith("nongated") for name in variants], dtype=np.float64),
        calls=np.ones(len(frame)),
    )


_VARIANT_KINDS = frozenset({"mamba2", "gdn"})


def _work(
    kind: str,
    columns: dict[str, Any],
    *,
    names: Sequence[str],
    cache_names: Sequence[str],
    variants: Any,
    skews: Sequence[float],
    gated: Any,
    calls: Any,
) -> OperatorWork:
    """Evaluate the formula of `kind` on columns named as in the tables; the one place for both."""
    formats = [_number_format(name, kind) for name in names]
    size = len(formats)
    columns["weight_bytes"] = np.array([f.weight_bytes for f in formats])
    columns["activation_bytes"] = np.array([f.activation_bytes for f in formats])
    columns["kv_bytes"] = np.array(
        [_number_format(name, kind).weight_bytes for name in cache_names]
    )
    columns["variant"] = variants
    columns["gated"] = gated
    counts = _FORMULAS[kind](columns)
    return OperatorWork(
        kind=kind,
        flops=counts.flops,
        bytes=counts.bytes,
        rows=counts.rows,
        blocks=counts.blocks,
        sequences=columns.get("batch_size", np.full(size, np.nan)),
        precision=np.array([f.precision for f in formats]),
        number_format=np.array(names),
        variant=variants if kind in _VARIANT_KINDS else np.array([""] * size),
        head_dim=columns.get("head_dim", np.zeros(size)),
        window=columns.get("window_size", np.zeros(size)),
        skew=np.array(skews),
        calls=calls,
    )


def operator_spec(op: Any) -> tuple[str, dict[str, Any]]:
    """Type name and fields of an `aiconfigurator_core` operator, as its engine receives them."""
    raw = getattr(op, "_spec_json", None)
    text = raw() if callable(raw) else raw
    if not isinstance(text, str):
        raise EngineError(
            "an operator of aiconfigurator_core has no readable specification",
            where=type(op).__name__,
            fix="use aiconfigurator-core 0.12",
        )
    name, fields = next(iter(json.loads(text).items()))
    return str(name), dict(fields)


def work_of_operator(
    op: Any,
    phase: str,
    batch: Any,
    length: Any,
    *,
    tokens: Any = None,
    past: Any = 0,
) -> OperatorWork:
    """Work of one call of an operator of `aiconfigurator_core` 0.12, for one shape or many.

    Parameters
    ----------
    op
        Operator object, from `model.context_ops`, `generation_ops` or `encoder_ops`.
    phase
        "context" (also for an encoder) or "generation".
    batch
        Sequences in the call (images for an encoder); a number or an array.
    length
        New tokens a sequence in context; cached tokens a sequence, the new one included, in
        generation. A number or an array.
    tokens
        Rows of the call over all sequences; default batch * length in context (batch for the
        last-token projection to logits) and batch in generation.
    past
        Cached tokens before the new ones, context only.

    Returns
    -------
    OperatorWork
        Of one call; `calls` says how often the model repeats it. Numbers when every argument is
        one, else arrays of their common shape (`kind` stays a string). A composite operator (an
        overlap of two streams) sums its parts and takes the kind of the part that moves most
        bytes.

    Raises
    ------
    EngineError
        Phase or number format unknown, or the operator carries no specification.
    """
    if phase not in ("context", "generation"):
        raise EngineError(f"unknown phase {phase!r}", fix="use context or generation")
    name, fields = operator_spec(op)
    sizes = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in (batch, length, past)))
    batches, lengths, pasts = (np.atleast_1d(size) for size in sizes)
    if tokens is None:
        last_only = "logits_gemm" in str(fields.get("name", ""))
        one_row = phase == "generation" or last_only
        rows = batches if one_row else batches * lengths
    else:
        rows = np.broadcast_to(np.asarray(tokens, dtype=np.float64), batches.shape)
    parts = list(_parts(name, fields, _Call(phase, batches, lengths, rows, pasts)))
    main = max(parts, key=lambda part: (part.kind != "communication", float(np.sum(part.bytes))))
    counted = [part for part in parts if part is main or part.kind != "communication"]
    total = replace(
        main,
        flops=sum(part.flops for part in counted),
        bytes=sum(part.bytes for part in counted),
    )
    return total if np.ndim(sizes[0]) or np.ndim(tokens) else _first(total)


@dataclass(frozen=True, slots=True)
class _Call:
    """Shape of a call; arrays of shape (n,)."""

    phase: str
    batch: Floats
    length: Floats
    tokens: Floats
    past: Floats

    @property
    def step(self) -> Floats:
        """Past length as the tables count it: without the new token."""
        return self.length - 1.0 if self.phase == "generation" else self.past

    @property
    def new_tokens(self) -> Floats:
        return np.ones_like(self.length) if self.phase == "generation" else self.length


def _parts(name: str, fields: dict[str, Any], call: _Call) -> Iterator[OperatorWork]:
    """Split composite operators into plain ones; a fallback counts as its primary."""
    if name == "Fallback":
        primary, inner = next(iter(fields["primary"].items()))
        yield from _parts(primary, inner, call)
    elif name == "Overlap":
        for part in (*fields["group_a"], *fields["group_b"]):
            part_name, inner = next(iter(part.items()))
            yield from _parts(part_name, inner, call)
    else:
        yield _plain(name, fields, call)


def _plain(name: str, f: dict[str, Any], call: _Call) -> OperatorWork:
    """Write one operator's shape into the tables' column names and evaluate its formula."""
    split = float(f.get("scale_num_tokens", 1) or 1) * float(f.get("seq_split", 1) or 1)
    rows = call.tokens / split
    sequence = {"batch_size": call.batch, "isl": call.new_tokens, "step": call.step}
    heads = {"num_heads": f.get("n"), "num_key_value_heads": f.get("n_kv")}
    head = {"head_dim": f.get("head_size"), "window_size": f.get("window_size", 0)}
    steps = {"batch_size": call.batch, "num_tokens": call.batch * call.new_tokens}
    kind, shape = {
        "Gemm": ("gemm", {"m": rows, "n": f.get("n"), "k": f.get("k")}),
        "ContextAttention": ("context_attention", {**sequence, **heads, **head}),
        "GenerationAttention": ("generation_attention", {**sequence, **heads, **head}),
        "EncoderAttention": ("encoder_attention", {**sequence, **heads, **head}),
        "Moe": ("moe", {**f, "num_tokens": call.tokens * float(f.get("attention_dp_size", 1))}),
        "Mamba2": ("mamba2", {**f, **steps}),
        "Gdn": ("gdn", {**f, **steps}),
        "MlaContext": ("mla_context", {**f, **sequence}),
        "MlaGeneration": ("mla_generation", {**f, **sequence}),
        "ContextMla": ("mla_context", {**f, **sequence}),
        "GenerationMla": ("mla_generation", {**f, **sequence}),
        "MlaModuleContext": ("mla_context_module", {**f, **sequence}),
        "MlaModuleGeneration": ("mla_generation_module", {**f, **sequence}),
        "Elementwise": ("elementwise", {"bytes_per_token": f.get("bytes_per_token")}),
        "Embedding": ("embedding", {"bytes_per_token": _twice_bf16(f)}),
        "CustomAllReduce": ("communication", {"bytes_per_token": _twice_bf16(f)}),
        "Nccl": ("communication", {"bytes_per_token": _twice_bf16(f)}),
        "P2P": ("communication", {"bytes_per_token": _twice_bf16(f)}),
        "MoeDispatch": ("communication", {"bytes_per_token": _twice_bf16(f)}),
    }.get(name, ("other", {"bytes_per_token": 0.0}))
    shape = {"num_tokens": rows, **shape}
    size = rows.size
    columns = {
        key: np.broadcast_to(np.asarray(value, dtype=np.float64), (size,))
        for key, value in shape.items()
        if isinstance(value, int | float | np.ndarray) and not isinstance(value, bool)
    }
    format_key = {"context_attention": "fmha_quant_mode", "encoder_attention": "fmha_quant_mode"}
    key = format_key.get(kind, "gemm_quant_mode" if kind.endswith("_module") else "quant_mode")
    return _work(
        kind,
        columns,
        names=[str(f.get(key, "bfloat16"))] * size,
        cache_names=[str(f.get("kv_cache_dtype", "bfloat16"))] * size,
        variants=np.full(size, str(f.get("kernel_source", ""))),
        skews=[_skew(f.get("workload_distribution", "balanced"))] * size,
        gated=np.full(size, 1.0 if f.get("is_gated", True) else 0.0),
        calls=np.full(size, float(f.get("scale_factor", 1.0))),
    )


def _twice_bf16(fields: Mapping[str, Any]) -> float:
    """Bytes a token of a bf16 vector that is read once and written once."""
    return 2.0 * 2.0 * float(fields.get("hidden_size", 0.0))


def _first(work: OperatorWork) -> OperatorWork:
    """Turn one-row arrays into plain numbers and strings."""
    return OperatorWork(
        **{
            name: value if isinstance(value := getattr(work, name), str) else value[0].item()
            for name in OperatorWork.__slots__
        }
    )
