"""The engines of a search: what each must offer, and where it is found."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from harness.store import FitError

if TYPE_CHECKING:
    from fitting.discover.problem import Problem
    from fitting.discover.structure import Structure


@dataclass(frozen=True, slots=True)
class Probe:
    """Whether an engine can search here.

    Attributes
    ----------
    available
        True if it can.
    version
        Of the engine, empty if not known.
    reason
        Why it cannot.
    setup
        What to do about it: a command.
    """

    available: bool
    version: str = ""
    reason: str = ""
    setup: str = ""


@dataclass(frozen=True, slots=True)
class Deadline:
    """When a search must end.

    Attributes
    ----------
    at_s
        On the monotonic clock, s; None for never.
    """

    at_s: float | None = None

    @staticmethod
    def after(seconds: float | None) -> Deadline:
        """Return the deadline so many seconds from now; None for never."""
        return Deadline(None if seconds is None else time.monotonic() + seconds)

    def left_s(self) -> float:
        """Return the seconds that are left, not below 0."""
        return float("inf") if self.at_s is None else max(self.at_s - time.monotonic(), 0.0)

    @property
    def passed(self) -> bool:
        """True once the time is over."""
        return self.left_s() <= 0.0


@dataclass(frozen=True, slots=True)
class Found:
    """What an engine found.

    Attributes
    ----------
    structures
        Candidates, in any order.
    inclusion
        Number of terms -> term -> share of draws whose law of that size holds it; 0 stands for
        the law of lowest BIC of each draw.
    draws
        Bootstrap draws, or independent searches, behind `inclusion`.
    alternatives
        Front factor -> BIC of all terms with it.
    notes
        What a reader should know.
    """

    structures: Sequence[Structure]
    inclusion: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    draws: int = 0
    alternatives: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()


class Engine(Protocol):
    """Finds structures. Fitting, errors and checks are the same for all engines."""

    @property
    def name(self) -> str:
        """Name on the command line."""
        ...

    def probe(self) -> Probe:
        """Say whether it can search here, without starting anything that could hang."""
        ...

    def search(self, problem: Problem, *, seed: int, draws: int, deadline: Deadline) -> Found:
        """Find structures; the same for the same problem and seed unless the time ends."""
        ...


_HOME = {
    "terms": ("terms", "TermEngine"),
    "operon": ("operon", "OperonEngine"),
    "pysr": ("pysr", "PysrEngine"),
}


def engine_names() -> tuple[str, ...]:
    """Return the names of all engines."""
    return tuple(_HOME)


def get_engine(name: str) -> Engine:
    """Return an engine by its name, available or not.

    Raises
    ------
    FitError
        If there is none of that name.
    """
    if name not in _HOME:
        raise FitError(
            f"There is no engine {name!r}.",
            where=f"--engine {name}",
            fix=f"Use one of {', '.join(_HOME)}.",
        )
    module, kind = _HOME[name]
    engine: Engine = getattr(import_module(f"fitting.discover.{module}"), kind)()
    return engine


def require(engine: Engine) -> Probe:
    """Return what the probe of an engine found, if it can search.

    Raises
    ------
    FitError
        If it cannot.
    """
    probe = engine.probe()
    if not probe.available:
        raise FitError(
            f"The engine {engine.name} is unavailable: {probe.reason}.",
            where=f"--engine {engine.name}",
            fix=probe.setup or "Use --engine terms, which needs nothing.",
        )
    return probe
