"""How often 95 % prediction intervals hold rows that were not fitted.

Usage: python benchmarks/intervals.py RUN_DIR [--samples 50] [--seeds 0 1 2]
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd

KINDS = ("prefill", "decode", "total")


def covered(frame: pd.DataFrame, samples: int, seed: int) -> pd.DataFrame:
    """Fit each (model, hardware) to some rows and judge the intervals of its others.

    Returns
    -------
    DataFrame
        One row an unseen row: family, hardware, and for each kind of energy whether its interval
        holds it, and its relative half width.
    """
    from fitting import fit_frame
    from fitting.rows import pairs, sample_order, usable

    rows, _ = usable(frame)
    fit = fit_frame(rows, samples=samples, seed=seed, pooled=False)
    parts = []
    for group in pairs(rows):
        unseen = group.rows.iloc[sample_order(group.hashes, None, seed)[samples:]]
        if not len(unseen):
            continue
        out = fit.predict_phases(unseen)
        found = {"family": unseen["family"], "hardware": unseen["hardware"]}
        for kind in KINDS:
            name = f"{kind}_energy_j"
            held = unseen[name].between(out[f"{name}_lo"], out[f"{name}_hi"])
            # A single output token has no decode energy: nothing to hold.
            found[kind] = held.where(unseen[name] > 0.0)
            found[f"{kind}_width"] = out[f"{name}_hi"] / out[name] - 1.0
        parts.append(pd.DataFrame(found))
    return pd.concat(parts)


def main() -> None:
    """Print one line a seed, then one a family and GPU type."""
    from harness.store import read_measurements

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir")
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    frame = read_measurements(arguments.run_dir)
    runs = {seed: covered(frame, arguments.samples, seed) for seed in arguments.seeds}
    print(f"{'unseen rows in 95 % intervals':<30}{'rows':>8}" + "".join(f"{k:>10}" for k in KINDS))
    for seed, found in runs.items():
        print(line(f"seed {seed}", found))
    joined = pd.concat(runs.values())
    for column in ("family", "hardware"):
        for name, found in joined.groupby(column):
            print(line(str(name), found))
    print(line("all", joined))
    width = np.median(joined["total_width"])
    print(f"median half width of the total: {100 * width:.1f} %")


def line(label: str, found: pd.DataFrame) -> str:
    """Return one line of the table, shares in per cent."""
    shares = "".join(f"{100 * found[k].astype(float).mean():>10.1f}" for k in KINDS)
    return f"{label:<30}{len(found):>8,}{shares}"


if __name__ == "__main__":
    main()
