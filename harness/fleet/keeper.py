"""Writes what a run brings into its folder, and keeps it elsewhere when that refuses."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from harness.errors import StoreError
from harness.fleet.progress import ProgressSink
from harness.fleet.rescue import rescue
from harness.fleet.view import RunView
from harness.store import RunFolder
from harness.store.packed import in_order

LOOSE_FILES = 1000
"""Result files after which they are compacted in the midst of a run."""


class Keeper:
    """Writes; after the first refusal only to the place for rescued results.

    Parameters
    ----------
    folder, address
        The run folder, locked, and its one name.
    sink
        Told where results are kept instead.

    Attributes
    ----------
    broken
        Why the folder took no more; None while it does.
    """

    def __init__(self, folder: RunFolder, address: str, sink: ProgressSink) -> None:
        self.broken: StoreError | None = None
        self._folder = folder
        self._address = address
        self._sink = sink
        self._loose = 0

    def event(self, kind: str, **fields: object) -> None:
        """Append an event."""
        try:
            self._folder.append_event(kind, **fields)
        except StoreError as error:
            self._refused(error)

    def progress(self, view: RunView, *, force: bool = False) -> None:
        """Write how the run looks."""
        if self.broken is not None:
            return
        values = {"time": datetime.now(UTC).isoformat(), "view": view.to_dict()}
        try:
            self._folder.write_progress(values, force=force)
        except StoreError as error:
            self._refused(error)

    def commit(self, files: Mapping[str, bytes]) -> str:
        """Keep the files of a launch; returns why that failed, or nothing."""
        try:
            in_order(files)
        except StoreError as error:
            return error.what  # what the worker sent is wrong, not the folder
        if not files or self._committed(files):
            return ""
        try:
            kept = rescue(self._address, files)
        except StoreError as error:
            return error.what
        self._sink.message(f"kept in {kept}: the next run of this folder here takes it in")
        return ""

    def _committed(self, files: Mapping[str, bytes]) -> bool:
        if self.broken is not None:
            return False
        try:
            self._folder.commit(files)
            self._loose += 1
            if self._loose >= LOOSE_FILES:
                # Readers open every loose file: they must not become many.
                self._loose = 0
                self._folder.compact()
        except StoreError as error:
            self._refused(error)
            return False
        return True

    def _refused(self, error: StoreError) -> None:
        if self.broken is None:
            self.broken = error
            self._sink.message(f"{error.what} ({error.where})")
