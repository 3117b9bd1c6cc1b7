"""Importing: read one format, check it, add it to a run folder."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import CatalogError, ImportDataError

if TYPE_CHECKING:
    import pandas as pd

    from harness.store import RunFolder

FORMATS = ("mlenergy", "table")


@dataclass(frozen=True, slots=True)
class ImportSummary:
    """What an import added.

    Attributes
    ----------
    rows
        Rows of the measurement table that came from this import.
    models, hardware
        Their model ids and GPU types, sorted.
    skipped
        Pairs of where and why, for what was left out.
    folder
        The run folder.
    notes
        What the user should know: defaults that mattered, rows averaged, names not known.
    """

    rows: int
    models: list[str]
    hardware: list[str]
    skipped: list[tuple[str, str]]
    folder: Path
    notes: list[str]

    def to_dict(self) -> dict[str, object]:
        """Return the summary as JSON values."""
        return {
            "rows": self.rows,
            "models": self.models,
            "hardware": self.hardware,
            "skipped": [list(pair) for pair in self.skipped],
            "folder": str(self.folder),
            "notes": self.notes,
        }


@dataclass(frozen=True, slots=True)
class Imported:
    """Checked rows of one source, before they are stored.

    Attributes
    ----------
    frame
        Rows of the measurement table with their task_id.
    skipped, notes
        As in `ImportSummary`.
    """

    frame: pd.DataFrame
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def import_data(format: str, path: Path | str, out: Path | str) -> ImportSummary:
    """Import a file or folder into a run folder; doing it again changes nothing.

    Nothing is written unless the whole source is good.

    Parameters
    ----------
    format
        `table` (our own columns as CSV or Parquet) or `mlenergy` (the published JSON).
    path
        The file, or for mlenergy also a folder of files.
    out
        Run folder; made if missing.

    Raises
    ------
    ImportDataError
        If the source is missing or wrong: names file, column or key, and rows.
    StoreError
        If the run folder cannot be written, or another driver works on it.
    """
    path, out = Path(path), Path(out)
    if format not in FORMATS:
        raise ImportDataError(
            f"Unknown import format {format!r}.",
            where="FORMAT",
            fix=f"use one of: {', '.join(FORMATS)}",
        )
    if not path.exists():
        raise ImportDataError(
            "There is nothing to import here.", where=str(path), fix="check the path"
        )
    if format == "mlenergy":
        from harness.importers.mlenergy import read_mlenergy

        found = read_mlenergy(path)
    else:
        from harness.importers.table import read_table_file

        found = read_table_file(path)
    return _store(found, format, path, out)


def canonical_hardware(name: str) -> tuple[str, bool]:
    """Return the canonical name of a GPU type, and whether the catalog knows it."""
    from harness.catalog.hardware import load_hardware

    try:
        return load_hardware(name).hardware, True
    except CatalogError:
        return name, False


def unknown_hardware_note(name: str) -> str:
    """Say that a GPU type was kept as it was written."""
    return f"hardware {name!r} is not in the catalog; its name was kept as it is"


def _store(found: Imported, format: str, path: Path, out: Path) -> ImportSummary:
    """Write the rows as one file per GPU type and compact."""
    from harness.store import RunFolder

    frame = found.frame
    folder = RunFolder.create(out, {})
    key = "import-" + re.sub(r"[^A-Za-z0-9._-]+", "-", f"{format}-{path.resolve().name}")[:150]
    with folder.lock():
        notes = [*found.notes, *_meet(folder, frame)]
        for hardware, rows in frame.groupby("hardware", sort=True):
            folder.write_result(key, str(hardware), rows)
        folder.compact()
        _record(folder, {"format": format, "source": path.name, "rows": len(frame)})
    return ImportSummary(
        rows=len(frame),
        models=sorted(frame["model_id"].unique()),
        hardware=sorted(frame["hardware"].unique()),
        skipped=found.skipped,
        folder=out,
        notes=notes,
    )


def _meet(folder: RunFolder, frame: pd.DataFrame) -> list[str]:
    """Refuse to cover rows that this run measured itself; note rows imported before."""
    from harness.store import read_table

    here = read_table(folder).select(["task_id", "provenance", "source"]).to_pandas()
    here = here[here["task_id"].isin(frame["task_id"])]
    own = here[here["provenance"] != "imported"]
    if len(own):
        raise ImportDataError(
            f"{len(own)} of the configurations were measured or projected in this run folder; "
            "importing would cover those rows.",
            where=f"{folder.path}, task_id {own['task_id'].iloc[0]}",
            fix="import into a run folder of its own",
        )
    sources = frame.drop_duplicates("task_id").set_index("task_id")["source"]
    other = here["source"].ne(here["task_id"].map(sources))
    if other.any():
        return [
            f"{int(other.sum())} configurations were imported before from "
            f"{here.loc[other, 'source'].iloc[0]!r}; the row of the highest attempt counts, "
            "the later import on a tie"
        ]
    return []


def _record(folder: RunFolder, entry: dict[str, object]) -> None:
    before = folder.manifest.get("imports")
    imports = [e for e in before if isinstance(e, dict)] if isinstance(before, list) else []
    same = {"format", "source"}
    kept = [e for e in imports if any(e.get(k) != entry[k] for k in same)]
    folder.update_manifest({"imports": [*kept, entry]})
