"""How often each method picks the configuration that uses least: S1 to S3 of a run folder.

Usage: python benchmarks/selection.py RUN_DIR [--samples 50 ...] [--seeds 0 ...]
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def main() -> None:
    """Print one table a scenario class, then S1 by GPU count, family, modality and GPU type."""
    from fitting import evaluate
    from harness.store import read_measurements

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir")
    parser.add_argument("--samples", type=int, nargs="+", default=[50])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    frame = read_measurements(arguments.run_dir)
    started = time.perf_counter()
    found = evaluate(frame, samples=arguments.samples, seeds=arguments.seeds)
    seconds = time.perf_counter() - started
    scores = found.scores
    head = (
        f"{'method':<20}{'rows':>6}{'n':>7}{'Top-1':>8}{'95 % CI':>15}{'strict':>8}{'<1 %':>7}"
        f"{'pairs':>7}{'regret':>9}{'worst':>8}{'MAPE':>8}"
    )
    for name in scores["scenario_class"].unique():
        part = scores[scores["scenario_class"] == name]
        print(f"\n{name}\n{head}")
        for _, row in part[part["group_kind"] == "all"].iterrows():
            print(_line(str(row["method"]), row))
    law = scores[(scores["scenario_class"] == "S1") & scores["method"].str.startswith("energyl")]
    print(f"\nS1, the law by group\n{head}")
    for _, row in law[
        law["group_kind"].isin(["num_gpus", "family", "modality", "hardware"])
    ].iterrows():
        print(_line(f"{row['group_kind']}={row['group']}", row))
    print()
    for note in found.notes:
        print(f"note: {note}")
    print(f"evaluated {len(frame)} rows in {seconds:.1f} s")


def _line(label: str, row: pd.Series[Any]) -> str:
    """Return one row of the table, shares in per cent."""
    get = row.__getitem__
    percent = {k: 100 * get(k) for k in ("top1", "top1_lo", "top1_hi", "top1_strict")}
    mape = "-" if get("mape") != get("mape") else f"{100 * get('mape'):.1f}"
    band = f"{percent['top1_lo']:.1f}-{percent['top1_hi']:.1f}"
    return (
        f"{label:<20}{get('samples'):>6}{get('scenarios'):>7}{percent['top1']:>8.1f}{band:>15}"
        f"{percent['top1_strict']:>8.1f}{100 * get('top1_within_1pct'):>7.1f}"
        f"{100 * get('pairwise'):>7.1f}{100 * get('mean_regret'):>9.2f}"
        f"{100 * get('max_regret'):>8.1f}{mape:>8}"
    )


if __name__ == "__main__":
    main()
