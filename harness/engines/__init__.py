"""Engines: what executes a workload. One entry here and one module per engine."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from harness.engines.base import Engine, Phase, RunStamps, Session
from harness.errors import EngineError

_REGISTRY: dict[str, str] = {
    "twin": "harness.engines.twin.engine:TwinEngine",
}


def known_engines() -> list[str]:
    """Names of the engines that a sweep may ask for."""
    return sorted(_REGISTRY)


def load_engine(name: str, **options: Any) -> Engine:
    """Import and build the engine called `name`.

    Parameters
    ----------
    name
        One of `known_engines()`.
    options
        Arguments of the engine.

    Raises
    ------
    EngineError
        If no engine of that name is registered.
    """
    try:
        module, attribute = _REGISTRY[name].split(":")
    except KeyError:
        raise EngineError(
            f"there is no engine {name!r} to run with",
            fix=f"run with: {', '.join(known_engines())}; for other engines a sweep can be "
            "planned (energylens plan), not run",
        ) from None
    engine: Engine = getattr(import_module(module), attribute)(**options)
    return engine


__all__ = ["Engine", "Phase", "RunStamps", "Session", "known_engines", "load_engine"]
