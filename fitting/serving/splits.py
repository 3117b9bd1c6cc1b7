"""Splits of serving rows that keep the answers apart, and scenarios to choose in.

Models that share a backbone are always on the same side: a model is not unseen while a sibling
is in the training rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fitting.facts import Facts
from fitting.scenarios import rectangle
from fitting.serving.shapes import text
from harness.store import FitError

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("model", "hardware", "task")
"""What can be left out: a backbone, a GPU type, a task."""

PRECISION_SUFFIX = r"-(?:FP8|fp8|BF16|bf16)$"
"""End of a name that says the precision of a checkpoint, not another model."""


class Split(NamedTuple):
    """What is left out, and which rows are trained on and asked about."""

    name: str
    train: NDArray[np.bool_]
    test: NDArray[np.bool_]


def groups(rows: pd.DataFrame, kind: str, facts: Facts) -> NDArray[np.str_]:
    """Return what each row belongs to, shape (rows,).

    Raises
    ------
    FitError
        If the kind is not one of `KINDS`.
    """
    if kind == "model":
        names = [_base(facts.backbone(name)) for name in text(rows, "model_id")]
        return np.array(names, dtype=np.str_)
    if kind not in KINDS:
        raise FitError(f"Unknown split {kind!r}.", fix=f"Use {', '.join(KINDS)}.")
    return np.array(text(rows, kind), dtype=np.str_)


def leave_one_out(rows: pd.DataFrame, kind: str, facts: Facts) -> Iterator[Split]:
    """Yield one split a group, by name: train on all others, ask about that one."""
    found = groups(rows, kind, facts)
    for name in np.unique(found):
        yield Split(str(name), found != name, found == name)


def few_rows(
    rows: pd.DataFrame, facts: Facts, backbone: str, count: int, seed: int
) -> NDArray[np.intp]:
    """Draw the measured rows of a backbone, at random among all of its rows.

    They may be of any of its models, tasks, GPU types, batches and configurations.
    """
    mine = np.flatnonzero(groups(rows, "model", facts) == backbone)
    return np.random.default_rng(seed).permutation(mine)[:count].astype(np.intp)


def choices(rows: pd.DataFrame) -> NDArray[np.intp]:
    """Return scenarios of fixed model, task, GPU type and batch, (scenarios, candidates).

    Candidates differ in GPU count, parallelism and precision; checkpoints whose names differ in
    the precision alone are one model. Positions are padded with -1.
    """
    base = rows["model_id"].astype(str).str.replace(PRECISION_SUFFIX, "", regex=True)
    keys = [base, rows["task"], rows["hardware"], rows["batch"]]
    codes = rows.groupby([k.to_numpy() for k in keys], dropna=False).ngroup()
    return rectangle(codes.to_numpy().astype(np.intp), np.ones(len(rows), dtype=bool))


def _base(name: str) -> str:
    import re

    return re.sub(PRECISION_SUFFIX, "", name)
