"""How often each method picks the configuration that uses least, and how wrong it predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fitting.baselines import LEARNERS, RULES
from fitting.methods import FITTED, Prediction, predict_method
from fitting.metrics import Choice, interval, judge, mean_or_nan
from fitting.rows import pairs, usable
from fitting.scenarios import FIXED, GROUP_KINDS, LIMIT_FACTOR, Scenarios, build
from fitting.work import column
from harness.store import FitError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

METHODS = (*FITTED, *RULES, "wilkins", *LEARNERS)
"""Methods compared unless others are asked for, the law first."""

LAWS = (*FITTED, "energylens_serving")
"""Laws of this project, for notes on who wins."""

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
)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores of every method.

    Attributes
    ----------
    scores
        One row a scenario class, group, method and sample budget; see `SCORE_COLUMNS`. Shares
        and errors are fractions; `mape` and `median_ape` are of rows that were not fitted, null
        for rules; `fit_seconds` is per (model, hardware).
    predictions
        `task_id`, `method`, `samples`, `predicted` (J), `fitted` (whether the row was in the
        training rows), for the first seed.
    notes
        What a reader must know: rows left out, rules that win, scenarios that prove nothing.
    """

    scores: pd.DataFrame
    predictions: pd.DataFrame
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return scores and notes as plain values, NaN as None."""
        records = self.scores.astype(object).where(self.scores.notna(), None)
        return {"scores": records.to_dict(orient="records"), "notes": self.notes}


def evaluate(
    frame: pd.DataFrame,
    *,
    samples: Sequence[int] = (50,),
    classes: Sequence[str] = ("S1", "S2", "S3"),
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    limits: Mapping[str, float] | None = None,
) -> Evaluation:
    """Compare methods on the scenarios of a measurement table.

    Every method is fitted to the same `samples` rows of each (model, hardware) and then asked
    about all rows. Scenarios keep all of their candidates, fitted or not; errors are taken on
    rows that were not fitted. Rows without input lengths (imported serving runs) are judged by
    `fitting.serving_eval`, where laws are pooled and cross-validated.

    Parameters
    ----------
    frame
        Rows of the measurement table.
    samples
        Training rows of each (model, hardware); several give a learning curve.
    classes
        Scenario classes, of S1, S2 and S3.
    methods
        Names of methods; all of `METHODS` if None.
    seeds
        Seeds of the draws of training rows; scores are means over them.
    limits
        `ttft_s` and `itl_s` for S2 and S3, s; if None each scenario takes the medians of its
        candidates.

    Raises
    ------
    FitError
        If no row is usable, a class or method is unknown, or no class, budget or seed is given.
    """
    for option, given in (("classes", classes), ("samples", samples), ("seeds", seeds)):
        if not len(given):
            raise FitError(f"No {option} given.", where=option, fix="Give at least one.")
    for name in classes:
        if name not in FIXED:
            raise FitError(f"Unknown scenario class {name!r}.", fix=f"Use {', '.join(FIXED)}.")
    chosen = tuple(methods) if methods is not None else METHODS
    rows, left = usable(frame)
    if not len(rows):
        from fitting.serving_eval import evaluate_serving

        return evaluate_serving(frame, classes=classes, methods=methods, seeds=seeds)
    unknown = [m for m in chosen if m not in METHODS]
    if unknown:
        raise FitError(f"Unknown method {unknown[0]!r}.", fix=f"Use {', '.join(METHODS)}.")
    rows = rows.reset_index(drop=True)
    groups = list(pairs(rows.assign(_row=np.arange(len(rows)))))
    notes = left.notes()
    runs = {
        (method, budget, seed): predict_method(method, groups, len(rows), budget, seed)
        for method in chosen
        for budget in samples
        for seed in seeds
    }
    notes += sorted({note for run in runs.values() for note in run.notes})
    scored = _Scored(rows, runs, chosen, tuple(samples), tuple(seeds))
    records: list[dict[str, object]] = []
    for name in classes:
        scenarios = scored.known(build(rows, name, dict(limits) if limits else None))
        records += scored.records(scenarios)
        notes += _limit_notes(name, scenarios, limits) + scored.unseen_notes(scenarios)
    import pandas as pd

    scores = pd.DataFrame(records, columns=list(SCORE_COLUMNS))
    notes += gpu_count_notes(scores) + rule_notes(scores)
    return Evaluation(scores, scored.predictions(), notes)


class _Scored:
    """A table, the predictions of every method for it, and the scores of scenarios."""

    def __init__(
        self,
        rows: pd.DataFrame,
        runs: dict[tuple[str, int, int], Prediction],
        methods: Sequence[str],
        samples: Sequence[int],
        seeds: Sequence[int],
    ) -> None:
        self.rows = rows
        self.runs = runs
        self.methods = methods
        self.samples = samples
        self.seeds = seeds
        self.energy = column(rows, "total_energy_j")
        self.half = column(rows, "total_energy_j_ci95_j", default=0.0)

    def known(self, scenarios: Scenarios) -> Scenarios:
        """Keep the scenarios that every method can rank at every budget."""
        usable_rows = np.ones(len(self.rows), dtype=bool)
        for (method, _, _), run in self.runs.items():
            if method not in RULES:
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
        energy = scenarios.values(self.energy, np.inf)
        half = scenarios.values(self.half, 0.0)
        out: list[dict[str, object]] = []
        for method in self.methods:
            for budget in self.samples:
                runs = [self.runs[method, budget, seed] for seed in self.seeds]
                choices = [
                    judge(energy, half, scenarios.values(run.score, np.inf), scenarios.mask)
                    for run in runs
                ]
                for kind, label, picked in splits:
                    record: dict[str, object] = {
                        "scenario_class": scenarios.scenario_class,
                        "group_kind": kind,
                        "group": label,
                        "method": method,
                        "samples": budget,
                        "scenarios": int(picked.sum()),
                        "fit_seconds": float(np.mean([run.seconds for run in runs])),
                    }
                    record |= summary(choices, picked)
                    record |= self._errors(runs, scenarios.rows[picked])
                    out.append(record)
        return out

    def unseen_notes(self, scenarios: Scenarios) -> list[str]:
        """Say how the law does where none of the candidates was a training row."""
        if not len(scenarios):
            return []
        energy = scenarios.values(self.energy, np.inf)
        half = scenarios.values(self.half, 0.0)
        notes = []
        for (method, budget, seed), run in self.runs.items():
            if method not in LAWS or seed != self.seeds[0]:
                continue
            new: NDArray[np.bool_] = ~np.any(scenarios.mask & run.fitted[scenarios.rows], axis=1)
            text = f"{scenarios.scenario_class}, {method} at {budget} samples: "
            if not new.any():
                notes.append(text + "every scenario holds a configuration that was fitted.")
                continue
            score = scenarios.values(run.score, np.inf)
            choice = judge(energy, half, score, scenarios.mask)
            notes.append(
                f"{text}in the {int(new.sum())} of {len(scenarios)} scenarios without a fitted "
                f"configuration Top-1 is {100 * choice.top1[new].mean():.1f} %, regret "
                f"{100 * choice.regret[new].mean():.2f} %."
            )
        return notes

    def _errors(self, runs: Sequence[Prediction], table: NDArray[np.intp]) -> dict[str, float]:
        """Return relative errors on the candidates that were not fitted."""
        candidates = np.unique(table[table >= 0])
        found = []
        for run in runs:
            if run.energy is None:
                return {"mape": float("nan"), "median_ape": float("nan")}
            free = candidates[~run.fitted[candidates]]
            found.append(np.abs(run.energy[free] / self.energy[free] - 1.0))
        errors = np.concatenate(found)
        errors = errors[~np.isnan(errors)]
        if not len(errors):
            return {"mape": float("nan"), "median_ape": float("nan")}
        return {"mape": float(errors.mean()), "median_ape": float(np.median(errors))}

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


def summary(choices: Sequence[Choice], picked: NDArray[np.bool_]) -> dict[str, float]:
    """Return the scores of some scenarios, averaged over seeds.

    The interval of Top-1 is a bootstrap over scenarios; its seed is fixed, so the same choices
    always give the same interval.
    """
    top1 = np.mean([c.top1[picked] for c in choices], axis=0)
    low, high = interval(top1, np.random.default_rng(0))
    regret = np.array([c.regret[picked] for c in choices])
    pairwise = np.concatenate([c.pairwise[picked] for c in choices])
    return {
        "top1": float(top1.mean()),
        "top1_lo": low,
        "top1_hi": high,
        "top1_strict": float(np.mean([c.strict[picked].mean() for c in choices])),
        "top1_within_1pct": float(np.mean([c.near[picked].mean() for c in choices])),
        "pairwise": mean_or_nan(pairwise),
        "mean_regret": float(regret.mean()),
        "max_regret": float(regret.max()),
    }


def gpu_count_notes(scores: pd.DataFrame) -> list[str]:
    """Say what the law's S1 scores are if every GPU count weighs the same."""
    part = scores[(scores["scenario_class"] == "S1") & (scores["group_kind"] == "num_gpus")]
    part = part[part["method"].isin(LAWS)]
    notes = []
    for (method, budget), rows in part.groupby(["method", "samples"], sort=True):
        if rows["scenarios"].nunique() > 1:
            counts = ", ".join(rows["group"])
            top1, regret = 100 * rows["top1"].mean(), 100 * rows["mean_regret"].mean()
            notes.append(
                f"S1, mean over GPU counts ({counts}), {method} at {budget} samples: Top-1 "
                f"{top1:.1f} %, regret {regret:.2f} %."
            )
    return notes


