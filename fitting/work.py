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
    "fp8": 0.6,
    "int8": 0.6,
    "int4": 1.0,
    "nvfp4": 0.4,
    "mxfp4": 1.0,
}
"""Energy of one multiplication against bf16, by precision. Formats that only store weights small
(int4, mxfp4) are multiplied in 16 bit; fp8 and nvfp4 do two and four times the work a second, of
which about four fifths remain beside the fixed costs of a kernel."""

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


@dataclass(frozen=True, slots=True)
class ModelTraits:
    """Facts of a model that a fit keeps, so that it predicts without their columns.

    Attributes
    ----------
    idle_expert
        1 - k/E, 0 for a model without experts.
    hidden_size
        Width of the model, exact or estimated.
    """

    idle_expert: float = 0.0
    hidden_size: float = 4096.0


def column(frame: pd.DataFrame, name: str, *, default: float | None = None) -> NDArray[np.float64]:
    """Return a column as floats; nulls and a missing column become the default.

    Raises
    ------
    FitError
        If there is no default and the column is missing.
    """
    if name not in frame.columns:
        if default is None:
            raise FitError(
                f"The table has no column {name!r}.",
                where=f"columns: {', '.join(map(str, frame.columns))}"[:300],
                fix="Give the model, deployment and workload columns of the measurement table.",
            )
        return np.full(len(frame), default)
    values = frame[name].to_numpy(dtype=np.float64, na_value=np.nan)
    if default is not None and np.isnan(values).any():
        values = np.where(np.isnan(values), default, values)
    return values


def work_of(
    frame: pd.DataFrame,
    idle_expert: NDArray[np.float64],
    hidden_size: NDArray[np.float64],
) -> Work:
    """Read the work of each row from the columns of the measurement table.

    Parameters
    ----------
    frame
        Rows with `batch`, `input_tokens` and `output_tokens`; parallel degrees default to 1,
        `precision` to bf16, visual tokens to 0.
    idle_expert, hidden_size
        Traits of the model of each row, shape (rows,).

    Raises
    ------
    FitError
        If a needed column is missing, a value is null or below 1, or a precision is unknown.
    """
    batch = column(frame, "batch")
    tokens_in = column(frame, "input_tokens")
    tokens_out = column(frame, "output_tokens")
    for name, values in (
        ("batch", batch),
        ("input_tokens", tokens_in),
        ("output_tokens", tokens_out),
    ):
        bad = ~(values >= 1.0)
        if bad.any():
            raise FitError(
                f"{int(bad.sum())} rows have no {name} of at least 1.",
                where=f"first such row: position {int(np.flatnonzero(bad)[0])}",
                fix="Leave those rows out, or give their workload.",
            )
    filled = {name: column(frame, name, default=value) for name, value in _DEFAULTS.items()}
    tensor, stages = filled["tensor_parallel"], filled["pipeline_parallel"]
    replicas = filled["data_parallel"]
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


def traits_of(frame: pd.DataFrame) -> ModelTraits:
    """Return the traits of the one model that all rows of a frame are of.

    Experts come from `num_experts` and `experts_per_token`; without them from the share of the
    parameters that is active, for the family `moe`. The width comes from `hidden_size`; without
    it from the active parameters: N = 12 L h^2 with L in proportion to h.
    """
    experts, used = _first(frame, "num_experts"), _first(frame, "experts_per_token")
    total, active = _first(frame, "params_total"), _first(frame, "params_active")
    idle = 0.0
    if experts is not None and used is not None and experts > used > 0:
        idle = 1.0 - used / experts
    elif (
        experts is None
        and total is not None
        and active is not None
        and "family" in frame.columns
        and (frame["family"] == "moe").any()
        and 0 < active < total
    ):
        share = active / total
        always = min(0.05, 0.45 * share)
        idle = 1.0 - (share - always) / (1.0 - always)
    width = _first(frame, "hidden_size")
    if width is None:
        known = active or total
        width = 4096.0 if known is None else 4096.0 * (known / 8.0e9) ** (1.0 / 3.0) * 1.03
    return ModelTraits(idle_expert=float(idle), hidden_size=float(width))


def _first(frame: pd.DataFrame, name: str) -> float | None:
    """Return the first value of a column that is not null, or None."""
    if name not in frame.columns:
        return None
    values = frame[name].to_numpy(dtype=np.float64, na_value=np.nan)
    values = values[~np.isnan(values)]
    return float(values[0]) if len(values) else None
