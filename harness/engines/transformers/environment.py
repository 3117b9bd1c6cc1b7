"""What the results of a session depend on and no column says. Plain JSON values."""

from __future__ import annotations

import os
import platform
import sys
from importlib.util import find_spec
from typing import Any

from harness.catalog import ModelFacts
from harness.engines.transformers.devices import Device, cpu_name
from harness.errors import MeterError


def versions() -> dict[str, str | None]:
    """Return versions of the interpreter and of the libraries that do the work."""
    import torch
    import transformers

    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "transformers": str(transformers.__version__),
        "cuda": torch.version.cuda,
        "hip": getattr(torch.version, "hip", None),
        "cudnn": str(torch.backends.cudnn.version()) if torch.version.cuda else None,
    }


def engine_version() -> str:
    """Return the versions in one line."""
    found = versions()
    parts = [f"transformers {found['transformers']}", f"torch {found['torch']}"]
    if found["cuda"]:
        parts.append(f"CUDA {found['cuda']}")
    if found["hip"]:
        parts.append(f"HIP {found['hip']}")
    return ", ".join(parts)


def describe(
    model: Any,
    device: Device,
    *,
    dtype: str,
    quantisation: str | None,
    seed: int,
    facts: ModelFacts,
) -> dict[str, Any]:
    """Return devices, versions and settings of a session.

    Parameters
    ----------
    model
        The model that is up.
    device
        Where it is.
    dtype
        Its data type.
    quantisation
        Library that made its weights narrower, or None.
    seed
        Seed of weights and prompts.
    facts
        The model in the catalog.
    """
    import torch

    return {
        "engine": "transformers",
        "versions": versions(),
        "devices": [_device(device)],
        "computes_on": device.torch_name,
        "cpu": cpu_name(),
        "platform": platform.platform(),
        "threads": int(torch.get_num_threads()),
        "dtype": dtype,
        "weights": "random, seeded, at the real shapes",
        "output_tokens": "drawn at random",
        "parameters": sum(int(weight.numel()) for weight in model.parameters()),
        "quantisation": quantisation,
        "attention": getattr(model.config, "_attn_implementation", None)
        if facts.attention_layers
        else None,
        "experts": _plain(_experts(model)) if facts.experts else None,
        "cache": "DynamicCache",
        **_kernels(facts.state_layers > 0, device),
        "seed": seed,
        "allocator": {
            key: value
            for key, value in os.environ.items()
            if key in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "MALLOC_ARENA_MAX")
        },
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "tf32": bool(torch.backends.cuda.matmul.allow_tf32) if not device.works_on_cpu else None,
        "executable": os.path.basename(sys.executable),
    }


def _device(device: Device) -> dict[str, Any]:
    """Driver, limits and clocks of a GPU; what torch knows of other devices."""
    out: dict[str, Any] = {
        "name": device.name,
        "uuid": device.uuid or None,
        "kind": device.kind,
        "memory_bytes": device.memory_bytes,
    }
    if device.kind == "cuda":
        from harness.meters.nvml_devices import device_environment

        try:
            out |= _plain(device_environment(device.uuid))
        except MeterError as error:
            out["driver_error"] = error.what
    return out


def _experts(model: Any) -> Any:
    read = getattr(model, "get_experts_implementation", None)
    return read() if callable(read) else None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def _kernels(recurrent: bool, device: Device) -> dict[str, Any]:
    """Fast kernels of recurrent layers; without them slow reference code runs, which is said."""
    if not recurrent:
        return {}
    there = {name: find_spec(name) is not None for name in ("causal_conv1d", "mamba_ssm", "fla")}
    fast = not device.works_on_cpu and (
        (there["causal_conv1d"] and there["mamba_ssm"]) or there["fla"]
    )
    return {"ssm_kernels": there, "ssm_reference_kernels": not fast}
