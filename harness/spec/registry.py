"""Names of the engines a sweep may ask for."""

from __future__ import annotations

PLANNABLE = ("transformers", "twin", "vllm")
"""Engines that a sweep may name on a machine that cannot run them, to plan for one that can."""


def known_engines() -> tuple[str, ...]:
    """Sorted names of the known engines: the plannable ones and all that are registered."""
    from harness.engines import known_engines as registered

    return tuple(sorted({*PLANNABLE, *registered()}))
