"""Work of `aiconfigurator_core` operators: their specification, read once, at any shape of call."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from harness.engines.twin.work_formulas import (
    KINDS_WITHOUT_SEQUENCES,
    STATE_KINDS,
    evaluate,
    skew,
)
from harness.engines.twin.work_types import Floats, OperatorWork, number_format
from harness.errors import EngineError


def operator_spec(op: Any) -> tuple[str, dict[str, Any]]:
    """Type name and fields of an `aiconfigurator_core` operator, as its engine receives them."""
    name, fields = next(iter(json.loads(_spec_text(op)).items()))
    return str(name), dict(fields)


def _spec_text(op: Any) -> str:
    raw = getattr(op, "_spec_json", None)
    text = raw() if callable(raw) else raw
    if not isinstance(text, str):
        raise EngineError(
            "an operator of aiconfigurator_core has no readable specification",
            where=type(op).__name__,
            fix="use aiconfigurator-core 0.12",
        )
    return text


def work_of_operator(
    op: Any,
    phase: str,
    batch: Any,
    length: Any,
    *,
    tokens: Any = None,
    past: Any = 0,
) -> OperatorWork:
    """Work of one call of an operator of `aiconfigurator_core` 0.12, for one shape or many.

    Parameters
    ----------
    op
        Operator object, from `model.context_ops`, `generation_ops` or `encoder_ops`.
    phase
        "context" (also for an encoder) or "generation".
    batch
        Sequences in the call (images for an encoder); a number or an array.
    length
        New tokens a sequence in context; cached tokens a sequence, the new one included, in
        generation. A number or an array.
    tokens
        Rows of the call over all sequences; default batch * length in context (batch for the
        last-token projection to logits) and batch in generation.
    past
        Cached tokens before the new ones, context only.

    Returns
    -------
    OperatorWork
        Of one call; `calls` says how often the model repeats it. Numbers when every argument is
        one. Else FLOPs, bytes and what else depends on the shape are arrays of the arguments'
        common shape, while formats, variant, calls and the like stay single values. A composite
        operator (an overlap of two streams) sums its parts and takes the kind of the part that
        moves most bytes.

    Raises
    ------
    EngineError
        Phase or number format unknown, or the operator carries no specification.
    """
    if phase not in ("context", "generation"):
        raise EngineError(f"unknown phase {phase!r}", fix="use context or generation")
    spec = _read_spec(_spec_text(op))
    shape = np.broadcast_shapes(np.shape(batch), np.shape(length), np.shape(past), np.shape(tokens))
    batches, lengths, pasts = (_array(value, shape or (1,)) for value in (batch, length, past))
    if tokens is not None:
        rows = _array(tokens, shape or (1,))
    elif phase == "generation" or spec.last_token_only:
        rows = batches
    else:
        rows = batches * lengths
    call = _Call(phase, batches, lengths, rows, pasts)
    parts = [part.work(call) for part in spec.parts]
    total = parts[0] if len(parts) == 1 else _sum(parts)
    return total if shape else _first(total)


def _array(value: Any, shape: tuple[int, ...]) -> Floats:
    array = np.asarray(value, dtype=np.float64)
    return array if array.shape == shape else np.broadcast_to(array, shape)


def _sum(parts: list[OperatorWork]) -> OperatorWork:
    """Add parts of a composite; what they say to other GPUs does not count beside real work."""
    main = max(parts, key=lambda part: (part.kind != "communication", float(np.sum(part.bytes))))
    counted = [part for part in parts if part is main or part.kind != "communication"]
    return replace(
        main,
        flops=sum(part.flops for part in counted),
        bytes=sum(part.bytes for part in counted),
    )


def _first(work: OperatorWork) -> OperatorWork:
    """Turn one-entry arrays into plain numbers."""
    values = {name: getattr(work, name) for name in OperatorWork.__slots__}
    return OperatorWork(
        **{k: v.flat[0].item() if isinstance(v, np.ndarray) else v for k, v in values.items()}
    )


@dataclass(frozen=True, slots=True)
class _Call:
    """Shape of a call; arrays of one shape."""

    phase: str
    batch: Floats
    length: Floats
    tokens: Floats
    past: Floats

    @property
    def step(self) -> Floats:
        """Past length as the tables count it: without the new token."""
        return self.length - 1.0 if self.phase == "generation" else self.past

    @property
    def new_tokens(self) -> Floats:
        return np.ones_like(self.length) if self.phase == "generation" else self.length


@dataclass(frozen=True, slots=True)
class _PlainOperator:
    """What an operator says of itself, in the tables' column names.

    Attributes
    ----------
    fixed
        Columns that no call changes: heads, sizes, bytes a value.
    split
        Ranks that share the tokens of a call.
    token_copies
        Ranks whose tokens meet in the call (experts under attention data parallelism).
    """

    kind: str
    fixed: Mapping[str, Any]
    precision: str
    number_format: str
    skew: float
    calls: float
    split: float
    token_copies: float

    def work(self, call: _Call) -> OperatorWork:
        """Evaluate the formula at the shape of one call."""
        columns: dict[str, Any] = dict(self.fixed)
        if self.kind in STATE_KINDS:
            columns.update(batch_size=call.batch, num_tokens=call.batch * call.new_tokens)
        elif self.kind in KINDS_WITHOUT_SEQUENCES:
            rows = call.tokens * self.token_copies / self.split
            columns.update(m=rows, num_tokens=rows)
        else:
            columns.update(batch_size=call.batch, isl=call.new_tokens, step=call.step)
        return evaluate(
            self.kind,
            columns,
            precision=self.precision,
            number_format=self.number_format,
            skew=self.skew,
            calls=self.calls,
        )


@dataclass(frozen=True, slots=True)
class _Spec:
    """An operator's specification, read: its plain parts, and whether only last tokens enter."""

    parts: tuple[_PlainOperator, ...]
    last_token_only: bool


