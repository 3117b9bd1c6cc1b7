"""Physical sizes of the work of each row, in joules at the rates of the datasheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from fitting.facts import ModelFacts
from fitting.pooling.sizes import DIRECT_LINK_BYTES_PER_S, Machine
from fitting.work import COMPUTE_COST, work_of

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Index = NDArray[np.intp]

LAUNCH_S = 1e-5
"""Seconds that stand for the launches, or one synchronisation, of a layer; a factor is fitted."""

PATCHES = 4.0
"""Patches that a vision encoder works on for each token it hands on."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Physical sizes of each row, shape (rows,); energies in J of one pass at datasheet rates.

    Attributes
    ----------
    prefill_compute, prefill_attention, prefill_state, prefill_reduce, prefill_bridge
        Terms of a prefill pass, J.
    prefill_launch, prefill_encoder, decode_cache, decode_state, decode_sync, decode_reduce
        More terms, J.
    decode_bridge, decode_launch, decode_extra
        Terms of a decode pass, J.
    dense, experts
        Energy to read the weights that every token uses, and those of all experts, J.
    idle_expert
        Chance that one token does not use a given expert; 1 without experts.
    tokens, micro_batch
        Tokens of a prefill pass, requests of a decode pass.
    log_tensor, reduced
        ln t, and 1 where weights have less than 16 bits.
    waiting
        Logit of idle power over the power limit.
    prefill_passes, prefill_waits, decode_passes, decode_waits
        Passes that work, and passes' worth of waiting.
    """

    prefill_compute: Array
    prefill_attention: Array
    prefill_state: Array
    prefill_reduce: Array
    prefill_bridge: Array
    prefill_launch: Array
    prefill_encoder: Array
    decode_cache: Array
    decode_state: Array
    decode_sync: Array
    decode_reduce: Array
    decode_bridge: Array
    decode_launch: Array
    decode_extra: Array
    dense: Array
    experts: Array
    idle_expert: Array
    tokens: Array
    micro_batch: Array
    log_tensor: Array
    reduced: Array
    waiting: Array
    prefill_passes: Array
    prefill_waits: Array
    decode_passes: Array
    decode_waits: Array

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, index: Index | slice) -> Columns:
        """Return the rows that an index or a slice picks."""
        return Columns(*(getattr(self, f.name)[index] for f in fields(self)))


def columns_of(
    frame: pd.DataFrame,
    models: Sequence[ModelFacts],
    machines: Sequence[Machine],
    model: Index,
    machine: Index,
) -> Columns:
    """Read the physical sizes of each row.

    Parameters
    ----------
    frame
        Rows of the measurement table.
    models, machines
        Facts by position.
    model, machine
        Position of each row's model and GPU type, shape (rows,).

    Raises
    ------
    FitError
        If a length is missing or a precision unknown; see `work_of`.
    """

    def trait(values: list[float]) -> Array:
        return np.array(values, dtype=np.float64)[model]

    def rate(values: list[float]) -> Array:
        return np.array(values, dtype=np.float64)[machine]

    idle = trait([_idle_expert(m) for m in models])
    width = trait([m.hidden_size for m in models])
    work = work_of(frame, np.where(idle < 1.0, idle, 0.0), width, np.zeros(len(frame)))
    power = rate([m.power_w for m in machines])
    waiting = rate([m.waiting_w for m in machines])
    moving = 0.5 * (power + waiting)
    bandwidth = rate([m.bandwidth for m in machines])
    link = rate([m.link for m in machines])
    peak, peak16 = _peaks(frame, machines, machine)
    layers = trait([m.layers for m in models])
    read = [m.params_total - m.params_lookup - m.params_vision for m in models]
    routed = [min(m.params_experts, r) for m, r in zip(models, read, strict=True)]
    multiplied = trait([m.params_active - m.params_lookup - m.params_vision for m in models])
    byte = 2.0 * work.weight_bytes * power / bandwidth
    t, b, n = work.tensor, work.micro_batch, work.input_tokens
    tokens, context = b * n, n + 0.5 * (work.steps + 1.0)
    share = trait([m.kv_window_share for m in models])
    window = trait([m.kv_window_tokens for m in models])
    attended = (1.0 - share) * n / 2.0 + share * np.minimum(n / 2.0, window)
    kept = (1.0 - share) * context + share * np.minimum(context, window)
    heads = trait([m.heads * m.head_dim * m.attention_layers for m in models])
    # Two all-reduces a layer, each 2 (t - 1) / t of a message of 2 bytes, on t GPUs.
    message = 8.0 * layers * width / link * moving
    bridge = 0.5 * t * (t - 1.0) * (t > 2.0) * (link < DIRECT_LINK_BYTES_PER_S)
    layer = layers * LAUNCH_S * moving
    ratio = np.clip(waiting / power, 1e-3, 0.9)
    return Columns(
        prefill_compute=2.0 * multiplied * tokens * power / peak,
        prefill_attention=4.0 * attended * heads * tokens * power / peak16,
        prefill_state=trait([m.state_flops_per_token for m in models]) * tokens * power / peak16,
        prefill_reduce=message * tokens * (t - 1.0),
        prefill_bridge=message * tokens * bridge,
        prefill_launch=layer * t,
        prefill_encoder=2.0
        * trait([m.params_vision for m in models])
        * (PATCHES * b * work.visual_tokens)
        * power
        / peak16,
        decode_cache=trait([m.kv_bytes_per_token for m in models]) * b * kept * power / bandwidth,
        decode_state=2.0
        * trait([m.state_bytes_per_sequence for m in models])
        * b
        * power
        / bandwidth,
        decode_sync=layer * t * (t > 1.0) * (1.0 + work.two_shot),
        decode_reduce=message * b * (t - 1.0),
        decode_bridge=message * b * bridge,
        decode_launch=layer * t,
        decode_extra=layer * t * work.reduced,
        dense=trait([r - e for r, e in zip(read, routed, strict=True)]) * byte,
        experts=trait(routed) * byte,
        idle_expert=idle,
        tokens=tokens,
        micro_batch=b,
        log_tensor=np.log(t),
        reduced=work.reduced,
        waiting=np.log(ratio / (1.0 - ratio)),
        prefill_passes=work.replicas * work.passes,
        prefill_waits=work.replicas * (work.stages - 1.0),
        decode_passes=work.replicas * work.steps * work.passes,
        decode_waits=work.replicas * work.steps * (work.stages - work.passes),
    )


def _idle_expert(model: ModelFacts) -> float:
    """Return 1 - k/E; without experts 1, so that no token ever reaches one."""
    if model.experts > model.experts_per_token > 0:
        return 1.0 - model.experts_per_token / model.experts
    if model.params_experts > 0.0:
        # Only the sizes are known: the active share of the experts stands for k/E.
        always = model.params_total - model.params_experts
        used = (model.params_active - always) / model.params_experts
        return float(1.0 - np.clip(used, 1e-3, 0.999))
    return 1.0


def _peaks(frame: pd.DataFrame, machines: Sequence[Machine], machine: Index) -> tuple[Array, Array]:
    """Return FLOP/s in the precision of each row, and in 16 bit."""
    import pandas as pd

    if "precision" in frame.columns:
        codes, names = pd.factorize(frame["precision"].fillna("bf16").astype(str))
    else:
        codes, names = np.zeros(len(frame), dtype=np.intp), pd.Index(["bf16"])
    table = np.array([[_peak(m, str(name)) for name in names] for m in machines])
    plain = np.array([m.peak_flops["bf16"] for m in machines])
    return table[machine, codes], plain[machine]


def _peak(machine: Machine, precision: str) -> float:
    """Return FLOP/s of a precision; those that only store weights small multiply in 16 bit."""
    plain = machine.peak_flops["bf16"]
    if COMPUTE_COST.get(precision, 1.0) == 1.0:
        return plain
    return machine.peak_flops.get(precision) or plain / COMPUTE_COST[precision]
