"""Closed-form energy laws, by name. A new law is one new file and one line here."""

from __future__ import annotations

from fitting.forms.base import (
    PHASES,
    Coefficient,
    Exponent,
    Form,
    n_parameters,
    phase_parts,
)
from fitting.forms.energylens12 import ENERGYLENS6, ENERGYLENS12, RETIRED
from harness.store import FitError

__all__ = [
    "ENERGYLENS6",
    "ENERGYLENS12",
    "FORMS",
    "PHASES",
    "Coefficient",
    "Exponent",
    "Form",
    "get_form",
    "n_parameters",
    "phase_parts",
]

FORMS: dict[str, Form] = {form.name: form for form in (ENERGYLENS12, ENERGYLENS6)}


def get_form(name: str) -> Form:
    """Return a law by name; FitError names the known ones if there is none of that name."""
    if name in RETIRED:
        return RETIRED[name]
    if name not in FORMS:
        raise FitError(f"Unknown form {name!r}.", fix=f"Use one of {', '.join(FORMS)}, or 'auto'.")
    return FORMS[name]
