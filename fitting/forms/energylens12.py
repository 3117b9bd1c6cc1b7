"""The EnergyLens law: 12 parameters a (model, hardware), and its smaller sibling with 6.

Both follow the pipeline rule: a batch of B requests passes through p stages in k micro-batches
of b = ceil(B/p) requests. Stages that wait draw idle power, a share rho of working power. So a
phase costs the energy of one working pass times (passes + rho x passes' worth of waiting).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fitting.forms.base import Coefficient, Exponent
from fitting.work import Work

Array = NDArray[np.float64]
Theta = Sequence[float | Array]

ROOFLINE_TOKENS = 128.0
"""Tokens of a pass below which prefill reads weights rather than computes (16-bit weights)."""

ALWAYS_USED = 0.05
"""Share of the parameters of an MoE model that every token uses: attention, embeddings."""

SHARD_POWER = 0.7
"""How fast the cost of sharding a prefill grows with t: all-reduce traffic over smaller shards."""

WAITING = Exponent(
    "waiting_power_ratio", "rho", "", 0.0, 1.0, 0.25, "power of a waiting GPU over a working one"
)
SHARD_READ = Exponent(
    "weight_shard_exponent",
    "e",
    "",
    0.0,
    0.8,
    0.05,
    "t^e: smaller weight shards are read less efficiently",
)

_PREFILL = (
    Coefficient(
        "prefill_compute", "prefill", "J/token", "H", "multiplying, or reading the weights if few"
    ),
    Coefficient(
        "prefill_sharding", "prefill", "J/token", "H (t^0.7 - 1)", "all-reduce of activations"
    ),
    Coefficient("prefill_attention", "prefill", "J/token^2", "b n^2", "attention over the input"),
    Coefficient("prefill_launch", "prefill", "J", "t", "kernel launches of a pass, on every GPU"),
    Coefficient("prefill_encoder", "prefill", "J/token", "b v", "vision encoder, visual tokens v"),
)
_DECODE = (
    Coefficient("decode_weights", "decode", "J", "w C t^e", "reading the weights that a step uses"),
    Coefficient("decode_tokens", "decode", "J", "b^0.5", "work per sequence, partly hidden"),
    Coefficient("decode_cache", "decode", "J/token", "b (n + m/2)", "reading the KV cache"),
    Coefficient("decode_sync", "decode", "J", "t [t>1] (1+s)", "waiting for the other shards"),
    Coefficient("decode_launch", "decode", "J", "t", "kernel launches of a step, on every GPU"),
)


def prefill_busy(work: Work, rho: float | Array) -> Array:
    """Return k + rho (p - 1) per replica: working passes plus the waiting they cause."""
    return work.replicas * (work.passes + rho * (work.stages - 1.0))


def decode_busy(work: Work, rho: float | Array) -> Array:
    """Return (m - 1) (k + rho (p - k)): steps times working and waiting stages."""
    return work.replicas * work.steps * (work.passes + rho * (work.stages - work.passes))


def roofline_tokens(work: Work) -> Array:
    """Return H, the tokens of a pass, bounded from below by the reading of the weights.

    H = sqrt((x c)^2 + (128 w C R)^2) with x = b n tokens, c and w the cost of a multiplication
    and the bytes of a weight against bf16, C the share of the weights that the pass reads, and R
    the weights that there are for one that a token uses (1 without experts).
    """
    tokens = work.micro_batch * work.input_tokens
    used = ALWAYS_USED + (1.0 - ALWAYS_USED) * (1.0 - work.idle_expert)
    floor = ROOFLINE_TOKENS * work.weight_bytes * work.coverage(tokens) / used
    result: Array = np.hypot(tokens * work.compute_cost, floor)
    return result


@dataclass(frozen=True, slots=True)
class EnergyLens12:
    """The law of docs/law.md: 10 coefficients, the waiting power ratio and one exponent."""

    name: str = "energylens12"
    coefficients: tuple[Coefficient, ...] = _PREFILL + _DECODE
    exponents: tuple[Exponent, ...] = (WAITING, SHARD_READ)

    def columns(self, work: Work, phase: str, theta: Theta) -> list[Array]:
        """Return the design columns of a phase; see `Form.columns`."""
        rho, exponent = theta
        if phase == "prefill":
            busy = prefill_busy(work, rho)
            return [busy * base for base in _prefill_bases(work)]
        busy = decode_busy(work, rho)
        return [busy * base for base in _decode_bases(work, exponent)]

    def slopes(self, work: Work, phase: str, theta: Theta) -> list[list[Array | None]]:
        """Return d(column)/d(rho) and d(column)/d(e); see `Form.slopes`."""
        rho, exponent = theta
        if phase == "prefill":
            waiting = work.replicas * (work.stages - 1.0)
            return [[waiting * base for base in _prefill_bases(work)], [None] * 5]
        waiting = work.replicas * work.steps * (work.stages - work.passes)
        bases = _decode_bases(work, exponent)
        busy = decode_busy(work, rho)
        by_exponent: list[Array | None] = [busy * bases[0] * np.log(work.tensor)]
        return [[waiting * base for base in bases], by_exponent + [None] * 4]


def _prefill_bases(work: Work) -> list[Array]:
    """Return one working pass of prefill, term by term."""
    tokens = roofline_tokens(work)
    return [
        tokens,
        tokens * (work.tensor**SHARD_POWER - 1.0),
        work.micro_batch * work.input_tokens**2,
        work.tensor,
        work.micro_batch * work.visual_tokens,
    ]


def _decode_bases(work: Work, exponent: float | Array) -> list[Array]:
    """Return one working decode step, term by term."""
    context = work.input_tokens + 0.5 * (work.steps + 1.0)
    return [
        work.weight_bytes * work.coverage(work.micro_batch) * work.tensor**exponent,
        np.sqrt(work.micro_batch),
        work.micro_batch * context,
        work.tensor * (work.tensor > 1.0) * (1.0 + work.two_shot),
        work.tensor,
    ]


@dataclass(frozen=True, slots=True)
class EnergyLens6:
    """The law for few rows: compute and launch of prefill, three terms of decode, waiting."""

    name: str = "energylens6"
    coefficients: tuple[Coefficient, ...] = (
        _PREFILL[0],
        _PREFILL[3],
        _DECODE[0],
        _DECODE[2],
        _DECODE[4],
    )
    exponents: tuple[Exponent, ...] = (WAITING,)

    def columns(self, work: Work, phase: str, theta: Theta) -> list[Array]:
        """Return the design columns of a phase; see `Form.columns`."""
        busy = (prefill_busy if phase == "prefill" else decode_busy)(work, theta[0])
        return [busy * base for base in self._bases(work, phase)]

    def slopes(self, work: Work, phase: str, theta: Theta) -> list[list[Array | None]]:
        """Return d(column)/d(rho); see `Form.slopes`."""
        waiting = work.replicas * (work.stages - 1.0)
        if phase == "decode":
            waiting = work.replicas * work.steps * (work.stages - work.passes)
        return [[waiting * base for base in self._bases(work, phase)]]

    def _bases(self, work: Work, phase: str) -> list[Array]:
        if phase == "prefill":
            bases = _prefill_bases(work)
            return [bases[0], bases[3]]
        bases = _decode_bases(work, 0.0)
        return [bases[0], bases[2], bases[4]]
