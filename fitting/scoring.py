"""Scores of methods on scenarios: every metric, overall and by group, with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fitting.methods import REGISTRY, Prediction
from fitting.metrics import Choice, error_summary, judge, summary
from fitting.scenarios import GROUP_KINDS, Scenarios, work_units
from fitting.work import column

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

SCORE_COLUMNS = (
    "scenario_class",
    "group_kind",
    "group",
    "method",
    "samples",
    "scenarios",
    "top1",
    "top1_lo",
    "top1_hi",
    "top1_strict",
    "top1_within_1pct",
    "pairwise",
    "mean_regret",
    "max_regret",
    "mape",
    "median_ape",
    "fit_seconds",
    "top1_strict_lo",
    "top1_strict_hi",
    "top1_within_1pct_lo",
    "top1_within_1pct_hi",
    "pairwise_lo",
    "pairwise_hi",
    "mean_regret_lo",
    "mean_regret_hi",
    "mape_lo",
    "mape_hi",
    "median_ape_lo",
    "median_ape_hi",
    "coverage",
    "rows_used",
    "unfitted_rows",
    "kind",
    "knows",
)
"""Columns of a table of scores. `_lo` and `_hi` are ends of 95 % bootstrap intervals."""

Run = tuple[str, int, int]
"""Method, sample budget and seed."""


class Scored:
    """A table, what every method predicts for it, and the scores of scenarios.

    Parameters
    ----------
    rows
        Usable rows of the measurement table, index 0 to rows - 1.
    runs
        Predictions by method, budget and seed.
    """

    def __init__(self, rows: pd.DataFrame, runs: Mapping[Run, Prediction]) -> None:
        self.rows = rows
        self.runs = runs
        self.methods = list(dict.fromkeys(method for method, _, _ in runs))
        self.budgets = list(dict.fromkeys(budget for _, budget, _ in runs))
        self.seeds = list(dict.fromkeys(seed for _, _, seed in runs))
        self.energy = column(rows, "total_energy_j")
        self.half = column(rows, "total_energy_j_ci95_j", default=0.0)

    def known(self, scenarios: Scenarios) -> Scenarios:
        """Keep the scenarios that every method can rank which needs no more than the rows.

        Methods that need facts, or the true latency, are judged on those of them that they can
        rank; see `partial`.
        """
        usable_rows = np.ones(len(self.rows), dtype=bool)
        for (method, _, _), run in self.runs.items():
            if REGISTRY[method].kind != "rule" and not partial(method):
                usable_rows &= ~np.isnan(run.score)
        bad = (scenarios.mask & ~usable_rows[scenarios.rows]).any(axis=1)
        return Scenarios(scenarios.scenario_class, scenarios.rows[~bad])

    def records(self, scenarios: Scenarios) -> list[dict[str, object]]:
        """Return the score rows of a class, overall and by group."""
        if not len(scenarios):
            return []
        splits = [("all", "all", np.ones(len(scenarios), dtype=bool))]
        for kind in GROUP_KINDS[scenarios.scenario_class]:
            if kind in self.rows.columns:
                labels = self.rows[kind].to_numpy()[scenarios.first]
                splits += [(kind, _label(v), labels == v) for v in sorted(set(labels.tolist()))]
        able = {
            (method, budget): self.rankable(scenarios, method, budget)
            for method in self.methods
            for budget in self.budgets
        }
        choices: dict[tuple[str, int], list[Choice]] = {key: [] for key in able}
        for (method, budget, _), run in self.runs.items():
            choices[method, budget].append(self.judged(scenarios, run))
        out: list[dict[str, object]] = []
        for kind, label, picked in splits:
            for (method, budget), ranked in able.items():
                mine = picked & ranked
                if not mine.any():
                    continue
                runs = [self.runs[method, budget, seed] for seed in self.seeds]
                out.append(
                    {
                        "scenario_class": scenarios.scenario_class,
                        "group_kind": kind,
                        "group": label,
                        "method": method,
                        "samples": budget,
                        "scenarios": int(mine.sum()),
                        "fit_seconds": float(np.mean([run.seconds for run in runs])),
                        "rows_used": float(np.mean([run.drawn for run in runs])),
                        "kind": REGISTRY[method].kind,
                        "knows": REGISTRY[method].knows,
                        **summary(choices[method, budget], mine),
                        **self._errors(runs, scenarios.rows[mine]),
                    }
                )
        return out

    def judged(self, scenarios: Scenarios, run: Prediction) -> Choice:
        """Return what one run chose in each scenario, per unit of work."""
        units = work_units(self.rows, scenarios.scenario_class)
        score = run.score if run.energy is None else run.score / units
        return judge(
            scenarios.values(self.energy / units, np.inf),
            scenarios.values(self.half / units, 0.0),
            scenarios.values(score, np.inf),
            scenarios.mask,
        )

    def rankable(self, scenarios: Scenarios, method: str, budget: int) -> NDArray[np.bool_]:
        """Say in which scenarios a method can rank all candidates, with every seed."""
        able = np.ones(len(scenarios), dtype=bool)
        if REGISTRY[method].kind == "rule":
            return able
        for seed in self.seeds:
            missing = np.isnan(self.runs[method, budget, seed].score)
            able &= ~(scenarios.mask & missing[scenarios.rows]).any(axis=1)
        return able

    def _errors(self, runs: Sequence[Prediction], table: NDArray[np.intp]) -> dict[str, float]:
        """Return relative errors, and coverage, on the candidates that were not fitted."""
        candidates = np.unique(table[table >= 0])
        errors, inside = [], []
        for run in runs:
            if run.energy is None:
                break
            free = candidates[~run.fitted[candidates]]
            errors.append(np.abs(run.energy[free] / self.energy[free] - 1.0))
            if run.low is not None and run.high is not None:
                low, high = run.low[free], run.high[free]
                known = ~np.isnan(low)
                inside.append(((low <= self.energy[free]) & (self.energy[free] <= high))[known])
        found = error_summary(np.concatenate(errors) if errors else np.zeros(0))
        if not errors:
            found["unfitted_rows"] = float("nan")
        covered = np.concatenate(inside) if inside else np.zeros(0)
        return {**found, "coverage": float(covered.mean()) if len(covered) else float("nan")}

    def predictions(self) -> pd.DataFrame:
        """Return the predicted energies of the first seed."""
        import pandas as pd

        if "task_id" in self.rows.columns:
            names = self.rows["task_id"].to_numpy()
        else:
            names = np.arange(len(self.rows)).astype(str)
        parts = [
            pd.DataFrame(
                {
                    "task_id": names,
                    "method": method,
                    "samples": budget,
                    "predicted": run.energy,
                    "fitted": run.fitted,
                }
            )
            for (method, budget, seed), run in self.runs.items()
            if seed == self.seeds[0] and run.energy is not None
        ]
        if not parts:
            return pd.DataFrame(columns=["task_id", "method", "samples", "predicted", "fitted"])
        return pd.concat(parts, ignore_index=True)


def partial(method: str) -> bool:
    """Say whether a method may be unable to rank some rows that the others can."""
    return REGISTRY[method].needs_facts or bool(REGISTRY[method].knows)


def _label(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
