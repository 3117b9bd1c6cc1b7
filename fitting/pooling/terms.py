"""The energy of each row from physical sizes and parameters, and its logarithmic derivatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fitting.pooling.columns import Columns
from fitting.pooling.parameters import (
    BATCH_STEPS,
    FIRST_TOKENS,
    INDEX,
    N_PARAMETERS,
    TENSOR_STEPS,
    TOKEN_STEPS,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Index = NDArray[np.intp]

ROUTING = 0.9
"""Tokens x reach as many experts as x^0.9 tokens that choose evenly, before `routing` is fitted."""

_BATCH = slice(INDEX["decode_batch_2"], INDEX["decode_batch_2"] + BATCH_STEPS)
_TOKENS = slice(INDEX["prefill_tokens_256"], INDEX["prefill_tokens_256"] + TOKEN_STEPS)
_PREFILL_TENSOR = slice(INDEX["prefill_tensor_2"], INDEX["prefill_tensor_2"] + TENSOR_STEPS)
_DECODE_TENSOR = slice(INDEX["decode_tensor_2"], INDEX["decode_tensor_2"] + TENSOR_STEPS)


@dataclass(frozen=True, slots=True)
class Phases:
    """Energy of both phases, J, shape (rows,), and d(ln energy)/d(parameters) if asked for."""

    prefill: Array
    decode: Array
    prefill_slope: Array | None = None
    decode_slope: Array | None = None

    def total_slope(self) -> Array:
        """Return d(ln of the total)/d(parameters), shape (rows, parameters)."""
        assert self.prefill_slope is not None
        assert self.decode_slope is not None
        total = self.prefill + self.decode
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(total > 0.0, self.prefill / total, 0.0)[:, None]
        return share * self.prefill_slope + (1.0 - share) * self.decode_slope


def energies(columns: Columns, table: Array, code: Index, *, slopes: bool = False) -> Phases:
    """Return the energy of each row.

    Parameters
    ----------
    columns
        Physical sizes.
    table
        Parameters of each pair, shape (pairs, parameters).
    code
        Pair of each row, shape (rows,).
    slopes
        Whether to return derivatives, shape (rows, parameters), too.
    """
    factor = np.exp(table)

    def times(name: str) -> Array:
        result: Array = factor[code, INDEX[name]]
        return result

    def shape(name: str) -> Array:
        result: Array = table[code, INDEX[name]]
        return result

    c = columns
    rho = 1.0 / (1.0 + np.exp(-(shape("waiting_power_ratio") + c.waiting)))
    cheap = np.where(c.reduced > 0.0, times("reduced_compute"), 1.0)
    small = np.where(c.reduced > 0.0, times("reduced_reading"), 1.0)
    routing = times("routing")

    multiplied = times("prefill_compute") * c.prefill_compute * cheap
    attended = times("prefill_attention") * c.prefill_attention
    state = times("prefill_state") * c.prefill_state
    reached, reached_slope = _reached(c, c.tokens, routing)
    reading = c.dense + c.experts * reached
    read = times("prefill_reading") * reading * small
    computed = multiplied + attended + state
    height = np.hypot(computed, read)
    shard = np.exp(shape("prefill_shard_exponent") * c.log_tensor)
    core = height * shard
    prefill_parts = {
        "prefill_reduce": times("prefill_reduce") * c.prefill_reduce,
        "shared_bridge": times("shared_bridge") * c.prefill_bridge,
        "prefill_launch": times("prefill_launch") * c.prefill_launch,
        "prefill_encoder": times("prefill_encoder") * c.prefill_encoder,
    }
    prefill = core + sum(prefill_parts.values())
    prefill_busy = c.prefill_passes + rho * c.prefill_waits
    log_tokens, doublings = np.log2(c.tokens) - FIRST_TOKENS, c.log_tensor / np.log(2.0)
    curve = _curve(table[:, _TOKENS], code, log_tokens)
    curve += _curve(table[:, _PREFILL_TENSOR], code, doublings)
    prefill_energy = prefill * prefill_busy * np.exp(curve)

    touched, touched_slope = _reached(c, c.micro_batch, routing)
    weights = c.dense + c.experts * touched
    log_batch = np.log2(c.micro_batch)
    bent = shape("weight_shard_exponent") * c.log_tensor
    bent += _curve(table[:, _BATCH], code, log_batch)
    weights_part = times("decode_weights") * weights * small * np.exp(bent)
    decode_parts = {
        "decode_weights": weights_part,
        "decode_cache": times("decode_cache") * c.decode_cache,
        "decode_state": times("decode_state") * c.decode_state,
        "decode_sync": times("decode_sync") * c.decode_sync,
        "decode_reduce": times("decode_reduce") * c.decode_reduce,
        "shared_bridge": times("shared_bridge") * c.decode_bridge,
        "decode_launch": times("decode_launch") * c.decode_launch,
        "decode_launch_extra": times("decode_launch_extra") * c.decode_extra,
    }
    decode: Array = np.zeros(len(c)) + sum(decode_parts.values())
    decode_busy = c.decode_passes + rho * c.decode_waits
    decode_energy = decode * decode_busy * np.exp(_curve(table[:, _DECODE_TENSOR], code, doublings))
    if not slopes:
        return Phases(prefill_energy, decode_energy)

    by_rho = rho * (1.0 - rho)
    first = np.zeros((len(c), N_PARAMETERS))
    by_compute = shard * computed / (height * prefill)
    by_reading = shard * read**2 / (height * prefill)
    first[:, INDEX["prefill_compute"]] = by_compute * multiplied
    first[:, INDEX["prefill_attention"]] = by_compute * attended
    first[:, INDEX["prefill_state"]] = by_compute * state
    first[:, INDEX["prefill_reading"]] = by_reading
    first[:, INDEX["routing"]] = by_reading * c.experts / reading * reached_slope
    first[:, INDEX["reduced_compute"]] = c.reduced * by_compute * multiplied
    first[:, INDEX["reduced_reading"]] = c.reduced * by_reading
    first[:, INDEX["prefill_shard_exponent"]] = core * c.log_tensor / prefill
    for name, part in prefill_parts.items():
        first[:, INDEX[name]] = part / prefill
    first[:, INDEX["waiting_power_ratio"]] = by_rho * c.prefill_waits / prefill_busy
    first[:, _TOKENS] = _ramps(log_tokens, TOKEN_STEPS)
    first[:, _PREFILL_TENSOR] = _ramps(doublings, TENSOR_STEPS)

    second = np.zeros((len(c), N_PARAMETERS))
    for name, part in decode_parts.items():
        second[:, INDEX[name]] = part / decode
    share = weights_part / decode
    second[:, INDEX["routing"]] = share * c.experts / weights * touched_slope
    second[:, INDEX["reduced_reading"]] = c.reduced * share
    second[:, INDEX["weight_shard_exponent"]] = c.log_tensor * share
    second[:, INDEX["waiting_power_ratio"]] = (
        by_rho * c.decode_waits / np.maximum(decode_busy, 1e-300)
    )
    second[:, _BATCH] = _ramps(log_batch, BATCH_STEPS) * share[:, None]
    second[:, _DECODE_TENSOR] = _ramps(doublings, TENSOR_STEPS)
    return Phases(prefill_energy, decode_energy, first, second)


def _reached(c: Columns, tokens: Array, routing: Array) -> tuple[Array, Array]:
    """Return the share of the experts that a pass reaches, and its d/d(routing)."""
    if not (c.idle_expert < 1.0).any():
        return np.zeros_like(tokens), np.zeros_like(tokens)
    exponent = ROUTING * routing
    reach = tokens**exponent
    left = c.idle_expert**reach
    return 1.0 - left, -left * np.log(c.idle_expert) * reach * np.log(tokens) * exponent


def _curve(steps: Array, code: Index, position: Array) -> Array:
    """Return the sum of steps up to a position, linear within a step, constant beyond."""
    height = np.concatenate([np.zeros((len(steps), 1)), np.cumsum(steps, axis=1)], axis=1)
    inside = np.clip(position, 0.0, steps.shape[1])
    below = np.minimum(inside.astype(np.intp), steps.shape[1] - 1)
    start = height[code, below]
    result: Array = start + (inside - below) * (height[code, below + 1] - start)
    return result


def _ramps(position: Array, count: int) -> Array:
    """Return d(curve)/d(steps), shape (rows, count)."""
    result: Array = np.clip(position[:, None] - np.arange(count), 0.0, 1.0)
    return result
