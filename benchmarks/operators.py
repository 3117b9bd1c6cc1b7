"""How far the laws of operators are off on a GPU type of which 5 % of the calls were fitted.

Usage: python benchmarks/operators.py OPS.parquet [--seeds 0 1] [--share 0.05]
"""

from __future__ import annotations

import argparse
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

SETTLED_MS = 0.05
"""Kernels above that are measured well; a second column judges on those alone."""


def main() -> None:
    """Print median absolute relative errors on the other calls, by operator and pair."""
    import pandas as pd

    from energylens.facts import hardware_facts
    from fitting.operators import fit_operators

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--share", type=float, default=0.05)
    arguments = parser.parse_args()
    calls = pd.read_parquet(arguments.table).reset_index(drop=True)
    names = sorted(calls["hardware"].unique())
    hardware = {h: f for h in names if (f := hardware_facts(str(h))) is not None}
    head = "law  >50us  boost  >50us  floor  >50us"
    for first, second in itertools.permutations(hardware, 2):
        source = calls[calls["hardware"] == first]
        laws = fit_operators(source, hardware)
        target = calls[calls["hardware"] == second].reset_index(drop=True)
        errors: dict[str, list[Any]] = {}
        for seed in arguments.seeds:
            few = few_of(target, arguments.share, seed)
            rest = target[~few].reset_index(drop=True)
            truth = rest["energy_j"].to_numpy()
            law = np.abs(laws.adapted(target[few]).predict(rest) / truth - 1.0)
            boost = np.abs(boosted(pd.concat([source, target[few]]), rest, hardware) / truth - 1.0)
            floor = np.abs(in_domain(target, hardware)[~few] / truth - 1.0)
            settled = rest["latency_ms"].to_numpy() > SETTLED_MS
            for op in [*sorted(rest["op"].unique()), "all"]:
                here = np.ones(len(rest), bool) if op == "all" else (rest["op"] == op).to_numpy()
                errors.setdefault(op, []).append(
                    [
                        float(np.median(e[here & where])) if (here & where).any() else np.nan
                        for e in (law, boost, floor)
                        for where in (np.ones(len(rest), bool), settled)
                    ]
                )
        print(
            f"\n{first} -> {second}, median error %, {len(arguments.seeds)} seeds\n{'':<24}{head}"
        )
        for op, found in errors.items():
            mean = 100.0 * np.mean(found, axis=0)
            print(f"{op:<24}" + "".join(f"{v:>6.1f}" for v in mean), flush=True)


def few_of(target: pd.DataFrame, share: float, seed: int) -> Any:
    """Mark a share of the calls of each operator, at random, shape (rows,)."""
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(target), dtype=bool)
    for _, positions in sorted(target.groupby("op").indices.items()):
        chosen[rng.choice(positions, max(round(share * len(positions)), 1), replace=False)] = True
    return chosen


def _features(op: str, rows: pd.DataFrame, hardware: Any, labels: list[str]) -> Any:
    from fitting.operators.work import demand, kernels

    promise, x = demand(op, rows, hardware)
    kernel = np.array([labels.index(k) for k in kernels(rows)])
    return np.column_stack([np.log(promise), x, kernel, (rows["hardware"] == labels[-1]) * 1.0])


def _trees(op: str, train: pd.DataFrame, test: pd.DataFrame, hardware: Any) -> Any:
    """Predict with gradient boosting on the same facts and the kernel as a category."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    from fitting.operators.work import kernels

    labels = [*sorted({*kernels(train), *kernels(test)}), str(test["hardware"].iloc[0])]
    features = _features(op, train, hardware, labels)
    model = HistGradientBoostingRegressor(
        max_iter=200, categorical_features=[features.shape[1] - 2], random_state=0
    )
    model.fit(features, np.log(train["energy_j"].to_numpy()))
    return np.exp(model.predict(_features(op, test, hardware, labels)))


def boosted(train: pd.DataFrame, test: pd.DataFrame, hardware: Any) -> Any:
    """Predict the test calls from the rows that the law has: the first GPU type and a few."""
    result = np.full(len(test), np.nan)
    for op, positions in test.groupby("op").indices.items():
        part = train[train["op"] == op]
        result[positions] = _trees(str(op), part, test.iloc[positions], hardware)
    return result


def in_domain(target: pd.DataFrame, hardware: Any) -> Any:
    """Predict every call from the other four fifths of its own GPU type: about the noise floor."""
    result = np.full(len(target), np.nan)
    folds = np.random.default_rng(0).permutation(len(target)) % 5
    for op, positions in target.groupby("op").indices.items():
        for fold in range(5):
            test = positions[folds[positions] == fold]
            train = positions[folds[positions] != fold]
            result[test] = _trees(str(op), target.iloc[train], target.iloc[test], hardware)
    return result


if __name__ == "__main__":
    main()
