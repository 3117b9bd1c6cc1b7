"""Reason codes: why a configuration of a sweep is not measured."""

from __future__ import annotations

from enum import StrEnum


class SkipReason(StrEnum):
    """Why a configuration is skipped; the value is what files and tables hold."""

    DOES_NOT_FIT_IN_MEMORY = "does_not_fit_in_memory"
    HEADS_NOT_DIVISIBLE = "heads_not_divisible"
    LAYERS_NOT_DIVISIBLE = "layers_not_divisible"
    EXPERTS_NOT_DIVISIBLE = "experts_not_divisible"
    PRECISION_NOT_SUPPORTED = "precision_not_supported"
    NO_KERNEL_DATA = "no_kernel_data"
    GPU_LIMIT = "gpu_limit"
    OVER_BUDGET = "over_budget"
    NO_VISION_TOWER = "no_vision_tower"
    CONTEXT_TOO_LONG = "context_too_long"
    ENGINE_NOT_CAPABLE = "engine_not_capable"


EXPLANATIONS: dict[str, str] = {
    "does_not_fit_in_memory": "weights, KV cache and activations exceed the memory of the GPUs",
    "heads_not_divisible": "tensor_parallel does not divide the attention heads",
    "layers_not_divisible": "more pipeline stages than layers",
    "experts_not_divisible": "expert_parallel does not divide the experts or the ranks",
    "precision_not_supported": "the hardware has no arithmetic for the precision",
    "no_kernel_data": "the twin has no kernel timings for it",
    "gpu_limit": "more GPUs than gpu_limit",
    "over_budget": "beyond the budget of the sweep",
    "no_vision_tower": "the model takes no images or video",
    "context_too_long": "input and output exceed the longest context of the model",
    "engine_not_capable": "the engine of the sweep cannot serve that way",
}
