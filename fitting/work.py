"""The numbers that a law needs from each row of the measurement table, as arrays."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from harness.store import FitError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

WEIGHT_BYTES: dict[str, float] = {
    "fp32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "int4": 0.5,
    "nvfp4": 0.5,
    "mxfp4": 0.5,
}
"""Bytes that one weight takes, by precision."""

COMPUTE_COST: dict[str, float] = {
    "fp32": 2.0,
    "bf16": 1.0,
    "fp16": 1.0,
    "fp8": 0.5,
    "int8": 0.5,
    "int4": 1.0,
    "nvfp4": 0.25,
    "mxfp4": 1.0,
}
"""Energy of one multiplication against bf16, by precision. Formats that only store weights small
(int4, mxfp4) are multiplied in 16 bit; fp8 and nvfp4 do two and four times the work a second.
Kernels fall short of that; a (model, hardware) with both kinds of rows fits by how much."""

TWO_SHOT_BYTES = 2.0**21
"""All-reduce messages of more than this many bytes, over all ranks, take two rounds instead of
one: 512 KiB a rank on 4 GPUs, 256 KiB on 8 (vLLM, csrc/custom_all_reduce.cuh)."""

_DEFAULTS = {
    "tensor_parallel": 1.0,
    "pipeline_parallel": 1.0,
    "data_parallel": 1.0,
    "visual_tokens": 0.0,
    "images": 0.0,
    "frames": 0.0,
}


@dataclass(frozen=True, slots=True)
class Work:
    """What each row asks of the hardware; every field has shape (rows,).

    Attributes
    ----------
    tensor, stages, replicas
        Tensor, pipeline and data parallel degrees t, p and d.
    micro_batch, passes
        The pipeline rule on the requests of one replica, B/d: b = ceil(B/d / p) requests a
        micro-batch, and k = ceil(B/d / b) micro-batches.
    input_tokens, steps, visual_tokens
        Tokens a request: n, the decode steps m - 1, and those of n that are visual.
    weight_bytes, compute_cost
        Known factors of the precision, 1 for bf16.
    idle_expert
        Chance that one token does not use a given expert, 1 - k/E; 0 without experts.
    two_shot
        1 where an all-reduce of decoding takes two rounds, else 0.
    hidden_size
        Width of the model, h.
    cache_share
        Bytes of the KV cache of one token over those of all weights in 16 bit.
    reduced
        1 where weights have less than 16 bits, else 0.
    state_share
        Bytes of the recurrent state of one sequence over those of all weights in 16 bit; 0
        without such layers.
    """

    tensor: NDArray[np.float64]
    stages: NDArray[np.float64]
    replicas: NDArray[np.float64]
    micro_batch: NDArray[np.float64]
    passes: NDArray[np.float64]
    input_tokens: NDArray[np.float64]
    steps: NDArray[np.float64]
    visual_tokens: NDArray[np.float64]
    weight_bytes: NDArray[np.float64]
    compute_cost: NDArray[np.float64]
    idle_expert: NDArray[np.float64]
    two_shot: NDArray[np.float64]
    hidden_size: NDArray[np.float64]
    cache_share: NDArray[np.float64]
    reduced: NDArray[np.float64]
    state_share: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.tensor)

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Work:
        """Return the rows that an index, a mask or a slice picks."""
        return Work(*(getattr(self, f.name)[index] for f in fields(self)))

    def coverage(self, tokens: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the share of the weights that a pass over so many tokens reads.

        Each token uses k of E experts; after x tokens a given expert was used with chance
        1 - (1 - k/E)^x. Models without experts read all of their weights.
        """
        moe = self.idle_expert > 0.0
        if not moe.any():
            return np.ones_like(tokens)
        share = np.ones_like(tokens)
        share[moe] -= self.idle_expert[moe] ** tokens[moe]
        return share

    def reached(self, tokens: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the share of the experts that a pass over so many tokens reads, if some are dear.

        An expert is used by a token with chance q. With all q alike this is `coverage`. Routing
        favours some experts: with q spread as a beta distribution of shape (1, E/k - 1) about its
        mean g = k/E, an expert stays unused by x tokens with chance E[(1 - q)^x], which is
        (1/g - 1) / (1/g - 1 + x). So the share is g x / (1 + g (x - 1)): g for one token, 1 for
        many. Models without experts read all of their weights.
        """
        moe = self.idle_expert > 0.0
        if not moe.any():
            return np.ones_like(tokens)
        share = np.ones_like(tokens)
        chance = 1.0 - self.idle_expert[moe]
        share[moe] = chance * tokens[moe] / (1.0 + chance * (tokens[moe] - 1.0))
        return share


def column(frame: pd.DataFrame, name: str, *, default: float | None = None) -> NDArray[np.float64]:
    """Return a column as floats; nulls and a missing column become the default.

    Raises
    ------
    FitError
        If there is no default and the column is missing, or it holds what is no number.
    """
    if name not in frame.columns:
        if default is None:
            raise FitError(
                f"The table has no column {name!r}.",
                where=f"columns: {', '.join(map(str, frame.columns))}"[:300],
                fix="Give the model, deployment and workload columns of the measurement table.",
            )
        return np.full(len(frame), default)
    try:
        values = frame[name].to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise FitError(
            f"The column {name!r} holds what is no number: {error}.",
            where=f"column {name}",
            fix="Give numbers; what is not known is null.",
        ) from error
    if default is not None and np.isnan(values).any():
        values = np.where(np.isnan(values), default, values)
    return values


def work_of(
    frame: pd.DataFrame,
    idle_expert: NDArray[np.float64],
    hidden_size: NDArray[np.float64],
    cache_share: NDArray[np.float64],
    state_share: NDArray[np.float64] | None = None,
) -> Work:
    """Read the work of each row from the columns of the measurement table.

    Parameters
    ----------
    frame
        Rows with `batch`, `input_tokens` and `output_tokens`; parallel degrees default to 1,
        `precision` to bf16, visual tokens to 0.
    idle_expert, hidden_size, cache_share, state_share
        Traits of the model of each row, shape (rows,); no recurrent state if None.

    Raises
    ------
    FitError
        If a needed column is missing, a value is null or below 1, or a precision is unknown.
    """
    batch = column(frame, "batch")
    tokens_in = column(frame, "input_tokens")
    tokens_out = column(frame, "output_tokens")
    filled = {name: column(frame, name, default=value) for name, value in _DEFAULTS.items()}
    tensor, stages = filled["tensor_parallel"], filled["pipeline_parallel"]
    replicas = filled["data_parallel"]
    for name, values in (
        ("batch", batch),
        ("input_tokens", tokens_in),
        ("output_tokens", tokens_out),
        ("tensor_parallel", tensor),
        ("pipeline_parallel", stages),
        ("data_parallel", replicas),
    ):
        bad = ~((values >= 1.0) & np.isfinite(values))
        if bad.any():
            raise FitError(
                f"{int(bad.sum())} rows have no {name} of at least 1.",
                where=f"first such row: position {int(np.flatnonzero(bad)[0])}",
                fix="Leave those rows out, or give their workload.",
            )
    local = np.ceil(batch / replicas)
    micro_batch = np.ceil(local / stages)
    weight, compute = _precision_factors(frame)
    message = tensor * micro_batch * hidden_size * 2.0
    return Work(
        tensor=tensor,
        stages=stages,
        replicas=np.minimum(replicas, batch),
        micro_batch=micro_batch,
        passes=np.ceil(local / micro_batch),
        input_tokens=tokens_in,
        steps=tokens_out - 1.0,
        visual_tokens=filled["visual_tokens"],
        weight_bytes=weight,
        compute_cost=compute,
        idle_expert=idle_expert,
        two_shot=((tensor > 2.0) & (message >= TWO_SHOT_BYTES)).astype(np.float64),
        hidden_size=hidden_size,
        cache_share=cache_share,
        reduced=(weight < 1.0).astype(np.float64),
        state_share=np.zeros(len(frame)) if state_share is None else state_share,
    )


def _precision_factors(
    frame: pd.DataFrame,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return bytes of a weight and cost of a multiplication, both against bf16."""
    import pandas as pd

    if "precision" not in frame.columns:
        return np.ones(len(frame)), np.ones(len(frame))
    codes, names = pd.factorize(frame["precision"])
    unknown = sorted(str(name) for name in names if str(name) not in WEIGHT_BYTES)
    if unknown:
        raise FitError(
            f"Unknown precision {', '.join(unknown)}.",
            where="column precision",
            fix=f"Use one of {', '.join(WEIGHT_BYTES)}.",
        )
    weight = np.array([WEIGHT_BYTES[str(name)] / 2.0 for name in names] + [1.0])
    compute = np.array([COMPUTE_COST[str(name)] for name in names] + [1.0])
    return weight[codes], compute[codes]
