"""Choose what to measure next: greedily, by what each configuration brings for its cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fitting.design.budget import Budget, Cost, Purse
from fitting.design.draws import latin_hypercube, random_order
from fitting.design.growing import PairDesign
from fitting.design.result import COLUMNS, Design
from fitting.facts import Facts
from fitting.forms import get_form
from fitting.rows import CONFIGURATION, row_hash, usable
from fitting.scenarios import WORKLOAD
from fitting.threads import one_thread
from harness.store import FitError

if TYPE_CHECKING:
    import pandas as pd

    from fitting.fitted import Fit
    from fitting.pairfit import PairFit

Index = NDArray[np.intp]

METHODS = ("regret", "d-optimal", "i-optimal", "random", "lhs")
"""Ways to choose; `regret` is the sequential one."""

START = 12
"""Rows of a pair that `regret` chooses to know the law everywhere, before it turns to the choices:
as many as the law has parameters."""

FACTS = (
    "family",
    "params_total",
    "params_active",
    "hidden_size",
    "num_experts",
    "experts_per_token",
    "kv_bytes_per_token",
    "state_bytes_per_sequence",
)


@one_thread()
def design(
    candidates: pd.DataFrame,
    facts: Facts | None = None,
    *,
    measured: pd.DataFrame | None = None,
    budget: Budget | int = 25,
    method: str = "regret",
    cost: Cost | None = None,
    fit: Fit | None = None,
    form: str = "energylens12",
    seed: int = 0,
) -> Design:
    """Choose the configurations whose measurement lowers the expected regret of choices most.

    Parameters
    ----------
    candidates
        Configurations, one row each, with the model, deployment and workload columns of the
        measurement table; `cost_s` (time to measure it, s) and `task_id` if there are. Nothing
        else of them is read, so that a table of measurements gives away no energies.
    facts
        Facts of models and GPU types, for what is thought before anything is measured.
    measured
        Rows that are measured, with energies, or None. Those among the candidates are not
        chosen again, but still count among the choices to be made.
    budget
        What may be spent; a number is rows of each (model, hardware).
    method
        One of `METHODS`. `regret`: I-optimal until a pair has `START` rows, then by the expected
        loss of its choices; with a budget for all pairs together, by that loss throughout.
    cost
        What a launch and a row take.
    fit
        Laws of pairs; for those pairs they stand for the measured rows.
    form
        The law whose parameters are to be learnt.
    seed
        Seed of `random` and `lhs`.

    Returns
    -------
    Design

    Raises
    ------
    FitError
        If the method or the budget is unknown, a column is missing, nothing is left to measure,
        or the budget does not pay for one launch.
    """
    if method not in METHODS:
        raise FitError(
            f"Unknown method {method!r}.", where="method", fix=f"Use {', '.join(METHODS)}."
        )
    wanted = Budget(rows=budget) if isinstance(budget, int) else budget
    wanted.check()
    rows, known, notes = _joined(candidates, measured)
    if known.all():
        raise FitError(
            f"Nothing is left to measure: all {len(rows)} candidates have a row.",
            where="candidates",
            fix="Give the sweep with all configurations: energylens design SWEEP --measured DIR.",
        )
    learnt, left = (None, None) if measured is None else usable(measured)
    notes += [] if left is None else left.notes()
    purse = Purse(rows, wanted, Cost() if cost is None else cost)
    groups = _pairs(rows)
    started = np.flatnonzero(~known)
    if not purse.affordable(started).any():
        least = float(purse.price(started).min())
        raise FitError(
            f"The budget does not pay for one launch and one row: that takes "
            f"{least / 3600.0:.3g} {'GPU-hours' if wanted.gpu_seconds else 'hours'}.",
            where="budget",
            fix="Give more, or fewer repeats and a shorter window in the sweep.",
        )
    law = get_form(form)
    worlds = [
        PairDesign(rows, index, known, learnt, facts or Facts(), law, _of(fit, rows, index))
        for index in groups
    ]
    if method in ("random", "lhs"):
        chosen = _draw(rows, worlds, purse, known, method, seed)
    else:
        chosen = _greedy(worlds, purse, method)
    return _result(rows, worlds, purse, chosen, method, notes)


Chosen = list[tuple[int, float, float]]
"""Position of a candidate, its cost in seconds, and its gain."""


def _greedy(worlds: list[PairDesign], purse: Purse, method: str) -> Chosen:
    """Take the candidate that is worth most, again and again, over all pairs."""
    staged = method == "regret" and purse.budget.by_pair

    def ask(pair: PairDesign) -> tuple[float, int, float] | None:
        begins = staged and pair.learnt + pair.chosen < START
        return pair.best(purse, "i-optimal" if begins else method)

    out: Chosen = []
    offers = [ask(pair) for pair in worlds]
    while True:
        ranked = [(offer[0], -i) for i, offer in enumerate(offers) if offer is not None]
        if not ranked:
            return out
        i = -max(ranked)[1]
        offer = offers[i]
        assert offer is not None
        _, place, gain = offer
        row = int(worlds[i].index[place])
        if not purse.affordable(np.array([row]))[0]:
            # Others spent what this offer counted on; ask again with what is left.
            offers[i] = ask(worlds[i])
            continue
        seconds = purse.pay(row)
        worlds[i].take(place)
        out.append((row, seconds, gain))
        offers[i] = ask(worlds[i])


def _draw(
    rows: pd.DataFrame,
    worlds: list[PairDesign],
    purse: Purse,
    known: NDArray[np.bool_],
    method: str,
    seed: int,
) -> Chosen:
    """Take candidates at random or by Latin hypercube until the budget is spent."""
    free = np.flatnonzero(~known)
    parts = [pair.index[pair.free] for pair in worlds] if purse.budget.by_pair else [free]
    order = []
    for part in parts:
        mine = rows.iloc[part]
        if method == "random" or not len(part):
            order.append(part[random_order(mine, seed)])
            continue
        size = len(part) if purse.budget.rows is None else min(purse.budget.rows, len(part))
        order.append(part[latin_hypercube(mine, size, seed)])
    home = {int(row): (pair, i) for pair in worlds for i, row in enumerate(pair.index)}
    out: Chosen = []
    for row in np.concatenate(order):
        if purse.affordable(np.array([row]))[0]:
            out.append((int(row), purse.pay(int(row)), float("nan")))
            pair, place = home[int(row)]
            pair.take(place)
    return out


def _joined(
    candidates: pd.DataFrame, measured: pd.DataFrame | None
) -> tuple[pd.DataFrame, NDArray[np.bool_], list[str]]:
    """Return the configurations of candidates and measured rows, and which are measured.

    Only what says which configuration a row is survives, so that no energy is seen by accident.
    """
    import pandas as pd

    names = dict.fromkeys(("task_id", "num_gpus", "cost_s", *CONFIGURATION, *WORKLOAD, *FACTS))
    keep = [name for name in names if name in candidates.columns and name != "provenance"]
    for name in ("model_id", "hardware", "batch", "input_tokens", "output_tokens"):
        if name not in candidates.columns:
            raise FitError(
                f"The candidates have no column {name!r}.",
                where="candidates",
                fix="Give the model, deployment and workload columns of the measurement table.",
            )
    rows = candidates[keep].copy()
    rows["_place"] = np.arange(len(rows))
    notes: list[str] = []
    known = np.zeros(len(rows), dtype=bool)
    if measured is not None and len(measured):
        known = np.isin(_identity(rows, keep), _identity(measured, keep))
        others = ~np.isin(_identity(measured, keep), _identity(rows, keep))
        if others.any():
            notes.append(
                f"{int(others.sum())} measured rows are none of the candidates; the law learns "
                "from them all the same."
            )
    order = np.argsort(row_hash(rows), kind="stable")  # the same design in whatever order
    result = rows.iloc[order].reset_index(drop=True)
    return pd.DataFrame(result), known[order], notes


def _identity(frame: pd.DataFrame, names: list[str]) -> NDArray[np.object_] | NDArray[np.uint64]:
    """Return what tells configurations apart: the task id, else a hash of the columns."""
    if "task_id" in names and "task_id" in frame.columns:
        return frame["task_id"].astype(str).to_numpy()
    return row_hash(frame[[name for name in CONFIGURATION if name in frame.columns]])


def _pairs(rows: pd.DataFrame) -> list[Index]:
    codes = rows.groupby(["model_id", "hardware"], sort=True).ngroup().to_numpy()
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)


def _of(fit: Fit | None, rows: pd.DataFrame, index: Index) -> PairFit | None:
    """Return the law that a fit has for a pair of rows, if it is of a form that designs know."""
    if fit is None:
        return None
    first = rows.iloc[int(index[0])]
    for pair in fit.pairs:
        if pair.model_id == first["model_id"] and pair.hardware == first["hardware"]:
            return pair
    return None


def _result(
    rows: pd.DataFrame,
    worlds: list[PairDesign],
    purse: Purse,
    chosen: Chosen,
    method: str,
    notes: list[str],
) -> Design:
    """Number launches in the order of their first row, and put the rows of each together."""
    index = np.array([row for row, _, _ in chosen], dtype=np.intp)
    table = rows.iloc[index].copy()
    seconds = np.array([cost for _, cost, _ in chosen])
    first: dict[int, int] = {}
    for code in purse.launch[index]:
        first.setdefault(int(code), len(first) + 1)
    table["launch"] = [first[int(code)] for code in purse.launch[index]]
    table["order"] = np.arange(1, len(table) + 1)
    table["cost_s"] = seconds
    table["gain"] = [gain for _, _, gain in chosen]
    gpu_s = float((seconds * purse.gpus[index]).sum())
    table.index = table["_place"].to_numpy()
    table = table[[name for name in COLUMNS if name in table.columns]]
    outlooks = tuple(pair.outlook() for pair in worlds)
    none = [p for p in outlooks if not p.scenarios]
    if none:
        notes.append(
            f"{len(none)} of {len(outlooks)} (model, hardware) have no two layouts for one "
            "workload and GPU count: there is nothing to choose, so their rows serve the law."
        )
    return Design(table, method, outlooks, float(seconds.sum()), gpu_s, tuple(notes))
