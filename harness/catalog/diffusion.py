"""Architecture facts of diffusion transformers, from their public configurations.

The weights that a token meets and the tensors that a block writes are counted from the shape of
its blocks, as the `diffusers` library runs them.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt

from harness.errors import CatalogError

DATA: Final = Path(__file__).parent / "diffusion.json"

_BLOCK_WIDTHS = 9.0
"""Tensors of one width that self-attention writes for a token: norm and modulation (2), query,
key, value (3), attention, projection, gate and residual (2)."""

_CROSS_WIDTHS = 4.0
"""Cross-attention: query, attention, projection, residual; keys and values are of the text."""

_ROTARY_WIDTHS = 5.0
"""Rotary embedding of one tensor: cast, rotated halves, two products, sum."""

_LINEAR_WIDTHS = 8.0
"""Linear attention: ReLU of query and key, casts of three tensors to 32 bit and back, division."""


class DiffusionModel(BaseModel):
    """One architecture.

    Attributes
    ----------
    name
        Key in the data file.
    ids
        Model ids that have this architecture.
    modality
        What it makes: images or videos.
    layers, heads, head_dim
        Transformer blocks and their attention.
    feed_forward_ratio
        Width inside of the feed-forward layer over the width of the model; of the output of the
        gate where it is gated.
    gated_feed_forward
        Whether that layer has a gate (three matrices).
    text
        How text comes in: `joint` attention with the latents, or `cross` attention.
    linear_attention
        Whether attention is linear in the tokens.
    dual_attention_layers
        Blocks with a second self-attention.
    long_skip_layers
        Blocks that first join their input with that of an earlier block.
    qk_norm, rotary, rotary_in_cross_attention
        Norms and rotary position embeddings of queries and keys.
    vae_pixels, patch_pixels
        Pixels of a latent's side, and latents of a token's side.
    vae_frames, patch_frames
        The same in time; the first frame is a latent of its own.
    joint_text_tokens
        Text tokens that run with the latents; 0 with cross-attention.
    passes_per_step
        2 with classifier-free guidance, 1 without.
    source, notes
        Where the numbers come from, and what to know.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    ids: tuple[str, ...] = Field(min_length=1)
    modality: Literal["image", "video"]
    layers: PositiveInt
    heads: PositiveInt
    head_dim: PositiveInt
    feed_forward_ratio: PositiveFloat
    gated_feed_forward: bool
    text: Literal["joint", "cross"]
    linear_attention: bool
    dual_attention_layers: NonNegativeInt
    long_skip_layers: NonNegativeInt
    qk_norm: bool
    rotary: bool
    rotary_in_cross_attention: bool
    vae_pixels: PositiveInt
    patch_pixels: PositiveInt
    vae_frames: PositiveInt
    patch_frames: PositiveInt
    joint_text_tokens: NonNegativeInt
    passes_per_step: PositiveInt
    source: str = Field(min_length=1)
    notes: str

    @property
    def width(self) -> int:
        """Width of the model."""
        return self.heads * self.head_dim

    @property
    def token_params(self) -> float:
        """Weights that one latent token is multiplied with, all layers.

        Less than all weights: a joint block has as many again for the text, and modulation works
        once a pass.
        """
        square = float(self.width) ** 2
        feed_forward = (3 if self.gated_feed_forward else 2) * self.feed_forward_ratio
        block = 4.0 + (2.0 if self.text == "cross" else 0.0) + feed_forward
        extra = 4.0 * self.dual_attention_layers + 2.0 * self.long_skip_layers
        return square * (self.layers * block + extra)

    @property
    def attention_layers(self) -> int:
        """Attentions that cost the square of the tokens."""
        return 0 if self.linear_attention else self.layers + self.dual_attention_layers

    @property
    def activation_widths(self) -> float:
        """Tensors that a block writes for one token, in widths, mean over the layers."""
        norm = 2.0 if self.qk_norm else 0.0
        own = _BLOCK_WIDTHS + norm + (2 * _ROTARY_WIDTHS if self.rotary else 0.0)
        own += _LINEAR_WIDTHS if self.linear_attention else 0.0
        cross = 0.0
        if self.text == "cross":
            cross = _CROSS_WIDTHS + norm / 2
            cross += _ROTARY_WIDTHS if self.rotary_in_cross_attention else 0.0
        inner = self.feed_forward_ratio
        # Ungated: inner layer and activation. Gated: both halves three times, gate and product.
        feed_forward = 5.0 + (8.0 * inner if self.gated_feed_forward else 2.0 * inner)
        dual = self.dual_attention_layers * (_BLOCK_WIDTHS + norm)
        skip = self.long_skip_layers * 5.0
        return own + cross + feed_forward + (dual + skip) / self.layers


@lru_cache(maxsize=1)
def diffusion_models() -> dict[str, DiffusionModel]:
    """Return the architectures of the data file by name."""
    known = json.loads(DATA.read_text(encoding="utf-8"))
    return {name: DiffusionModel(name=name, **values) for name, values in known.items()}


def load_diffusion(model_id: str) -> DiffusionModel:
    """Return the architecture of a model, by id or name, without regard to case.

    Raises
    ------
    CatalogError
        If no architecture is packaged for it.
    """
    wanted = model_id.lower()
    for name, model in diffusion_models().items():
        if wanted == name.lower() or wanted in (known.lower() for known in model.ids):
            return model
    raise CatalogError(
        f"No architecture of a diffusion model is packaged for {model_id!r}.",
        where=str(DATA.name),
        fix=f"Known: {', '.join(sorted(diffusion_models()))}.",
    )
