"""What EnergyLens knows of a model: sizes, parameter counts, cache and work per token."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from harness.errors import CatalogError

Family = Literal["dense", "moe", "ssm"]

#: Bytes of one stored weight, its share of the scales included.
#:
#: fp8: one float32 scale a 128 x 128 block (DeepSeek-V3). int8: one float32 scale an output
#: channel, taken as 4096 weights long. int4: groups of 128 with a 16-bit scale and a 4-bit zero
#: point (AWQ, GPTQ). nvfp4: groups of 16 with an 8-bit scale. mxfp4: groups of 32 with an 8-bit
#: scale (OCP Microscaling Formats v1.0).
WEIGHT_BYTES: Final[dict[str, float]] = {
    "fp32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0 + 4.0 / (128 * 128),
    "int8": 1.0 + 4.0 / 4096,
    "int4": 0.5 + 2.0 / 128 + 0.5 / 128,
    "nvfp4": 0.5 + 1.0 / 16,
    "mxfp4": 0.5 + 1.0 / 32,
}


@dataclass(frozen=True, slots=True)
class AttentionGroup:
    """Attention layers of one shape.

    Attributes
    ----------
    layers
        How many layers have this shape.
    heads
        Query heads.
    qk_dim, v_dim
        Width of a query or key head, and of a value head.
    kv_values
        Values that one token adds to the cache of one layer.
    window
        Tokens that are kept and attended to (sliding or chunked attention); None is all of them.
    top_k
        Tokens that are attended to although all are kept (sparse attention); None is all of them.
    """

    layers: int
    heads: int
    qk_dim: int
    v_dim: int
    kv_values: int
    window: int | None = None
    top_k: int | None = None

    def kept(self, context: float) -> float:
        """Return how many of `context` tokens stay in the cache."""
        return context if self.window is None else min(context, float(self.window))

    def flops(self, context: float) -> float:
        """Return FLOPs of scores and weighted values of one new token, all layers of the group."""
        attended = self.kept(context)
        if self.top_k is not None:
            attended = min(attended, float(self.top_k))
        return 2.0 * self.layers * self.heads * (self.qk_dim + self.v_dim) * attended


@dataclass(frozen=True, slots=True)
class VisionFacts:
    """The vision tower of a vision-language model.

    Attributes
    ----------
    architecture
        ``model_type`` of the tower.
    layers, hidden_size, intermediate_size, heads
        Shape of its transformer.
    patch_size
        Pixels along the side of a patch.
    spatial_merge_size
        Patches along the side of one visual token.
    temporal_patch_size
        Video frames that share one grid of tokens.
    tokens_per_image, tokens_per_frame
        Fixed number of tokens of an image or a video frame; None where it follows the size.
    params
        Parameters, the projector to the language model included.
    """

    architecture: str
    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    patch_size: int
    spatial_merge_size: int
    temporal_patch_size: int
    tokens_per_image: int | None
    tokens_per_frame: int | None
    params: int

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return visual tokens along height and width, each side to the nearest whole token.

        The nearest, not the next: so do the Qwen-VL image processors (``smart_resize``) and the
        twin engine. Rescaling to a processor's own pixel limits is not modelled.
        """
        if height < 1 or width < 1:
            raise CatalogError(
                f"an image of {height} x {width} pixels has no tokens",
                where="image_height, image_width",
                fix="give both in pixels, at least 1",
            )
        side = self.patch_size * self.spatial_merge_size
        return max(1, round(height / side)), max(1, round(width / side))

    def patches(self, height: int, width: int) -> int:
        """Return patches of one image that go through the tower, before merging."""
        rows, columns = self.grid(height, width)
        return rows * columns * self.spatial_merge_size**2

    def image_tokens(self, height: int, width: int) -> int:
        """Return visual tokens of one image of `height` x `width` pixels."""
        rows, columns = self.grid(height, width)
        return rows * columns if self.tokens_per_image is None else self.tokens_per_image

    def video_tokens(self, frames: int, height: int, width: int) -> int:
        """Return visual tokens of `frames` video frames; an unfilled last group counts whole.

        Time stamps that some models write between frames are text, and are not counted.
        """
        if frames < 1:
            raise CatalogError(
                f"a video of {frames} frames has no tokens",
                where="frames",
                fix="give at least 1 frame",
            )
        groups = math.ceil(frames / self.temporal_patch_size)
        rows, columns = self.grid(height, width)
        return groups * (rows * columns if self.tokens_per_frame is None else self.tokens_per_frame)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Architecture facts of one model, read from its ``config.json``.

    Attributes
    ----------
    model_id
        Hugging Face id, or the path that was asked for.
    family
        ``dense``, ``moe`` (experts) or ``ssm`` (state-space or linear-attention layers, with or
        without experts).
    architecture
        Class name in the config, such as ``LlamaForCausalLM``.
    layers, attention_layers, state_layers
        Blocks in all, with attention, with a recurrent state (Mamba, linear attention).
    hidden_size, intermediate_size, heads, kv_heads, head_dim, vocab_size
        As in the config; 0 where the model has none (a pure Mamba model has no heads).
    experts, experts_per_token, expert_intermediate_size, shared_expert_intermediate_size
        Routed experts of a layer, how many a token uses, their width, the width of the experts that
        every token uses; 0 without experts.
    state_bytes_per_sequence
        Bytes of the recurrent state of one sequence with 2-byte values, all layers, whatever
        the context.
    vision
        The vision tower, or None.
    params_total, params_active
        Parameters held, and used for one token: language model (both embeddings) and vision tower.
    config_path
        The file that was read.
    max_position
        Longest context the config allows; 0 where it sets none.
    attention
        The attention layers, grouped by shape.
    params_linear, params_experts
        Parameters that a precision below 16 bits changes: linear layers of every token, and routed
        experts.
    params_lookup
        Parameters that are only looked up, not multiplied (an input embedding of its own).
    state_flops_per_token
        FLOPs of recurrent state updates and reads of one token, all layers.
    native_precision
        What the published weights are stored in: ``bf16``, or the config's quantization method.
    notes
        What the counts leave out, in words.
    """

    model_id: str
    family: Family
    architecture: str
    layers: int
    attention_layers: int
    state_layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    experts: int
    experts_per_token: int
    expert_intermediate_size: int
    shared_expert_intermediate_size: int
    state_bytes_per_sequence: float
    vision: VisionFacts | None
    params_total: int
    params_active: int
    config_path: Path
    max_position: int
    attention: tuple[AttentionGroup, ...]
    params_linear: int
    params_experts: int
    params_lookup: int
    state_flops_per_token: float
    native_precision: str
    notes: tuple[str, ...] = ()

    @property
    def params_vision(self) -> int:
        """Parameters of the vision tower; 0 without one."""
        return 0 if self.vision is None else self.vision.params

    def kv_bytes_per_token(self, bytes_per_value: float = 2.0) -> float:
        """Return bytes that one token writes to the cache, all attention layers, in bytes.

        Layers with a window write too, but forget: see `kv_bytes_per_sequence`.
        """
        return bytes_per_value * sum(group.layers * group.kv_values for group in self.attention)

    def kv_bytes_per_sequence(self, context: float, bytes_per_value: float = 2.0) -> float:
        """Return bytes of cache held (and read by each decode step) for `context` tokens."""
        return bytes_per_value * sum(
            group.layers * group.kv_values * group.kept(context) for group in self.attention
        )

    def weight_bytes(self, precision: str) -> float:
        """Return bytes of all weights, over all GPUs, when served in `precision`.

        Embeddings, output head, norms, routers, convolutions and the vision tower stay at 16 bits
        (32 in fp32), as in the published quantized checkpoints. ``mxfp4`` changes only the routed
        experts of a model that has them (so gpt-oss is published). Scales: see `WEIGHT_BYTES`.

        Raises
        ------
        CatalogError
            If the precision is unknown.
        """
        if precision not in WEIGHT_BYTES:
            raise CatalogError(
                f"unknown precision {precision!r}",
                where="precision",
                fix=f"use one of {', '.join(WEIGHT_BYTES)}",
            )
        each = WEIGHT_BYTES[precision]
        changed = self.params_experts
        if precision != "mxfp4" or self.params_experts == 0:
            changed += self.params_linear
        kept_bytes = max(2.0, each)
        return changed * each + (self.params_total - changed) * kept_bytes

    def flops_per_token(self, context: float = 0) -> float:
        """Return FLOPs of one token through the language model, `context` tokens before it.

        Two per parameter that is multiplied (not looked up; the vision tower does not run for a
        token), plus attention over the context and the state updates. Multi-head latent attention
        is counted unabsorbed, as in prefill.
        """
        matrices = 2.0 * (self.params_active - self.params_lookup - self.params_vision)
        return (
            matrices
            + self.state_flops_per_token
            + sum(group.flops(context) for group in self.attention)
        )

    def visual_tokens(self, height: int, width: int) -> int:
        """Return visual tokens of one image of `height` x `width` pixels.

        Raises
        ------
        CatalogError
            If the model has no vision tower that is known, or a side is below 1 pixel.
        """
        return self._tower().image_tokens(height, width)

    def video_tokens(self, frames: int, height: int, width: int) -> int:
        """Return visual tokens of a video of `frames` frames of `height` x `width` pixels.

        Raises
        ------
        CatalogError
            If the model has no vision tower that is known, or a number is below 1.
        """
        return self._tower().video_tokens(frames, height, width)

    def _tower(self) -> VisionFacts:
        if self.vision is None:
            raise CatalogError(
                f"{self.model_id} takes no images or video that EnergyLens knows of",
                where="; ".join((str(self.config_path), *self.notes)),
                fix="use modality text, or a model with a vision tower",
            )
        return self.vision
