"""A language model as a list of blocks: what every reader of a config returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from harness.catalog.blocks import Block
from harness.catalog.config_file import ConfigFile


@dataclass(frozen=True, slots=True)
class Language:
    """A language model as its blocks, and the sizes that the table shows.

    Attributes
    ----------
    blocks
        Every block of every layer, and the norms.
    layers
        Layers in the config's own count.
    tied
        Whether the output head is the input embedding.
    """

    blocks: list[Block]
    layers: int
    hidden_size: int
    vocab_size: int
    tied: bool
    intermediate_size: int = 0
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    experts: int = 0
    experts_per_token: int = 0
    expert_intermediate_size: int = 0
    shared_expert_intermediate_size: int = 0
    notes: tuple[str, ...] = field(default=())


Reader = Callable[[ConfigFile], Language]


@dataclass(frozen=True, slots=True)
class Sizes:
    """The keys that nearly every config has."""

    layers: int
    hidden: int
    vocab: int
    heads: int
    kv_heads: int
    head_dim: int

    @classmethod
    def of(cls, config: ConfigFile, layers: int | None = None) -> Sizes:
        """Read the sizes; `layers` is their number where the config does not say it."""
        hidden = config.positive("hidden_size")
        heads = config.positive("num_attention_heads")
        return cls(
            layers=config.positive("num_hidden_layers", default=layers or None),
            hidden=hidden,
            vocab=config.positive("vocab_size"),
            heads=heads,
            kv_heads=config.positive("num_key_value_heads", default=heads),
            head_dim=config.positive("attention_head_dim", "head_dim", default=hidden // heads),
        )
