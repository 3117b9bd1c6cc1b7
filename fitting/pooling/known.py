"""What is known of the models and GPU types of rows: facts handed over, stored, or estimated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from fitting.facts import Facts, ModelFacts
from fitting.pooling.sizes import Machine, estimated_model, machine_of
from fitting.work import WEIGHT_BYTES, column
from harness.store import FitError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Index = NDArray[np.intp]

LEVELS = ("all", "family", "hardware", "model", "family on hardware")
"""Shared levels of the hierarchy; siblings of one architecture are one model."""


def labels_of(model: ModelFacts, hardware: str) -> tuple[str, ...]:
    """Return the label of a pair at each level."""
    return ("", model.family, hardware, model.backbone, f"{model.family} on {hardware}")


@dataclass(frozen=True, slots=True)
class Known:
    """Facts of a law, and those that were handed over with a question.

    Attributes
    ----------
    facts
        Facts of the law.
    machines
        GPU types that were fitted.
    extra
        Facts handed over; those of the law count where both know a name.
    """

    facts: Facts
    machines: Mapping[str, Machine]
    extra: Facts | None = None

    def joined(self, extra: Facts | None) -> Known:
        """Return the same with facts handed over."""
        return Known(self.facts, self.machines, extra)

    def model(self, model_id: str, rows: Callable[[], pd.DataFrame] | None = None) -> ModelFacts:
        """Return the facts of a model, from its rows if nobody knows it.

        Raises
        ------
        FitError
            If nobody knows it and there are no rows.
        """
        for facts in (self.facts, self.extra):
            if facts is not None and model_id in facts.models:
                return facts.models[model_id]
        if rows is None:
            raise FitError(
                f"Nothing is known of the model {model_id}.",
                where="pooled law",
                fix="Give its facts, or rows with params_total.",
            )
        return estimated_model(model_id, rows())

    def machine(self, hardware: str) -> Machine:
        """Return the rates and powers of a GPU type.

        Raises
        ------
        FitError
            If it has neither rows nor a datasheet.
        """
        if hardware in self.machines:
            return self.machines[hardware]
        for facts in (self.facts, self.extra):
            if facts is not None and hardware in facts.hardware:
                return machine_of(facts.hardware[hardware])
        raise FitError(
            f"Nothing is known of the GPU type {hardware}.",
            where=f"known: {', '.join(sorted({*self.machines, *self.facts.hardware}))}"[:300],
            fix="Give its datasheet, or measure a few rows of it and fit again.",
        )

    def covers(self, frame: pd.DataFrame) -> NDArray[np.bool_]:
        """Say which rows can be answered for, shape (rows,)."""
        if "model_id" not in frame.columns or "hardware" not in frame.columns:
            return np.zeros(len(frame), dtype=bool)
        every = [self.facts, *([self.extra] if self.extra is not None else [])]
        machines = {*self.machines, *(name for facts in every for name in facts.hardware)}
        models = {name for facts in every for name in facts.models}
        told = column(frame, "params_total", default=np.nan) > 0.0
        result = frame["hardware"].isin(machines).to_numpy(dtype=bool).copy()
        result &= frame["model_id"].isin(models).to_numpy(dtype=bool) | told
        for name in ("batch", "input_tokens", "output_tokens"):
            result &= column(frame, name, default=np.nan) >= 1.0
        if "precision" in frame.columns:
            precision = frame["precision"]
            result &= (precision.isna() | precision.isin(WEIGHT_BYTES)).to_numpy(dtype=bool)
        return result


@dataclass(frozen=True, slots=True)
class Labelled:
    """Rows by model, GPU type and pair.

    Attributes
    ----------
    models, hardware
        Names.
    model, machine
        Position of the name of each row, shape (rows,).
    pairs
        (model, hardware) positions of each pair.
    code
        Pair of each row.
    frame
        The rows.
    """

    models: list[str]
    hardware: list[str]
    model: Index
    machine: Index
    pairs: list[tuple[int, int]]
    code: Index
    frame: pd.DataFrame

    def facts(self, known: Known) -> list[ModelFacts]:
        """Return the facts of each model."""

        def rows_of(position: int) -> Callable[[], pd.DataFrame]:
            return lambda: self.frame.iloc[np.flatnonzero(self.model == position)]

        return [known.model(name, rows_of(i)) for i, name in enumerate(self.models)]


def label_rows(frame: pd.DataFrame) -> Labelled:
    """Number the models, GPU types and pairs of rows, in sorted order of their names.

    Raises
    ------
    FitError
        If `model_id` or `hardware` is no column.
    """
    for name in ("model_id", "hardware"):
        if name not in frame.columns:
            raise FitError(f"The table has no column {name!r}.", where="rows of a pooled law")
    model, models = pd.factorize(frame["model_id"], sort=True)
    machine, hardware = pd.factorize(frame["hardware"], sort=True)
    if (model < 0).any() or (machine < 0).any():
        raise FitError(
            "Rows without model_id or hardware cannot be answered for.",
            where="rows of a pooled law",
        )
    used, code = np.unique(model * max(len(hardware), 1) + machine, return_inverse=True)
    pairs = [(int(u) // len(hardware), int(u) % len(hardware)) for u in used]
    return Labelled(
        [str(m) for m in models],
        [str(h) for h in hardware],
        model.astype(np.intp),
        machine.astype(np.intp),
        pairs,
        code.astype(np.intp),
        frame,
    )
