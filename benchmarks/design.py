"""Learning curves of designs beside random and Latin hypercube sampling: S1 Top-1, regret, error.

Usage: python benchmarks/design.py RUN_DIR [--methods random lhs d-optimal i-optimal regret]
       [--rows 10 15 20 25 35 50] [--seeds 0 1 2] [--offered 0.9] [--hours 10 20 40] [--pooled]

`regret`, `d-optimal` and `i-optimal` grow their rows round by round, a round a budget, and start
their launches anew in each; the others draw once. A seed offers every method
the same random share of the rows for measuring, so that methods without chance scatter, too. Below
12 rows the law is energylens6, else energylens12.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fitting.design import METHODS, Budget, Cost, design
from fitting.scenarios import build
from fitting.work import column

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from fitting.design import Design
    from fitting.facts import Facts

COUNTS = (2, 4, 8)
HEAD = (
    f"{'method':<12}{'rows':>7}{'launches':>10}{'hours':>7}{'kWh':>7}{'Top-1':>8}{'+-':>6}"
    f"{'unseen':>8}{'regret':>8}{'MAPE':>7}{'s':>6}"
)


def main() -> None:
    """Print the curves that docs/design.md quotes."""
    from energylens.facts import facts_for
    from fitting.rows import usable
    from harness.store import read_measurements

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--rows", type=int, nargs="*", default=[10, 15, 20, 25, 35, 50])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--offered", type=float, default=0.9, help="share of rows to choose from")
    parser.add_argument("--hours", type=float, nargs="*", default=[], help="budgets in hours")
    parser.add_argument("--pooled", action="store_true", help="fit the pooled law instead")
    parser.add_argument("--launch-s", type=float, default=120.0, help="time of a launch, s")
    arguments = parser.parse_args()
    rows, _ = usable(read_measurements(arguments.run_dir))
    rows = rows.reset_index(drop=True)
    facts = facts_for(rows)
    bench = Bench(rows, facts, arguments.launch_s, arguments.pooled)
    print(HEAD)
    for method in arguments.methods:
        for budgets in (
            [Budget(rows=n) for n in arguments.rows],
            [Budget(rows=None, seconds=3600.0 * h) for h in arguments.hours],
        ):
            curves = [
                bench.curve(method, budgets, seed, arguments.offered) for seed in arguments.seeds
            ]
            for points in zip(*curves, strict=True):
                _line(method, points)


def _line(method: str, points: Sequence[dict[str, float]]) -> None:
    """Print the means over seeds of one budget."""
    mean: dict[str, Any] = {k: float(np.nanmean([p[k] for p in points])) for k in points[0]}
    spread = float(np.std([p["top1"] for p in points], ddof=1)) if len(points) > 1 else 0.0
    print(
        f"{method:<12}{mean['rows']:7.1f}{mean['launches']:10.0f}{mean['hours']:7.1f}"
        f"{mean['kwh']:7.1f}{100 * mean['top1']:8.2f}{100 * spread:6.2f}"
        f"{100 * mean['unseen']:8.2f}{100 * mean['regret']:8.2f}{100 * mean['mape']:7.2f}"
        f"{mean['seconds']:6.0f}",
        flush=True,
    )


class Bench:
    """A table of measurements that designs draw from, and are judged on.

    Parameters
    ----------
    rows
        Usable rows.
    facts
        Facts of their models and GPU types.
    launch_s
        Time of a launch, s.
    pooled
        Whether one pooled law is fitted instead of a law for each pair.
    """

    def __init__(self, rows: pd.DataFrame, facts: Facts, launch_s: float, pooled: bool) -> None:
        from harness.plan import TaskEstimate, task_cost

        latency = {n: column(rows, f"{n}_latency_s") for n in ("prefill", "decode")}
        costs = [
            task_cost(TaskEstimate(a, b, e, "row"), window_s=5.0, repeats=3)
            for a, b, e in zip(*latency.values(), column(rows, "total_energy_j"), strict=True)
        ]
        self.rows = rows.assign(cost_s=[seconds for seconds, _ in costs])
        self.joules = np.array([joules for _, joules in costs])
        self.facts, self.pooled = facts, pooled
        self.cost = Cost(launch_s=launch_s)
        self.scenarios = build(rows, "S1")
        self.gpus = column(rows, "num_gpus")[self.scenarios.first]

    def curve(
        self, method: str, budgets: Sequence[Budget], seed: int, offered: float
    ) -> list[dict[str, float]]:
        """Grow a design budget by budget; score the law after each."""
        from fitting.rows import row_hash, sample_order

        order = sample_order(row_hash(self.rows), round(offered * len(self.rows)), 1000 + seed)
        open_ = np.zeros(len(self.rows), dtype=bool)
        open_[order] = True
        taken = np.zeros(len(self.rows), dtype=bool)
        out, seconds, spent_s = [], 0.0, 0.0
        launches: list[pd.DataFrame] = []
        before = 0.0
        for budget in budgets:
            began = time.perf_counter()
            step = self._step(method, budget, before, taken, open_, seed)
            before = float(budget.rows or budget.seconds or 0.0)
            seconds += time.perf_counter() - began
            taken[step.table.index.to_numpy()] = True
            if method in ("random", "lhs"):
                launches, spent_s = [], 0.0
            launches.append(step.table)
            spent_s += step.cost_s
            out.append(
                {
                    **self.score(taken),
                    "rows": taken.sum() / self.rows.groupby(["model_id", "hardware"]).ngroups,
                    "launches": sum(t["launch"].nunique() for t in launches),
                    "hours": spent_s / 3600.0,
                    "kwh": float(self.joules[taken].sum()) / 3.6e6,
                    "seconds": seconds,
                }
            )
        return out

    def _step(
        self,
        method: str,
        budget: Budget,
        before: float,
        taken: NDArray[np.bool_],
        open_: NDArray[np.bool_],
        seed: int,
    ) -> Design:
        """Choose what the budget has beyond the one before; a launch of a new round is new."""
        if method in ("random", "lhs"):  # these learn nothing, so they need but one round
            taken[:] = False
            before = 0.0
        more = Budget(
            rows=None if budget.rows is None else budget.rows - int(before),
            seconds=None if budget.seconds is None else budget.seconds - before,
        )
        candidates = self.rows[open_ | taken]
        found = design(
            candidates,
            self.facts,
            measured=self.rows[taken] if taken.any() else None,
            budget=more,
            method=method,
            cost=self.cost,
            seed=seed,
        )
        found.table.index = candidates.index[found.table.index.to_numpy()]
        return found

    def score(self, taken: NDArray[np.bool_]) -> dict[str, float]:
        """Return S1 scores of the law fitted to the rows taken; see docs/design.md."""
        from fitting.metrics import judge

        rows, scenarios = self.rows, self.scenarios
        predicted = self._predict(taken)
        energy = column(rows, "total_energy_j")
        half = column(rows, "total_energy_j_ci95_j", default=0.0)
        choice = judge(
            scenarios.values(energy, np.inf),
            scenarios.values(half, 0.0),
            scenarios.values(predicted, np.inf),
            scenarios.mask,
        )
        seen = (taken[scenarios.rows] & scenarios.mask).any(axis=1)
        error = np.abs(predicted / energy - 1.0)[~taken]

        def mean(values: NDArray[np.float64], picked: NDArray[np.bool_]) -> float:
            parts = [values[picked & (self.gpus == n)] for n in COUNTS]
            return float(np.mean([part.mean() if len(part) else np.nan for part in parts]))

        everywhere = np.ones(len(seen), dtype=bool)
        return {
            "top1": mean(choice.top1, everywhere),
            "unseen": mean(choice.top1, ~seen),
            "regret": mean(choice.regret, everywhere),
            "mape": float(np.nanmean(error)),
        }

    def _predict(self, taken: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return predicted energies of all rows; the smaller law where rows are few."""
        from fitting.fitted import Fit
        from fitting.forms import get_form
        from fitting.pairfit import fit_pair
        from fitting.rows import pairs

        if self.pooled:
            from fitting.pooling import fit_pooled

            law = fit_pooled(self.rows[taken], self.facts)
            return np.asarray(law.predict(self.rows), dtype=np.float64)
        out = np.full(len(self.rows), np.nan)
        for group in pairs(self.rows.assign(_row=np.arange(len(self.rows)))):
            place = group.rows["_row"].to_numpy()
            mine = np.flatnonzero(taken[place])
            name = "energylens12" if len(mine) >= 12 else "energylens6"
            if len(mine) < 6:
                continue
            law = Fit([fit_pair(group.take(mine), get_form(name))], form=name)
            out[place] = law.predict(group.rows)
        return out


if __name__ == "__main__":
    main()
