"""From a published config.json to a transformers config: any model of the catalog.

The weights are made, not loaded, so everything in the file that is about stored weights or about
code on a hub is left out: quantization, remote classes, the data type, the library's version.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.engines.transformers.failures import one_line
from harness.errors import NotSupportedError

_ABOUT_FILES = frozenset(
    {"quantization_config", "auto_map", "torch_dtype", "dtype", "transformers_version"}
)

_NATIVE = {"kimi_k2": "deepseek_v3"}
"""``model_type`` that transformers knows under another name: the same architecture, key by key."""


def read_config(path: Path) -> Any:
    """Return the transformers config of the model in a config.json.

    Parameters
    ----------
    path
        The file, as its publisher wrote it.

    Raises
    ------
    NotSupportedError
        If transformers does not know the architecture, or refuses the config; in its own words.
    """
    from transformers import AutoConfig

    data = json.loads(path.read_text(encoding="utf-8"))
    data = _mamba_ssm(data) if "d_model" in data and "ssm_cfg" in data else _clean(data)
    name = str(data.pop("model_type", ""))
    try:
        return AutoConfig.for_model(_NATIVE.get(name, name), **data)
    except Exception as error:  # a config can fail anywhere in the library's own code
        if name and "Unrecognized model identifier" in str(error):
            words = f"it has no architecture called {name!r}"
        else:
            words = one_line(error)
        raise NotSupportedError(
            f"transformers refuses this model: {words}",
            where=str(path),
            fix="update transformers, or leave the model out of the sweep",
        ) from error


def _clean(data: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in data.items():
        if key in _ABOUT_FILES:
            continue
        out[key] = _clean(value) if key.endswith("_config") and isinstance(value, dict) else value
    return out


def _mamba_ssm(data: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of the ``mamba_ssm`` package (d_model, ssm_cfg) in the names of the library.

    Defaults are those of that package, as in the catalog's reader.
    """
    ssm = data["ssm_cfg"] or {}
    hidden, multiple = int(data["d_model"]), int(data.get("pad_vocab_size_multiple", 8))
    inner = hidden * int(ssm.get("expand", 2))
    out: dict[str, Any] = {
        "hidden_size": hidden,
        "num_hidden_layers": int(data["n_layer"]),
        "vocab_size": -(-int(data["vocab_size"]) // multiple) * multiple,
        "expand": int(ssm.get("expand", 2)),
        "conv_kernel": int(ssm.get("d_conv", 4)),
        "tie_word_embeddings": bool(data.get("tie_embeddings", True)),
        "residual_in_fp32": bool(data.get("residual_in_fp32", True)),
        "use_conv_bias": True,
        "use_bias": False,
    }
    if ssm.get("layer", "Mamba1") == "Mamba2":
        head_dim = int(ssm.get("headdim", 64))
        return out | {
            "model_type": "mamba2",
            "state_size": int(ssm.get("d_state", 128)),
            "head_dim": head_dim,
            "num_heads": inner // head_dim,
            "n_groups": int(ssm.get("ngroups", 1)),
            "chunk_size": int(ssm.get("chunk_size", 256)),
        }
    return out | {
        "model_type": "mamba",
        "state_size": int(ssm.get("d_state", 16)),
        "intermediate_size": inner,
    }
