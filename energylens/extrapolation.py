"""Ask how far the laws of a run carry, and keep the answer beside it, stamped with its data."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from energylens.beside import Beside, read_beside, save_beside
from energylens.fingerprint import fingerprint
from energylens.rowkinds import origins

if TYPE_CHECKING:
    import pandas as pd

    from fitting.extrapolation import Thresholds

FILE = "extrapolation.json"
VERSION = 1


def extrapolate_run(
    directory: Path,
    *,
    hold_out: Sequence[str] | None = None,
    rows: Sequence[int] = (0, 3, 5, 10, 20),
    samples: int = 50,
    seeds: int = 1,
    methods: Sequence[str] | None = None,
    rows_in_total: bool = False,
    thresholds: Thresholds | None = None,
    frame: pd.DataFrame | None = None,
) -> Beside:
    """Hold names out of a run folder in turn and write `DIR/extrapolation.json`.

    Parameters
    ----------
    directory
        The run folder.
    hold_out, rows, samples, methods, rows_in_total, thresholds
        Passed to `fitting.extrapolate`; facts come from the packaged catalog.
    seeds
        Number of random draws: seeds 0 to seeds - 1.
    frame
        The measurements, where they were read already.

    Raises
    ------
    FitError
        If nothing can be held out, or rows are too few.
    """
    from energylens.facts import facts_for
    from energylens.plain import plain
    from fitting.extrapolation import Thresholds, extrapolate
    from harness.store import local_folder, read_measurements

    measurements = read_measurements(directory) if frame is None else frame
    limits = thresholds or Thresholds()
    began_s = time.perf_counter()
    result = extrapolate(
        measurements,
        facts_for(measurements),
        hold_out=None if hold_out is None else tuple(hold_out),
        rows=tuple(rows),
        samples=samples,
        seeds=tuple(range(seeds)),
        methods=None if methods is None else tuple(methods),
        rows_in_total=rows_in_total,
        thresholds=limits,
    )
    data = plain(
        {
            "version": VERSION,
            "fingerprint": fingerprint(measurements),
            "rows": list(rows),
            "rows_in_total": rows_in_total,
            "samples": samples,
            "seeds": seeds,
            "thresholds": asdict(limits),
            "provenance": origins(measurements),
            **result.to_dict(),
            "total_seconds": time.perf_counter() - began_s,
        }
    )
    return Beside(data, save_beside(local_folder(directory) / FILE, data))


def saved_extrapolation(directory: Path, frame: pd.DataFrame) -> dict[str, Any] | None:
    """Return the extrapolation beside a run if it belongs to these very measurements."""
    from harness.store import local_folder

    return read_beside(local_folder(directory) / FILE, VERSION, frame)
