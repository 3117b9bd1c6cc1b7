"""Levers that should save energy, and how often each of them costs energy instead.

A lever is pulled between two rows that agree in all else. It backfires where the energy after it
is higher, and told apart from the energy before it by the confidence intervals of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fitting.rows import usable
from fitting.scenarios import WORKLOAD
from fitting.work import WEIGHT_BYTES, column

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

DEPLOYMENT = (
    "hardware",
    "engine",
    "precision",
    "power_limit_w",
    "tensor_parallel",
    "pipeline_parallel",
    "data_parallel",
    "expert_parallel",
    "num_gpus",
)
"""Columns that make two rows the same deployment, beside the model."""

SPLITS = ("tensor_parallel", "batch", "family", "hardware", "modality")
"""Columns, of the row before, that the shares are split by."""

FEWEST = 5
"""Cases that a group needs to be named as the place where a lever backfires."""


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Rows before and after a lever: positions in the table, shape (cases,)."""

    name: str
    meaning: str
    before: NDArray[np.intp]
    after: NDArray[np.intp]


def levers(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Say of each lever how often it backfires, how much it changes, and where.

    Energies are per output token, so that batches compare.

    Parameters
    ----------
    frame
        Rows of the measurement table with lengths.

    Returns
    -------
    list of dict
        One record a lever that the table has cases of: `lever`, `meaning`, `cases`,
        `share_backfires`, `mean_change`, `median_change`, `worst_change` and `best_change`
        (energy after over energy before, minus 1), `mean_prefill_ratio` (prefill energy after
        over before; None without phase energies), `where` (the group with the largest share, in
        words; None if it never backfires), `worst` (the worst case), and `by`: records of
        `kind`, `group`, `cases`, `share_backfires`, `mean_change`.
    """
    rows, _ = usable(frame)
    rows = rows.reset_index(drop=True)
    if not len(rows):
        return []
    tokens = column(rows, "batch") * column(rows, "output_tokens")
    energy = column(rows, "total_energy_j") / tokens
    half = column(rows, "total_energy_j_ci95_j", default=0.0) / tokens
    out = []
    for found in _all_pairs(rows):
        if len(found.before):
            out.append(_record(rows, found, energy, half))
    return out


def _all_pairs(rows: pd.DataFrame) -> list[_Pairs]:
    """Return the cases of every lever, those without a case too."""
    precisions = rows["precision"] if "precision" in rows.columns else None
    out = []
    for name in sorted({} if precisions is None else set(precisions.dropna())):
        if WEIGHT_BYTES.get(name, 2.0) < 2.0:
            out.append(_precision(rows, str(name)))
    out.append(_steps(rows, "batch", "larger batch", "the next larger batch, same deployment"))
    out.append(
        _steps(
            rows,
            "tensor_parallel",
            "larger t",
            "the next larger tensor parallel degree, so more GPUs, same p",
            free=("num_gpus",),
        )
    )
    out.append(_pipeline(rows))
    for modality in ("image", "video"):
        out.append(_visual(rows, modality))
    return out


def _keys(rows: pd.DataFrame, without: Sequence[str]) -> NDArray[np.intp]:
    """Return a number a row, the same for rows that agree in everything but some columns."""
    keys = [c for c in (*WORKLOAD, *DEPLOYMENT) if c in rows.columns and c not in without]
    codes: NDArray[np.intp] = rows.groupby(keys, dropna=False).ngroup().to_numpy().astype(np.intp)
    return codes


def _match(
    codes: NDArray[np.intp], before: NDArray[np.bool_], after: NDArray[np.bool_]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return positions of rows before and after that have the same code; the first of each."""
    first = np.flatnonzero(before)
    _, kept = np.unique(codes[first], return_index=True)
    first = first[kept]
    second = np.flatnonzero(after)
    place = np.searchsorted(codes[first], codes[second])
    place = np.minimum(place, max(len(first) - 1, 0))
    if not len(first) or not len(second):
        return np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.intp)
    same = codes[first][place] == codes[second]
    return first[place[same]], second[same]


def _precision(rows: pd.DataFrame, name: str) -> _Pairs:
    """Pair rows of a reduced precision with those in 16 bit."""
    codes = _keys(rows, ("precision",))
    full = rows["precision"].isin(["bf16", "fp16"]).to_numpy(dtype=bool)
    reduced = rows["precision"].eq(name).to_numpy(dtype=bool)
    meaning = f"weights in {name} instead of 16 bit, same deployment"
    return _Pairs(f"{name} weights", meaning, *_match(codes, full, reduced))


def _steps(
    rows: pd.DataFrame, name: str, lever: str, meaning: str, free: Sequence[str] = ()
) -> _Pairs:
    """Pair each row with the one of the next larger value of a column."""
    codes = _keys(rows, (name, *free))
    values = column(rows, name, default=1.0)
    order = np.lexsort((values, codes))
    one, two = order[:-1], order[1:]
    same = (codes[one] == codes[two]) & (values[two] > values[one])
    return _Pairs(lever, meaning, one[same], two[same])


