"""What an engine cannot serve at all, known before anything is started."""

from __future__ import annotations

from collections.abc import Mapping

SINGLE_DEVICE = frozenset({"transformers"})
"""Engines that run a model on one device only."""
PRECISIONS: Mapping[str, frozenset[str]] = {
    "transformers": frozenset({"fp32", "fp16", "bf16", "int8", "int4"}),
}
"""Number formats of an engine; one that is not here takes what the hardware has."""


def engine_refusal(engine: str, deployment: Mapping[str, int], precision: str) -> str:
    """Say why an engine cannot serve a deployment; empty if it can.

    Parameters
    ----------
    engine
        Name of the engine.
    deployment
        Its axes: ``tensor_parallel``, ``pipeline_parallel``, ``expert_parallel``,
        ``data_parallel``.
    precision
        Number format of the weights.
    """
    if engine in SINGLE_DEVICE:
        split = [name for name, ways in deployment.items() if name in _AXES and ways > 1]
        if split:
            asked = ", ".join(f"{name} {deployment[name]}" for name in split)
            return f"{engine} runs on one device here, not with {asked}"
    formats = PRECISIONS.get(engine)
    if formats is not None and precision not in formats:
        return f"{engine} has {', '.join(sorted(formats))}, not {precision}"
    return ""


_AXES = ("tensor_parallel", "pipeline_parallel", "expert_parallel", "data_parallel")
