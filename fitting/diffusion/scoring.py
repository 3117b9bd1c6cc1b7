"""Splits of image and video rows, errors under them, and choices of a configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from fitting.work import column

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from fitting.facts import Facts

Predict = Callable[["pd.DataFrame"], "NDArray[np.float64]"]
"""Rows -> total_energy_j."""

SPLITS = ("model", "family", "hardware", "folds")


def splits(
    rows: pd.DataFrame, facts: Facts, name: str, *, seed: int = 0, folds: int = 5
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Yield positions of training and test rows.

    Parameters
    ----------
    rows
        Rows to split.
    facts
        For the backbones of the models.
    name
        `model` (one backbone out), `family` (all models of one publisher out), `hardware` (one GPU
        type out), `folds` (random).
    seed, folds
        For `folds` only.
    """
    ids = rows["model_id"].astype(str)
    if name == "model":
        groups = ids.map(facts.backbone).to_numpy()
    elif name == "family":
        groups = ids.str.split("/").str[0].to_numpy()
    elif name == "hardware":
        groups = rows["hardware"].astype(str).to_numpy()
    else:
        groups = (np.random.default_rng(seed).permutation(len(rows)) % folds).astype(str)
    for group in sorted(set(groups.tolist())):
        yield np.flatnonzero(groups != group), np.flatnonzero(groups == group)


def out_of_sample(
    rows: pd.DataFrame,
    facts: Facts,
    name: str,
    fit: Callable[[pd.DataFrame], Predict],
    *,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Return a prediction of each row by a fit that has not seen its group, J, shape (rows,)."""
    found = np.full(len(rows), np.nan)
    for train, test in splits(rows, facts, name, seed=seed):
        found[test] = fit(rows.iloc[train])(rows.iloc[test])
    return found


def choices(rows: pd.DataFrame, name: str) -> Iterator[NDArray[np.intp]]:
    """Yield positions of the candidates of each choice with at least two.

    `free`: model and GPU type are fixed; GPU count, batch and degrees are chosen. `count`: the GPU
    count is fixed, too. `degrees`: count and batch are fixed. `limit`: as `free`, among candidates
    at or under the median latency of all (measured: a limit, no input of a law).
    """
    fixed = ["model_id", "hardware", "output_height", "output_width", "diffusion_steps"]
    fixed += {"count": ["num_gpus"], "degrees": ["num_gpus", "batch"]}.get(name, [])
    for positions in rows.groupby(fixed, sort=True).indices.values():
        found = np.asarray(positions, dtype=np.intp)
        if name == "limit":
            latency = column(rows.iloc[found], "total_latency_s")
            found = found[latency <= np.median(latency)]
        if len(found) > 1:
            yield found


def score_choices(
    rows: pd.DataFrame, predicted: NDArray[np.float64], name: str
) -> dict[str, float]:
    """Return Top-1, Top-1 within 1 %, mean and largest regret of energy an image or video.

    Ties of a prediction are scored by their mean.
    """
    each = column(rows, "total_energy_j") / column(rows, "batch")
    top, near, regret = [], [], []
    for found in choices(rows, name):
        value = predicted[found]
        chosen = found[value <= value.min() + 1e-12 * abs(value.min())]
        cost = each[chosen] / each[found].min() - 1.0
        top.append(float((cost <= 0.0).mean()))
        near.append(float((cost <= 0.01).mean()))
        regret.append(float(cost.mean()))
    return {
        "choices": float(len(top)),
        "top1": float(np.mean(top)),
        "top1_within_1pct": float(np.mean(near)),
        "regret": float(np.mean(regret)),
        "worst": float(np.max(regret)),
    }
