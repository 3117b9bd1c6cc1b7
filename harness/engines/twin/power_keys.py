"""Which coefficients serve an operator call: names of laws, keys within them, groups of calls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from harness.engines.twin.power_use import Floats, HardwareFacts, peak_flops

_STATE_KINDS = frozenset({"mamba2", "gdn"})
_STATE_UPDATES = frozenset(
    {
        "fused_recurrent_gated_delta_rule",
        "fused_sigmoid_gating_delta_rule_update",
        "selective_state_update",
    }
)
STREAMING_KINDS = frozenset({"elementwise", "embedding"})


def law_name(kind: str, variant: str = "") -> str:
    """Name of the coefficient set that serves a kind (and kernel variant).

    Streaming kernels (element-wise, embedding), which nobody measured alone, take the GEMM law
    without FLOPs: a GEMM of few rows too does nothing but stream its weights.
    """
    if kind in STREAMING_KINDS:
        return "gemm"
    if kind in _STATE_KINDS:
        if variant.startswith("causal_conv1d"):
            return "conv1d"
        return "state_update" if variant in _STATE_UPDATES else "scan"
    return kind


def key_of(hardware: str, framework: str, number_format: str, kind: str) -> str:
    """Key of a law's coefficients: hardware|framework|number format|kind of state kernel."""
    return f"{hardware}|{framework}|{number_format}|{kind if kind in _STATE_KINDS else ''}"


_FORMAT_OF_PRECISION = {"bf16": "bfloat16", "fp16": "bfloat16"}


def default_formats(precision: Any) -> Any:
    """Quantisation mode that goes with a precision; one name or a list, as `precision`."""
    if isinstance(precision, str):
        return _FORMAT_OF_PRECISION.get(precision, precision)
    return [_FORMAT_OF_PRECISION.get(str(name), str(name)) for name in precision]


def peaks(hardware: HardwareFacts, precision: Any) -> float | Floats:
    """Peak FLOP/s of one precision, or of each of a list."""
    if isinstance(precision, str):
        return peak_flops(hardware, precision)
    return np.array([peak_flops(hardware, str(name)) for name in precision])


class Kernel(NamedTuple):
    """What chooses the coefficients of a call."""

    kind: str
    variant: str
    number_format: str


ALL_CALLS = slice(None)


def alike(kind: Any, variant: Any, number_format: Any, size: int) -> Iterator[tuple[Any, Kernel]]:
    """Split calls into groups of one kernel: index and kernel. One group where all are strings."""
    texts = (kind, variant, number_format)
    if all(isinstance(text, str) for text in texts):
        yield ALL_CALLS, Kernel(*texts)
        return
    columns = [[text] * size if isinstance(text, str) else list(map(str, text)) for text in texts]
    kernels = [Kernel(*row) for row in zip(*columns, strict=True)]
    for kernel in dict.fromkeys(kernels):
        yield np.array([other == kernel for other in kernels]), kernel
