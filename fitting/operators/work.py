"""Work of operator calls: FLOP, bytes moved, shape, and which kernel serves them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from fitting.work import column
from harness.store import FitError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from fitting.facts import HardwareFacts

Pair = tuple["NDArray[np.float64]", "NDArray[np.float64]"]

KERNEL = (
    "framework",
    "dtype",
    "kv_cache_dtype",
    "gemm_type",
    "kernel_source",
    "phase",
    "distribution",
)
"""Columns that choose the kernel; rows alike in all of them form a group."""

WEIGHT_BYTES: dict[str, float] = {
    "bfloat16": 2.0,
    "fp8": 1.0,
    "fp8_block": 1.0,
    "nvfp4": 0.5625,
    "w4a8_mxfp4_mxfp8": 0.53125,
    "w4a16_mxfp4": 0.53125,
}
"""Bytes of a weight, scales included (nvfp4: 8 bits per 16; mxfp4: 8 bits per 32)."""

ARITHMETIC: dict[str, str] = {
    "bfloat16": "bf16",
    "fp8": "fp8",
    "fp8_block": "fp8",
    "nvfp4": "nvfp4",
    "w4a8_mxfp4_mxfp8": "fp8",
    "w4a16_mxfp4": "bf16",
}
"""Format -> precision of the peak rate that its products can reach."""

FLOOR_S = 3e-6
"""Time that the coordinate of size is written against, s: about a launch on the GPU."""

# Multi-head latent attention of DeepSeek-V3 (config.json): widths of the query and key-value
# compression, of a head with and without position, of a value head, and of the model.
_MODEL, _Q_RANK, _KV_RANK, _ROPE, _NOPE, _VALUE = 7168, 1536, 512, 64, 128, 128


def _gemm(frame: pd.DataFrame) -> Pair:
    m, n, k = (column(frame, name) for name in ("m", "n", "k"))
    weight = _weight_bytes(frame)
    return 2.0 * m * n * k, weight * (m * k + n * k) + 2.0 * m * n


def _context_attention(frame: pd.DataFrame) -> Pair:
    batch, new, heads = (column(frame, name) for name in ("batch_size", "isl", "num_heads"))
    kv_heads, dim = column(frame, "num_key_value_heads"), column(frame, "head_dim")
    window = column(frame, "window_size", default=0.0)
    past = column(frame, "step", default=0.0)
    seen = past + new / 2.0
    seen = np.where((window > 0.0) & (window < past + new), np.minimum(window, seen), seen)
    moved = batch * dim * (4.0 * new * heads + 2.0 * (new + past) * kv_heads * _cache_bytes(frame))
    return 4.0 * batch * new * seen * heads * dim, moved


def _encoder_attention(frame: pd.DataFrame) -> Pair:
    batch, length, heads = (column(frame, name) for name in ("batch_size", "isl", "num_heads"))
    dim = column(frame, "head_dim")
    return 4.0 * batch * length**2 * heads * dim, 8.0 * batch * length * heads * dim


def _generation_attention(frame: pd.DataFrame) -> Pair:
    batch, past, heads = (column(frame, name) for name in ("batch_size", "step", "num_heads"))
    kv_heads, dim = column(frame, "num_key_value_heads"), column(frame, "head_dim")
    window = column(frame, "window_size", default=0.0)
    length = np.where(window > 0.0, np.minimum(past + 1.0, window), past + 1.0)
    cache = 2.0 * batch * length * kv_heads * dim * _cache_bytes(frame)
    return 4.0 * batch * length * heads * dim, cache + 4.0 * batch * heads * dim


def _mla(frame: pd.DataFrame, *, context: bool, module: bool) -> Pair:
    batch, heads = column(frame, "batch_size"), column(frame, "num_heads")
    new = column(frame, "isl") if context else np.ones(len(frame))
    length = column(frame, "step", default=0.0) + new
    if context:
        flops = batch * heads * new * length * (_NOPE + _ROPE + _VALUE)
        moved = 4.0 * batch * new * heads * (_NOPE + _ROPE + _VALUE)
    else:
        flops = 2.0 * batch * heads * length * (2 * _KV_RANK + _ROPE)
        moved = batch * length * (_KV_RANK + _ROPE) * _cache_bytes(frame)
        moved = moved + 2.0 * batch * heads * (2 * _KV_RANK + _ROPE)
    if module:
        inner = _Q_RANK * (_NOPE + _ROPE) + _KV_RANK * (_NOPE + _VALUE) + _VALUE * _MODEL
        weights = _MODEL * (_Q_RANK + _KV_RANK + _ROPE) + heads * inner
        flops = flops + 2.0 * batch * new * weights
        moved = moved + weights * _weight_bytes(frame, "gemm_type")
        moved = moved + 4.0 * batch * new * _MODEL
    return flops, moved


def _moe(frame: pd.DataFrame) -> Pair:
    tokens, width, inner = (
        column(frame, name) for name in ("num_tokens", "hidden_size", "inter_size")
    )
    chosen, experts = column(frame, "topk"), column(frame, "num_experts")
    tensor = column(frame, "moe_tp_size", default=1.0)
    spread = column(frame, "moe_ep_size", default=1.0)
    touched = experts / spread * (1.0 - (1.0 - np.minimum(chosen / experts, 1.0)) ** tokens)
    flops = 6.0 * tokens * chosen * width * inner / tensor / spread
    return flops, 3.0 * touched * width * inner / tensor * _weight_bytes(frame) + 4 * tokens * width


def _state(frame: pd.DataFrame, heads: str, dim: float, state: NDArray[np.float64]) -> Pair:
    tokens, batch = column(frame, "num_tokens"), column(frame, "batch_size")
    width = column(frame, heads) * dim
    return 6.0 * tokens * width * state, 8.0 * tokens * width + 4.0 * batch * width * state


def _mamba2(frame: pd.DataFrame) -> Pair:
    return _state(frame, "nheads", 64.0, column(frame, "d_state"))


def _gdn(frame: pd.DataFrame) -> Pair:
    return _state(frame, "num_v_heads", 128.0, column(frame, "head_k_dim", default=128.0))


_ATTENTION = ("num_heads", "num_key_value_heads", "head_dim", "window_size")

OPERATORS: dict[str, tuple[tuple[str, ...], Callable[[pd.DataFrame], Pair]]] = {
    "gemm": (("m", "n", "k"), _gemm),
    "context_attention": (("batch_size", "isl", *_ATTENTION), _context_attention),
    "generation_attention": (("batch_size", "step", *_ATTENTION), _generation_attention),
    "encoder_attention": (("batch_size", "isl", "num_heads", "head_dim"), _encoder_attention),
    "moe": (
        (
            "num_tokens",
            "hidden_size",
            "inter_size",
            "topk",
            "num_experts",
            "moe_tp_size",
            "moe_ep_size",
        ),
        _moe,
    ),
    "mla_context": (
        ("batch_size", "isl", "num_heads"),
        lambda frame: _mla(frame, context=True, module=False),
    ),
    "mla_generation": (
        ("batch_size", "step", "num_heads"),
        lambda frame: _mla(frame, context=False, module=False),
    ),
    "mla_context_module": (
        ("batch_size", "isl", "num_heads"),
        lambda frame: _mla(frame, context=True, module=True),
    ),
    "mla_generation_module": (
        ("batch_size", "step", "num_heads"),
        lambda frame: _mla(frame, context=False, module=True),
    ),
    "mamba2": (("batch_size", "seq_len", "nheads", "d_state", "d_model"), _mamba2),
    "gdn": (("batch_size", "seq_len", "num_v_heads", "d_model"), _gdn),
}
"""Operator -> the columns of its shape, and its FLOP and bytes."""


def demand(
    operator: str, frame: pd.DataFrame, hardware: Mapping[str, HardwareFacts]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what the datasheet promises, and the coordinates of each call.

    The promises are the power limit, W, and the seconds of arithmetic and of memory at their
    peaks, shape (rows, 3). The coordinates are the logarithms of arithmetic over memory time, of
    the longer of them over `FLOOR_S`, and of each size, shape (rows, 2 + sizes).

    Raises
    ------
    FitError
        If the operator, a number format or a GPU type is not known.
    """
    if operator not in OPERATORS:
        raise FitError(
            f"No law is known for the operator {operator!r}.",
            fix=f"Known: {', '.join(OPERATORS)}.",
        )
    missing = sorted({str(h) for h in frame["hardware"]} - set(hardware))
    if missing:
        raise FitError(
            f"No datasheet of {missing[0]!r} was given.",
            where="column hardware",
            fix="Give its HardwareFacts.",
        )
    sizes, count = OPERATORS[operator]
    flops, moved = count(frame)
    formats = _formats(frame)
    names = [str(h) for h in frame["hardware"]]
    peak = np.array(
        [hardware[h].peak_flops[ARITHMETIC[d]] for h, d in zip(names, formats, strict=True)]
    )
    bandwidth = np.array([hardware[h].memory_bandwidth_bytes_per_s for h in names])
    power = np.array([hardware[h].power_limit_w for h in names])
    compute, memory = flops / peak, moved / bandwidth
    shape = [np.log(np.maximum(column(frame, name, default=1.0), 0.5)) for name in sizes]
    coordinates = [np.log(compute / memory), np.log(np.maximum(compute, memory) / FLOOR_S)]
    return np.column_stack([power, compute, memory]), np.column_stack(coordinates + shape)


