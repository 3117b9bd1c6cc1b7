"""Workloads that must fail because a smaller one did."""

from __future__ import annotations

from harness.spec.workload import Workload

INHERITED = ("out_of_memory", "timed_out")
"""Failures that every larger workload shares."""

_SIZES = (
    "batch",
    "input_tokens",
    "output_tokens",
    "visual_tokens",
    "images",
    "frames",
    "image_height",
    "image_width",
)


def must_fail_too(failed: Workload, kind: str, other: Workload) -> bool:
    """Whether `other` needs at least as much of everything as a workload that failed.

    Parameters
    ----------
    failed, kind
        The workload that failed, and the class of its failure.
    other
        The one in question, of the same model and deployment.
    """
    if kind not in INHERITED or failed.modality != other.modality:
        return False
    return all(getattr(other, size) >= getattr(failed, size) for size in _SIZES)


def why(failed: Workload, kind: str) -> str:
    """Say which smaller workload failed, and how."""
    words = {"out_of_memory": "ran out of memory", "timed_out": "took too long"}[kind]
    return f"{describe(failed)} {words}, and this needs at least as much"


def describe(workload: Workload) -> str:
    """Return one readable word group, such as ``batch 8, 1024 in, 128 out``."""
    parts = [f"batch {workload.batch}", f"{workload.input_tokens} in"]
    if workload.images:
        parts.append(f"{workload.images} images")
    if workload.frames:
        parts.append(f"{workload.frames} frames")
    return ", ".join([*parts, f"{workload.output_tokens} out"])
