"""How often the fastest configuration is not the one that uses least, and what that costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fitting.baselines import lowest_latency
from fitting.metrics import judge
from fitting.rows import usable
from fitting.scenarios import Scenarios, build, rectangle, workload_codes
from fitting.work import column

if TYPE_CHECKING:
    import pandas as pd

WORST = 10
"""Scenarios shown as the worst."""


def divergence(frame: pd.DataFrame) -> dict[str, Any]:
    """Compare the latency-optimal with the energy-optimal configuration.

    In scenarios of S1 (GPU count fixed, t and p free) and with t, p and GPU count all free, both
    without latency limits. Two configurations whose energies are not told apart by their
    confidence intervals do not differ.

    Parameters
    ----------
    frame
        Rows of the measurement table, with `total_latency_s`.

    Returns
    -------
    dict
        `share` of the S1 scenarios where the two differ; `mean_penalty` over those and
        `max_penalty`: extra energy of the latency optimum, as fractions; `by_family` records of
        the same; `worst` records of single scenarios; `all_free` the first four with the GPU
        count free; `scenarios` how many there are.
    """
    rows, _ = usable(frame, lengths=False)
    rows = rows.reset_index(drop=True)
    latency = lowest_latency(rows)
    rows = rows[~np.isnan(latency)].reset_index(drop=True)
    fixed = build(rows, "S1") if len(rows) else Scenarios("S1", np.zeros((0, 2), dtype=np.intp))
    result = _compare(rows, fixed)
    free = _compare(rows, _all_free(rows)) if len(rows) else result
    result["all_free"] = {k: free[k] for k in ("share", "mean_penalty", "max_penalty", "scenarios")}
    return result


def _all_free(rows: pd.DataFrame) -> Scenarios:
    codes = workload_codes(rows, ("hardware", "precision"))
    return Scenarios("S1", rectangle(codes, np.ones(len(rows), dtype=bool)))


def _compare(rows: pd.DataFrame, scenarios: Scenarios) -> dict[str, Any]:
    """Return the figures of a set of scenarios."""
    empty: dict[str, Any] = {
        "share": None,
        "mean_penalty": None,
        "max_penalty": None,
        "scenarios": 0,
        "by_family": [],
        "worst": [],
    }
    if not len(scenarios):
        return empty
    energy = scenarios.values(column(rows, "total_energy_j"), np.inf)
    half = scenarios.values(column(rows, "total_energy_j_ci95_j", default=0.0), 0.0)
    latency = scenarios.values(lowest_latency(rows), np.inf)
    choice = judge(energy, half, latency, scenarios.mask)
    differs = choice.top1 < 1.0 - 1e-9
    penalty = np.where(differs, choice.regret, 0.0)
    result = {**empty, **_figures(differs, penalty)}
    if "family" in rows.columns:
        families = rows["family"].to_numpy()[scenarios.first]
        result["by_family"] = [
            {"family": str(f), **_figures(differs[families == f], penalty[families == f])}
            for f in sorted(set(families.tolist()))
        ]
    result["worst"] = _worst(rows, scenarios, energy, latency, penalty)
    return result


def _figures(differs: Any, penalty: Any) -> dict[str, Any]:
    apart = penalty[differs]
    return {
        "share": float(differs.mean()),
        "mean_penalty": float(apart.mean()) if len(apart) else 0.0,
        "max_penalty": float(apart.max()) if len(apart) else 0.0,
        "scenarios": len(differs),
    }


def _worst(
    rows: pd.DataFrame, scenarios: Scenarios, energy: Any, latency: Any, penalty: Any
) -> list[dict[str, Any]]:
    """Return the scenarios where the fastest configuration costs most."""
    shown = ("model_id", "hardware", "num_gpus", "batch", "input_tokens", "output_tokens")
    names = [c for c in shown if c in rows.columns]
    out = []
    for i in np.argsort(-penalty, kind="stable")[:WORST]:
        if penalty[i] <= 0.0:
            break
        fast = rows.iloc[scenarios.rows[i, int(latency[i].argmin())]]
        frugal = rows.iloc[scenarios.rows[i, int(energy[i].argmin())]]
        record: dict[str, Any] = {c: _plain(frugal[c]) for c in names}
        for label, row in (("fastest", fast), ("frugal", frugal)):
            for name in ("tensor_parallel", "pipeline_parallel"):
                if name in rows.columns:
                    record[f"{label}_{name}"] = _plain(row[name])
        record["penalty"] = float(penalty[i])
        out.append(record)
    return out


def _plain(value: Any) -> Any:
    """Return a Python value that JSON can hold."""
    if hasattr(value, "item"):
        value = value.item()
    return None if value != value else value
