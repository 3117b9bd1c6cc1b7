"""Evaluate a run and keep the result beside it, stamped with the data it came from."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from energylens.beside import Beside, read_beside, save_beside
from energylens.fingerprint import fingerprint
from energylens.rowkinds import origins

if TYPE_CHECKING:
    import pandas as pd

FILE = "evaluation.json"
VERSION = 2
"""2: scenario classes S4 and S5, levers, and what each method knows."""
OURS = "energylens"
SERVING = "energylens_serving"


def evaluate_run(
    directory: Path,
    *,
    samples: Sequence[int] = (50,),
    classes: Sequence[str] = ("all",),
    methods: Sequence[str] | None = None,
    seeds: int = 1,
    frame: pd.DataFrame | None = None,
    hold_out: float = 0.0,
) -> Beside:
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
    hold_out
        Share of the workloads that no method learns from and that alone are judged.
    """
    from energylens.facts import facts_for
    from energylens.plain import plain
    from fitting import divergence, evaluate
    from fitting.levers import levers
    from harness.store import local_folder, read_measurements

    measurements = read_measurements(directory) if frame is None else frame
    began_s = time.perf_counter()
    result = evaluate(
        measurements,
        samples=tuple(samples),
        classes=tuple(classes),
        methods=None if methods is None else tuple(methods),
        seeds=tuple(range(seeds)),
        facts=facts_for(measurements),
        hold_out=hold_out,
    )
    data = plain(
        {
            "version": VERSION,
            "fingerprint": fingerprint(measurements),
            "samples": list(samples),
            "classes": list(dict.fromkeys(result.scores["scenario_class"])) or list(classes),
            "seeds": seeds,
            "hold_out": hold_out,
            "provenance": origins(measurements),
            "scores": result.scores,
            "notes": result.notes,
            "divergence": divergence(measurements),
            "levers": levers(measurements),
            "predictions": _ours(result.predictions, main_budget(samples)),
            "seconds": time.perf_counter() - began_s,
        }
    )
    return Beside(data, save_beside(local_folder(directory) / FILE, data))


def saved_evaluation(directory: Path, frame: pd.DataFrame) -> dict[str, Any] | None:
    """Return the evaluation beside a run if it belongs to these very measurements."""
    from harness.store import local_folder

    return read_beside(local_folder(directory) / FILE, VERSION, frame)


def is_ours(method: str) -> bool:
    """Tell a law of this project from rules, published laws and learners."""
    return method.startswith(OURS)


def main_budget(budgets: Sequence[int | None]) -> int | None:
    """Return the sample budget that tables and plots show first: 50 where it was asked for."""
    known = [budget for budget in budgets if budget is not None]
    return 50 if 50 in known else next(iter(known), None)


def _ours(predictions: pd.DataFrame, samples: int | None) -> dict[str, Any]:
    """Keep what the report draws: what our own law predicts, four digits of each."""
    mine = predictions[predictions["method"].map(is_ours).astype(bool)]
    if samples is not None and mine["samples"].eq(samples).any():
        mine = mine[mine["samples"].eq(samples)]
    mine = mine[mine["method"].eq(str(next(iter(mine["method"]), "")))]
    fitted = mine["fitted"].tolist() if "fitted" in mine.columns else []
    return {
        "method": str(next(iter(mine["method"]), "")),
        "task_id": [str(value) for value in mine["task_id"]],
        "predicted": [float(f"{value:.4g}") for value in mine["predicted"]],
        "fitted": [bool(value) for value in fitted],
    }
