"""Pooled laws by name: one law over many models and GPU types, each for one kind of rows.

A pair that was measured has a law of its own; a pooled law answers for the others. A new one is
a module with `from_dict` and a fit function, and one entry in `KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fitting.work import column
from harness.store import FitError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from fitting.facts import Facts


class PooledLaw(Protocol):
    """A fitted law that is shared over models and hardware."""

    @property
    def name(self) -> str:
        """Name in `KINDS` and in the FIT file."""
        ...

    @property
    def provenance(self) -> dict[str, int]:
        """Provenance -> rows it was fitted to."""
        ...

    def covers(self, frame: pd.DataFrame, facts: Facts | None = None) -> NDArray[np.bool_]:
        """Say which rows it can answer for, shape (rows,), with facts of new names."""
        ...

    def predict(self, frame: pd.DataFrame, facts: Facts | None = None) -> NDArray[np.float64]:
        """Return total_energy_j of each row, J, shape (rows,)."""
        ...

    def predict_phases(self, frame: pd.DataFrame, facts: Facts | None = None) -> pd.DataFrame:
        """Return the energies of both phases and their sum with 95 % prediction intervals, J."""
        ...

    def formula(self) -> str:
        """Return the law as text, with numbers and units."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, with the key `name`."""
        ...


@dataclass(frozen=True, slots=True)
class PooledKind:
    """One pooled law and the rows that it is for.

    Attributes
    ----------
    name
        Name of the law.
    module, fit
        Where it lives, and the name of its fit function there: `fit(rows, facts) -> law`.
    rows
        Says which rows of a table are of its kind, shape (rows,).
    what
        Those rows, in words.
    probe
        Workload columns of a typical row, to ask a law whether it covers a pair.
    """

    name: str
    module: str
    fit: str
    rows: Callable[[pd.DataFrame], NDArray[np.bool_]]
    what: str
    probe: Mapping[str, object] = field(hash=False)


def _known(frame: pd.DataFrame, name: str) -> NDArray[np.bool_]:
    """Say where a column is a number above zero."""
    return column(frame, name, default=np.nan) > 0.0


def batch_rows(frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Say which rows are batches of requests with known lengths, shape (rows,)."""
    lengths = _known(frame, "input_tokens") & _known(frame, "output_tokens")
    return _known(frame, "batch") & lengths


def serving_rows(frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Say which rows are serving runs: joules an output token, input lengths not known."""
    known = _known(frame, "batch") & _known(frame, "output_tokens")
    if "energy_per_output_token_j" in frame.columns:
        known &= _known(frame, "energy_per_output_token_j")
    return known & ~_known(frame, "input_tokens")


def diffusion_rows(frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Say which rows generate images or video, shape (rows,)."""
    return _known(frame, "batch") & _known(frame, "diffusion_steps")


KINDS: dict[str, PooledKind] = {
    kind.name: kind
    for kind in (
        PooledKind(
            "energylens_pooled",
            "fitting.pooling",
            "fit_pooled",
            batch_rows,
            "batches of requests with known lengths",
            {"batch": 8, "input_tokens": 512, "output_tokens": 128},
        ),
        PooledKind(
            "energylens_serving",
            "fitting.serving",
            "fit_serving",
            serving_rows,
            "serving runs without input lengths",
            {"batch": 32, "output_tokens": 512},
        ),
        PooledKind(
            "energylens_diffusion",
            "fitting.diffusion",
            "fit_diffusion",
            diffusion_rows,
            "image and video generation",
            {
                "batch": 1,
                "diffusion_steps": 30,
                "output_images": 1,
                "output_frames": 1,
                "output_height": 1024,
                "output_width": 1024,
            },
        ),
    )
}
"""Every pooled law of this project, in the order in which they are asked."""


def fit_pooled_laws(
    rows: pd.DataFrame, facts: Facts, *, required: bool
) -> tuple[list[PooledLaw], list[str]]:
    """Fit a pooled law to each kind of rows that a table holds.

    Parameters
    ----------
    rows
        Rows with an energy; `usable(frame, lengths=False)` gives them.
    facts
        Datasheets and architectures of the table.
    required
        Whether rows that no law can be fitted to are an error; otherwise a note says so.

    Returns
    -------
    tuple
        The laws, and sentences on kinds of rows that have none.

    Raises
    ------
    FitError
        If `required` and a law cannot be fitted.
    """
    laws: list[PooledLaw] = []
    notes: list[str] = []
    for kind in KINDS.values():
        mine = rows.loc[kind.rows(rows)]
        if not len(mine):
            continue
        try:
            _refuse_mixed(mine, kind)
            laws.append(getattr(_module(kind), kind.fit)(mine, facts))
        except FitError as error:
            if required:
                raise
            notes.append(f"No pooled law for {kind.what}: {error.what}")
    return laws, notes


def law_from_dict(data: Mapping[str, Any]) -> PooledLaw:
    """Rebuild a pooled law from `to_dict`.

    Raises
    ------
    FitError
        If its name is not known here.
    """
    name = data.get("name")
    if name not in KINDS:
        raise FitError(
            f"Unknown pooled law {name!r}.",
            where="FIT file, key pooled",
            fix=f"This EnergyLens knows {', '.join(KINDS)}; use the one that wrote the file.",
        )
    law: PooledLaw = _module(KINDS[name]).from_dict(data)
    return law


def _module(kind: PooledKind) -> Any:
    """Import the module of a law, when it is first needed."""
    return import_module(kind.module)


def _refuse_mixed(rows: pd.DataFrame, kind: PooledKind) -> None:
    """Refuse to share one law between measured, projected and imported rows."""
    if "provenance" not in rows.columns:
        return
    kinds = rows["provenance"].fillna("unknown").value_counts().sort_index()
    if len(kinds) > 1:
        raise FitError(
            f"Rows of different provenance must not share a law, as {kind.name} would.",
            where=", ".join(f"{n} {name}" for name, n in kinds.items()),
            fix="Filter the rows on the column provenance first.",
        )
