"""Engines: what executes a workload. One entry here and one module per engine."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from harness.engines.base import Engine, Phase, RunStamps, Session
from harness.errors import EngineError

_REGISTRY: dict[str, str] = {
    "transformers": "harness.engines.transformers.engine:TransformersEngine",
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
        One of `known_engines()`, or `MODULE:CLASS` for an engine outside of this package.
    options
        Arguments of the engine.

    Raises
    ------
    EngineError
        If there is no engine of that name, or it takes no such option.
    """
    module, colon, attribute = _REGISTRY.get(name, name).partition(":")
    try:
        if not colon:
            raise ImportError(f"there is no engine {name!r} to run with")
        make = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise EngineError(
            str(error),
            where=f"engine {name!r}",
            fix=f"run with: {', '.join(known_engines())}; for other engines a sweep can be "
            "planned (energylens plan), not run",
        ) from error
    try:
        engine: Engine = make(**options)
    except TypeError as error:
        raise EngineError(
            f"the engine {name} does not take these options: {error}",
            where=f"engine_options {', '.join(options) or '(none)'}",
        ) from error
    return engine


__all__ = ["Engine", "Phase", "RunStamps", "Session", "known_engines", "load_engine"]
