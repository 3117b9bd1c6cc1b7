"""What the work of an operator call consists of: kinds, number formats and the counted facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.errors import EngineError

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
OUTPUT_BYTES = 2.0  # results are written as bf16


def number_format(name: str, where: str) -> NumberFormat:
    """Look a quantisation mode up.

    Raises
    ------
    EngineError
        Unknown name; `where` says which kind of operator carried it.
    """
    try:
        return NUMBER_FORMATS[name]
    except KeyError:
        raise EngineError(
            f"unknown number format {name!r} of an operator",
            where=where,
            fix=f"known formats: {', '.join(NUMBER_FORMATS)}",
        ) from None


@dataclass(frozen=True, slots=True)
class OperatorWork:
    """Work of one operator call on one GPU, or of many calls, one an array entry.

    What is the same for all calls may stay a single value: the formats of one operator, say.

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
    heads
        Heads of a state kernel; channels over 128 for its convolution. Zero elsewhere.
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
    heads: Any = 0.0
    calls: Any = 1.0


@dataclass(frozen=True, slots=True)
class Counts:
    """What a formula returns: FLOPs, bytes, rows, blocks, and heads for state kernels."""

    flops: Any
    bytes: Any
    rows: Any
    blocks: Any
    heads: Any = 0.0


def tiles(count: Any, size: float = 128.0) -> Any:
    """Tiles of `size` that cover `count` rows, keys or channels."""
    return np.ceil(count / size)
