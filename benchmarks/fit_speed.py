"""Time to fit and to predict: the 12-parameter law beside ensembles of 300 trees, in one run.

Usage: python benchmarks/fit_speed.py [RUN_DIR]. Without a run folder the rows follow the law
itself with 2 % noise.
"""

from __future__ import annotations

import argparse
import itertools
import time

import numpy as np
import pandas as pd

ROWS = 50
TREES = 300
MANY = 1_000_000


def synthetic() -> pd.DataFrame:
    """Return rows of one pair that follow energylens12 with 2 % noise on each phase."""
    from fitting.forms import get_form, phase_parts
    from fitting.traits import ModelTraits

    grid = itertools.product((1, 4, 16, 64), (128, 512, 2048), (32, 256), (1, 2, 4, 8), (1, 2, 4))
    names = [
        "batch",
        "input_tokens",
        "output_tokens",
        "tensor_parallel",
        "pipeline_parallel",
    ]
    frame = pd.DataFrame(list(grid), columns=names).assign(
        model_id="synthetic/8B", hardware="H100-SXM5-80GB", precision="bf16"
    )
    form, rng = get_form("energylens12"), np.random.default_rng(0)
    work = ModelTraits().work_of(frame)
    values = np.array([0.014, 0.004, 2.0, 4.0, 0.3, 0.5, 0.8, 4e-4])
    for phase, part in phase_parts(form).items():
        energy = np.column_stack(form.columns(work, phase, [0.22, 0.1])) @ values[part]
        frame[f"{phase}_energy_j"] = energy * np.exp(0.02 * rng.standard_normal(len(frame)))
    frame["total_energy_j"] = frame["prefill_energy_j"] + frame["decode_energy_j"]
    return frame


def median_seconds(run: object, repeats: int) -> float:
    """Return the median time of some calls, s."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()  # type: ignore[operator]
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def main() -> None:
    """Print the table."""
    from sklearn.ensemble import ExtraTreesRegressor, RandomForestRegressor

    from fitting import fit_frame
    from fitting.baselines import features
    from fitting.forms import get_form
    from fitting.intervals import METHODS
    from fitting.pairfit import fit_pair
    from fitting.rows import pairs, sample_order, usable

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", nargs="?", help="run folder; synthetic rows without it")
    folder = parser.parse_args().run_dir
    if folder:
        from harness.store import read_measurements

        frame = read_measurements(folder)
    else:
        frame = synthetic()
    rows, _ = usable(frame)
    groups = [g.take(sample_order(g.hashes, ROWS, 0)) for g in pairs(rows)]
    groups = [g for g in groups if len(g.rows) == ROWS]
    form = get_form("energylens12")
    fit_pair(groups[0], form)
    law = np.median([median_seconds(lambda g=g: fit_pair(g, form), 5) for g in groups[:20]])
    inputs = features(groups[0].rows)
    target = np.log(groups[0].rows["total_energy_j"].to_numpy(dtype=np.float64))
    ensembles = {
        f"random forest, {TREES} trees": RandomForestRegressor(TREES, random_state=0, n_jobs=1),
        f"extra trees, {TREES} trees": ExtraTreesRegressor(TREES, random_state=0, n_jobs=1),
    }
    trees = {
        name: median_seconds(lambda e=ensemble: e.fit(inputs, target), 3)
        for name, ensemble in ensembles.items()
    }
    fit = fit_frame(pd.concat([g.rows for g in groups]), pooled=False)
    source = pd.concat([g.rows for g in groups], ignore_index=True)
    many = source.iloc[np.arange(MANY) % len(source)].reset_index(drop=True)
    fit.predict(many.iloc[:1000])
    law_rate = MANY / median_seconds(lambda: fit.predict(many), 3)
    some = np.tile(inputs, (200, 1))
    print(f"fit of {ROWS} rows, median of {min(len(groups), 20)} (model, hardware):")
    print(f"{'method':<28}{'fit [ms]':>12}{'predictions/s':>18}")
    print(f"{'energylens12':<28}{1e3 * law:>12.1f}{law_rate:>18,.0f}")
    for name, ensemble in ensembles.items():
        rate = len(some) / median_seconds(lambda e=ensemble: e.predict(some), 3)
        print(f"{name:<28}{1e3 * trees[name]:>12.1f}{rate:>18,.0f}")
    fastest = min(trees.values())
    for method in METHODS:
        seconds = median_seconds(lambda m=method: fit_pair(groups[0], form, intervals=m), 1)
        print(f"{f'energylens12, {method} intervals':<36}{1e3 * seconds:>10,.0f} ms")
    print(f"the law is fitted {fastest / law:.1f} times faster than the faster ensemble")


if __name__ == "__main__":
    main()
