"""What certainly has to fit: refusals before the first allocation, where they are beyond doubt."""

from __future__ import annotations

from harness.catalog import ModelFacts
from harness.errors import OutOfMemoryError
from harness.spec import Workload

GIB = 2**30
_BYTES = {"fp32": 4.0}


def value_bytes(precision: str) -> float:
    """Bytes of one activation or cache value."""
    return _BYTES.get(precision, 2.0)


def check_weights(facts: ModelFacts, precision: str, free_bytes: int, where: str) -> None:
    """Refuse a model whose weights are larger than the memory.

    Raises
    ------
    OutOfMemoryError
        Naming both sizes.
    """
    # Quantised weights are made from 16-bit ones, which are there first.
    need = facts.params_total * value_bytes(precision)
    if need > free_bytes:
        raise OutOfMemoryError(
            f"the weights of {facts.model_id} take {need / GIB:.1f} GiB in {precision}, "
            f"{free_bytes / GIB:.1f} GiB are free",
            where=where,
            fix="use a smaller model, a narrower precision or a larger device",
        )


def least_bytes(facts: ModelFacts, workload: Workload, phase: str, precision: str) -> float:
    """Bytes that a run holds at once at the very least: cache, states, token ids, hidden states."""
    each = value_bytes(precision)
    tokens = workload.input_tokens
    if phase != "prefill":
        tokens += workload.output_tokens - 1
    cache = facts.kv_bytes_per_sequence(tokens, each)
    states = facts.state_bytes_per_sequence * each / 2.0
    ids = 16.0 * workload.input_tokens
    hidden = each * facts.hidden_size * workload.input_tokens
    logits = 4.0 * facts.vocab_size
    return workload.batch * (cache + states + ids + max(hidden, logits))


def check_workload(
    facts: ModelFacts,
    workload: Workload,
    phase: str,
    precision: str,
    free_bytes: int,
    where: str,
) -> None:
    """Refuse a run that cannot fit.

    Raises
    ------
    OutOfMemoryError
        Naming both sizes.
    """
    need = least_bytes(facts, workload, phase, precision)
    if need > free_bytes:
        raise OutOfMemoryError(
            f"cache and activations take at least {need / GIB:.1f} GiB, "
            f"{free_bytes / GIB:.1f} GiB are free",
            where=where,
            fix="use a smaller batch or a shorter context",
        )
