"""Runs every check and draws the two verdicts: can it measure, can it project."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "no", "info"]


@dataclass(frozen=True, slots=True)
class Check:
    """One finding.

    Attributes
    ----------
    name, text
        What was looked at, and what was found.
    state
        `ok`, `warn` (works, but with care), `no` (missing), `info`.
    fix
        What to do about it.
    """

    name: str
    text: str
    state: State = "info"
    fix: str | None = None


@dataclass(frozen=True, slots=True)
class Section:
    """Checks of one kind."""

    title: str
    checks: tuple[Check, ...]

    @property
    def worst(self) -> State:
        """The most serious state in the section."""
        order: tuple[State, ...] = ("info", "ok", "warn", "no")
        return max((check.state for check in self.checks), key=order.index, default="info")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to a question of the user."""

    question: str
    yes: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings and the verdicts drawn from them."""

    sections: tuple[Section, ...]
    verdicts: tuple[Verdict, ...]


def diagnose() -> Diagnosis:
    """Look at this machine; starts nothing, changes nothing."""
    from energylens.doctor import devices, engines, host, sensors

    gpu_section, can_measure, why = devices.nvidia()
    engine_section, projects, systems = engines.engines()
    sections = (
        host.software(),
        host.machine(),
        gpu_section,
        sensors.cached_section(),
        devices.amd(),
        devices.cpu_energy(),
        host.cluster(),
        engine_section,
    )
    verdicts = (
        Verdict("can measure energy", can_measure, why),
        Verdict("can project energy", projects, systems),
    )
    return Diagnosis(sections, verdicts)


def attempt(read: Callable[[], object], default: object = None) -> object:
    """Return what `read` returns, or `default` where this machine cannot say."""
    try:
        return read()
    except Exception:
        return default
