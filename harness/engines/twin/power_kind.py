"""The law of kernels that arithmetic or memory drives: GEMM, experts, attention.

    share = D * s(x),   s(x) = x / (1 + x^q)^(1/q),   D = latency / (latency + G)
    x = S * (k0 + kc * u_compute^a + km * u_memory^b) * prod_j z_j^g_j

k, a, b, q and g belong to the operator kind and are shared by all GPUs; S and G are one number
each per GPU, framework and number format. `DRIVERS` lists the z_j.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from harness.engines.twin.power_use import Floats, Use, log_ratio, nearest

_BLOCKS_A_WAVE = 132.0  # compute units of an H200; a B200 has 148

DRIVERS: dict[str, Callable[[Use], Floats]] = {
    "latency": lambda use: log_ratio(use.latency_s, 1e-3),
    "rows": lambda use: log_ratio(use.rows, 1024.0),
    "blocks": lambda use: log_ratio(use.blocks, _BLOCKS_A_WAVE),
    "fill": lambda use: log_ratio(use.blocks / (use.blocks + _BLOCKS_A_WAVE), 0.5),
    "bytes": lambda use: log_ratio(use.bytes, 64e6),
    "intensity": lambda use: log_ratio(use.flops / use.bytes, 200.0),
    "head_dim": lambda use: log_ratio(use.head_dim, 128.0),
    "window": lambda use: np.where(use.window > 0, 1.0, 0.0),
    "sequences": lambda use: log_ratio(use.sequences, 16.0),
    "length": lambda use: log_ratio(use.rows / use.sequences, 1024.0),
}
"""Each z_j as its logarithm, zero at the reference: 1 ms, 1,024 rows, 132 tiles, 64 MB, ..."""

_CLOSENESS = (1, 2, 4, 8)  # the kernel counts first, then format, framework, GPU


@dataclass(frozen=True, slots=True)
class KindLaw:
    """Coefficients of one operator kind.

    Attributes
    ----------
    sharpness
        q, how sharply the power bends into the limit.
    base, compute, memory
        k0, kc, km.
    compute_exponent, memory_exponent
        a, b.
    drivers
        g_j by driver name.
    domain
        Range of each driver (as its logarithm) in the calibration data; values are held there.
    scales, gaps_s
        S, and G in seconds, by "hardware|framework|number format|".
    errors
        By hardware: {"median": ..., "p68": ...} relative errors on shapes held out of the fit.
    transfer_error
        Median relative error on one GPU type of the law fitted on the other one only; None
        where only one GPU type was measured.
    """

    sharpness: float
    base: float
    compute: float
    compute_exponent: float
    memory: float
    memory_exponent: float
    drivers: Mapping[str, float]
    domain: Mapping[str, tuple[float, float]]
    scales: Mapping[str, float]
    gaps_s: Mapping[str, float]
    errors: Mapping[str, Mapping[str, float]]
    transfer_error: float | None
    _found: dict[str, tuple[float, float]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def scale_and_gap(self, key: str) -> tuple[float, float]:
        """Find S and G for a key; the geometric means of the closest known keys otherwise.

        Closest means: most of GPU, framework, number format and kernel in common, the kernel
        counting first, then format, framework, GPU.
        """
        if key not in self._found:
            near = [key] if key in self.scales else nearest(key, self.scales, _CLOSENESS)
            logs = np.log([[self.scales[other], self.gaps_s[other]] for other in near])
            scale, gap = np.exp(logs.mean(axis=0))
            self._found[key] = (float(scale), float(gap))
        return self._found[key]

    def share(self, use: Use, key: str, *, settled: bool) -> Floats:
        """Share of the range between floor and limit that calls of one key draw, 0 to 1."""
        scale, gap_s = self.scale_and_gap(key)
        share = self.settled_share(use, scale)
        return share if settled else share * use.latency_s / (use.latency_s + gap_s)

    def settled_share(self, use: Use, scale: float | Floats) -> Floats:
        """Share at D = 1, with S given."""
        drive = self.base + self.memory * use.u_memory**self.memory_exponent
        if self.compute:
            drive = drive + self.compute * use.u_compute**self.compute_exponent
        exponent: Floats | float = 0.0
        for name, power in self.drivers.items():
            low, high = self.domain[name]
            held = np.minimum(np.maximum(DRIVERS[name](use), low), high)
            exponent = exponent + power * held
        return saturate(scale * drive * np.exp(exponent), self.sharpness)


def saturate(x: Floats, sharpness: float) -> Floats:
    """Bend x smoothly into 1: x / (1 + x^q)^(1/q); nan in, nan out."""
    x = np.minimum(np.maximum(x, 1e-12), 1e6)
    return np.asarray(x * (1.0 + x**sharpness) ** (-1.0 / sharpness))
