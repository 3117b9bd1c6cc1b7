"""What a published law is: a formula with named parameters that can be fitted and asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from fitting.facts import Facts, HardwareFacts, ModelFacts
from harness.store import FitError

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PublishedParameter:
    """One number of a published law.

    Attributes
    ----------
    name, symbol
        Name in results, symbol in the formula.
    unit
        Unit, `-` for none.
    meaning
        What it stands for, in words.
    lower, upper
        Bounds of the fit.
    """

    name: str
    symbol: str
    unit: str
    meaning: str
    lower: float = -np.inf
    upper: float = np.inf


class PublishedLaw(ABC):
    """A published law of the energy of a batch.

    Attributes
    ----------
    name, title
        Name of the method, and name for people.
    source
        Where it was published.
    formula, latex
        The law as text and as LaTeX.
    parameters
        What is fitted, in the order of the values.
    published
        Values that the source gives: for what they hold -> name of parameter -> value.
    needs_facts
        Whether it needs the datasheet of the GPU type and the architecture of the model.
    knows_latency
        Whether it is handed the true latency of each row: an oracle of latency.
    note
        What the source leaves open, and what was taken.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    formula: ClassVar[str]
    latex: ClassVar[str]
    parameters: ClassVar[tuple[PublishedParameter, ...]]
    published: ClassVar[Mapping[str, Mapping[str, float]]] = {}
    needs_facts: ClassVar[bool] = False
    knows_latency: ClassVar[bool] = False
    note: ClassVar[str] = ""

    def fit(self, rows: pd.DataFrame, facts: Facts) -> PublishedFit:
        """Fit the parameters to rows of one (model, hardware).

        Parameters
        ----------
        rows
            Rows of the measurement table with `total_energy_j`.
        facts
            Facts of the model and the GPU type; empty facts do for laws that need none.

        Raises
        ------
        FitError
            If facts are needed and not known, or a column is missing.
        """
        return PublishedFit(self, tuple(float(v) for v in self._fit(rows, facts)))

    @abstractmethod
    def _fit(self, rows: pd.DataFrame, facts: Facts) -> Array:
        """Return the values of the parameters."""

    @abstractmethod
    def predict(self, values: Array, rows: pd.DataFrame, facts: Facts) -> Array:
        """Return total_energy_j, J, for given values of the parameters, shape (rows,)."""


@dataclass(frozen=True, slots=True)
class PublishedFit:
    """A published law with values of its parameters."""

    law: PublishedLaw
    values: tuple[float, ...]

    def predict(self, rows: pd.DataFrame, facts: Facts) -> Array:
        """Return total_energy_j of rows, J, shape (rows,)."""
        return self.law.predict(np.array(self.values), rows, facts)

    def to_dict(self) -> dict[str, float]:
        """Return the values by the name of the parameter."""
        return {p.name: v for p, v in zip(self.law.parameters, self.values, strict=True)}


def least_squares(matrix: Array, target: Array, *, positive: bool = False) -> Array:
    """Return the coefficients of a linear least squares fit, columns normalised first."""
    norm = np.linalg.norm(matrix, axis=0)
    norm[norm == 0.0] = 1.0
    if positive:
        from scipy.optimize import nnls

        found: Array = nnls(matrix / norm, target)[0] / norm
    else:
        found = np.linalg.lstsq(matrix / norm, target, rcond=None)[0] / norm
    return found


def hardware_of(facts: Facts, rows: pd.DataFrame) -> HardwareFacts:
    """Return the datasheet of the one GPU type of rows; FitError if it is not known."""
    name = str(rows["hardware"].iloc[0])
    if name not in facts.hardware:
        raise FitError(f"No datasheet of {name} is known.", fix="Add it to the catalog.")
    return facts.hardware[name]


def model_of(facts: Facts, rows: pd.DataFrame) -> ModelFacts:
    """Return the architecture of the one model of rows; FitError if it is not known."""
    name = str(rows["model_id"].iloc[0])
    if name not in facts.models:
        raise FitError(f"No architecture of {name} is known.", fix="Add it to the catalog.")
    return facts.models[name]


def gpus_of(rows: pd.DataFrame) -> Array:
    """Return the number of GPUs of each deployment, shape (rows,)."""
    from fitting.work import column

    gpus = np.ones(len(rows))
    for name in ("tensor_parallel", "pipeline_parallel", "data_parallel"):
        gpus = gpus * column(rows, name, default=1.0)
    given = column(rows, "num_gpus", default=np.nan)
    return np.where(np.isnan(given), gpus, given)


def precisions_of(rows: pd.DataFrame) -> list[str]:
    """Return the precision of each row; bf16 where it is not given."""
    if "precision" not in rows.columns:
        return ["bf16"] * len(rows)
    return [str(v) if isinstance(v, str) else "bf16" for v in rows["precision"]]
