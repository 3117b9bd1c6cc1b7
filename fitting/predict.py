"""Predict many rows of many laws at once: integer codes, chunks, no Python a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fitting.forms import Form, phase_parts
from fitting.work import Work, work_of

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from fitting.pairfit import PairFit

CHUNK = 16384
"""Rows worked on at a time, so that the columns of a chunk stay in the cache."""


def codes_of(frame: pd.DataFrame, index: dict[tuple[str, str], int]) -> NDArray[np.intp]:
    """Return the position of the law of each row, -1 where its pair has none.

    Parameters
    ----------
    frame
        Rows with `model_id` and `hardware`.
    index
        (model_id, hardware) -> position.

    Raises
    ------
    FitError
        If there is no such column.
    """
    import pandas as pd

    from harness.store import FitError

    for name in ("model_id", "hardware"):
        if name not in frame.columns:
            raise FitError(f"The table has no column {name!r}.", where="rows to predict")
    model_codes, models = pd.factorize(frame["model_id"])
    hardware_codes, kinds = pd.factorize(frame["hardware"])
    table = np.full((len(models) + 1, len(kinds) + 1), -1, dtype=np.intp)
    for i, model in enumerate(models):
        for j, kind in enumerate(kinds):
            table[i, j] = index.get((str(model), str(kind)), -1)
    codes: NDArray[np.intp] = table[model_codes, hardware_codes]
    return codes


def predict_totals(
    laws: Sequence[PairFit], frame: pd.DataFrame, codes: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return total_energy_j of each row, J, shape (rows,)."""
    result = np.zeros(len(frame))
    if not len(frame):
        return result
    idle = np.array([law.traits.idle_expert for law in laws])
    width = np.array([law.traits.hidden_size for law in laws])
    cache = np.array([law.traits.cache_share for law in laws])
    state = np.array([law.traits.state_share for law in laws])
    work = work_of(frame, idle[codes], width[codes], cache[codes], state[codes])
    used = np.unique(codes)
    forms = [law.law for law in laws]
    for form in dict.fromkeys(forms[c] for c in used):
        own = np.array([other == form for other in forms])
        rows = None if own[used].all() else np.flatnonzero(own[codes])
        part = work if rows is None else work.take(rows)
        members = {c: laws[c] for c in used if own[c]}
        energy = _form_totals(form, members, part, codes if rows is None else codes[rows])
        if rows is None:
            return energy
        result[rows] = energy
    return result


def _form_totals(
    form: Form, laws: dict[int, PairFit], work: Work, codes: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return the totals of rows whose laws all have one form."""
    most = max(laws) + 1
    coefficients = np.zeros((len(form.coefficients), most))
    exponents = np.zeros((len(form.exponents), most))
    for i, law in laws.items():
        coefficients[:, i] = law.coefficients
        exponents[:, i] = law.exponents
    result = np.zeros(len(codes))
    for start in range(0, len(codes), CHUNK):
        piece = slice(start, start + CHUNK)
        code = codes[piece]
        part = work.take(piece)
        theta = [values[code] for values in exponents]
        energy = np.zeros(len(code))
        for phase, own in phase_parts(form).items():
            for i, column in enumerate(form.columns(part, phase, theta)):
                energy += coefficients[own[i]][code] * column
        result[piece] = energy
    return result
