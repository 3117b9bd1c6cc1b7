"""What the law needs to know of each row: deployment, datasheet and architecture, as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fitting.facts import Facts, HardwareFacts, ModelFacts
from fitting.work import COMPUTE_COST, WEIGHT_BYTES, column
from harness.store import FitError

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

REFERENCE = HardwareFacts(
    hardware="H100-SXM5-80GB",
    architecture="Hopper",
    memory_bytes=80.0 * 2.0**30,
    memory_bandwidth_bytes_per_s=3.35e12,
    peak_flops={"bf16": 989.5e12, "fp8": 1979e12},
    power_limit_w=700.0,
    idle_power_w=None,
    loaded_idle_power_w=None,
    interconnect_bytes_per_s=450e9,
)
"""Datasheet (NVIDIA H100 SXM5) that stands in for a GPU type of which nothing is known. Rows of
such a type still move the law by their random effect."""

SHARED_OF_ACTIVE = 0.45
"""Share of the active parameters of a mixture of experts that lies outside of its experts, where
the architecture is not known: between 0.41 and 0.64 in the models of the catalog."""

WIDTH_PER_LAYER = 128.0
"""Width over depth of a language model whose shape is not known, as in models of 8 to 70 billion
parameters; its parameters are then 12 layers x width^2."""

KV_VALUES = 1024.0
"""Key values of a token and layer where they are not known: 8 heads of 128."""


@dataclass(frozen=True, slots=True)
class Shapes:
    """Numbers of each row; every field has shape (rows,).

    Attributes
    ----------
    batch, gpus, tensor, replicas
        Batch limit, GPUs, tensor and data parallel degree.
    weight_bytes
        Bytes of one weight.
    quantised
        1 where experts are multiplied in 8 bits.
    image
        1 where requests carry images or video.
    layers, experts, moe
        Blocks, routed experts of a layer, 1 with experts.
    idle_expert
        Chance that a token does not use a given expert; 0 without experts.
    dense, expert, active
        Parameters outside of experts that are multiplied with, of all experts, and used for
        a token.
    kv_bytes, kv_heads, window, window_share
        KV cache of a token in B, heads it is spread over, tokens that windowed layers keep and
        their share.
    state_bytes
        Recurrent state of a sequence, B.
    memory_bytes
        Memory of all GPUs, B.
    flop_energy
        Power limit over peak arithmetic in the precision of the weights, J/FLOP.
    waiting_power
        Power that waiting costs on one GPU: geometric mean of the power limit and that of the
        reference, W.
    """

    batch: Array
    gpus: Array
    tensor: Array
    replicas: Array
    weight_bytes: Array
    quantised: Array
    image: Array
    layers: Array
    experts: Array
    moe: Array
    idle_expert: Array
    dense: Array
    expert: Array
    active: Array
    kv_bytes: Array
    kv_heads: Array
    window: Array
    window_share: Array
    state_bytes: Array
    memory_bytes: Array
    flop_energy: Array
    waiting_power: Array


def shapes_of(frame: pd.DataFrame, facts: Facts) -> Shapes:
    """Read the numbers of each row; what the facts do not hold is estimated from its columns.

    Raises
    ------
    FitError
        If a batch is missing, or a model is neither known nor has `params_active`.
    """
    batch = column(frame, "batch")
    if not (batch > 0.0).all():
        raise FitError("A row has no batch.", where="column batch", fix="Give max_num_seqs.")
    models = _models(frame, facts)
    hardware = [facts.hardware.get(name, REFERENCE) for name in text(frame, "hardware")]
    gpus = column(frame, "num_gpus", default=1.0)
    precision = text(frame, "precision", "bf16")

    def of(name: str) -> Array:
        return np.array([float(getattr(m, name)) for m in models])

    power = np.array([h.power_limit_w for h in hardware])
    peak = np.array(
        [
            h.peak_flops["bf16"] / min(COMPUTE_COST.get(p, 1.0), 1.0)
            for h, p in zip(hardware, precision, strict=True)
        ]
    )
    experts = of("experts")
    used = of("experts_per_token") / np.maximum(experts, 1.0)
    attention = np.maximum(4.0 * of("attention_layers") * of("head_dim"), 1.0)
    return Shapes(
        batch=batch,
        gpus=gpus,
        tensor=column(frame, "tensor_parallel", default=1.0),
        replicas=column(frame, "data_parallel", default=1.0),
        weight_bytes=np.array([WEIGHT_BYTES.get(p, 2.0) for p in precision]),
        quantised=np.array([float(p in ("fp8", "int8")) for p in precision]),
        image=np.array([float(m not in ("text", "")) for m in text(frame, "modality", "text")]),
        layers=of("layers"),
        experts=experts,
        moe=(experts > 0.0).astype(np.float64),
        idle_expert=np.where(experts > 0.0, np.clip(1.0 - used, 1e-6, 1.0), 0.0),
        dense=np.maximum(
            of("params_total") - of("params_experts") - of("params_lookup") - of("params_vision"),
            0.0,
        ),
        expert=of("params_experts"),
        active=of("params_active"),
        kv_bytes=of("kv_bytes_per_token"),
        # Compressed caches hold less than their heads: every rank keeps all of such a cache.
        kv_heads=np.maximum(of("kv_bytes_per_token") / attention, 1.0),
        window=of("kv_window_tokens"),
        window_share=of("kv_window_share"),
        state_bytes=of("state_bytes_per_sequence"),
        memory_bytes=np.array([h.memory_bytes for h in hardware]) * gpus,
        flop_energy=power / peak,
        waiting_power=np.sqrt(power * REFERENCE.power_limit_w),
    )


def text(frame: pd.DataFrame, name: str, default: str = "") -> list[str]:
    """Return a column as text; nulls and a missing column become the default."""
    if name not in frame.columns:
        return [default] * len(frame)
    known = frame[name].notna().to_numpy(dtype=bool)
    return [str(v) if k else default for v, k in zip(frame[name], known, strict=True)]


def _models(frame: pd.DataFrame, facts: Facts) -> list[ModelFacts]:
    names = text(frame, "model_id")
    sizes = {
        n: column(frame, n, default=np.nan)
        for n in ("params_total", "params_active", "num_experts", "experts_per_token")
    }
    found: dict[tuple[object, ...], ModelFacts] = {}
    out = []
    for i, name in enumerate(names):
        known = facts.models.get(name)
        if known is None:
            key = (name, *(float(v[i]) for v in sizes.values()))
            if key not in found:
                found[key] = estimate(name, *(float(v[i]) for v in sizes.values()))
            known = found[key]
        out.append(known)
    return out


def estimate(
    name: str,
    total: float,
    active: float,
    experts: float = float("nan"),
    per_token: float = float("nan"),
) -> ModelFacts:
    """Return the architecture that a model of that size most likely has.

    Depth and width follow from the active parameters; more parameters in all than active ones
    make it a mixture of experts.

    Raises
    ------
    FitError
        If neither size is known.
    """
    active = active if active > 0.0 else total
    if not active > 0.0:
        raise FitError(
            f"The architecture of {name!r} is not known, nor its size.",
            where="columns params_total, params_active",
            fix="Give params_active, or the facts of the model.",
        )
    total = max(total, active) if total > 0.0 else active
    layers = max(round((active / (12.0 * WIDTH_PER_LAYER**2)) ** (1.0 / 3.0)), 1)
    inside = total - SHARED_OF_ACTIVE * active if total > 1.2 * active else 0.0
    share = (1.0 - SHARED_OF_ACTIVE) * active / inside if inside else 0.0
    if inside and not (experts > 0.0 and per_token > 0.0):
        per_token = 8.0
        experts = max(round(per_token / share), 8)
    return ModelFacts(
        model_id=name,
        family="moe" if inside else "dense",
        backbone=name,
        layers=layers,
        attention_layers=layers,
        state_layers=0,
        hidden_size=int(WIDTH_PER_LAYER * layers),
        heads=layers,
        kv_heads=8,
        head_dim=128,
        vocab_size=0,
        experts=int(experts) if inside else 0,
        experts_per_token=int(per_token) if inside else 0,
        params_total=total,
        params_active=active,
        params_experts=inside,
        params_lookup=0.0,
        params_vision=0.0,
        kv_bytes_per_token=4.0 * KV_VALUES * layers,
        kv_window_tokens=0.0,
        kv_window_share=0.0,
        state_bytes_per_sequence=0.0,
        state_flops_per_token=0.0,
    )
