"""The law of state kernels (Mamba2, gated delta net): power from occupancy.

    share = D * (e + (C - e) * h),   h = y / (1 + y)
    y = Y * (batch / 16)^gb * ((length + L0) / 256)^gl * (heads / 32)^gh * (latency / 1 ms)^gt
    C = c * fill * (latency / 1 ms)^ct * (heads / 32)^ch
    fill = n / (n^m + N^m)^(1/m),   n = batch * heads

e is the share that a nearly empty kernel draws and C the ceiling it reaches with work, lower
while fewer than N sequence-heads are in flight. Every sequence costs like L0 extra tokens.
Utilisation does not help here: these kernels reach their own ceiling far below the datasheet's
peaks. The coefficients belong to one kernel of one framework; some are shared by GPUs.

D = latency / (latency + G) as elsewhere. The tables also carry over: a kernel of length 1 or 2
still reads part of the power of the long one measured before it, w * C + (1 - w) * its own.
A settled stream of kernels has neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from harness.engines.twin.power_use import Floats, Use, nearest

BATCH, LENGTH, HEADS, LATENCY_S = 16.0, 256.0, 32.0, 1e-3
"""Values at which every factor of y and C is 1; they stand in for missing ones."""


@dataclass(frozen=True, slots=True)
class StateKernel:
    """Coefficients of one kernel, as in the module's formulas.

    Attributes
    ----------
    empty, ceiling, drive
        e, c, Y.
    batch, length, heads, latency
        gb, gl, gh, gt.
    padding_tokens
        L0.
    full, fill_sharpness
        N, m.
    ceiling_latency, ceiling_heads
        ct, ch.
    gap_s
        G.
    carry_1, carry_2
        w at length 1 and 2, for more than one sequence.
    """

    empty: float
    ceiling: float
    drive: float
    batch: float
    length: float
    heads: float
    latency: float
    padding_tokens: float
    full: float
    fill_sharpness: float
    ceiling_latency: float
    ceiling_heads: float
    gap_s: float
    carry_1: float
    carry_2: float

    def share(
        self, batch: Floats, length: Floats, heads: Floats, latency_s: Floats, *, settled: bool
    ) -> Floats:
        """Share of the range between floor and limit, 0 to 1."""
        log_heads, log_latency = np.log(heads / HEADS), np.log(latency_s / LATENCY_S)
        log_y = (
            np.log(self.drive)
            + self.batch * np.log(batch / BATCH)
            + self.length * np.log((length + self.padding_tokens) / LENGTH)
            + self.heads * log_heads
            + self.latency * log_latency
        )
        m, n = self.fill_sharpness, batch * heads / self.full
        fill = n * (1.0 + n**m) ** (-1.0 / m)
        ceiling = self.ceiling * fill
        ceiling = ceiling * np.exp(
            self.ceiling_latency * log_latency + self.ceiling_heads * log_heads
        )
        share = self.empty + (ceiling - self.empty) / (1.0 + np.exp(-log_y))
        if not settled:
            share = share * latency_s / (latency_s + self.gap_s)
            carried = np.where(length < 1.5, self.carry_1, self.carry_2)
            carried = np.where((batch > 1) & (length < 2.5), carried, 0.0)
            share = share + (ceiling - share) * carried
        return np.asarray(np.minimum(np.maximum(share, 0.0), 1.0))


@dataclass(frozen=True, slots=True)
class StateLaw:
    """The kernels of one role: convolution, scan or one-token update.

    Attributes
    ----------
    kernels
        By "hardware|framework|number format|kind".
    closeness
        What GPU, framework, format and kind in common count where a key is unknown.
    domain
        Range of batch, length, heads and latency_s in the calibration data; values are held there.
    errors, transfer_error
        As in `power_kind.KindLaw`.
    """

    kernels: Mapping[str, StateKernel]
    closeness: tuple[int, int, int, int]
    domain: Mapping[str, tuple[float, float]]
    errors: Mapping[str, Mapping[str, float]]
    transfer_error: float | None

    def share(self, use: Use, key: str, *, settled: bool) -> Floats:
        """Share of calls of one key; the mean of the closest kernels where none has the key."""
        near = [key] if key in self.kernels else nearest(key, self.kernels, self.closeness)
        shape = (
            self._held("batch", use.sequences, BATCH),
            self._held("length", use.rows / use.sequences, LENGTH),
            self._held("heads", use.heads, HEADS),
            self._held("latency_s", use.latency_s, LATENCY_S),
        )
        total = sum(self.kernels[name].share(*shape, settled=settled) for name in near)
        known = np.isfinite(use.u_compute + use.u_memory)
        return np.where(known, total / len(near), np.nan)

    def _held(self, name: str, value: Floats, reference: float) -> Floats:
        low, high = self.domain[name]
        known = np.where(value > 0, value, reference)
        return np.asarray(np.minimum(np.maximum(known, low), high))
