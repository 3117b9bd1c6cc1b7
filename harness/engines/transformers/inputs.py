"""Random inputs: token ids, images and video frames, never the same twice.

Pixels are random values at the size that the processor of the model would hand over; token ids
are uniform over the vocabulary without special tokens. No tokenizer or processor is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.catalog import ModelFacts
from harness.engines.transformers.vision import VisionInputs, vision_inputs
from harness.spec import Workload


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Token ids that a random prompt may use: below `size`, none of `special`."""

    size: int
    special: tuple[int, ...]

    @classmethod
    def of(cls, config: Any) -> Vocabulary:
        """Read the vocabulary of a transformers config, nested configs included."""
        text = config.get_text_config()
        found: set[int] = set()
        for part in {id(c): c for c in (config, text)}.values():
            for key, value in vars(part).items():
                if key.endswith(("_token_id", "_token_index")):
                    values = value if isinstance(value, list) else [value]
                    found.update(v for v in values if isinstance(v, int))
        size = int(text.vocab_size)
        return cls(size, tuple(sorted(v for v in found if 0 <= v < size)))


class InputMaker:
    """Makes the inputs of one run after another.

    Parameters
    ----------
    facts
        The model.
    config
        Its transformers config.
    device
        Where the inputs go.
    dtype
        Torch data type of pixel values.
    seed
        Seed; with the number of the draw it fixes what is drawn.
    """

    def __init__(self, facts: ModelFacts, config: Any, device: str, dtype: Any, seed: int) -> None:
        self._facts = facts
        self._config = config
        self._device = device
        self._dtype = dtype
        self._seed = seed
        self._draws = 0
        self._vocabulary = Vocabulary.of(config)

    def check(self, workload: Workload) -> VisionInputs | None:
        """Return the visual part of a workload, or None for text.

        Raises
        ------
        NotSupportedError
            If the model cannot take it at that size.
        """
        if workload.modality == "text":
            return None
        return vision_inputs(self._facts, self._config, workload)

    def make(self, workload: Workload) -> dict[str, Any]:
        """Return arguments of the model for one run of `workload`, on the device."""
        import torch

        vision = self.check(workload)
        host, pixels = self._seeds()
        ids = self._text(workload.batch, workload.input_tokens, host)
        out: dict[str, Any] = {"attention_mask": torch.ones_like(ids)}
        if vision is not None:
            generator = torch.Generator(self._device).manual_seed(pixels)
            vision.place(ids, out)
            vision.fill(workload.batch, out, generator, self._device, self._dtype)
        out["input_ids"] = ids
        return {name: value.to(self._device) for name, value in out.items()}

    def replies(self, workload: Workload) -> Any:
        """Return the tokens of one run's output, int64 (batch, output), on the device."""
        host, _ = self._seeds()
        return self._text(workload.batch, workload.output_tokens, host).to(self._device)

    def _seeds(self) -> tuple[int, int]:
        """Return two seeds that were not used before."""
        state = np.random.SeedSequence([self._seed, self._draws]).generate_state(2, np.uint64)
        self._draws += 1
        return int(state[0] >> 1), int(state[1] >> 1)

    def _text(self, batch: int, tokens: int, seed: int) -> Any:
        import torch

        special = self._vocabulary.special
        ids = torch.randint(
            self._vocabulary.size - len(special),
            (batch, tokens),
            generator=torch.Generator().manual_seed(seed),
        )
        for value in special:  # ascending: each makes room for itself
            ids += ids >= value
        return ids
