"""Build a model with random weights at its real shapes, straight on the device.

Energy depends on shapes far more than on the values of weights, but never zeros: they make a GPU
run cooler and faster than any trained model would.
"""

from __future__ import annotations

from typing import Any

from harness.engines.transformers.failures import one_line, translate
from harness.errors import EnergyLensError, NotSupportedError

LARGE = 4096
"""Weights of fewer values, and all vectors, may be constant: norms, biases, decay rates."""

REFILL_STD = 0.02

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def build(config: Any, dtype: str, device: str, attention: str | None, seed: int, name: str) -> Any:
    """Return the model in evaluation mode, without gradients, on `device`.

    Parameters
    ----------
    config
        A transformers config.
    dtype
        Name of a torch data type, such as ``bfloat16``.
    device
        ``cpu``, ``cuda:0`` or ``meta``, which makes shapes without memory.
    attention
        Attention implementation, or None for the library's choice.
    seed
        Seed of the weights.
    name
        Model and file, for errors.

    Raises
    ------
    NotSupportedError
        If transformers cannot build it.
    OutOfMemoryError
        If it does not fit.
    """
    import torch

    auto = model_class(config, name)
    options: dict[str, Any] = {"dtype": getattr(torch, dtype)}
    if attention is not None:
        options["attn_implementation"] = attention
    torch.manual_seed(seed)
    try:
        with torch.no_grad(), torch.device(device):
            model = auto.from_config(config, **options)
        model.eval().requires_grad_(False)
        if device != "meta":
            _refill(model, seed)
        return model
    except EnergyLensError:
        raise
    except Exception as error:  # a model can fail anywhere in the library's own code
        ours = translate(error, name)
        if ours.what.startswith("the workload crashed"):
            ours = NotSupportedError(
                f"transformers cannot build this model: {one_line(error)}",
                where=name,
                fix="update transformers, or leave the model out of the sweep",
            )
        raise ours from error


def model_class(config: Any, name: str) -> Any:
    """Return the auto class that generates text from what the model takes: text, or images too."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto import modeling_auto

    kind = config.model_type
    if (
        getattr(config, "vision_config", None) is not None
        and kind in modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    ):
        return AutoModelForImageTextToText
    if kind in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return AutoModelForCausalLM
    raise NotSupportedError(
        f"transformers has no text generation for {kind!r}",
        where=name,
        fix="leave the model out of the sweep",
    )


def constant_weights(model: Any) -> list[str]:
    """Return the names of large weights that are constant or not finite."""
    return [name for name, weight in model.named_parameters() if not _is_random(weight)]


def _is_random(weight: Any) -> bool:
    if weight.ndim < 2 or weight.numel() < LARGE or not weight.is_floating_point():
        return True
    sample = weight.detach().reshape(-1)[:: max(1, weight.numel() // LARGE)].float()
    return bool(sample.isfinite().all()) and float(sample.std()) > 0


def _refill(model: Any, seed: int) -> None:
    """Give random values to the large weights that the library left constant or unset."""
    import torch

    generators: dict[str, Any] = {}
    with torch.no_grad():
        for weight in model.parameters():
            if not _is_random(weight):
                key = str(weight.device)
                if key not in generators:
                    generators[key] = torch.Generator(weight.device).manual_seed(seed)
                weight.normal_(0.0, REFILL_STD, generator=generators[key])