def kernels(frame: pd.DataFrame) -> NDArray[np.str_]:
    """Return which kernel serves each call: the columns of `KERNEL`, joined by `|`."""
    parts = [
        frame[name].astype(object).where(frame[name].notna(), "").astype(str).to_numpy()
        if name in frame.columns
        else np.full(len(frame), "", dtype=object)
        for name in KERNEL
    ]
    return np.array(["|".join(row) for row in zip(*parts, strict=True)], dtype=str)


def _formats(frame: pd.DataFrame, name: str = "dtype") -> list[str]:
    formats = [str(d) for d in frame[name]]
    unknown = sorted(set(formats) - set(WEIGHT_BYTES))
    if unknown:
        raise FitError(
            f"The number format {unknown[0]!r} is not known.",
            where=f"column {name}",
            fix=f"Known: {', '.join(WEIGHT_BYTES)}.",
        )
    return formats


def _weight_bytes(frame: pd.DataFrame, name: str = "dtype") -> NDArray[np.float64]:
    return np.array([WEIGHT_BYTES[d] for d in _formats(frame, name)])


def _cache_bytes(frame: pd.DataFrame) -> NDArray[np.float64]:
    if "kv_cache_dtype" not in frame.columns:
        return np.full(len(frame), 2.0)
    return np.where(frame["kv_cache_dtype"].astype(object) == "fp8", 1.0, 2.0)
