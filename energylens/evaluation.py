"""Evaluate a run and keep the result beside it, stamped with the data it came from."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from energylens.fingerprint import fingerprint

if TYPE_CHECKING:
    import pandas as pd

FILE = "evaluation.json"
VERSION = 1
OURS = "energylens"
SERVING = "energylens_serving"


@dataclass(frozen=True, slots=True)
class RunEvaluation:
    """Scores of every method on one run.

    Attributes
    ----------
    data
        What `to_dict` returns: scores, notes, divergence, predictions of our law, and the
        fingerprint of the measurements.
    saved_to
        The file it was written to; None where the folder cannot be written.
    """

    data: dict[str, Any]
    saved_to: Path | None

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values."""
        return self.data


def evaluate_run(
    directory: Path,
    *,
    samples: Sequence[int] = (50,),
    classes: Sequence[str] = ("S1", "S2", "S3"),
    methods: Sequence[str] | None = None,
    seeds: int = 1,
    frame: pd.DataFrame | None = None,
) -> RunEvaluation:
    """Evaluate a run folder and write `DIR/evaluation.json`.

    Parameters
    ----------
    directory
        The run folder.
    samples, classes, methods
        Passed to `fitting.evaluate`.
    seeds
        Number of random draws: seeds 0 to seeds - 1.
    frame
        The measurements, where they were read already.
    """
    from energylens.plain import plain
    from fitting import divergence, evaluate
    from harness.store import read_measurements

    measurements = read_measurements(directory) if frame is None else frame
    began_s = time.perf_counter()
    result = evaluate(
        measurements,
        samples=tuple(samples),
        classes=tuple(classes),
        methods=None if methods is None else tuple(methods),
        seeds=tuple(range(seeds)),
    )
    data = plain(
        {
            "version": VERSION,
            "fingerprint": fingerprint(measurements),
            "samples": list(samples),
            "classes": list(classes),
            "seeds": seeds,
            "provenance": dict(measurements["provenance"].value_counts()),
            "scores": result.scores,
            "notes": result.notes,
            "divergence": divergence(measurements),
            "predictions": _ours(result.predictions, next(iter(samples))),
            "seconds": time.perf_counter() - began_s,
        }
    )
    return RunEvaluation(data, _save(directory / FILE, data))


def saved_evaluation(directory: Path, frame: pd.DataFrame) -> dict[str, Any] | None:
    """Return the evaluation beside a run if it belongs to these very measurements."""
    try:
        data = json.loads((directory / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(data, dict) or data.get("version") != VERSION:
        return None
    return data if data.get("fingerprint") == fingerprint(frame) else None


def is_ours(method: str) -> bool:
    """Tell a law of this project from rules, published laws and learners."""
    return method.startswith(OURS)


def _ours(predictions: pd.DataFrame, samples: int) -> dict[str, Any]:
    """Keep what the report draws: what our own law predicts, four digits of each."""
    mine = predictions[predictions["method"].map(is_ours).astype(bool)]
    if "samples" in mine.columns and mine["samples"].eq(samples).any():
        mine = mine[mine["samples"].eq(samples)]
    mine = mine[mine["method"].eq(str(next(iter(mine["method"]), "")))]
    fitted = mine["fitted"].tolist() if "fitted" in mine.columns else []
    return {
        "task_id": [str(value) for value in mine["task_id"]],
        "predicted": [float(f"{value:.4g}") for value in mine["predicted"]],
        "fitted": [bool(value) for value in fitted],
    }


def _save(path: Path, data: dict[str, Any]) -> Path | None:
    """Write whole or not at all; a folder of somebody else's that is read-only is no error."""
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(data, allow_nan=False), encoding="utf-8")
        os.replace(partial, path)
    except OSError:
        return None
    return path
