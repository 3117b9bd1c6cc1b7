"""How vLLM runs a batch through pipeline stages: micro-batches, bubbles, waiting GPUs.

With p stages and a batch of B requests vLLM keeps up to p micro-batches in flight:

    b = ceil(B / p)     requests in a micro-batch
    k = ceil(B / b)     micro-batches

    prefill, p = 2, k = 2            wall = T1(b) * (1 + (k - 1) / p)
    stage 0  [ m0 ][ m1 ]......
    stage 1  ......[ m0 ][ m1 ]      dots: a GPU that waits draws loaded idle power

A decode step of all micro-batches takes T2(b) * max(1, k / p), because a request's next token
cannot start before its last one is out. The last micro-batch may be smaller: its energy is its
own, its time is bounded by the full one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Schedule:
    """Micro-batches of one batch.

    Attributes
    ----------
    full
        Requests in a full micro-batch, b.
    full_count
        Number of full micro-batches.
    rest
        Requests in the last, smaller one; 0 if there is none.
    stages
        Pipeline stages, p.
    """

    full: int
    full_count: int
    rest: int
    stages: int

    @property
    def count(self) -> int:
        """Number of micro-batches, k."""
        return self.full_count + (1 if self.rest else 0)

    def prefill_wall_s(self, pass_s: float) -> float:
        """Wall time of the prefill, if one full micro-batch takes `pass_s` through all layers."""
        return pass_s * (1 + (self.count - 1) / self.stages)

    def decode_wall_s(self, steps_s: float) -> float:
        """Wall time of the decode, if one full micro-batch takes `steps_s` for all its steps."""
        return steps_s * max(1.0, self.count / self.stages)


def schedule(batch: int, stages: int) -> Schedule:
    """Micro-batches of `batch` requests over `stages` pipeline stages."""
    full = math.ceil(batch / stages)
    return Schedule(full, batch // full, batch % full, stages)


def transfer_s(
    tokens: float, hidden_size: int, bytes_per_s: float, *, latency_s: float = 10e-6
) -> float:
    """Time to hand activations to the next stage.

    Two bytes a value; the latency is the point-to-point figure of aiconfigurator-core's system
    files (10 us).
    """
    return latency_s + 2.0 * tokens * hidden_size / bytes_per_s
