"""What a search found, the same for every engine, and its JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

VERSION = 1
"""Version of the JSON; a later one is refused."""


@dataclass(frozen=True, slots=True)
class NamedConstant:
    """One fitted number of a law: symbol, unit (None: left open by the engine), meaning."""

    name: str
    unit: str | None
    meaning: str


@dataclass(frozen=True, slots=True)
class Law:
    """One structure on the front.

    Attributes
    ----------
    text
        The law, readable by SymPy; energy in J.
    terms
        Names of its terms, or of the work terms that it uses.
    constants
        Its fitted numbers.
    values
        Group -> values of the constants, in their order.
    complexity
        Operators, functions, variables and numbers of the text.
    parameters
        Fitted numbers of a group.
    error
        Mean absolute relative error on the rows it was fitted to.
    held_out, held_out_se
        The same on rows left out (5 parts), and its standard error over groups.
    held_out_hardware, held_out_hardware_se
        The same for a structure of so many constants that was chosen without the GPU type.
    bic
        Bayesian information criterion, all groups together.
    unit_faults
        What is wrong with its units; empty if they are consistent.
    """

    text: str
    terms: tuple[str, ...]
    constants: tuple[NamedConstant, ...]
    values: dict[str, tuple[float, ...]]
    complexity: int
    parameters: int
    error: float
    held_out: float
    held_out_se: float
    held_out_hardware: float
    held_out_hardware_se: float
    bic: float
    unit_faults: tuple[str, ...]

    @property
    def units_consistent(self) -> bool:
        """True if every term comes out in joules and every exponent is a pure number."""
        return not self.unit_faults


@dataclass(frozen=True, slots=True)
class Inclusion:
    """How often a term is kept when rows are redrawn.

    Attributes
    ----------
    term
        Its name.
    at_chosen
        Share of draws whose law of as many terms as the chosen one holds it.
    at_best
        Share of draws whose law of lowest BIC holds it.
    chosen, shipped
        Whether the chosen law and the one that EnergyLens ships hold it.
    plausible
        False for a term that physics rejects.
    """

    term: str
    at_chosen: float
    at_best: float
    chosen: bool
    shipped: bool
    plausible: bool


@dataclass(frozen=True, slots=True)
class Residual:
    """A correction that was sought on what the chosen law leaves.

    Attributes
    ----------
    text
        Factor on the chosen law; empty if none was found.
    gain, gain_se
        Fall of the held-out error with it, and its standard error.
    kept
        True if the gain is more than its standard error.
    """

    text: str
    gain: float
    gain_se: float
    kept: bool


@dataclass(frozen=True, slots=True)
class PhaseSearch:
    """The search on the energies of one phase.

    Attributes
    ----------
    phase
        `prefill`, `decode`, `total` or `serving` (J for one output token).
    rows, groups
        Rows used, and the groups that each have constants of their own.
    hardware
        GPU types.
    provenance
        Provenance -> rows.
    symbols
        Symbol -> [unit, meaning, definition or None].
    front
        Laws, fewest parameters first.
    chosen, best_bic
        Positions on the front: the smallest law not told from the best by held-out error, and
        the law of lowest BIC.
    shipped
        The law that EnergyLens ships, fitted and judged in the same way; None for free laws
        where there is none.
    inclusion
        Terms with how often they are kept.
    draws
        Draws behind the inclusion.
    alternatives
        Front factor -> BIC of all terms with it.
    residual
        What was found on the residuals; None if not sought.
    notes
        What a reader should know.
    """

    phase: str
    rows: int
    groups: tuple[str, ...]
    hardware: tuple[str, ...]
    provenance: dict[str, int]
    symbols: dict[str, tuple[str, str, str | None]]
    front: tuple[Law, ...]
    chosen: int
    best_bic: int
    shipped: Law | None
    inclusion: tuple[Inclusion, ...]
    draws: int
    alternatives: dict[str, float]
    residual: Residual | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Discovery:
    """All that a search found.

    Attributes
    ----------
    engine, engine_version
        What searched.
    seed, samples
        Seed of all draws, and rows drawn for each group (None: all).
    seconds
        Time that it took, s.
    searches
        One for each phase.
    """

    engine: str
    engine_version: str
    seed: int
    samples: int | None
    seconds: float
    searches: tuple[PhaseSearch, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; a number that is not known is null."""
        data: dict[str, Any] = _plain({"version": VERSION, **asdict(self)})
        return data

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Discovery:
        """Rebuild from `to_dict`.

        Raises
        ------
        FitError
            If the data is of a later version.
        """
        from harness.store import FitError

        if data.get("version") != VERSION:
            raise FitError(
                f"The result has version {data.get('version')}, not {VERSION}.",
                where="key version",
                fix="Search again with this version of EnergyLens.",
            )
        known = {f.name for f in fields(Discovery)} - {"searches"}
        return Discovery(
            **{name: data[name] for name in known},
            searches=tuple(_search(found) for found in data["searches"]),
        )


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


_NUMBERS = (
    "error",
    "held_out",
    "held_out_se",
    "held_out_hardware",
    "held_out_hardware_se",
    "bic",
)


def _law(data: Mapping[str, Any]) -> Law:
    return Law(
        **{
            **data,
            **{name: _number(data[name]) for name in _NUMBERS},
            "terms": tuple(data["terms"]),
            "constants": tuple(NamedConstant(**c) for c in data["constants"]),
            "values": {k: tuple(_number(x) for x in v) for k, v in data["values"].items()},
            "unit_faults": tuple(data["unit_faults"]),
        }
    )


def _search(data: Mapping[str, Any]) -> PhaseSearch:
    residual = data["residual"]
    if residual is not None:
        numbers = {name: _number(residual[name]) for name in ("gain", "gain_se")}
        residual = Residual(**{**residual, **numbers})
    return PhaseSearch(
        **{
            **data,
            "groups": tuple(data["groups"]),
            "hardware": tuple(data["hardware"]),
            "symbols": {k: (v[0], v[1], v[2]) for k, v in data["symbols"].items()},
            "front": tuple(_law(found) for found in data["front"]),
            "shipped": None if data["shipped"] is None else _law(data["shipped"]),
            "inclusion": tuple(Inclusion(**found) for found in data["inclusion"]),
            "alternatives": {k: _number(v) for k, v in data["alternatives"].items()},
            "residual": residual,
            "notes": tuple(data["notes"]),
        }
    )
