"""How far the law of image and video generation is off, and how well it chooses.

Usage: python benchmarks/diffusion.py RUN_DIR [--seeds 0 1 2] [--coverage]
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

    from fitting.diffusion.scoring import Predict
    from fitting.facts import Facts

FEATURES = (
    "batch",
    "diffusion_steps",
    "output_height",
    "output_width",
    "frames",
    "ulysses_degree",
    "ring_degree",
    "num_gpus",
    "params_total",
    "layers",
    "width",
    "token_params",
    "attention_layers",
    "activation_widths",
    "joint_text_tokens",
    "passes_per_step",
    "power_limit",
    "peak",
    "bandwidth",
)
CHOICES = ("free", "count", "degrees", "limit")
FEW = 5


def main() -> None:
    """Print errors under each split, then choices with a few rows of the model."""
    from energylens.facts import facts_for
    from fitting.diffusion import diffusion_rows, fit_diffusion
    from fitting.diffusion.scoring import SPLITS, out_of_sample
    from fitting.facts import Facts
    from harness.store import read_measurements

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--coverage", action="store_true", help="intervals too: minutes")
    arguments = parser.parse_args()
    rows = diffusion_rows(read_measurements(arguments.run_dir)).reset_index(drop=True)
    facts = facts_for(rows)
    started = time.perf_counter()
    law = fit_diffusion(rows, facts)
    print(law.formula())
    print(f"{len(rows)} rows, fitted with intervals in {time.perf_counter() - started:.1f} s")
    print("half widths of log energy:", {k: round(v, 3) for k, v in law.half_widths.items()})

    def ours(given: Facts) -> Callable[[pd.DataFrame], Predict]:
        def fit(part: pd.DataFrame) -> Predict:
            fitted = fit_diffusion(part, facts, intervals=False)
            return lambda test: fitted.predict(test, given)

        return fit

    methods: dict[str, Callable[[pd.DataFrame], Predict]] = {
        "energylens_diffusion": ours(facts),
        "gradient boosting": _learner("boosting", facts),
        "random forest": _learner("forest", facts),
    }
    truth = rows["total_energy_j"].to_numpy()
    video = rows["output_frames"].to_numpy(dtype=float, na_value=np.nan) > 0
    print(f"\nMAPE, %\n{'left out':<10}{'method':<26}{'all':>7}{'image':>7}{'video':>7}")
    for name in SPLITS:
        for method, fit in methods.items():
            off = []
            for seed in arguments.seeds if name == "folds" else [0]:
                found = out_of_sample(rows, facts, name, fit, seed=seed)
                off.append(np.abs(found / truth - 1.0))
            _print_line(name, method, np.mean(off, axis=0), video)
    found = out_of_sample(rows, facts, "model", ours(Facts(facts.hardware)))
    error = np.abs(found / truth - 1.0)
    _print_line("model", "architecture estimated", error, video)
    _models(rows, facts, ours(facts))
    _choose(rows, facts, arguments.seeds)
    if arguments.coverage:
        _coverage(rows, facts)


def _print_line(name: str, method: str, error: Any, video: Any) -> None:
    parts = [error.mean(), error[~video].mean(), error[video].mean()]
    print(f"{name:<10}{method:<26}" + "".join(f"{100 * p:>7.1f}" for p in parts), flush=True)


def _models(rows: pd.DataFrame, facts: Facts, fit: Callable[[pd.DataFrame], Predict]) -> None:
    """Print the error of each model that was left out."""
    from fitting.diffusion.scoring import out_of_sample

    ratio = out_of_sample(rows, facts, "model", fit) / rows["total_energy_j"].to_numpy() - 1.0
    print("\nleft-out model: MAPE and bias, %")
    for name, positions in rows.groupby("model_id").indices.items():
        part = ratio[positions]
        print(f"{name:<56}{100 * np.abs(part).mean():>7.1f}{100 * part.mean():>7.1f}")


def _features(rows: pd.DataFrame, facts: Facts) -> Any:
    """Return the same facts that the law uses, as logarithms, shape (rows, 19)."""

    def of(known: Any, names: Any, field: str) -> Any:
        return np.array([float(getattr(known[str(n)], field)) for n in names])

    table = {
        name: rows[name].to_numpy(dtype=float, na_value=np.nan)
        for name in FEATURES
        if name in rows.columns
    }
    table["frames"] = np.nan_to_num(rows["output_frames"].to_numpy(float, na_value=np.nan), nan=1.0)
    for name in FEATURES[9:16]:
        table[name] = of(facts.diffusion, rows["model_id"], name)
    table["power_limit"] = of(facts.hardware, rows["hardware"], "power_limit_w")
    table["bandwidth"] = of(facts.hardware, rows["hardware"], "memory_bandwidth_bytes_per_s")
    table["peak"] = np.array([facts.hardware[str(h)].peak_flops["bf16"] for h in rows["hardware"]])
    return np.log(np.maximum(np.column_stack([table[name] for name in FEATURES]), 0.1))


def _learner(kind: str, facts: Facts) -> Callable[[pd.DataFrame], Predict]:
    """Return a tree learner on log energy, with the work of each row in its features."""

    def fit(part: pd.DataFrame) -> Predict:
        from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor

        model = (
            GradientBoostingRegressor(n_estimators=200, max_depth=4, random_state=0)
            if kind == "boosting"
            else RandomForestRegressor(n_estimators=200, random_state=0)
        )
        model.fit(_features(part, facts), np.log(part["total_energy_j"].to_numpy()))
        return lambda test: np.exp(model.predict(_features(test, facts)))

    return fit


def _choose(rows: pd.DataFrame, facts: Facts, seeds: list[int]) -> None:
    """Print Top-1 and regret: the law adapted to 5 rows of a model that it was not fitted on."""
    from fitting.diffusion import fit_diffusion
    from fitting.diffusion.scoring import score_choices, splits

    gpus = rows["num_gpus"].to_numpy(dtype=float)
    batch = rows["batch"].to_numpy(dtype=float)
    plain: dict[str, list[Any]] = {
        "fewest GPUs": [gpus],
        "largest batch": [-batch],
        "fewest GPUs, then batch": [gpus - batch / 1e3],
        "largest Ulysses degree": [-rows["ulysses_degree"].to_numpy(dtype=float)],
    }
    kinds: dict[str, list[Any]] = {"law, model unseen": [], f"law, {FEW} rows": []}
    boosted: list[Any] = []
    for seed in seeds:
        unseen, few, trees = (np.zeros(len(rows)) for _ in range(3))
        for train, test in splits(rows, facts, "model"):
            law = fit_diffusion(rows.iloc[train], facts, intervals=False)
            some = np.random.default_rng(seed).choice(test, FEW, replace=False)
            part = rows.iloc[test]
            unseen[test] = law.predict(part, facts)
            few[test] = law.adapted(rows.iloc[some], facts).predict(part)
            both = rows.iloc[np.r_[train, some]]
            trees[test] = _learner("boosting", facts)(both)(part)
        kinds["law, model unseen"].append(unseen / batch)
        kinds[f"law, {FEW} rows"].append(few / batch)
        boosted.append(trees / batch)
        error = np.abs(few * 1.0 / rows["total_energy_j"].to_numpy() - 1.0).mean()
        print(f"\nseed {seed}: MAPE with {FEW} rows of the model {100 * error:.1f} %")
    table = kinds | {f"boosting, {FEW} rows": boosted} | plain
    print(f"{'choice':<9}{'method':<26}{'n':>5}{'Top-1':>8}{'<1 %':>7}{'regret':>8}{'worst':>8}")
    for name in CHOICES:
        for method, predictions in table.items():
            found = [score_choices(rows, p, name) for p in predictions]
            mean = {k: float(np.mean([f[k] for f in found])) for k in found[0]}
            print(
                f"{name:<9}{method:<26}{mean['choices']:>5.0f}{100 * mean['top1']:>8.1f}"
                f"{100 * mean['top1_within_1pct']:>7.1f}{100 * mean['regret']:>8.2f}"
                f"{100 * mean['worst']:>8.1f}"
            )


def _coverage(rows: pd.DataFrame, facts: Facts) -> None:
    """Print the share of rows inside of their 95 % intervals."""
    from fitting.diffusion import fit_diffusion
    from fitting.diffusion.scoring import splits

    truth = rows["total_energy_j"].to_numpy()
    for name in ("folds", "model", "hardware"):
        inside = np.zeros(len(rows))
        for train, test in splits(rows, facts, name):
            found = fit_diffusion(rows.iloc[train], facts).predict_phases(rows.iloc[test], facts)
            low, high = found["total_energy_j_lo"], found["total_energy_j_hi"]
            inside[test] = (low <= truth[test]) & (truth[test] <= high)
        print(f"inside of the 95 % interval, left out by {name}: {100 * inside.mean():.1f} %")


if __name__ == "__main__":
    main()
