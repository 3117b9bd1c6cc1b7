"""The FIT file: laws as versioned JSON, with the code and the data that they came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitting.coverage import PooledPair
from fitting.facts import Facts
from fitting.laws import law_from_dict
from fitting.pairfit import PairFit
from harness.store import FitError

if TYPE_CHECKING:
    from fitting.fitted import Fit

FIT_VERSION = 3
"""Version of the FIT file; it grows when a field changes its meaning."""

READABLE = (2, 3)
"""Versions that this EnergyLens reads. Version 2 has laws of pairs only."""


def fit_to_dict(fit: Fit) -> dict[str, Any]:
    """Return a FIT file as plain values; docs/fit-files.md describes every key."""
    return {
        "fit_version": FIT_VERSION,
        "form": fit.form,
        "created_with": fit.created_with,
        "commit": fit.commit,
        "data": fit.data,
        "notes": fit.notes,
        "facts": fit.facts.to_dict(),
        "pairs": [pair.to_dict() for pair in fit.pairs],
        "pooled": [law.to_dict() for law in fit.pooled],
        "pooled_pairs": [pair.to_dict() for pair in fit.pooled_pairs],
    }


def fit_from_dict(data: dict[str, Any]) -> Fit:
    """Rebuild a fit from a FIT file of this version or an older one.

    Raises
    ------
    FitError
        If the version is unknown or a field is missing or no such value.
    """
    from fitting.fitted import Fit

    version = data.get("fit_version")
    if version not in READABLE:
        raise FitError(
            f"This FIT file has version {version!r}; this EnergyLens reads "
            f"{', '.join(map(str, READABLE))}.",
            fix="Fit again with `energylens fit`.",
        )
    try:
        return Fit(
            [PairFit.from_dict(_revised(pair, version)) for pair in data["pairs"]],
            form=data["form"],
            notes=data["notes"],
            created_with=data["created_with"],
            commit=data.get("commit"),
            pooled=[law_from_dict(law) for law in data.get("pooled", [])],
            pooled_pairs=[PooledPair.from_dict(pair) for pair in data.get("pooled_pairs", [])],
            facts=Facts.from_dict(data["facts"]) if "facts" in data else None,
            data=data.get("data"),
        )
    except FitError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise FitError(
            f"This FIT file is damaged: {error!r}.", fix="Fit again with `energylens fit`."
        ) from error


def _revised(pair: dict[str, Any], version: int) -> dict[str, Any]:
    """Return a pair of an older file under the name that its law has today.

    The columns behind energylens12 changed with version 3; numbers of version 2 belong to the
    old ones.
    """
    return {**pair, "form": f"{pair['form']}@1"} if version == 2 else pair


def save_fit(fit: Fit, path: str | Path) -> None:
    """Write a FIT file; a reader sees the old or the new file, never half of one."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(target.name + ".tmp")
    text = json.dumps(fit_to_dict(fit), indent=1, allow_nan=False)
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(target)


def load_fit(path: str | Path) -> Fit:
    """Read a FIT file.

    Raises
    ------
    FitError
        If the file is missing, is no JSON, is damaged, or has an unknown version.
    """
    source = Path(path)
    try:
        data = json.loads(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise FitError(
            "The FIT file cannot be read.",
            where=str(source),
            fix="Make one with `energylens fit DIR --out FIT`.",
        ) from error
    except ValueError as error:
        raise FitError(
            f"The FIT file is no JSON: {error}.",
            where=str(source),
            fix="Fit again with `energylens fit`.",
        ) from error
    if not isinstance(data, dict):
        raise FitError("The FIT file holds no law.", where=str(source))
    try:
        return fit_from_dict(data)
    except FitError as error:
        raise FitError(error.what, where=error.where or str(source), fix=error.fix) from error
