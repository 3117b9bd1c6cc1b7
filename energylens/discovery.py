"""Structure search on a run folder, with what the catalog knows of its models."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import StoreError

if TYPE_CHECKING:
    import pandas as pd

    from fitting.discover import Discovery


def discover_run(
    directory: Path,
    *,
    engine: str = "terms",
    phase: str | None = None,
    samples: int | None = 50,
    seed: int = 0,
    timeout_s: float | None = None,
    family: str | None = None,
    hardware: str | None = None,
    frame: pd.DataFrame | None = None,
) -> Discovery:
    """Search for the structure of the energy law of a run folder.

    Parameters
    ----------
    directory
        The run folder.
    engine, phase, samples, seed, timeout_s
        Passed to `fitting.discover.discover_frame`.
    family, hardware
        Search rows of this model family, of this GPU type; None for all.
    frame
        The measurements, where they were read already.

    Raises
    ------
    FitError
        If no row is left, or see `discover_frame`.
    """
    from energylens.facts import facts_for
    from fitting.discover import discover_frame
    from harness.store import FitError, read_measurements

    rows = read_measurements(directory) if frame is None else frame
    for column, wanted in (("family", family), ("hardware", hardware)):
        if wanted is None:
            continue
        known = sorted(str(name) for name in rows[column].dropna().unique())
        rows = rows[rows[column] == wanted]
        if not len(rows):
            raise FitError(
                f"No row has {column} {wanted!r}.",
                where=f"--{column} {wanted}",
                fix=f"Use one of {', '.join(known)}.",
            )
    facts = facts_for(rows)
    return discover_frame(
        rows,
        engine=engine,
        phase=phase,
        samples=samples,
        seed=seed,
        timeout_s=timeout_s,
        backbones={name: facts.backbone(name) for name in facts.models},
    )


def save_discovery(found: Discovery, path: Path) -> None:
    """Write the whole result as JSON, whole or not at all.

    Raises
    ------
    StoreError
        When the file cannot be written.
    """
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(found.to_dict(), indent=1) + "\n", encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise StoreError(
            f"the result cannot be written: {error.strerror}",
            where=str(path),
            fix="give another place with --out",
        ) from error
