"""The parameters of the pooled law: what each one multiplies, and how far apart it may lie.

Every parameter is a number near zero: the logarithm of a factor on a physical size, the change of
an exponent, or a step of a curve. Zero is what the datasheet and the architecture say by
themselves, so that "shared" and "unlike the others" are both small numbers of one scale.
"""

from __future__ import annotations

from dataclasses import dataclass

BATCH_STEPS = 7
"""Doublings of the micro-batch, from 1, over which the reading of weights has a step each."""

FIRST_TOKENS = 7
"""log2 of the tokens of a prefill pass where its curve begins."""

TOKEN_STEPS = 9
"""Doublings of the tokens of a prefill pass with a step each."""

TENSOR_STEPS = 3
"""Doublings of tensor parallelism with a step each."""

KIND_FACTOR, KIND_SHAPE, KIND_STEP = "factor", "shape", "step"


@dataclass(frozen=True, slots=True)
class SharedParameter:
    """One parameter of the pooled law.

    Attributes
    ----------
    name
        Unique name.
    kind
        `factor`: logarithm of a factor on a term's physical size; `shape`: change of an exponent
        or ratio; `step`: change of the logarithm of a cost over one doubling.
    prior
        Standard deviation of the value that all pairs share, about zero.
    spread
        Standard deviation that one level (family, GPU type, model, pair) is expected to add.
    meaning
        The physical cause, in one line.
    """

    name: str
    kind: str
    prior: float
    spread: float
    meaning: str


def _factor(name: str, meaning: str, prior: float = 1.5) -> SharedParameter:
    return SharedParameter(name, KIND_FACTOR, prior, 0.2, meaning)


def _shape(name: str, meaning: str, prior: float) -> SharedParameter:
    return SharedParameter(name, KIND_SHAPE, prior, 0.3 * prior, meaning)


def _steps(name: str, first: int, count: int, meaning: str) -> tuple[SharedParameter, ...]:
    return tuple(
        SharedParameter(f"{name}_{2 ** (first + j + 1)}", KIND_STEP, 0.05, 0.03, meaning)
        for j in range(count)
    )


TERMS = (
    _factor("prefill_compute", "multiplying by the weights: FLOPs over peak rate"),
    _factor("prefill_attention", "attention of a prompt: FLOPs over peak rate"),
    _factor("prefill_state", "recurrent state of a prompt: FLOPs over peak rate"),
    _factor("prefill_reading", "reading the weights in prefill: bytes over bandwidth", 1.0),
    _factor("prefill_reduce", "all-reduce of prefill: bytes over link rate", 1.0),
    _factor("shared_bridge", "more than two GPUs that share a bridge: bytes over link rate", 1.0),
    _factor("prefill_launch", "kernel launches of a prefill pass, 10 us a layer"),
    _factor("prefill_encoder", "vision encoder: FLOPs over peak rate"),
    _factor("decode_weights", "reading the weights: bytes over bandwidth", 1.0),
    _factor("decode_cache", "reading the KV cache: bytes over bandwidth", 1.0),
    _factor("decode_state", "reading and writing recurrent state: bytes over bandwidth", 1.0),
    _factor("decode_sync", "waiting for the other shards, 10 us a layer"),
    _factor("decode_reduce", "all-reduce of decode: bytes over link rate", 1.0),
    _factor("decode_launch", "kernel launches of a step, 10 us a layer"),
    _factor("decode_launch_extra", "launches that reduced precision adds, 10 us a layer"),
)
"""Factors on the physical size of each term; 0 is the datasheet itself."""

SHAPES = (
    _shape("waiting_power_ratio", "logit of waiting over working power, beside idle/limit", 1.0),
    _shape("routing", "log of the exponent with which tokens reach further experts", 0.2),
    _shape("prefill_shard_exponent", "t^e: smaller shards multiply less efficiently", 0.2),
    _shape("weight_shard_exponent", "t^e: smaller shards are read less efficiently", 0.2),
    _shape("reduced_compute", "log of what reduced precision multiplies at, over its peak", 0.5),
    _shape("reduced_reading", "log of what reduced precision is read at, over its bytes", 0.5),
)

CURVES = (
    *_steps("decode_batch", 0, BATCH_STEPS, "reading weights at this micro-batch, over half of it"),
    *_steps("prefill_tokens", FIRST_TOKENS, TOKEN_STEPS, "prefill of so many tokens, over half"),
    *_steps("prefill_tensor", 0, TENSOR_STEPS, "prefill on so many shards, over half as many"),
    *_steps("decode_tensor", 0, TENSOR_STEPS, "decode on so many shards, over half as many"),
)
"""Steps of kernels that no smooth law has; constant beyond the last step that rows show."""

PARAMETERS = (*TERMS, *SHAPES, *CURVES)
INDEX = {parameter.name: i for i, parameter in enumerate(PARAMETERS)}
N_PARAMETERS = len(PARAMETERS)
