"""How often each method picks the configuration that uses least, over sample budgets and seeds.

Usage: python benchmarks/selection.py RUN_DIR [--parts classes groups curves divergence levers]
       [--samples 50 ...] [--seeds 0 ...] [--classes S1 ... | all] [--methods NAME ... | all]
       [--hold-out 0.3]
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from fitting import Evaluation

PARTS = ("classes", "groups", "curves", "divergence", "levers")
GROUPS = ("num_gpus", "family", "modality", "hardware")
HEAD = (
    f"{'':<26}{'rows':>5}{'n':>6}{'Top-1':>7}{'95 % CI':>13}{'strict':>8}{'<1 %':>7}{'pairs':>7}"
    f"{'regret':>8}{'worst':>8}{'MAPE':>8}{'median':>8}{'cover':>7}{'fit ms':>8}"
)


def main() -> None:
    """Print the parts asked for; what docs/benchmarks.md and docs/evaluation.md quote."""
    from energylens.facts import facts_for
    from fitting import divergence, evaluate
    from fitting.levers import levers
    from harness.store import read_measurements

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--samples", type=int, nargs="+", default=[50])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--classes", nargs="+", default=["all"])
    parser.add_argument("--methods", nargs="+", default=["all"])
    parser.add_argument("--main", type=int, default=50, help="budget of the tables by class")
    parser.add_argument("--hold-out", type=float, default=0.0, help="share of workloads")
    arguments = parser.parse_args()
    frame = read_measurements(arguments.run_dir)
    if {"classes", "groups", "curves"} & set(arguments.parts):
        started = time.perf_counter()
        found = evaluate(
            frame,
            samples=arguments.samples,
            seeds=arguments.seeds,
            classes=arguments.classes,
            methods=arguments.methods,
            facts=facts_for(frame),
            hold_out=arguments.hold_out,
        )
        _scores(found, arguments.parts, arguments.main)
        print(f"evaluated {len(frame)} rows in {time.perf_counter() - started:.1f} s")
    if "divergence" in arguments.parts:
        _divergence(divergence(frame))
    if "levers" in arguments.parts:
        _levers(levers(frame))


def _scores(found: Evaluation, parts: list[str], main: int) -> None:
    """Print scores: one table a class, by group, and over budgets."""
    scores = found.scores
    budgets = sorted(scores["samples"].unique())
    shown = main if main in budgets else budgets[0]
    overall = scores[scores["group_kind"] == "all"]
    if "classes" in parts:
        for name, part in overall[overall["samples"] == shown].groupby("scenario_class"):
            print(f"\n{name}, {shown} rows a pair\n{HEAD}")
            for _, row in part.sort_values("top1", ascending=False).iterrows():
                print(_line(row["method"] + (" *" if row["knows"] else ""), row))
        print("* knows the true latency or throughput")
    if "groups" in parts:
        _groups(scores[scores["scenario_class"] == "S1"], budgets)
    if "curves" in parts and len(budgets) > 1:
        _curves(overall, budgets)
    print()
    for note in found.notes:
        print(f"note: {note}")


def _groups(scores: pd.DataFrame, budgets: list[int]) -> None:
    """Print S1 by group for the laws and the three best learners, at every budget."""
    best = scores[(scores["group_kind"] == "all") & (scores["kind"] == "learner")]
    rivals = best.groupby("method")["top1"].mean().sort_values(ascending=False).index[:3]
    laws = list(dict.fromkeys(scores["method"][scores["kind"].eq("law")]))
    for method in [*laws, *rivals]:
        for budget in budgets:
            part = scores[(scores["method"] == method) & (scores["samples"] == budget)]
            print(f"\nS1 by group, {method}, {budget} rows a pair\n{HEAD}")
            for kind in GROUPS:
                rows = part[part["group_kind"] == kind]
                for _, row in rows.iterrows():
                    print(_line(f"{kind}={row['group']}"[:26], row))
                if kind == "num_gpus" and len(rows):
                    top1, regret = 100 * rows["top1"].mean(), 100 * rows["mean_regret"].mean()
                    print(f"{'mean of GPU counts':<37}{top1:>7.1f}{'':>35}{regret:>8.2f}")


def _curves(overall: pd.DataFrame, budgets: list[int]) -> None:
    """Print Top-1, regret and MAPE of every method by the rows it learned from."""
    for name, part in overall.groupby("scenario_class"):
        for key, label in (("top1", "Top-1"), ("mean_regret", "mean regret"), ("mape", "MAPE")):
            print(f"\n{name}, {label} in % by rows a pair\n{'':<26}", end="")
            print("".join(f"{budget:>8}" for budget in budgets))
            last = part[part["samples"] == budgets[-1]].sort_values("top1", ascending=False)
            for method in last["method"]:
                rows = part[part["method"] == method].set_index("samples")[key]
                values = [100 * rows.get(budget, float("nan")) for budget in budgets]
                if any(v == v for v in values):
                    print(f"{method:<26}" + "".join(f"{v:>8.2f}" for v in values))
        used = part.groupby("samples")[["rows_used", "unfitted_rows"]].max()
        print("rows used, mean over pairs: " + ", ".join(f"{v:.0f}" for v in used["rows_used"]))
        print("rows left to test: " + ", ".join(f"{v:.0f}" for v in used["unfitted_rows"]))


def _line(label: str, row: pd.Series[Any]) -> str:
    """Return one row of a table, shares in per cent."""

    def share(name: str, width: int, digits: int = 1) -> str:
        value = row[name]
        return f"{'-':>{width}}" if value != value else f"{100 * value:>{width}.{digits}f}"

    band = f"{100 * row['top1_lo']:.1f}-{100 * row['top1_hi']:.1f}"
    return (
        f"{label:<26}{row['samples']:>5}{row['scenarios']:>6}{share('top1', 7)}{band:>13}"
        f"{share('top1_strict', 8)}{share('top1_within_1pct', 7)}{share('pairwise', 7)}"
        f"{share('mean_regret', 8, 2)}{share('max_regret', 8)}{share('mape', 8)}"
        f"{share('median_ape', 8)}{share('coverage', 7)}{1e3 * row['fit_seconds']:>8.1f}"
    )


def _divergence(split: dict[str, Any]) -> None:
    """Print how often latency and energy choose differently, and where."""
    for name, part in (
        ("GPU count fixed", split),
        ("GPU count free", split["all_free"]),
        ("GPU count and batch free, per output token", split["batch_free"]),
    ):
        if part["share"] is None:
            continue
        head = f"{'n':>6}{'share':>8}{'mean':>8}{'max':>8}"
        print(f"\nfastest is not thriftiest: {name}\n{'':<34}{head}")
        for row in ({"kind": "all", "group": "", **part}, *part["by"]):
            values = (row["share"], row["mean_penalty"], row["max_penalty"])
            text = "".join(f"{100 * v:>8.1f}" for v in values)
            print(f"{row['kind'] + ' ' + str(row['group']):<34}{row['scenarios']:>6}{text}")


def _levers(found: list[dict[str, Any]]) -> None:
    """Print which levers cost energy, and where."""
    head = f"{'cases':>6}{'backfires':>11}{'mean':>8}{'median':>8}{'worst':>8}"
    print(f"\nlevers, change of energy per output token in %\n{'':<34}{head}")
    for lever in found:
        values = (lever["mean_change"], lever["median_change"], lever["worst_change"])
        text = "".join(f"{100 * v:>8.1f}" for v in values)
        ratio = lever["mean_prefill_ratio"]
        print(
            f"{lever['lever']:<34}{lever['cases']:>6}{100 * lever['share_backfires']:>11.1f}{text}"
            + (f"  prefill x {ratio:.2f}" if ratio else "")
        )
        for row in lever["by"]:
            if row["kind"] in ("tensor_parallel", "batch", "hardware"):
                print(
                    f"  {row['kind'] + ' ' + str(row['group']):<32}{row['cases']:>6}"
                    f"{100 * row['share_backfires']:>11.1f}{100 * row['mean_change']:>8.1f}"
                )


if __name__ == "__main__":
    main()