def _pipeline(rows: pd.DataFrame) -> _Pairs:
    """Pair each row of t with one of t/2 and 2p on as many GPUs."""
    codes = _keys(rows, ("tensor_parallel", "pipeline_parallel"))
    tensor = column(rows, "tensor_parallel", default=1.0)
    stages = column(rows, "pipeline_parallel", default=1.0)
    before, after = [], []
    for t in np.unique(tensor[tensor > 1.0]):
        for p in np.unique(stages):
            wide = (tensor == t) & (stages == p)
            deep = (tensor == t / 2.0) & (stages == 2.0 * p)
            one, two = _match(codes, wide, deep)
            before.append(one)
            after.append(two)
    empty = np.zeros(0, dtype=np.intp)
    return _Pairs(
        "pipeline for tensor",
        "t halved and p doubled, same GPUs",
        np.concatenate([empty, *before]),
        np.concatenate([empty, *after]),
    )


def _visual(rows: pd.DataFrame, modality: str) -> _Pairs:
    """Pair a prompt with images or video with the same text prompt alone."""
    if "modality" not in rows.columns:
        nothing = np.zeros(0, dtype=np.intp)
        return _Pairs(f"{modality} input", "", nothing, nothing)
    text = column(rows, "input_tokens") - column(rows, "visual_tokens", default=0.0)
    visual = ("modality", "visual_tokens", "images", "frames", "image_height", "image_width")
    codes = _keys(rows.assign(input_tokens=text), visual)
    kinds = rows["modality"]
    before, after = kinds.eq("text").to_numpy(bool), kinds.eq(modality).to_numpy(bool)
    meaning = f"{modality} added to the same text prompt"
    return _Pairs(f"{modality} input", meaning, *_match(codes, before, after))


def _record(
    rows: pd.DataFrame, found: _Pairs, energy: NDArray[np.float64], half: NDArray[np.float64]
) -> dict[str, Any]:
    """Return the figures of one lever."""
    before, after = found.before, found.after
    change = energy[after] / energy[before] - 1.0
    backfires = energy[after] - energy[before] > np.hypot(half[after], half[before])
    by = _by(rows, before, backfires, change)
    worst = int(change.argmax())
    return {
        "lever": found.name,
        "meaning": found.meaning,
        "cases": len(change),
        "share_backfires": float(backfires.mean()),
        "mean_change": float(change.mean()),
        "median_change": float(np.median(change)),
        "worst_change": float(change[worst]),
        "best_change": float(change.min()),
        "mean_prefill_ratio": _prefill_ratio(rows, before, after),
        "where": _where(by, float(backfires.mean())),
        "worst": _case(rows, before[worst], after[worst]),
        "by": by,
    }


def _by(
    rows: pd.DataFrame,
    before: NDArray[np.intp],
    backfires: NDArray[np.bool_],
    change: NDArray[np.float64],
) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    for kind in SPLITS:
        if kind not in rows.columns:
            continue
        labels = rows[kind].to_numpy()[before]
        for label in sorted(set(labels.tolist())):
            inside = labels == label
            out.append(
                {
                    "kind": kind,
                    "group": label,
                    "cases": int(inside.sum()),
                    "share_backfires": float(backfires[inside].mean()),
                    "mean_change": float(change[inside].mean()),
                }
            )
    return out


def _where(by: list[dict[str, Any]], share: float) -> str | None:
    """Name the group where a lever backfires most; None where no group stands out."""
    names = {"tensor_parallel": "t = {}", "batch": "batch {}", "hardware": "{}"}
    groups = [r for r in by if r["cases"] >= FEWEST and r["share_backfires"] > share]
    if share <= 0.0 or not groups:
        return None
    most = max(groups, key=lambda r: (r["share_backfires"], r["cases"]))
    return names.get(most["kind"], "{}").format(most["group"])


def _prefill_ratio(
    rows: pd.DataFrame, before: NDArray[np.intp], after: NDArray[np.intp]
) -> float | None:
    """Return the mean ratio of prefill energies per request; None where they are not known."""
    each = column(rows, "prefill_energy_j", default=np.nan) / column(rows, "batch")
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = each[after] / each[before]
    known = ratio[np.isfinite(ratio)]
    return float(known.mean()) if len(known) else None


def _case(rows: pd.DataFrame, before: np.intp, after: np.intp) -> dict[str, Any]:
    """Return the two configurations of one case: what they share, and what changed."""
    shown = (
        "model_id",
        "hardware",
        "tensor_parallel",
        "pipeline_parallel",
        "precision",
        "batch",
        "input_tokens",
        "output_tokens",
        "modality",
    )
    one, two = rows.iloc[int(before)], rows.iloc[int(after)]
    out: dict[str, Any] = {}
    for name in shown:
        if name in rows.columns:
            old, new = (v.item() if hasattr(v, "item") else v for v in (one[name], two[name]))
            out[name] = old if old == new else f"{old} to {new}"
    return out
