"""Run one method of an evaluation: fit it to the drawn rows of each pair, predict every row."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fitting.baselines import LEARNERS, RULES, learn, wilkins
from fitting.forms import FORMS, get_form
from fitting.pairfit import fit_pair
from fitting.predict import predict_totals
from fitting.rows import Group, sample_order
from harness.store import FitError

FITTED = ("energylens12",)
"""Laws of this project that an evaluation runs."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one method says about every row of a table, after fitting to some of them.

    Attributes
    ----------
    score
        What the method minimises, shape (rows,); NaN where it cannot say.
    energy
        Predicted total_energy_j, J, shape (rows,); None for a rule.
    fitted
        True for the training rows.
    seconds
        Time to fit, s, mean over the pairs.
    notes
        What a reader should know.
    """

    score: NDArray[np.float64]
    energy: NDArray[np.float64] | None
    fitted: NDArray[np.bool_]
    seconds: float
    notes: tuple[str, ...] = ()


def predict_method(
    method: str, groups: Sequence[Group], n_rows: int, samples: int, seed: int
) -> Prediction:
    """Fit a method to `samples` rows of each group and predict all rows.

    Parameters
    ----------
    method
        Name of a law, a rule or a baseline.
    groups
        Rows by (model, hardware), with their position in the table in the column `_row`.
    n_rows
        Rows of the table.
    samples
        Training rows of each group.
    seed
        Seed of the draw and of learners.
    """
    score = np.full(n_rows, np.nan)
    fitted = np.zeros(n_rows, dtype=bool)
    seconds, notes = 0.0, []
    for group in groups:
        rows = group.rows["_row"].to_numpy()
        if method in RULES:
            score[rows] = RULES[method](group.rows)
            continue
        train = group.take(sample_order(group.hashes, samples, seed))
        started = time.perf_counter()
        try:
            energy, note = _fit_predict(method, train, group, seed)
        except FitError as error:
            notes.append(f"{group.model_id} on {group.hardware} is not judged: {error.what}")
            continue
        seconds += time.perf_counter() - started
        if note:
            notes.append(note)
        fitted[train.rows["_row"].to_numpy()] = True
        score[rows] = energy
    return Prediction(
        score=score,
        energy=None if method in RULES else score,
        fitted=fitted,
        seconds=seconds / max(len(groups), 1),
        notes=tuple(notes),
    )


def _fit_predict(
    method: str, train: Group, group: Group, seed: int
) -> tuple[NDArray[np.float64], str]:
    """Return predicted energies of a group's rows, J, and a note or nothing."""
    if method in LEARNERS:
        return learn(method, train.rows, group.rows, seed), ""
    if method == "wilkins":
        return wilkins(train.rows, group.rows), ""
    if method not in FORMS:
        raise FitError(f"Unknown method {method!r}.")
    form, note = get_form(method), ""
    if len(train.rows) < form.most_parameters:
        form = get_form("energylens6")
        note = (
            f"{group.model_id} on {group.hardware}: {len(train.rows)} rows, "
            f"so {form.name} stands in for {method}."
        )
    law = fit_pair(train, form)
    codes = np.zeros(len(group.rows), dtype=np.intp)
    return predict_totals([law], group.rows, codes), note
