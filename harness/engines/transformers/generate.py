"""Generation with time stamps: start, first token, end.

    start         first token                     end
      |  prefill  |  step  step  step  ...  step  |
      sync        sync (once)                     sync

`generate()` of the library does the work; a logits processor stamps its first call, and no other
step is synchronised. A decode run starts from a held prefill: the library's own `_prefill` is
answered from memory and the cache is put back to the end of the prompt.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harness.engines.transformers.rewind import Bookmark, can_rewind

CACHE_NAMES = ("past_key_values", "cache_params")


@dataclass(frozen=True, slots=True)
class Stamps:
    """When one run started, gave its first token and ended, in nanoseconds."""

    start_ns: int
    first_token_ns: int
    end_ns: int


class FirstTokenStamp:
    """A logits processor: stamps its first call, and sets the tokens that come out.

    Left alone, random weights repeat a handful of tokens in every sequence, and so would always
    use the same few experts of a mixture. Tokens that are drawn in advance keep them varied, for
    the price of one small write a step.

    Parameters
    ----------
    stamp
        Called once, at the first token.
    replies
        int64 (batch, output), the tokens to put out; None for those of highest score.
    """

    def __init__(self, stamp: Callable[[], int], replies: Any = None) -> None:
        self._stamp = stamp
        self._replies = replies
        self._step = 0
        self.at_ns = 0

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Take the scores (batch, vocabulary) of one step and hand them on."""
        if not self._step:
            self.at_ns = self._stamp()
        if self._replies is not None:
            reply = self._replies[:, self._step : self._step + 1]
            scores = scores.scatter_(1, reply, math.inf)
        self._step += 1
        return scores


class Generator:
    """Runs a model from prompt to last token.

    Parameters
    ----------
    model
        A transformers model in evaluation mode.
    clock_ns
        Monotonic clock.
    synchronise
        Waits until the device has finished all work given to it.
    """

    def __init__(
        self, model: Any, clock_ns: Callable[[], int], synchronise: Callable[[], None]
    ) -> None:
        from transformers import GenerationConfig

        # What a call leaves open is taken from here: an end token, sampling, a static cache.
        model.generation_config = GenerationConfig(pad_token_id=0)
        self._model = model
        self._clock_ns = clock_ns
        self._synchronise = synchronise

    def now_ns(self) -> int:
        """Time at which the device has finished all work given to it."""
        self._synchronise()
        return self._clock_ns()

    def run(self, inputs: dict[str, Any], tokens: int, replies: Any = None) -> tuple[Stamps, Any]:
        """Generate `tokens` tokens for every prompt.

        Parameters
        ----------
        inputs
            Arguments of the model, on its device.
        tokens
            Output tokens; 1 is a prefill.
        replies
            int64 (batch, tokens), the tokens to put out; None for those of highest score.

        Returns
        -------
        tuple
            The stamps, and the int64 tensor (batch, input + output) of all tokens.
        """
        first = FirstTokenStamp(self.now_ns, replies)
        start_ns = self.now_ns()
        out = self._generate(inputs, tokens, first)
        return Stamps(start_ns, first.at_ns, self.now_ns()), out

    def _generate(self, inputs: dict[str, Any], tokens: int, first: FirstTokenStamp) -> Any:
        import torch
        from transformers import GenerationConfig, LogitsProcessorList

        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=tokens,
            use_cache=True,
            eos_token_id=None,
            pad_token_id=0,
        )
        with torch.inference_mode():
            return self._model.generate(
                **inputs, generation_config=config, logits_processor=LogitsProcessorList([first])
            )


class HeldPrefill:
    """One prefill, and decode stretches that all start from its end.

    Use as a context: in it the first run prefills, and every run after `rewind` only decodes.

    Parameters
    ----------
    model
        The model whose prefill is held.
    after_prefill
        Called once when the prefill is done and its state is kept, before the first stretch.

    Attributes
    ----------
    can_rewind
        Whether the cache can be put back; known after the first run.
    """

    def __init__(self, model: Any, after_prefill: Callable[[], None] | None = None) -> None:
        self._model = model
        self._after_prefill = after_prefill
        self._outputs: Any = None
        self._bookmark: Bookmark | None = None
        self.can_rewind = False

    def __enter__(self) -> HeldPrefill:
        self._prefill: Any = getattr(self._model, "_prefill", None)
        if self._prefill is not None:
            self._model._prefill = self._answer
        return self

    def __exit__(self, *_: object) -> None:
        if self._prefill is not None:
            del self._model._prefill
        self._outputs = self._bookmark = None

    def rewind(self) -> None:
        """Put the cache back to the end of the prompt; nothing before the first run."""
        import torch

        if self._bookmark is not None:
            with torch.inference_mode():  # its tensors were made so
                self._bookmark.rewind()

    def _answer(self, *args: Any, **kwargs: Any) -> Any:
        if self._bookmark is not None:
            return self._outputs
        outputs = self._prefill(*args, **kwargs)
        cache = cache_of(outputs)
        self.can_rewind = can_rewind(cache)
        if self.can_rewind:
            self._outputs = outputs
            self._bookmark = Bookmark(cache)
        if self._after_prefill is not None:
            self._after_prefill()
        return outputs


def cache_of(outputs: Any) -> Any:
    """Return the cache among the outputs of a model, or None."""
    for name in CACHE_NAMES:
        cache = getattr(outputs, name, None)
        if cache is not None:
            return cache
    return None
