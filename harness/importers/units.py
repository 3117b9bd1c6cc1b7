"""Column names in other units than ours: found by name, refused with the factor."""

from __future__ import annotations

from collections.abc import Iterable

from harness.store.schema import ALIASES, BY_NAME

_FACTORS: dict[str, dict[str, str]] = {
    "j": {
        "mj": "0.001 (millijoules)",
        "uj": "1e-6 (microjoules)",
        "kj": "1000 (kilojoules)",
        "wh": "3600 (watt-hours)",
        "kwh": "3.6e6 (kilowatt-hours)",
        "mwh": "3.6 (milliwatt-hours) or 3.6e9 (megawatt-hours)",
        "joule": "1",
        "joules": "1",
        "": "1, if it is joules",
    },
    "s": {
        "ns": "1e-9",
        "us": "1e-6",
        "ms": "0.001",
        "min": "60",
        "h": "3600",
        "sec": "1",
        "seconds": "1",
        "": "1, if it is seconds",
    },
    "w": {
        "mw": "0.001 (milliwatts)",
        "kw": "1000 (kilowatts)",
        "watt": "1",
        "watts": "1",
        "": "1, if it is watts",
    },
}


def other_unit(name: str) -> tuple[str, str] | None:
    """Find the column of ours that `name` is in another unit, and the factor.

    Parameters
    ----------
    name
        A column name that is not in the table.

    Returns
    -------
    tuple of str or None
        Our column and what to multiply by, `total_energy_kwh` -> (`total_energy_j`, `3.6e6`).
    """
    return _other_units().get(name.lower())


def foreign_unit(value: object) -> bool:
    """Tell whether a value of a column of units names one that is not ours, such as `kJ`."""
    word = str(value).strip().lower()
    return bool(word) and any(units.get(word, "1") != "1" for units in _FACTORS.values())


def _other_units() -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    for ours in _quantities():
        base, _, unit = ours.rpartition("_")
        for suffix, factor in _FACTORS.get(unit, {}).items():
            found[f"{base}_{suffix}" if suffix else base] = (ours, factor)
    for name in (*BY_NAME, *ALIASES):
        found.pop(name, None)
    return found


def _quantities() -> Iterable[str]:
    return [c.name for c in BY_NAME.values() if c.type == "float" and "_per_s" not in c.name]
