"""Datasheet and architecture facts that laws shared over models and hardware are written in.

`fitting` reads no catalog: whoever calls it hands these over (`energylens.facts` takes them from
the packaged catalog), and a FIT file keeps the ones that it needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class HardwareFacts:
    """Datasheet of one GPU type.

    Attributes
    ----------
    hardware
        Canonical name, as in the column `hardware`.
    architecture
        Such as `Hopper`.
    memory_bytes, memory_bandwidth_bytes_per_s
        Size in B and peak bandwidth in B/s.
    peak_flops
        Precision of the weights -> dense FLOP/s of the arithmetic that serves them.
    power_limit_w
        Default power limit, W.
    idle_power_w, loaded_idle_power_w
        Power without and with a context and weights in memory, W; None where not known.
    interconnect_bytes_per_s
        GPU to GPU within a node, one direction, for each GPU, B/s.
    """

    hardware: str
    architecture: str
    memory_bytes: float
    memory_bandwidth_bytes_per_s: float
    peak_flops: Mapping[str, float] = field(hash=False)
    power_limit_w: float
    idle_power_w: float | None
    loaded_idle_power_w: float | None
    interconnect_bytes_per_s: float


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Architecture of one model; 0 stands for "has none".

    Attributes
    ----------
    model_id, family
        As in the columns of that name.
    backbone
        Same text for models that differ in weights, name or vision tower only. A model is not
        unseen while another of its backbone is in the training rows.
    layers, attention_layers, state_layers
        Blocks in all, with attention, with a recurrent state.
    hidden_size, heads, kv_heads, head_dim, vocab_size
        Shape of the language model.
    experts, experts_per_token
        Routed experts of a layer, and how many of them a token uses.
    params_total, params_active, params_experts, params_lookup, params_vision
        Parameters: all, used for one token, of the routed experts, only looked up, of the vision
        tower.
    kv_bytes_per_token
        KV cache that one token adds, all layers, 16 bit, B.
    kv_window_tokens, kv_window_share
        Tokens that layers with a window keep, and their share of the cache of a token; 0 where
        all layers keep all.
    state_bytes_per_sequence, state_flops_per_token
        Recurrent state, B, and the work on it, FLOP.
    """

    model_id: str
    family: str
    backbone: str
    layers: int
    attention_layers: int
    state_layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    experts: int
    experts_per_token: int
    params_total: float
    params_active: float
    params_experts: float
    params_lookup: float
    params_vision: float
    kv_bytes_per_token: float
    kv_window_tokens: float
    kv_window_share: float
    state_bytes_per_sequence: float
    state_flops_per_token: float


@dataclass(frozen=True, slots=True)
class DiffusionFacts:
    """Architecture of one diffusion transformer.

    Attributes
    ----------
    model_id
        As in the column of that name.
    backbone
        Name of the architecture; models that differ in weights only share it.
    modality
        `image` or `video`: what it makes.
    layers, width
        Transformer blocks and their width.
    token_params
        Weights that one latent token is multiplied with.
    attention_layers
        Attentions that cost the square of the tokens; 0 with linear attention.
    activation_widths
        Tensors that a block writes for one token, in widths.
    vae_pixels, patch_pixels
        Pixels of a latent's side, latents of a token's side.
    vae_frames, patch_frames
        The same in time; the first frame is a latent of its own.
    joint_text_tokens
        Text tokens that run with the latents.
    passes_per_step
        2 with classifier-free guidance, 1 without.
    """

    model_id: str
    backbone: str
    modality: str
    layers: float
    width: float
    token_params: float
    attention_layers: float
    activation_widths: float
    vae_pixels: float
    patch_pixels: float
    vae_frames: float
    patch_frames: float
    joint_text_tokens: float
    passes_per_step: float


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts by name; a name that is not there is not known.

    Attributes
    ----------
    hardware
        Name of a GPU type -> its datasheet.
    models
        Model id -> its architecture.
    diffusion
        Model id -> its architecture, for models that make images or videos.
    """

    hardware: Mapping[str, HardwareFacts] = field(default_factory=dict, hash=False)
    models: Mapping[str, ModelFacts] = field(default_factory=dict, hash=False)
    diffusion: Mapping[str, DiffusionFacts] = field(default_factory=dict, hash=False)

    def backbone(self, model_id: str) -> str:
        """Return what siblings of a model have in common; its own name if it is not known."""
        known = self.models.get(model_id)
        if known is not None:
            return known.backbone
        diffusion = self.diffusion.get(model_id)
        return model_id if diffusion is None else diffusion.backbone

    def joined(self, other: Facts) -> Facts:
        """Return the facts of both; those of `other` count where both know a name."""
        return Facts(
            {**self.hardware, **other.hardware},
            {**self.models, **other.models},
            {**self.diffusion, **other.diffusion},
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "hardware": {k: {**asdict(v)} for k, v in sorted(self.hardware.items())},
            "models": {k: {**asdict(v)} for k, v in sorted(self.models.items())},
            "diffusion": {k: {**asdict(v)} for k, v in sorted(self.diffusion.items())},
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Facts:
        """Rebuild from `to_dict`; keys of a later version are left out."""

        def known(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
            names = {f.name for f in fields(cls)}
            return {k: v for k, v in values.items() if k in names}

        return Facts(
            {k: HardwareFacts(**known(HardwareFacts, v)) for k, v in data["hardware"].items()},
            {k: ModelFacts(**known(ModelFacts, v)) for k, v in data["models"].items()},
            {
                k: DiffusionFacts(**known(DiffusionFacts, v))
                for k, v in data.get("diffusion", {}).items()
            },
        )
