"""Readers of vision towers: parameters, and how many tokens an image becomes."""

from __future__ import annotations

import math
from collections.abc import Callable

from harness.catalog.config_file import ConfigFile
from harness.catalog.facts import VisionFacts


def read_vision(config: ConfigFile, text_hidden_size: int) -> tuple[VisionFacts | None, str]:
    """Read the vision tower of a config.

    Parameters
    ----------
    config
        The whole file.
    text_hidden_size
        Width of the language model, which the tower projects to.

    Returns
    -------
    tuple
        The tower or None, and what is left out, in words ("" where nothing is).

    Raises
    ------
    CatalogError
        If a key of a known tower is missing.
    """
    tower = config.section("vision_config")
    if tower is None:
        return None, ""
    kind = _kind(tower, config)
    reader = READERS.get(kind)
    if reader is None:
        return None, f"the vision tower of type {kind!r} is not read: counts leave it out"
    return reader(tower, config, text_hidden_size), ""


def _kind(tower: ConfigFile, config: ConfigFile) -> str:
    """Return the type of the tower; newer Qwen files add ``_vision`` to the name of the model."""
    kind = tower.text("model_type") or config.text("model_type")
    return kind.removesuffix("_vision") if kind.startswith("qwen") else kind


def _qwen_blocks(hidden: int, width: int, layers: int, *, modern: bool) -> int:
    """Return parameters of Qwen-VL blocks; `modern` is Qwen2.5-VL (gated MLP, RMS norms)."""
    attention = 4 * hidden * hidden + 4 * hidden
    if modern:
        return layers * (attention + 3 * hidden * width + 2 * width + hidden + 2 * hidden)
    return layers * (attention + 2 * hidden * width + width + hidden + 4 * hidden)


def _qwen_vl(tower: ConfigFile, config: ConfigFile, text_hidden: int) -> VisionFacts:
    """Qwen2-VL, Qwen2.5-VL, Qwen3-VL, Qwen3.5: native resolution, patches merged 2 x 2."""
    kind = _kind(tower, config)
    second, modern = kind == "qwen2_vl", kind == "qwen2_5_vl"
    hidden = tower.positive("embed_dim") if second else tower.positive("hidden_size")
    out = text_hidden if second else tower.positive("out_hidden_size")
    layers = tower.positive("depth")
    heads = tower.positive("num_heads")
    patch = tower.positive("patch_size")
    merge = tower.positive("spatial_merge_size")
    frames = tower.positive("temporal_patch_size")
    channels = tower.positive("in_channels", "in_chans", default=3)
    width = 4 * hidden if second else tower.positive("intermediate_size")
    merged = hidden * merge * merge
    projector = merged * merged + merged + merged * out + out
    params = channels * frames * patch * patch * hidden
    params += _qwen_blocks(hidden, width, layers, modern=modern)
    params += projector + (hidden if modern else 2 * hidden)
    if not second and not modern:
        params += hidden + tower.count("num_position_embeddings") * hidden
        taps = tower.data.get("deepstack_visual_indexes") or []
        params += len(taps) * (projector + 2 * merged)
    return VisionFacts(
        architecture=kind,
        layers=layers,
        hidden_size=hidden,
        intermediate_size=width,
        heads=heads,
        patch_size=patch,
        spatial_merge_size=merge,
        temporal_patch_size=frames,
        tokens_per_image=None,
        tokens_per_frame=None,
        params=params,
    )


def _siglip(tower: ConfigFile, config: ConfigFile, text_hidden: int) -> VisionFacts:
    """Gemma 3: SigLIP on a square of fixed size, pooled to a fixed number of tokens."""
    hidden = tower.positive("hidden_size")
    width = tower.positive("intermediate_size")
    layers = tower.positive("num_hidden_layers")
    patch = tower.positive("patch_size")
    side = tower.positive("image_size") // patch
    tokens = config.positive("mm_tokens_per_image", default=256)
    block = 4 * hidden * hidden + 4 * hidden + 2 * hidden * width + width + hidden + 4 * hidden
    params = 3 * patch * patch * hidden + hidden + side * side * hidden + layers * block
    params += 2 * hidden + hidden + hidden * text_hidden
    return VisionFacts(
        architecture=tower.text("model_type"),
        layers=layers,
        hidden_size=hidden,
        intermediate_size=width,
        heads=tower.positive("num_attention_heads"),
        patch_size=patch,
        spatial_merge_size=side // math.isqrt(tokens),
        temporal_patch_size=1,
        tokens_per_image=tokens,
        tokens_per_frame=tokens,
        params=params,
    )


def _gemma4(tower: ConfigFile, config: ConfigFile, text_hidden: int) -> VisionFacts:
    """Gemma 4: images are scaled to fill a budget of soft tokens, which is what is counted."""
    hidden = tower.positive("hidden_size")
    width = tower.positive("intermediate_size")
    layers = tower.positive("num_hidden_layers")
    patch = tower.positive("patch_size")
    head_dim = tower.positive("head_dim")
    tokens = config.positive("vision_soft_tokens_per_image")
    block = 4 * hidden * hidden + 3 * hidden * width + 4 * hidden + 2 * head_dim
    params = 3 * patch * patch * hidden + 2 * tower.positive("position_embedding_size") * hidden
    params += layers * block + 2 * hidden + hidden * text_hidden
    return VisionFacts(
        architecture=tower.text("model_type"),
        layers=layers,
        hidden_size=hidden,
        intermediate_size=width,
        heads=tower.positive("num_attention_heads"),
        patch_size=patch,
        spatial_merge_size=tower.positive("pooling_kernel_size"),
        temporal_patch_size=1,
        tokens_per_image=tokens,
        tokens_per_frame=tower.positive("video_seq_length", default=tokens),
        params=params,
    )


#: ``model_type`` of the tower -> its reader.
READERS: dict[str, Callable[[ConfigFile, ConfigFile, int], VisionFacts]] = {
    "qwen2_vl": _qwen_vl,
    "qwen2_5_vl": _qwen_vl,
    "qwen3_vl": _qwen_vl,
    "qwen3_vl_moe": _qwen_vl,
    "qwen3_5": _qwen_vl,
    "qwen3_5_moe": _qwen_vl,
    "siglip_vision_model": _siglip,
    "gemma4_vision": _gemma4,
}
