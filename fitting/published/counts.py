"""Arithmetic and bytes of a batch, counted from the architecture of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fitting.facts import Facts, ModelFacts
from fitting.published.base import Array, gpus_of, hardware_of, model_of, precisions_of
from fitting.work import WEIGHT_BYTES, column

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Counts:
    """What a batch needs; every field has shape (rows,).

    Attributes
    ----------
    flops
        Arithmetic of all GPUs, FLOP.
    bits
        Weights, KV cache and recurrent state that are moved between memory and GPU, bit.
    gpus
        GPUs of the deployment.
    peak_flops
        Datasheet peak of one GPU in the precision of the row, FLOP/s.
    """

    flops: Array
    bits: Array
    gpus: Array
    peak_flops: Array

    def utilisation(self, latency_s: Array) -> Array:
        """Return the share of the peak arithmetic that is used, MFU, 0 to 1."""
        share: Array = self.flops / (self.gpus * self.peak_flops * latency_s)
        return share


def counts_of(rows: pd.DataFrame, facts: Facts) -> Counts:
    """Count the work of rows of one (model, hardware).

    Multiplications with weights are 2 FLOP a parameter and token, attention 4 FLOP a context
    token, head and head dimension. Each micro-batch reads the weights once a pass: those of the
    experts that its tokens reach. Activations and messages between GPUs are not counted.

    Raises
    ------
    FitError
        If model or GPU type are not among the facts.
    """
    model, hardware = model_of(facts, rows), hardware_of(facts, rows)
    batch, n, m = (column(rows, c) for c in ("batch", "input_tokens", "output_tokens"))
    visual = column(rows, "visual_tokens", default=0.0)
    steps = np.maximum(m - 1.0, 0.0)
    context = n + m / 2.0
    peaks = {p: v for p, v in hardware.peak_flops.items() if v}
    peak = np.array([peaks.get(p, peaks.get("bf16", np.nan)) for p in precisions_of(rows)])
    width = np.array([WEIGHT_BYTES.get(p, 2.0) for p in precisions_of(rows)])
    working = max(model.params_active - model.params_lookup - model.params_vision, 1.0)
    flops = 2.0 * working * (n + steps) + 2.0 * model.params_vision * visual
    attention = 4.0 * model.heads * model.head_dim * model.attention_layers
    flops = flops + attention * (n**2 / 2.0 + steps * context)
    flops = flops + model.state_flops_per_token * (n + steps)
    moved = _weight_bytes(rows, model, batch, n, steps) * width
    cache = model.kv_bytes_per_token * (steps * _read(model, context) + n + m)
    state = 2.0 * model.state_bytes_per_sequence * steps
    bytes_moved = moved + batch * (cache + state)
    return Counts(batch * flops, 8.0 * bytes_moved, gpus_of(rows), peak)


def _weight_bytes(rows: pd.DataFrame, model: ModelFacts, batch: Array, n: Array, s: Array) -> Array:
    """Return weights read by prefill and all decode steps, in parameters."""
    replicas = np.minimum(column(rows, "data_parallel", default=1.0), batch)
    local = np.ceil(batch / replicas)
    micro = np.ceil(local / column(rows, "pipeline_parallel", default=1.0))
    passes = np.ceil(local / micro) * replicas
    always = max(model.params_total - model.params_experts - model.params_lookup, 0.0)
    always = max(always - model.params_vision, 0.0)
    idle = 1.0 - model.experts_per_token / model.experts if model.experts else 0.0
    prefill = always + model.params_experts * (1.0 - idle ** (micro * n))
    decode = always + model.params_experts * (1.0 - idle**micro)
    result: Array = passes * (prefill + s * decode)
    return result


def _read(model: ModelFacts, context: Array) -> Array:
    """Return tokens of the cache that one step reads: windows bound some layers."""
    share = model.kv_window_share
    window = np.minimum(context, model.kv_window_tokens) if share else context
    result: Array = (1.0 - share) * context + share * window
    return result
