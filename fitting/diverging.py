"""How often the fastest configuration is not the one that uses least, and what that costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fitting.baselines import lowest_latency
from fitting.metrics import judge
from fitting.rows import usable
from fitting.scenarios import Scenarios, rectangle, work_units, workload_codes
from fitting.work import column

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

WORST = 10
"""Scenarios shown as the worst."""

CHOICES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "fixed": (
        "S1",
        ("hardware", "num_gpus", "precision"),
        ("family", "num_gpus", "batch", "hardware", "modality"),
    ),
    "all_free": ("S1", ("hardware", "precision"), ("family", "batch", "hardware", "modality")),
    "batch_free": ("S4", ("hardware", "precision"), ("family", "hardware", "modality")),
}
"""What is chosen: class that says how energies compare, what is held fixed beside the workload,
and the columns that the shares are split by."""

_FIGURES = ("share", "mean_penalty", "max_penalty", "scenarios")


def divergence(frame: pd.DataFrame) -> dict[str, Any]:
    """Compare the latency-optimal with the energy-optimal configuration.

    Three choices, none with a latency limit: t and p at a GPU count, as in S1; t, p and GPU
    count; and the batch too, where energies are per output token and the latency is that of the
    batch. Two configurations whose energies are not told apart by their confidence intervals do
    not differ.

    Parameters
    ----------
    frame
        Rows of the measurement table, with `total_latency_s`.

    Returns
    -------
    dict
        `share` of the scenarios of a fixed GPU count where the two differ; `mean_penalty` over
        those and `max_penalty`: extra energy of the latency optimum, as fractions; `scenarios`
        how many there are; `by` records of the same by `kind` and `group`; `by_family` those of
        the families; `worst` records of single scenarios; `all_free` and `batch_free` the first
        four and `by` with the GPU count free, and the batch too.
    """
    rows, _ = usable(frame, lengths=False)
    rows = rows.reset_index(drop=True)
    rows = rows[~np.isnan(lowest_latency(rows))].reset_index(drop=True)
    found = {name: _compare(rows, name) for name in CHOICES}
    result = found["fixed"]
    result["by_family"] = [
        {"family": r["group"], **{k: r[k] for k in _FIGURES}}
        for r in result["by"]
        if r["kind"] == "family"
    ]
    for name in ("all_free", "batch_free"):
        result[name] = {k: found[name][k] for k in (*_FIGURES, "by")}
    return result


def _compare(rows: pd.DataFrame, choice: str) -> dict[str, Any]:
    """Return the figures of one kind of choice."""
    name, fixed, kinds = CHOICES[choice]
    scenarios = Scenarios(name, np.zeros((0, 2), dtype=np.intp))
    if len(rows):
        codes = workload_codes(rows, fixed, free=("batch",) if choice == "batch_free" else ())
        scenarios = Scenarios(name, rectangle(codes, ~np.isnan(_units(rows, name))))
    if not len(scenarios):
        return {**dict.fromkeys(_FIGURES), "scenarios": 0, "by": [], "worst": []}
    units = _units(rows, name)
    energy = scenarios.values(column(rows, "total_energy_j") / units, np.inf)
    half = column(rows, "total_energy_j_ci95_j", default=0.0) / units
    latency = scenarios.values(lowest_latency(rows), np.inf)
    picked = judge(energy, scenarios.values(half, 0.0), latency, scenarios.mask)
    differs = picked.top1 < 1.0 - 1e-9
    penalty = np.where(differs, picked.regret, 0.0)
    by: list[dict[str, Any]] = []
    for kind in kinds:
        if kind not in rows.columns:
            continue
        labels = rows[kind].to_numpy()[scenarios.first]
        for label in sorted(set(labels.tolist())):
            inside = labels == label
            figures = _figures(differs[inside], penalty[inside])
            by.append({"kind": kind, "group": _plain(label), **figures})
    worst = _worst(rows, scenarios, energy, latency, penalty)
    return {**_figures(differs, penalty), "by": by, "worst": worst}


def _units(rows: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """Return what energies are divided by; NaN for rows without output tokens of a known number.

    Serving rows, whose input lengths are not known, bring their energy per output token.
    """
    if name == "S1":
        return work_units(rows, name)
    tokens = column(rows, "batch", default=np.nan) * column(rows, "output_tokens", default=np.nan)
    each = column(rows, "energy_per_output_token_j", default=np.nan)
    served = np.isnan(column(rows, "input_tokens", default=np.nan))
    return np.where(served, column(rows, "total_energy_j") / each, tokens)


def _figures(differs: NDArray[np.bool_], penalty: NDArray[np.float64]) -> dict[str, Any]:
    apart = penalty[differs]
    return {
        "share": float(differs.mean()),
        "mean_penalty": float(apart.mean()) if len(apart) else 0.0,
        "max_penalty": float(apart.max()) if len(apart) else 0.0,
        "scenarios": len(differs),
    }


def _worst(
    rows: pd.DataFrame,
    scenarios: Scenarios,
    energy: NDArray[np.float64],
    latency: NDArray[np.float64],
    penalty: NDArray[np.float64],
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
