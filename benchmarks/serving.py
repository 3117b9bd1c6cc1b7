"""How well the serving law foretells published serving rows that it has not seen.

Usage: python benchmarks/serving.py RUN_DIR [--seeds 3] [--rows 5] [--splits model hardware task]

RUN_DIR holds imported rows (`energylens import mlenergy FOLDER --out RUN_DIR`).
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from fitting.facts import Facts

LEARNERS = ("gradient_boosting", "random_forest")


def main() -> None:
    """Print errors by split, then how often the best configuration is chosen."""
    from energylens.facts import facts_for
    from fitting.serving import serving_rows
    from harness.store import read_measurements

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=5)
    parser.add_argument("--splits", nargs="+", default=["model", "hardware", "task"])
    arguments = parser.parse_args()
    rows = serving_rows(read_measurements(arguments.run_dir)).reset_index(drop=True)
    facts = facts_for(rows)
    print(f"{len(rows)} rows, {rows['model_id'].nunique()} models")
    for kind in arguments.splits:
        errors(rows, facts, kind)
    choose(rows, facts, arguments.rows, arguments.seeds)


def errors(rows: pd.DataFrame, facts: Facts, kind: str) -> None:
    """Print errors of rows whose group was left out, and the coverage of the intervals."""
    from fitting.serving import fit_serving
    from fitting.serving.splits import leave_one_out
    from fitting.serving_eval import learn

    target = rows["energy_per_output_token_j"].to_numpy(dtype=np.float64)
    found = {name: np.zeros(len(rows)) for name in ("energylens_serving", *LEARNERS)}
    inside = np.zeros(len(rows), dtype=bool)
    print(f"\nleave one {kind} out: MAPE in per cent, coverage of the 95 % interval")
    for split in leave_one_out(rows, kind, facts):
        test = rows[split.test]
        law = fit_serving(rows[split.train], facts)
        found["energylens_serving"][split.test] = law.predict_per_token(test, facts)
        low, high = law.interval_per_token(test, facts)
        inside[split.test] = (low <= target[split.test]) & (target[split.test] <= high)
        for name in LEARNERS:
            found[name][split.test] = learn(name, rows[split.train], test, 0)
        line = "".join(
            f"{100 * np.abs(v[split.test] / target[split.test] - 1).mean():9.1f}"
            for v in found.values()
        )
        names = ", ".join(sorted({str(m).split("/")[-1] for m in test["model_id"]}))
        label = names if kind == "model" else split.name
        print(f"{label[:36]:<38}{split.test.sum():4d}{line}{100 * inside[split.test].mean():7.0f}")
    for name, values in found.items():
        error = 100 * np.abs(values / target - 1)
        covered = f"  coverage {100 * inside.mean():.1f}" if name == "energylens_serving" else ""
        print(f"{name:<20} MAPE {error.mean():.1f}  median {np.median(error):.1f}{covered}")


def choose(rows: pd.DataFrame, facts: Facts, count: int, seeds: int) -> None:
    """Print Top-1, Top-1 within 5 % and regret on scenarios of models seen in a few rows."""
    import pandas as pd

    from fitting.serving import fit_serving
    from fitting.serving.splits import choices, few_rows, leave_one_out

    target = rows["energy_per_output_token_j"].to_numpy(dtype=np.float64)
    scenarios = choices(rows)
    none = np.zeros((seeds, len(rows)))
    few = np.zeros((seeds, len(rows)))
    measured = np.zeros((seeds, len(rows)), dtype=bool)
    for split in leave_one_out(rows, "model", facts):
        shared = fit_serving(rows[split.train], facts)
        test = rows[split.test]
        none[:, split.test] = shared.predict_per_token(test, facts)
        for seed in range(seeds):
            picked = few_rows(rows, facts, split.name, count, seed)
            known = pd.concat([rows[split.train], rows.iloc[picked]])
            adapted = fit_serving(known, facts, shared=shared)
            few[seed, split.test] = adapted.predict_per_token(test, facts)
            measured[seed, picked] = True
    fewest = np.tile(rows["num_gpus"].to_numpy(dtype=np.float64), (seeds, 1))
    print(f"\nchoice of GPU count, parallelism and precision, {seeds} seeds")
    nobody = np.zeros_like(measured)
    for label, score, hidden in (
        ("fewest GPUs", fewest, nobody),
        ("law, no row of the model", none, nobody),
        (f"law, {count} rows of the model", few, nobody),
        ("  no candidate measured", few, measured),
    ):
        found = [judged(target, s, scenarios, m) for s, m in zip(score, hidden, strict=True)]
        top1, near, regret, n = np.mean(found, axis=0)
        print(
            f"{label:<28} n {n:5.0f}  Top-1 {100 * top1:5.1f}  within 5 % {100 * near:5.1f}"
            f"  regret {100 * regret:5.2f} %"
        )
    unseen = ~measured
    wrong = np.abs(few / target - 1)[unseen].mean()
    print(f"MAPE of rows that were not measured: {100 * wrong:.1f} %")


def judged(
    target: NDArray[np.float64],
    score: NDArray[np.float64],
    scenarios: NDArray[np.intp],
    measured: NDArray[np.bool_],
) -> tuple[float, float, float, int]:
    """Return Top-1, Top-1 within 5 %, mean regret and scenarios; ties of the score share."""
    top1, near, regret = [], [], []
    for row in scenarios:
        candidates = row[row >= 0]
        if measured[candidates].any():
            continue
        lowest = score[candidates] <= score[candidates].min() * (1.0 + 1e-9)
        chosen = target[candidates[lowest]] / target[candidates].min()
        top1.append(float((chosen <= 1.0).mean()))
        near.append(float((chosen <= 1.05).mean()))
        regret.append(float((chosen - 1.0).mean()))
    return float(np.mean(top1)), float(np.mean(near)), float(np.mean(regret)), len(top1)


if __name__ == "__main__":
    main()
