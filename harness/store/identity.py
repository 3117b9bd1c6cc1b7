"""The identity of a task: one hash of its configuration, the same on every machine."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from types import MappingProxyType

IDENTITY_DEFAULTS: Mapping[str, object] = MappingProxyType(
    {
        "model_id": None,
        "engine": None,
        "hardware": None,
        "tensor_parallel": 1,
        "pipeline_parallel": 1,
        "expert_parallel": 1,
        "data_parallel": 1,
        "ulysses_degree": 1,
        "ring_degree": 1,
        "precision": "bf16",
        "power_limit_w": None,
        "modality": "text",
        "batch": None,
        "input_tokens": None,
        "output_tokens": None,
        "visual_tokens": 0,
        "images": 0,
        "frames": 0,
        "image_height": 0,
        "image_width": 0,
        "request_rate_per_s": None,
        "task": None,
        "diffusion_steps": None,
        "output_images": None,
        "output_frames": None,
        "output_height": None,
        "output_width": None,
    }
)
"""The columns that make a configuration, and the value that each has when it is not given."""


def task_id_of(columns: Mapping[str, object]) -> str:
    """Hash a configuration given in table form.

    Only the columns of `IDENTITY_DEFAULTS` count. A null and a default leave no trace in the
    hash, so a column added later changes no id; a whole float hashes as the integer.

    Parameters
    ----------
    columns
        Column name to value; columns that are no part of the identity are ignored.

    Returns
    -------
    str
        The first 16 hexadecimal digits of the SHA-256 of the canonical JSON.

    Raises
    ------
    ValueError
        If a value is infinite or of a type that has no place in a table.
    """
    kept: dict[str, object] = {}
    for name, given in columns.items():
        if given is None or name not in IDENTITY_DEFAULTS:
            continue
        value = _canonical(name, given)
        if value is not None and value != IDENTITY_DEFAULTS[name]:
            kept[name] = value
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


def _canonical(name: str, value: object) -> object:
    """Return the one form in which a value is hashed; None for every kind of missing value."""
    if isinstance(value, str):
        return value
    item = getattr(value, "item", None)
    if item is not None:
        value = item()
    if isinstance(value, bool):
        raise ValueError(f"{name} is a truth value; an identity holds text and numbers")
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        if math.isnan(value):
            return None
        if math.isinf(value):
            raise ValueError(f"{name} is infinite")
        return int(value) if value.is_integer() else value
    if type(value).__name__ in {"NAType", "NaTType"}:
        return None
    raise ValueError(f"{name} holds a {type(value).__name__}; an identity holds text and numbers")
