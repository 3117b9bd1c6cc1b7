"""What the law takes for a diffusion model whose architecture is not known.

Shares and shapes are the medians of the architectures that are known, of the same modality where
there are any. So the estimate holds no number of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from fitting.facts import DiffusionFacts
from harness.store import FitError

if TYPE_CHECKING:
    from collections.abc import Callable

MATRICES = 12.0
"""Weights of a plain block over the square of its width: attention 4, feed-forward 8."""


def estimated(
    model_id: str,
    params_total: float,
    modality: str,
    known: Mapping[str, DiffusionFacts],
    params: Mapping[str, float],
) -> DiffusionFacts:
    """Return the architecture that a model of that size most likely has.

    Parameters
    ----------
    model_id, modality
        Name, and `image` or `video`.
    params_total
        Its parameters.
    known
        Architectures to take shares and shapes from.
    params
        Parameters of those models.

    Raises
    ------
    FitError
        If the size is not known, or no architecture is.
    """
    if not params_total > 0.0:
        raise FitError(
            f"The architecture of {model_id!r} is not known, nor its size.",
            where="column params_total",
            fix="Give params_total, or the facts of the model.",
        )
    alike = {k: v for k, v in known.items() if v.modality == modality and k in params}
    alike = alike or {k: v for k, v in known.items() if k in params}
    if not alike:
        raise FitError(
            f"The architecture of {model_id!r} is not known, and none that it could be like.",
            where="facts",
            fix="Give the facts of this model or of others.",
        )

    def median(value: Callable[[str, DiffusionFacts], float]) -> float:
        return float(np.median([value(k, v) for k, v in alike.items()]))

    token_params = params_total * median(lambda k, v: v.token_params / params[k])
    slender = median(lambda _, v: v.width / v.layers)
    width = float((token_params * slender / MATRICES) ** (1.0 / 3.0))
    layers = width / slender
    return DiffusionFacts(
        model_id=model_id,
        backbone=model_id,
        modality=modality,
        layers=layers,
        width=width,
        token_params=token_params,
        attention_layers=layers * median(lambda _, v: v.attention_layers / v.layers),
        activation_widths=median(lambda _, v: v.activation_widths),
        vae_pixels=median(lambda _, v: v.vae_pixels),
        patch_pixels=median(lambda _, v: v.patch_pixels),
        vae_frames=median(lambda _, v: v.vae_frames),
        patch_frames=median(lambda _, v: v.patch_frames),
        joint_text_tokens=0.0,
        passes_per_step=median(lambda _, v: v.passes_per_step),
    )
