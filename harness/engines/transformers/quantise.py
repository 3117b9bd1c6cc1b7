"""Weights of 8 or 4 bits by torchao, where it is installed."""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from harness.catalog import ModelFacts
from harness.engines.transformers.failures import is_out_of_memory, one_line
from harness.errors import NotSupportedError

NARROW = ("int8", "int4")
INT4_GROUP = 128
LEAST_SHARE = 0.9
"""Share of the linear weights that must have become narrow: torchao skips odd shapes silently."""


def check_precision(facts: ModelFacts, precision: str, where: str) -> None:
    """Refuse a precision that this engine cannot make, before anything is built.

    Raises
    ------
    NotSupportedError
        Saying what is missing.
    """
    if precision in ("bf16", "fp16", "fp32"):
        return
    if precision not in NARROW:
        raise NotSupportedError(
            f"the transformers engine does not run {precision}",
            where=where,
            fix="use bf16, fp16, fp32, int8 or int4 here, or an engine with kernels for it",
        )
    if facts.experts:
        raise NotSupportedError(
            f"{precision} weights of experts: torchao narrows linear layers, and the experts, "
            "which are most of this model, are not linear layers in transformers",
            where=where,
            fix="use bf16, or an engine with kernels for it",
        )
    if find_spec("torchao") is None:
        raise NotSupportedError(
            f"{precision} weights need torchao, which is not installed",
            where=where,
            fix="pip install torchao",
        )


def quantise(model: Any, precision: str, where: str) -> str | None:
    """Narrow the linear layers of a model in place; return what did it, or None for 16 bits.

    The output head and the vision tower stay as they are, as in published checkpoints.

    Raises
    ------
    NotSupportedError
        If torchao refuses this model on this device.
    """
    if precision not in NARROW:
        return None
    import torch
    from torchao import quantization

    head = model.get_output_embeddings()

    def wanted(layer: Any, name: str) -> bool:
        linear = isinstance(layer, torch.nn.Linear) and layer is not head
        return linear and "visual" not in name and "vision" not in name

    try:
        if precision == "int8":
            config = quantization.Int8WeightOnlyConfig()
        else:
            # Other packings need kernels that neither torch nor torchao brings along.
            config = quantization.Int4WeightOnlyConfig(
                group_size=INT4_GROUP, int4_packing_format="tile_packed_to_4d"
            )
        layers = [layer for name, layer in model.named_modules() if wanted(layer, name)]
        quantization.quantize_(model, config, filter_fn=wanted)
    except Exception as error:  # torchao fails in its own ways on shapes and devices
        if is_out_of_memory(error):
            raise
        raise NotSupportedError(
            f"torchao cannot make {precision} weights here: {one_line(error)}",
            where=where,
            fix="use bf16, or another release of torchao",
        ) from error
    share = _share_narrowed(layers)
    if share < LEAST_SHARE:
        raise NotSupportedError(
            f"torchao left {1 - share:.0%} of the linear weights at 16 bits",
            where=where,
            fix="use bf16, or an engine with kernels for these shapes",
        )
    return f"torchao {version('torchao')}, weight only, {share:.0%} of linear weights"


def _share_narrowed(layers: list[Any]) -> float:
    """Return the share of weights that are no plain tensors any more."""
    import torch

    sizes = [layer.in_features * layer.out_features for layer in layers]
    plain = [
        size
        for size, layer in zip(sizes, layers, strict=True)
        if type(layer.weight) is torch.nn.Parameter and type(layer.weight.data) is torch.Tensor
    ]
    return 1 - sum(plain) / sum(sizes) if sizes else 0.0
