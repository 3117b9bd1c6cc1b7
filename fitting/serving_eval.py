"""Evaluate methods on imported serving rows: cross-validated, energy per output token."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fitting.baselines import LEARNERS, RULES, learner
from fitting.facts import Facts
from fitting.metrics import error_summary, judge
from fitting.scenarios import Scenarios, rectangle
from fitting.serving import NAME, fit_serving, serving_rows
from fitting.serving.splits import PRECISION_SUFFIX
from fitting.work import WEIGHT_BYTES, column
from harness.store import FitError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from fitting.evaluation import Evaluation

METHODS = (NAME, *RULES, *LEARNERS)
"""Methods compared on serving rows."""

FOLDS = 5
"""Parts of the cross-validation. A part holds whole scenarios, on every GPU type."""

WORK = ("_base", "task", "batch")
FIXED: dict[str, tuple[str, ...]] = {
    "S1": ("hardware", "num_gpus"),
    "S2": ("hardware",),
    "S3": (),
}
"""What is held fixed beside model, task and batch; S2 and S3 have no latency limit here."""

_GROUPS = ("num_gpus", "family", "modality", "hardware")


def evaluate_serving(
    frame: pd.DataFrame,
    *,
    classes: Sequence[str],
    methods: Sequence[str] | None,
    seeds: Sequence[int],
    facts: Facts | None = None,
) -> Evaluation:
    """Compare methods on rows that have an energy per output token but no input lengths.

    Scenarios fix model, task, GPU type and batch limit (and the GPU count in S1) and choose GPU
    count, parallelism and precision; checkpoints that differ in precision alone are one model.
    Every prediction is for a scenario that was not in the training rows (5-fold over scenarios).

    Parameters
    ----------
    frame
        Rows of the measurement table.
    classes
        Scenario classes, of S1, S2 and S3.
    methods
        Names out of `METHODS`; all of them if None. Names of other methods are left out.
    seeds
        Seeds of the folds; scores are means over them.
    facts
        Datasheets and architectures; without them the law estimates from columns.

    Raises
    ------
    FitError
        If there are no such rows.
    """
    import pandas as pd

    from fitting.evaluation import SCORE_COLUMNS, Evaluation, rule_notes, summary

    rows = serving_rows(frame).reset_index(drop=True)
    if len(rows) < 2 * FOLDS:
        raise FitError(
            f"{len(rows)} rows can be evaluated: too few.",
            where="rows need an energy, a batch and lengths, or an energy per output token",
            fix="Run a sweep, or import serving data with output tokens.",
        )
    rows["_base"] = rows["model_id"].astype(str).str.replace(PRECISION_SUFFIX, "", regex=True)
    asked = METHODS if methods is None else [m for m in METHODS if m in {NAME, *methods}]
    energy = column(rows, "energy_per_output_token_j")
    relative = column(rows, "total_energy_j_ci95_j", default=0.0)
    half = np.nan_to_num(relative / column(rows, "total_energy_j", default=1.0)) * energy
    notes = _notes(frame, rows)
    records: list[dict[str, object]] = []
    runs = {m: [_cross(rows, m, seed, facts) for seed in seeds] for m in asked}
    for name in classes:
        keys = [c for c in (*WORK, *FIXED[name]) if c in rows.columns]
        codes = rows.groupby(keys, dropna=False).ngroup().to_numpy().astype(np.intp)
        scenarios = Scenarios(name, rectangle(codes, np.ones(len(rows), dtype=bool)))
        if not len(scenarios):
            notes.append(f"{name} has no scenario with at least 2 candidates.")
            continue
        for method, found in runs.items():
            choices = [
                judge(
                    scenarios.values(energy, np.inf),
                    scenarios.values(half, 0.0),
                    scenarios.values(np.nan_to_num(score, nan=np.inf), np.inf),
                    scenarios.mask,
                )
                for score, _ in found
            ]
            for kind, label, picked in _splits(rows, scenarios, keys):
                table = scenarios.rows[picked]
                used = np.unique(table[table >= 0])
                errors = np.concatenate([np.abs(s[used] / energy[used] - 1.0) for s, _ in found])
                if method in RULES:
                    errors = np.full(1, np.nan)
                records.append(
                    {
                        "scenario_class": name,
                        "group_kind": kind,
                        "group": label,
                        "method": method,
                        "samples": len(rows) * (FOLDS - 1) // FOLDS,
                        "scenarios": int(picked.sum()),
                        **error_summary(errors),
                        "fit_seconds": float(np.mean([s for _, s in found])),
                        **summary(choices, picked),
                    }
                )
    scores = pd.DataFrame(records, columns=list(SCORE_COLUMNS))
    return Evaluation(scores, _predictions(rows, runs), notes + rule_notes(scores))


def _splits(
    rows: pd.DataFrame, scenarios: Scenarios, keys: Sequence[str]
) -> list[tuple[str, str, NDArray[np.bool_]]]:
    """Return the groups that scores are split by: those that are the same within a scenario."""
    out = [("all", "all", np.ones(len(scenarios), dtype=bool))]
    for kind in _GROUPS:
        if kind in rows.columns and (kind in keys or kind in ("family", "modality")):
            labels = rows[kind].to_numpy()[scenarios.first]
            out += [(kind, str(v), labels == v) for v in sorted(set(labels.tolist()))]
    bases = rows["_base"].to_numpy()[scenarios.first]
    return out + [("model_id", str(v), bases == v) for v in sorted(set(bases.tolist()))]


def _cross(
    rows: pd.DataFrame, method: str, seed: int, facts: Facts | None
) -> tuple[NDArray[np.float64], float]:
    """Return what a method says about every row, fitted without its scenario, and seconds."""
    if method in RULES:
        return RULES[method](rows), 0.0
    keys = [c for c in WORK if c in rows.columns]
    codes = rows.groupby(keys, dropna=False).ngroup().to_numpy()
    fold = np.random.default_rng(seed).permutation(codes.max() + 1)[codes] % FOLDS

    def run(train: pd.DataFrame, test: pd.DataFrame) -> NDArray[np.float64]:
        if method == NAME:
            return fit_serving(train, facts).predict_per_token(test)
        return learn(method, train, test, seed)

    score = np.zeros(len(rows))
    started = time.perf_counter()
    for part in range(FOLDS):
        inside = fold == part
        if inside.any():
            score[inside] = run(rows[~inside], rows[inside])
    return score, (time.perf_counter() - started) / FOLDS


def learn(method: str, train: pd.DataFrame, test: pd.DataFrame, seed: int) -> NDArray[np.float64]:
    """Fit a learner to the logarithm of the energy per output token and predict it, J."""
    model = learner(method, seed)
    tasks = sorted(set(train["task"].astype(str))) if "task" in train.columns else []
    kinds = sorted(set(train["hardware"].astype(str)))
    target = np.log(column(train, "energy_per_output_token_j"))
    model.fit(_features(train, tasks, kinds), target)  # type: ignore[attr-defined]
    found = model.predict(_features(test, tasks, kinds))  # type: ignore[attr-defined]
    energy: NDArray[np.float64] = np.exp(np.asarray(found, dtype=np.float64))
    return energy


def _features(
    frame: pd.DataFrame, tasks: Sequence[str], kinds: Sequence[str]
) -> NDArray[np.float64]:
    names = ("num_gpus", "tensor_parallel", "expert_parallel", "data_parallel", "batch")
    columns = [np.log2(column(frame, name, default=1.0)) for name in names]
    columns += [np.log2(column(frame, n, default=1.0)) for n in ("params_total", "params_active")]
    if "precision" in frame.columns:
        columns.append(frame["precision"].map(WEIGHT_BYTES).fillna(2.0).to_numpy(dtype=np.float64))
    for name, values in (("task", tasks), ("hardware", kinds)):
        columns += [(frame[name].astype(str) == v).to_numpy(dtype=np.float64) for v in values]
    return np.column_stack(columns)


def _predictions(
    rows: pd.DataFrame, runs: dict[str, list[tuple[NDArray[np.float64], float]]]
) -> pd.DataFrame:
    """Return predicted totals of the first seed, J; no row was in its own training rows."""
    import pandas as pd

    tokens = column(rows, "total_energy_j") / column(rows, "energy_per_output_token_j")
    names = rows["task_id"] if "task_id" in rows.columns else rows.index.astype(str)
    parts = [
        pd.DataFrame(
            {
                "task_id": names,
                "method": method,
                "samples": len(rows) * (FOLDS - 1) // FOLDS,
                "predicted": found[0][0] * tokens,
                "fitted": False,
            }
        )
        for method, found in runs.items()
        if method not in RULES
    ]
    return pd.concat(parts, ignore_index=True)


def _notes(frame: pd.DataFrame, rows: pd.DataFrame) -> list[str]:
    notes = [
        f"These rows have no input lengths, so the pooled law {NAME} stands in for energylens12; "
        "energies are per output token, errors are on scenarios that were not fitted (5-fold), "
        "and S2 and S3 have no latency limit."
    ]
    left = len(frame) - len(rows)
    if left:
        notes.append(
            f"{left} rows are left out: not valid, or no output tokens (image and video "
            "generation)."
        )
    return notes