def rule_notes(scores: pd.DataFrame) -> list[str]:
    """Say where a rule that needs no fit does best, or a learner beats the law."""
    notes = []
    overall = scores[scores["group_kind"] == "all"]
    for (name, budget), part in overall.groupby(["scenario_class", "samples"], sort=True):
        ranked = part.sort_values(["top1", "mean_regret"], ascending=[False, True])
        best = ranked.iloc[0]
        if best["method"] in LAWS:
            continue
        kind = "rule" if best["method"] in RULES else "method"
        text = (
            f"The {kind} {best['method']} wins {name} at {budget} samples: "
            f"Top-1 {100 * best['top1']:.1f} %, regret {100 * best['mean_regret']:.2f} %"
        )
        law = part[part["method"].isin(LAWS)]
        if len(law):
            text += (
                f" (law: {100 * law.iloc[0]['top1']:.1f} %, "
                f"{100 * law.iloc[0]['mean_regret']:.2f} %)"
            )
        notes.append(text + ".")
    return notes


def _limit_notes(name: str, scenarios: Scenarios, limits: Mapping[str, float] | None) -> list[str]:
    if not len(scenarios):
        return [f"{name} has no scenario with at least 2 candidates."]
    if name == "S1":
        return []
    if limits:
        given = ", ".join(f"{k} <= {v:g}" for k, v in sorted(limits.items()))
        return [f"{name} under the limits given: {given}."]
    return [
        f"{name}: time to first token and per output token at most {LIMIT_FACTOR:g} x the median "
        "of the scenario's candidates."
    ]


def _label(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