@lru_cache(maxsize=4096)
def _read_spec(text: str) -> _Spec:
    name, fields = next(iter(json.loads(text).items()))
    return _Spec(tuple(_parts(name, fields)), "logits_gemm" in str(fields.get("name", "")))


def _parts(name: str, fields: dict[str, Any]) -> Iterator[_PlainOperator]:
    """Split composite operators into plain ones; a fallback counts as its primary."""
    if name == "Fallback":
        primary, inner = next(iter(fields["primary"].items()))
        yield from _parts(primary, inner)
    elif name == "Overlap":
        for part in (*fields["group_a"], *fields["group_b"]):
            part_name, inner = next(iter(part.items()))
            yield from _parts(part_name, inner)
    else:
        yield _plain(name, fields)


_KIND_OF_OPERATOR: dict[str, str] = {
    "Gemm": "gemm",
    "ContextAttention": "context_attention",
    "GenerationAttention": "generation_attention",
    "EncoderAttention": "encoder_attention",
    "Moe": "moe",
    "Mamba2": "mamba2",
    "Gdn": "gdn",
    "MlaContext": "mla_context",
    "ContextMla": "mla_context",
    "MlaGeneration": "mla_generation",
    "GenerationMla": "mla_generation",
    "MlaModuleContext": "mla_context_module",
    "MlaModuleGeneration": "mla_generation_module",
    "Elementwise": "elementwise",
    "Embedding": "embedding",
    "CustomAllReduce": "communication",
    "Nccl": "communication",
    "P2P": "communication",
    "MoeDispatch": "communication",
}
_COLUMN_OF_FIELD = {
    "n": "num_heads",
    "n_kv": "num_key_value_heads",
    "head_size": "head_dim",
}
_ATTENTION = frozenset({"context_attention", "generation_attention", "encoder_attention"})


def _plain(name: str, fields: Mapping[str, Any]) -> _PlainOperator:
    """Rename one operator's fields to the tables' columns; unknown operators do no work."""
    kind = _KIND_OF_OPERATOR.get(name, "other")
    numbers = {k: float(v) for k, v in fields.items() if type(v) in (int, float)}
    rename = _COLUMN_OF_FIELD if kind in _ATTENTION else {}
    fixed: dict[str, Any] = {rename.get(k, k): v for k, v in numbers.items()}
    if kind in _ATTENTION:
        fixed.setdefault("window_size", 0.0)
    if kind in ("embedding", "communication"):
        # A bf16 vector a token, read once and written once.
        fixed["bytes_per_token"] = 2.0 * 2.0 * numbers.get("hidden_size", 0.0)
    elif kind == "other":
        fixed["bytes_per_token"] = 0.0
    format_name = str(fields.get(_format_field(kind), "bfloat16"))
    values = number_format(format_name, kind)
    cache = number_format(str(fields.get("kv_cache_dtype", "bfloat16")), kind)
    fixed.update(
        weight_bytes=values.weight_bytes,
        activation_bytes=values.activation_bytes,
        kv_bytes=cache.weight_bytes,
        variant=str(fields.get("kernel_source", "")),
        gated=1.0 if fields.get("is_gated", True) else 0.0,
    )
    moe = kind == "moe"
    return _PlainOperator(
        kind=kind,
        fixed=fixed,
        precision=values.precision,
        number_format=format_name,
        skew=skew(fields.get("workload_distribution", "balanced")),
        calls=numbers.get("scale_factor", 1.0),
        split=1.0
        if moe
        else (numbers.get("scale_num_tokens") or 1.0) * (numbers.get("seq_split") or 1.0),
        token_copies=numbers.get("attention_dp_size", 1.0) if moe else 1.0,
    )


def _format_field(kind: str) -> str:
    if kind in ("context_attention", "encoder_attention"):
        return "fmha_quant_mode"
    return "gemm_quant_mode" if kind.endswith("_module") else "quant_mode"
