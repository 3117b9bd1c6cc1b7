"""Work of a batch of images or videos: FLOP, tensors written, traffic, kernels, pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fitting.diffusion.estimate import estimated
from fitting.work import column

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from fitting.facts import DiffusionFacts, HardwareFacts

NEEDED = ("batch", "diffusion_steps", "output_height", "output_width")
"""Columns without which a row cannot be asked about."""

REFERENCE_POWER_W = 700.0
"""Power limit at which the launch terms are written, W: they grow in proportion to the limit."""

WORK_TERMS = ("linear", "attention", "activations", "exchange", "ring", "pixels")
LAUNCH_TERMS = ("launch", "launch_parallel", "launch_ring")


@dataclass(frozen=True, slots=True)
class Work:
    """Work of each row.

    Attributes
    ----------
    terms
        In units of `WORK_TERMS`, shape (rows, 6): TFLOP of weights, TFLOP of attention,
        10^9 values written, 10^9 values exchanged, 10^9 values round the ring,
        megapixels decoded on all GPUs.
    launches
        In units of `LAUNCH_TERMS`, shape (rows, 3): thousands of blocks run on all GPUs; the
        same where there are several GPUs; times the hops of the ring.
    """

    terms: NDArray[np.float64]
    launches: NDArray[np.float64]


def covered(frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Say which rows are of image or video generation with all that the law needs."""
    keep = np.ones(len(frame), dtype=bool)
    for name in NEEDED:
        keep &= column(frame, name, default=np.nan) > 0.0
    return keep


def diffusion_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Keep the rows that the law can be fitted to: valid, covered, with a positive energy."""
    keep = covered(frame) & (column(frame, "total_energy_j", default=np.nan) > 0.0)
    if "valid" in frame.columns:
        keep &= frame["valid"].astype("boolean").fillna(True).to_numpy(dtype=bool)
    return frame.loc[keep]


def modalities(frame: pd.DataFrame) -> NDArray[np.str_]:
    """Return `video` for rows with more than one output frame, else `image`, shape (rows,)."""
    frames = column(frame, "output_frames", default=np.nan)
    return np.where(frames > 1.0, "video", "image")


def work(
    frame: pd.DataFrame,
    known: Mapping[str, DiffusionFacts],
    params: Mapping[str, float],
    hardware: Mapping[str, HardwareFacts],
) -> Work:
    """Count the work of each row.

    Parameters
    ----------
    frame
        Rows with the columns of `NEEDED`; `output_frames` for videos; `ulysses_degree`,
        `ring_degree` (1 where absent); `params_total` for models that are not known.
    known
        Architectures by model id.
    params
        Parameters of the known models, for the estimate of others.
    hardware
        Datasheets; a GPU type that is not there is taken at `REFERENCE_POWER_W`.

    Raises
    ------
    FitError
        If a needed column is missing, or a model is not known and has no size.
    """
    names = frame["model_id"].astype(str).to_numpy()
    kinds = modalities(frame)
    size = column(frame, "params_total", default=np.nan)
    facts: dict[tuple[str, str], DiffusionFacts] = {}
    for i, (name, kind) in enumerate(zip(names.tolist(), kinds.tolist(), strict=True)):
        if (name, kind) not in facts:
            facts[name, kind] = known.get(name) or estimated(
                name, float(size[i]), kind, known, params
            )

    pairs = list(zip(names.tolist(), kinds.tolist(), strict=True))

    def fact(name: str) -> NDArray[np.float64]:
        return np.array([float(getattr(facts[pair], name)) for pair in pairs])

    batch, steps = column(frame, "batch"), column(frame, "diffusion_steps")
    height, across = column(frame, "output_height"), column(frame, "output_width")
    frames = column(frame, "output_frames", default=1.0)
    frames = np.where(frames > 0.0, frames, 1.0)
    ulysses = _degree(frame, "ulysses_degree")
    ring = _degree(frame, "ring_degree")
    gpus = np.maximum(column(frame, "num_gpus", default=1.0), ulysses * ring)

    layers, width = fact("layers"), fact("width")
    latents = tokens(height, across, frames, fact)
    text = fact("joint_text_tokens")
    # xDiT shards the text with the latents only where its length divides by the GPUs;
    # otherwise every GPU works on all of it.
    copies = np.where(text % gpus == 0.0, 1.0, gpus)
    passed = latents + text * copies
    runs = batch * steps * fact("passes_per_step")
    values = runs * layers * width / 1e9
    linear = 2.0 * runs * fact("token_params") * passed
    attention = 4.0 * runs * fact("attention_layers") * width * (latents + text) ** 2
    terms = np.column_stack(
        [
            linear / 1e12,
            attention / 1e12,
            values * passed * fact("activation_widths"),
            values * latents * (gpus - 1.0) / gpus,
            values * latents * (ring - 1.0),
            batch * height * across * frames * gpus / 1e6,
        ]
    )
    limits = {k: v.power_limit_w / REFERENCE_POWER_W for k, v in hardware.items()}
    power = np.array([limits.get(str(name), 1.0) for name in frame["hardware"]])
    blocks = gpus * steps * layers * power / 1e3
    launches = np.column_stack([blocks, blocks * (gpus > 1.0), blocks * (ring - 1.0)])
    return Work(terms, launches)


def tokens(
    height: NDArray[np.float64],
    width: NDArray[np.float64],
    frames: NDArray[np.float64],
    fact: Any,
) -> NDArray[np.float64]:
    """Return the latent tokens of one image or video: sides and frames rounded up to patches."""
    side = fact("vae_pixels") * fact("patch_pixels")
    plane = np.ceil(height / side) * np.ceil(width / side)
    in_time = np.ceil((frames - 1.0) / fact("vae_frames")) + 1.0
    result: NDArray[np.float64] = plane * np.ceil(in_time / fact("patch_frames"))
    return result


def _degree(frame: pd.DataFrame, name: str) -> NDArray[np.float64]:
    values = column(frame, name, default=1.0)
    return np.where(values >= 1.0, values, 1.0)
