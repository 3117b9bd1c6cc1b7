"""What was run: the header of the report and the quality of its data."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from energylens.rowkinds import time_only, without_numbers
from energylens.units import count, percent
from harness.catalog import is_cpu
from harness.measuring.reasons import REASONS as LAUNCH_REASONS

if TYPE_CHECKING:
    import pandas as pd

    from energylens.report.write import Material

PROVENANCE = {
    "measured": "Measured",
    "projected": "Projected",
    "imported": "Imported",
}
PROVENANCE_TEXT = {
    "measured": "read from a power sensor while the work ran",
    "projected": "computed by the twin engine from published operation timings and a power "
    "model; no power sensor was involved",
    "imported": "measured and published by somebody else, taken over as it was",
}

REASONS = {code: reason.text for code, reason in LAUNCH_REASONS.items()}

LESS_TEXT = {
    "times_only": "times only: the machine has no power meter, so no energy is known",
    "nothing": "no numbers: only the class of what went wrong",
}


def valid_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that fits and plots use: valid, with an energy."""
    return frame[frame["valid"].fillna(True).astype(bool) & frame["total_energy_j"].notna()]


def header(material: Material) -> dict[str, Any]:
    """Say what was run, on what, when, with which versions."""
    frame = material.frame
    timed = time_only(frame)
    return {
        "title": _title(material),
        "directory": material.directory.name,
        "provenance": _provenance(frame),
        "facts": [
            (
                "Measurements",
                [
                    f"{count(len(frame))} rows",
                    f"{count(len(valid_rows(frame)))} valid",
                    *([f"{count(int(timed.sum()))} times only"] if timed.any() else []),
                ],
            ),
            ("Models", _listed(frame["model_id"])),
            (_hardware_label(frame), _listed(frame["hardware"])),
            (f"{_device(frame)}s per deployment", _listed_numbers(frame["num_gpus"])),
            ("Modalities", _listed(frame["modality"])),
            ("Precision", _listed(frame["precision"])),
            ("Engine", _engines(frame)),
            ("Power sensor", _sensors(frame["meter"])),
            ("When", _when(frame)),
            ("Source", _listed(frame["source"])),
        ],
        "versions": {
            str(name): str(value)
            for name, value in dict(material.manifest.get("versions") or {}).items()
        },
        "git_commit": material.manifest.get("git_commit"),
    }


def _device(frame: pd.DataFrame) -> str:
    """Return what the devices of a table are called: CPUs only where there is nothing else."""
    return "CPU" if frame["hardware"].dropna().map(is_cpu).all() else "GPU"


def _hardware_label(frame: pd.DataFrame) -> str:
    return "Hardware" if frame["hardware"].dropna().map(is_cpu).any() else "GPU types"


def _provenance(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Say where the rows come from; those without a power meter are no readings of a sensor."""
    kinds = Counter(
        zip(
            frame["provenance"].fillna("unknown"),
            time_only(frame).map({True: "times_only", False: ""})
            + without_numbers(frame).map({True: "nothing", False: ""}),
            strict=True,
        )
    )
    return [
        {
            "name": name,
            "label": PROVENANCE.get(name, name),
            "text": LESS_TEXT.get(kind) or PROVENANCE_TEXT.get(name, "origin not stated"),
            "rows": count(rows),
            "kind": kind,
        }
        for (name, kind), rows in kinds.most_common()
    ]


def _title(material: Material) -> str:
    named = material.manifest.get("sweep_name")
    if not named:
        sweeps = material.frame["sweep"].dropna().unique()
        named = sweeps[0] if len(sweeps) == 1 else material.directory.name
    return str(named)


def _listed(column: pd.Series, most: int = 12) -> list[str]:
    names = [str(name) for name in sorted(column.dropna().unique())]
    return names[:most] + ([f"and {len(names) - most} more"] if len(names) > most else [])


def _listed_numbers(column: pd.Series) -> list[str]:
    return [str(int(value)) for value in sorted(column.dropna().unique())]


def _engines(frame: pd.DataFrame) -> list[str]:
    pairs = frame[["engine", "engine_version"]].drop_duplicates().fillna("")
    names = sorted(
        {
            str(v) if str(v).startswith(str(e)) else f"{e} {v}".strip()
            for e, v in pairs.itertuples(index=False)
            if e or v
        }
    )
    return names[:4] + ([f"and {len(names) - 4} more"] if len(names) > 4 else [])


def _when(frame: pd.DataFrame) -> list[str]:
    times = frame["measured_at"].dropna()
    if times.empty:
        return []
    first, last = times.min(), times.max()
    if first.date() == last.date():
        return [f"{first:%-d %B %Y}"]
    return [f"{first:%-d %B %Y} to {last:%-d %B %Y}"]


def quality(frame: pd.DataFrame) -> dict[str, Any]:
    """Count valid and flagged rows, reasons, coverage, and the width of the intervals."""
    ok = frame["valid"].fillna(True).astype(bool)
    reasons: Counter[str] = Counter()
    for codes in frame.loc[~ok, "reasons"]:
        reasons.update(str(code) for code in (codes if codes is not None else ()))
    return {
        "rows": count(len(frame)),
        "valid": count(int(ok.sum())),
        "flagged": count(int((~ok).sum())),
        "valid_share": percent(float(ok.mean())),
        "valid_fraction": float(ok.mean()),
        "reasons": [
            {
                "code": code,
                "text": REASONS.get(code, ""),
                "rows": count(rows),
                "share": percent(rows / len(frame)),
            }
            for code, rows in reasons.most_common()
        ],
        "sentences": _sentences(frame),
        "coverage": _coverage(frame[ok]),
    }


def _sentences(frame: pd.DataFrame) -> list[str]:
    """Say how wide the intervals are, and what the rows do not tell."""
    timed, empty = int(time_only(frame).sum()), int(without_numbers(frame).sum())
    frame = frame[~time_only(frame) & ~without_numbers(frame)]
    relative = (frame["total_energy_j_ci95_j"] / frame["total_energy_j"]).dropna()
    without = len(frame) - len(relative)
    sentences = []
    if timed:
        sentences.append(f"{count(timed)} rows have times and no energy: no power meter.")
    if empty:
        sentences.append(f"{count(empty)} rows say only why they gave no numbers.")
    if without < len(frame) / 2:
        sentences.append(
            f"The median 95 % interval of an energy is ±{percent(float(relative.median()))} "
            "of its value."
        )
    if without:
        sentences.append(f"{count(without)} rows come without an interval.")
    mixed = int(frame["prefill_energy_j"].isna().sum())
    if mixed:
        sentences.append(f"{count(mixed)} rows do not tell prefill from decode energy.")
    return sentences


def _coverage(frame: pd.DataFrame) -> dict[str, Any]:
    table = frame.groupby(["model_id", "hardware"]).size().unstack(fill_value=0)
    return {
        "hardware": [str(name) for name in table.columns],
        "rows": [
            {"model": str(model), "cells": [int(v) for v in row]}
            for model, row in zip(table.index, table.to_numpy(), strict=True)
        ],
    }


def _sensors(meters: pd.Series) -> list[str]:
    """Meters of the rows; the twin's is named for what it is."""
    names = {"twin": "simulated (twin)"}
    return [names.get(name, name) for name in _listed(meters)] or ["not stated"]
