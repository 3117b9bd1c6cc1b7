"""Error of the twin's operator power law beside gradient boosting, per operator and GPU.

    python benchmarks/twin_power.py [DATA_FOLDER] [--split test]

Both are fitted on the same rows (train and validation when --split is test, else train) and
scored on the same held-out shapes. The reference is scikit-learn's histogram gradient boosting
on log power with every shape column, the framework, number formats, kernel, routing and latency;
one model for each operator and GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from calibrate_twin_power import fit_named
from calibrate_twin_power_rows import (
    DEFAULT_DATA,
    SHORTEST_MS,
    floors,
    law_rows,
    load_operators,
    relative_errors,
)

from harness.engines.twin.work import TABLE_SHAPE_COLUMNS

CATEGORIES = (
    *("framework", "phase", "dtype", "kv_cache_dtype", "gemm_type", "distribution"),
    "kernel_source",
)


def reference_errors(frame: pd.DataFrame, fitted: tuple[str, ...], held: str) -> pd.DataFrame:
    """Relative error of gradient boosting on every held-out row: columns op, hardware, error."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    parts = []
    for (op, hardware), group in frame.groupby(["op", "hardware"]):
        table = group[list(TABLE_SHAPE_COLUMNS)].astype("float64")
        for name in CATEGORIES:
            table[name] = group[name].astype("category").cat.codes.astype("float64")
        table["log_latency"] = np.log(group["latency_ms"].astype("float64"))
        table = table.loc[:, table.nunique() > 1]
        known = group["split"].isin(fitted).to_numpy()
        asked = (group["split"] == held).to_numpy()
        target = np.log(group["power_w"].to_numpy(np.float64))
        model = HistGradientBoostingRegressor(
            max_iter=400,
            learning_rate=0.06,
            random_state=0,
            categorical_features=[
                table.columns.get_loc(name) for name in CATEGORIES if name in table
            ],
        ).fit(table[known], target[known])
        error = np.abs(np.exp(model.predict(table[asked]) - target[asked]) - 1.0)
        parts.append(pd.DataFrame({"op": op, "hardware": hardware, "error": error}))
    return pd.concat(parts, ignore_index=True)


def law_errors(
    frame: pd.DataFrame, floors_w: dict[str, float], fitted: tuple[str, ...], held: str
) -> pd.DataFrame:
    """Relative error of the power law on the same rows: columns op, hardware, error."""
    parts = []
    for name, rows in law_rows(frame, floors_w).items():
        known: npt.NDArray[np.bool_] = np.isin(rows.split, fitted)
        law = fit_named(rows.take(known), name)
        asked = rows.take(rows.split == held)
        parts.append(
            pd.DataFrame(
                {
                    "op": asked.operator,
                    "hardware": asked.hardware,
                    "error": relative_errors(law, asked),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def compare(folder: Path, held: str) -> dict[str, pd.DataFrame]:
    """Tables by operator, and by operator and GPU.

    Columns: rows, our and the reference's median and mean error, and the ratio of the medians.
    """
    frame = load_operators(folder)
    floors_w = floors(frame)
    frame = frame[frame["latency_ms"] > SHORTEST_MS]
    fitted = ("train", "validation") if held == "test" else ("train",)
    ours = law_errors(frame, floors_w, fitted, held)
    reference = reference_errors(frame, fitted, held)
    return {
        "operator": _table(ours, reference, ["op"]),
        "operator and GPU": _table(ours, reference, ["op", "hardware"]),
    }


def _table(ours: pd.DataFrame, reference: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    law, other = ours.groupby(keys)["error"], reference.groupby(keys)["error"]
    table = pd.DataFrame(
        {
            "rows": law.size(),
            "law_median": law.median(),
            "reference_median": other.median(),
            "ratio": law.median() / other.median(),
            "law_mean": law.mean(),
            "reference_mean": other.mean(),
        }
    )
    return table


def main(arguments: Iterable[str] | None = None) -> None:
    """Print the comparison as a Markdown table."""
    parser = argparse.ArgumentParser(description="Power law against gradient boosting.")
    parser.add_argument("data", nargs="?", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    options = parser.parse_args(None if arguments is None else list(arguments))
    for table in compare(options.data, options.split).values():
        names = list(table.index.names)
        print(f"\n| {' | '.join(names)} | rows | law | boosting | ratio | means |")
        print("|---" * (len(names) + 5) + "|")
        for row in table.reset_index().itertuples(index=False):
            print(
                f"| {' | '.join(str(getattr(row, name)) for name in names)} | {row.rows} |"
                f" {row.law_median:.1%} | {row.reference_median:.1%} | {row.ratio:.2f} |"
                f" {row.law_mean:.1%}, {row.reference_mean:.1%} |"
            )


if __name__ == "__main__":
    main()
