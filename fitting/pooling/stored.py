"""The pooled law as plain values for JSON, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from fitting.facts import Facts
from fitting.pooling.describe import SharedValue, shared_parameters
from fitting.pooling.errors import Widening
from fitting.pooling.hierarchy import Levels
from fitting.pooling.law import FORM, NAME, PooledLaw
from fitting.pooling.parameters import N_PARAMETERS, PARAMETERS
from fitting.pooling.sizes import Machine
from harness.store import FitError


def to_dict(law: PooledLaw) -> dict[str, Any]:
    """Return plain values; floats survive JSON exactly."""
    upper = np.triu_indices(N_PARAMETERS)
    return {
        "name": NAME,
        "form": FORM,
        "parameters": [p.name for p in PARAMETERS],
        "provenance": law.provenance,
        "facts": law.facts.to_dict(),
        "machines": {k: asdict(v) for k, v in sorted(law.machines.items())},
        "levels": list(law.levels.names),
        "groups": [list(group) for group in law.levels.groups],
        "member": law.levels.member.tolist(),
        "pairs": [list(pair) for pair in law.pairs],
        "rows": list(law.rows),
        "information": [matrix[upper].tolist() for matrix in law.information],
        "pull": law.pull.tolist(),
        "spread": law.spread.tolist(),
        "scatter": law.scatter,
        "widening": asdict(law.widening),
        # For readers of the file; `from_dict` finds the same from the information.
        "shared": [_readable(value) for value in shared_parameters(law)],
    }


def from_dict(data: Mapping[str, Any]) -> PooledLaw:
    """Rebuild a law from `to_dict`.

    Raises
    ------
    FitError
        If a field is missing, or the law was written with other parameters.
    """
    try:
        if list(data["parameters"]) != [p.name for p in PARAMETERS]:
            raise FitError(
                "This pooled law has other parameters than this EnergyLens knows.",
                where="FIT file, key pooled",
                fix="Fit again with `energylens fit`.",
            )
        upper = np.triu_indices(N_PARAMETERS)
        information = np.zeros((len(data["pairs"]), N_PARAMETERS, N_PARAMETERS))
        for matrix, values in zip(information, data["information"], strict=True):
            matrix[upper] = values
            matrix.T[upper] = values
        levels = Levels(
            tuple(data["levels"]),
            tuple((str(level), str(label)) for level, label in data["groups"]),
            np.array(data["member"], dtype=np.intp),
        )
        return PooledLaw(
            provenance={str(k): int(v) for k, v in data["provenance"].items()},
            facts=Facts.from_dict(data["facts"]),
            machines={k: Machine(**v) for k, v in data["machines"].items()},
            levels=levels,
            pairs=tuple((str(m), str(h)) for m, h in data["pairs"]),
            rows=tuple(int(n) for n in data["rows"]),
            information=information,
            pull=np.array(data["pull"], dtype=np.float64),
            spread=np.array(data["spread"], dtype=np.float64),
            scatter={k: dict(v) for k, v in data["scatter"].items()},
            widening=_widening(data["widening"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, FitError):
            raise
        raise FitError(
            f"This pooled law is damaged: {error}.",
            where="FIT file, key pooled",
            fix="Fit again with `energylens fit`.",
        ) from error


def _widening(data: Mapping[str, Any]) -> Widening:
    unlike = {str(k): (float(chi), int(n)) for k, (chi, n) in data["unlike"].items()}
    return Widening(**{**data, "unlike": unlike})


def _readable(value: SharedValue) -> dict[str, Any]:
    def short(number: float) -> float:
        return float(f"{number:.4g}")

    return {
        "name": value.name,
        "value": short(value.value),
        "lo": short(value.lo),
        "hi": short(value.hi),
        "apart": {level: short(spread) for level, spread in value.apart.items()},
    }
