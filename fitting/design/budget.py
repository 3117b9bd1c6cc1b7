"""What a design may cost: rows, hours or GPU-hours; a launch is dear, another workload cheap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fitting.work import column
from harness.store import FitError

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]
Index = NDArray[np.intp]

LAUNCH = (
    "model_id",
    "engine",
    "hardware",
    "tensor_parallel",
    "pipeline_parallel",
    "expert_parallel",
    "data_parallel",
    "precision",
    "power_limit_w",
)
"""Columns that rows of one engine launch share."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What measuring takes.

    Attributes
    ----------
    launch_s
        Time to start the engine and load the weights, s.
    task_s
        Time to measure one workload, s, where the candidates have no column `cost_s`.
    """

    launch_s: float = 120.0
    task_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Budget:
    """How much may be measured; exactly one of the three.

    Attributes
    ----------
    rows
        Configurations.
    seconds
        Time, one launch after the other, s.
    gpu_seconds
        Time multiplied by the GPUs of each launch, s.
    per
        Whether `rows` counts for each (model, hardware) or for all together; the other two are
        always for all.
    """

    rows: int | None = 25
    seconds: float | None = None
    gpu_seconds: float | None = None
    per: str = "pair"

    @property
    def by_pair(self) -> bool:
        """Whether every (model, hardware) has a budget of its own."""
        return self.rows is not None and self.per == "pair"

    def check(self) -> None:
        """Raise FitError unless the budget is one positive number."""
        given = {
            "rows": self.rows,
            "seconds": self.seconds,
            "gpu_seconds": self.gpu_seconds,
        }
        known = {name: value for name, value in given.items() if value is not None}
        if len(known) != 1:
            raise FitError(
                f"A design needs one budget, not {len(known)}.",
                where="budget",
                fix="Give rows, hours or GPU-hours.",
            )
        ((name, value),) = known.items()
        if not value > 0:
            raise FitError(
                f"A budget of {value:g} {name} buys nothing.", where="budget", fix="Give more."
            )
        if self.per not in ("pair", "total"):
            raise FitError(
                f"A budget is for each pair or in total, not {self.per!r}.",
                where="per",
                fix="Use pair or total.",
            )


class Purse:
    """What is left of a budget, and which launches were started.

    Parameters
    ----------
    rows
        Candidates, all pairs together.
    budget, cost
        What may be spent, and what things cost.
    """

    def __init__(self, rows: pd.DataFrame, budget: Budget, cost: Cost) -> None:
        self.budget = budget
        self.launch = launch_codes(rows)
        self.seconds = column(rows, "cost_s", default=cost.task_s)
        self.gpus = column(rows, "num_gpus", default=1.0)
        self.launch_s = cost.launch_s
        # Under a budget in rows a new launch must bring more than a row of one that is started:
        # half-way, in logarithms, between counting rows alone and counting seconds alone.
        typical = float(self.seconds.mean()) if len(rows) else cost.task_s
        self.new_launch = float(np.sqrt(typical / (typical + cost.launch_s)))
        self.started = np.zeros(int(self.launch.max(initial=-1)) + 1, dtype=bool)
        self.pair = rows.groupby(["model_id", "hardware"], sort=True).ngroup().to_numpy()
        self.taken = np.zeros(int(self.pair.max(initial=-1)) + 1, dtype=np.intp)
        self.spent = 0.0

    def price(self, index: Index) -> Array:
        """Return what measuring each candidate costs now, in the unit of the budget."""
        if self.budget.rows is not None:
            return np.ones(len(index))
        seconds = self.seconds[index] + self.launch_s * ~self.started[self.launch[index]]
        if self.budget.gpu_seconds is not None:
            return np.asarray(seconds * self.gpus[index])
        return np.asarray(seconds)

    def affordable(self, index: Index) -> NDArray[np.bool_]:
        """Say which candidates the rest of the budget pays for."""
        if self.budget.by_pair:
            return np.asarray(self.taken[self.pair[index]] < self.limit)
        return np.asarray(self.spent + self.price(index) <= self.limit)

    def worth(self, gain: Array, index: Index) -> Array:
        """Return gains for what they cost: a row of a new launch is worth less."""
        if self.budget.rows is None:
            return np.asarray(gain / self.price(index))
        new = ~self.started[self.launch[index]]
        return np.asarray(gain * np.where(new, self.new_launch, 1.0))

    def pay(self, row: int) -> float:
        """Take one candidate; return its cost in seconds."""
        index = np.array([row])
        seconds = self.seconds[row] + self.launch_s * float(~self.started[self.launch[row]])
        self.spent += float(self.price(index)[0])
        self.started[self.launch[row]] = True
        self.taken[self.pair[row]] += 1
        return float(seconds)

    @property
    def limit(self) -> float:
        """The budget in its own unit."""
        for value in (self.budget.rows, self.budget.seconds, self.budget.gpu_seconds):
            if value is not None:
                return float(value)
        return 0.0


def launch_codes(rows: pd.DataFrame) -> Index:
    """Return a number a row, the same for rows that one engine launch measures."""
    names = [name for name in LAUNCH if name in rows.columns]
    return rows.groupby(names, sort=True, dropna=False).ngroup().to_numpy().astype(np.intp)
