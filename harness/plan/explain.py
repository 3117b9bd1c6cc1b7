"""Explains a plan with nothing left: the top reasons, and the smallest change that helps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from harness.errors import PlanError
from harness.plan.estimator import USABLE_MEMORY
from harness.plan.records import Skip
from harness.plan.roofline import memory_bytes
from harness.spec.expand import Expansion
from harness.spec.reasons import EXPLANATIONS, SkipReason
from harness.spec.sweep import Sweep

if TYPE_CHECKING:
    from harness.catalog.hardware import Hardware
    from harness.catalog.models import ModelFacts

TOP_REASONS = 4
GIB = 2**30


def nothing_left(
    sweep: Sweep,
    expansion: Expansion,
    skips: Iterable[Skip],
    models: Mapping[str, ModelFacts],
    hardware: Mapping[str, Hardware],
) -> PlanError:
    """Make the error of a sweep of which nothing can be measured."""
    counts: Counter[SkipReason] = Counter()
    details: dict[SkipReason, str] = {}
    for skip in skips:
        counts[skip.reason] += skip.count
        details.setdefault(skip.reason, f"{skip.model_id} on {skip.deployment}: {skip.detail}")
    total = sum(counts.values())
    lines = [f"Nothing of the sweep {sweep.name!r} can be measured; {total:,} skipped:"]
    for reason, count in counts.most_common(TOP_REASONS):
        lines.append(f"  {count:>7,}  {reason.value}: {EXPLANATIONS[reason]}")
        lines.append(f"           e.g. {details[reason]}")
    first = counts.most_common(1)[0][0]
    return PlanError(
        "\n".join(lines),
        where=str(sweep.path) if sweep.path else f"sweep {sweep.name}",
        fix=_fix(first, sweep, expansion, models, hardware),
    )


def _fix(
    reason: SkipReason,
    sweep: Sweep,
    expansion: Expansion,
    models: Mapping[str, ModelFacts],
    hardware: Mapping[str, Hardware],
) -> str:
    if reason is SkipReason.DOES_NOT_FIT_IN_MEMORY:
        return _memory_fix(expansion, models, hardware)
    if reason is SkipReason.GPU_LIMIT:
        fewest = min(
            dropped.deployment.num_gpus
            for dropped in expansion.dropped
            if dropped.reason is SkipReason.GPU_LIMIT
        )
        return f"raise gpu_limit from {sweep.gpu_limit} to {fewest}, the fewest GPUs beyond it."
    if reason is SkipReason.HEADS_NOT_DIVISIBLE:
        heads = ", ".join(f"{model.model_id} has {model.heads}" for model in models.values())
        return f"use tensor_parallel sizes that divide the attention heads: {heads}."
    if reason is SkipReason.LAYERS_NOT_DIVISIBLE:
        deepest = max(models.values(), key=lambda model: model.layers)
        return f"use pipeline_parallel up to {deepest.layers}, the layers of {deepest.model_id}."
    if reason is SkipReason.EXPERTS_NOT_DIVISIBLE:
        return "use expert_parallel sizes that divide the experts and the tensor-parallel ranks."
    if reason is SkipReason.PRECISION_NOT_SUPPORTED:
        shared = "; ".join(
            f"{gpu.hardware}: {', '.join(gpu.peak_flops)}" for gpu in hardware.values()
        )
        return f"use a precision the hardware has: {shared}."
    if reason is SkipReason.ENGINE_NOT_CAPABLE:
        return "use one GPU and a precision of that engine, or name another engine."
    if reason is SkipReason.CONTEXT_TOO_LONG:
        longest = max(model.max_position for model in models.values())
        return f"keep input and output together within {longest} tokens."
    if reason is SkipReason.OVER_BUDGET:
        return "raise the budget, or lower repeats or window_s."
    if reason is SkipReason.NO_VISION_TOWER:
        return "name a vision-language model for the image and video blocks."
    return "choose hardware and precision that the twin has kernel tables for (sweeps/README.md)."


def _memory_fix(
    expansion: Expansion, models: Mapping[str, ModelFacts], hardware: Mapping[str, Hardware]
) -> str:
    """Name the least memory a task needs and the most memory a deployment has."""

    def total(place: int) -> float:
        task = expansion.tasks[place]
        each = memory_bytes(models[task.model_id], task.deployment, task.workload)
        return each * task.deployment.num_gpus

    least = min(range(len(expansion.tasks)), key=total)
    task = expansion.tasks[least]
    largest = max(
        {task.deployment for task in expansion.tasks},
        key=lambda item: item.num_gpus * hardware[item.hardware].memory_bytes,
    )
    gpu = hardware[largest.hardware]
    has = largest.num_gpus * gpu.memory_bytes
    weights = models[task.model_id].weight_bytes(task.deployment.precision)
    needed = total(least) / USABLE_MEMORY
    gpus = -(-needed // gpu.memory_bytes)
    return (
        f"the smallest need is {needed / GIB:.0f} GiB ({task.model_id} in "
        f"{task.deployment.precision}: {weights / GIB:.0f} GiB of weights) and the largest "
        f"deployment ({largest.summary}) has {has / GIB:.0f} GiB: use at least {gpus:.0f} GPUs of "
        "that type (tensor_parallel x pipeline_parallel, gpu_limit), a smaller model, or fewer "
        "bits."
    )
