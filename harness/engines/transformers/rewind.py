"""Put the cache of a model back to where the prompt ended, without another prefill.

    prefill | step step step |<- rewind | step step step |<- rewind ...

Layers of full attention grow by concatenation: their first tokens are untouched, so a view of
them is the old state. Sliding windows make new tensors and keep the old ones whole. Recurrent
states are written in place, so they are copied before, and copied back after.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

_GROWING = ("keys", "values")


@dataclass(slots=True)
class _LayerState:
    length: int | None
    kept: dict[str, Any]
    copied: dict[str, Any] = field(default_factory=dict)


def can_rewind(cache: Any) -> bool:
    """Whether `Bookmark` knows every layer of this cache."""
    from transformers import cache_utils

    layers = getattr(cache, "layers", None)
    if not layers:
        return False
    known = (cache_utils.DynamicLayer, cache_utils.LinearAttentionLayer)
    odd = tuple(
        getattr(cache_utils, name)
        for name in ("QuantizedLayer", "BaseQuantizedLayer")
        if hasattr(cache_utils, name)
    )
    dummy = getattr(cache_utils, "DummyLayer", ())
    return all(
        isinstance(layer, dummy) or (isinstance(layer, known) and not isinstance(layer, odd))
        for layer in layers
    )


class Bookmark:
    """The state of a cache at one moment, and the way back to it.

    Parameters
    ----------
    cache
        A cache of which `can_rewind` is true; it is not changed.
    """

    def __init__(self, cache: Any) -> None:
        self._cache = cache
        self._states = [_remember(layer) for layer in cache.layers]

    def rewind(self) -> None:
        """Put the cache back, bit by bit as it was."""
        for layer, state in zip(self._cache.layers, self._states, strict=True):
            if state.length is not None:
                for name in _GROWING:
                    setattr(layer, name, getattr(layer, name)[..., : state.length, :])
            for name, value in state.kept.items():
                setattr(layer, name, value)
            for name, value in state.copied.items():
                setattr(layer, name, _write_back(getattr(layer, name), value))


def _remember(layer: Any) -> _LayerState:
    import torch
    from transformers import cache_utils

    attention = isinstance(layer, cache_utils.DynamicLayer)
    sliding = bool(getattr(layer, "is_sliding", False))
    grows = attention and not sliding and torch.is_tensor(getattr(layer, "keys", None))
    state = _LayerState(layer.keys.shape[-2] if grows and layer.keys.ndim > 1 else None, {})
    for name, value in vars(layer).items():
        if name in _GROWING and attention:
            if state.length is None:
                state.kept[name] = value
        elif torch.is_tensor(value) or isinstance(value, (dict, list)):
            state.copied[name] = _copy(value)
        else:
            state.kept[name] = value
    return state


def _copy(value: Any) -> Any:
    import torch

    if torch.is_tensor(value):
        return value.clone()
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copy(item) for item in value]
    return value


def _write_back(now: Any, then: Any) -> Any:
    """Return `then`, written into the tensors of `now` where they have its shape."""
    import torch

    if torch.is_tensor(then):
        if torch.is_tensor(now) and now.shape == then.shape and now.dtype == then.dtype:
            return now.copy_(then)
        return then.clone()
    if isinstance(then, dict):
        return {
            key: _write_back(now.get(key) if isinstance(now, dict) else None, item)
            for key, item in then.items()
        }
    if isinstance(then, list):
        same = isinstance(now, list) and len(now) == len(then)
        return [_write_back(now[i] if same else None, item) for i, item in enumerate(then)]
    return then
