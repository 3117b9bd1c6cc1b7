"""Checks of the engines: which can run here, and which GPU types the twin knows."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from energylens.doctor.diagnosis import Check, Section


def engines() -> tuple[Section, bool, str]:
    """Check the engines without importing them.

    Returns
    -------
    tuple
        The section; whether the twin can project; for which GPU types, in words.
    """
    twin, projects, systems = _twin()
    checks = [twin]
    for name, use in (("vllm", "serving"), ("transformers", "plain generation"), ("torch", "both")):
        found = _installed(name)
        checks.append(
            Check(name, found, "ok")
            if found
            else Check(name, f"not installed (needed for real runs: {use})")
        )
    return Section("Engines", tuple(checks)), projects, systems


def _installed(name: str) -> str | None:
    if find_spec(name) is None:
        return None
    try:
        return version(name)
    except PackageNotFoundError:
        return "installed, version unknown"


def _twin() -> tuple[Check, bool, str]:
    if find_spec("aiconfigurator_core") is None:
        reason = "aiconfigurator-core is not installed"
        return Check("twin", reason, "no", "pip install aiconfigurator-core"), False, reason
    from harness.catalog import known_hardware, load_hardware

    known = [name for name in known_hardware() if load_hardware(name).twin_system]
    text = f"operation tables of {len(known)} GPU types: {', '.join(known)}"
    return Check("twin", text, "ok"), bool(known), f"{len(known)} GPU types, no sensor involved"
