"""What the power law may look at: facts of the GPU and of one operator call."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from harness.errors import EngineError

Floats = npt.NDArray[np.float64]


class HardwareFacts(Protocol):
    """The facts of a GPU that the law needs; `harness.catalog.Hardware` has them."""

    @property
    def hardware(self) -> str:
        """Canonical name."""

    @property
    def peak_flops(self) -> Mapping[str, float]:
        """Dense peak FLOP/s by number format."""

    @property
    def memory_bandwidth_bytes_per_s(self) -> float:
        """Memory bandwidth."""

    @property
    def power_limit_w(self) -> float:
        """Default power limit, W."""

    @property
    def idle_power_w(self) -> float | None:
        """Power with nothing loaded, W; None if unknown."""

    @property
    def loaded_idle_power_w(self) -> float | None:
        """Power with weights loaded and nothing running, W; None if unknown."""


@dataclass(frozen=True, slots=True)
class Use:
    """How operator calls use the GPU: arrays of shape (n,), or () where all calls agree.

    `u_compute` and `u_memory` are shares of the datasheet's peak FLOP/s and bandwidth. The other
    fields are those of `work.OperatorWork`. Missing values are nan.
    """

    latency_s: Floats
    u_compute: Floats
    u_memory: Floats
    rows: Floats
    blocks: Floats
    bytes: Floats
    flops: Floats
    head_dim: Floats
    window: Floats
    sequences: Floats
    heads: Floats

    def take(self, at: Any) -> Use:
        """Keep the calls of a mask or index."""
        fields = (getattr(self, name) for name in Use.__slots__)
        return Use(*(field[at] if field.ndim else field for field in fields))

    def with_rows(self, rows: float) -> Use:
        """Replace the rows."""
        return replace(self, rows=np.asarray(rows))


def log_ratio(value: Floats, reference: float) -> Floats:
    """ln(value / reference), 0 where the value is missing or zero."""
    return np.log(np.where(value > 0, value / reference, 1.0))


def nearest(wanted: str, known: Collection[str], weights: tuple[int, ...]) -> list[str]:
    """Find the keys that share most with `wanted`.

    Parameters
    ----------
    wanted
        Key of four parts: GPU | framework | number format | kernel.
    known
        Keys of the same build.
    weights
        What a part in common counts, one a part.
    """
    parts = wanted.split("|")

    def closeness(other: str) -> int:
        pairs = zip(parts, other.split("|"), weights, strict=True)
        return sum(weight for mine, theirs, weight in pairs if mine == theirs)

    best = max(closeness(other) for other in known)
    return [other for other in known if closeness(other) == best]


_WIDER = {
    "nvfp4": ("fp8", "int8", "bf16", "fp16"),
    "mxfp4": ("fp8", "int8", "bf16", "fp16"),
    "int4": ("int8", "bf16", "fp16"),
    "int8": ("fp8", "bf16", "fp16"),
    "fp8": ("bf16", "fp16"),
    "bf16": ("fp16",),
    "fp16": ("bf16",),
}


def peak_flops(hardware: HardwareFacts, precision: str) -> float:
    """Datasheet peak for a number format; the next wider one the GPU has where it lacks it.

    A GPU without FP8 or FP4 arithmetic computes on widened values.
    """
    for name in (precision, *_WIDER.get(precision, ())):
        if name in hardware.peak_flops:
            return float(hardware.peak_flops[name])
    raise EngineError(
        f"no peak FLOP/s for {precision!r} on {hardware.hardware}",
        fix=f"known: {', '.join(hardware.peak_flops)}",
    )
