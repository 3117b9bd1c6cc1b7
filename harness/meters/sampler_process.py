"""The parent's hold on the sampler's process: start, last words, restart, and its records.

Records come back as one numpy structured array a read; files that were read to their end are
removed, so the folder never grows while somebody reads.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.errors import MeterError
from harness.meters.records import (
    MAX_PERIOD_S,
    MIN_PERIOD_S,
    READING_FIELDS,
    SEGMENT_BYTES,
    SEGMENT_SUFFIX,
    segment_name,
)
from harness.meters.sampler import END, REFUSED

START_TIMEOUT_S = 60.0
"""Without persistence mode a driver may take tens of seconds to open all devices."""

SHARED_MEMORY = Path("/dev/shm")
ROOM_BYTES = 1 << 30
"""An hour of 8 GPUs at 50 Hz that nobody reads takes 120 MB."""

Records = npt.NDArray[np.void]
"""Structured array (n,): slot, t_ns, wall_ns int64, values float64 (devices, fields)."""


def record_dtype(devices: int) -> np.dtype[np.void]:
    """Layout of one record; the same bytes as `records.record_struct`."""
    return np.dtype(
        [
            ("slot", "<i8"),
            ("t_ns", "<i8"),
            ("wall_ns", "<i8"),
            ("values", "<f8", (devices, len(READING_FIELDS))),
        ]
    )


@dataclass(frozen=True, slots=True)
class ReaderSpec:
    """One reader for the sampler to open.

    Attributes
    ----------
    reader
        Name in `sampler.READERS`, or `module:Class`.
    devices
        Which devices; empty lets the reader choose.
    options
        Keyword arguments of the reader, as JSON can carry.
    optional
        Whether sampling goes on without it where it cannot be opened.
    """

    reader: str
    devices: tuple[str, ...] = ()
    options: Mapping[str, Any] | None = None
    optional: bool = False

    def as_json(self) -> dict[str, Any]:
        """Give plain values."""
        return {
            "reader": self.reader,
            "devices": list(self.devices),
            "options": dict(self.options or {}),
            "optional": self.optional,
        }


class SamplerProcess:
    """A running sampler.

    Parameters
    ----------
    readers
        What to read.
    period_s
        Time between two polls, seconds.
    environ
        Environment of the process; this one's by default.
    segment_bytes
        Size of one file of records.

    Raises
    ------
    MeterError
        If the period is out of range, or a reader cannot be opened.
    """

    def __init__(
        self,
        readers: Sequence[ReaderSpec],
        period_s: float,
        *,
        environ: Mapping[str, str] | None = None,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        if not MIN_PERIOD_S <= period_s <= MAX_PERIOD_S:
            raise MeterError(
                f"the sampler cannot poll every {period_s:g} s",
                where="poll period",
                fix=f"choose {MIN_PERIOD_S:g} to {MAX_PERIOD_S:g} s (20 to 100 polls a second)",
            )
        self.folder = Path(tempfile.mkdtemp(prefix="energylens-samples-", dir=roomy_memory()))
        self._start_ns = time.monotonic_ns()
        self._spec = {
            "readers": [spec.as_json() for spec in readers],
            "period_s": period_s,
            "folder": str(self.folder),
            "start_ns": self._start_ns,
            "segment_bytes": segment_bytes,
            "parent": os.getpid(),
        }
        self._environ = dict(os.environ if environ is None else environ)
        self._segment = 0
        self._offset = 0
        self._finalizer = weakref.finalize(self, _remove, self.folder, os.getpid())
        try:
            self._process, header = self._start()
        except BaseException:
            self._finalizer()
            raise
        self.readers: list[dict[str, Any]] = header["readers"]
        self.device_ids = tuple(d for about in self.readers for d in about["devices"])
        self._dtype = record_dtype(len(self.device_ids))

    @property
    def pid(self) -> int:
        """Process id of the sampler."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    @property
    def refused(self) -> bool:
        """Whether it ended for a reason that another start would meet again."""
        return self._process.poll() == REFUSED

    def drain(self) -> Records:
        """Take all whole records written since the last call; a torn last one waits."""
        found: list[Records] = []
        while True:
            path = self.folder / segment_name(self._segment)
            try:
                with path.open("rb") as file:
                    # Looked for before reading: a file with a successor is complete.
                    complete = (self.folder / segment_name(self._segment + 1)).exists()
                    file.seek(self._offset)
                    data = file.read()
            except FileNotFoundError:
                break
            whole = len(data) // self._dtype.itemsize
            if whole:
                found.append(np.frombuffer(data, dtype=self._dtype, count=whole))
            self._offset += whole * self._dtype.itemsize
            if not complete:
                break
            path.unlink()
            self._segment += 1
            self._offset = 0
        return np.concatenate(found) if found else np.empty(0, dtype=self._dtype)

    def restart(self) -> None:
        """Kill what is left of the process and start another on the same schedule.

        Call `drain` first: records of the old process are read on from their own files.

        Raises
        ------
        MeterError
            If the new one cannot open the readers, or finds other devices.
        """
        _kill(self._process)
        self._spec["first_segment"] = self._segment_count()
        self._process, header = self._start()
        found = tuple(d for about in header["readers"] for d in about["devices"])
        if found != self.device_ids:
            _kill(self._process)
            raise MeterError(
                f"the sampler was started again and found {len(found)} devices, "
                f"not {len(self.device_ids)}",
                where=", ".join(sorted(set(self.device_ids) ^ set(found))),
            )

    def kill(self) -> None:
        """End the process at once."""
        _kill(self._process)

    def error(self) -> MeterError:
        """Why a dead sampler ended: its own error, else the end of what it printed."""
        said = _line(self._process, 0.0)
        if said is not None and "error" in said:
            return MeterError(**said["error"])
        code = self._process.poll()
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        words = self._last_words()
        return MeterError(
            f"the sampler of the power sensors ended ({how})" + (f": {words}" if words else ""),
            where=f"process {self.pid}",
        )

    def close(self) -> None:
        """End the sampler and remove its files; may be called again."""
        process = self._process
        if process.stdin is not None and not process.stdin.closed:
            with contextlib.suppress(OSError):
                process.stdin.write(END)
            with contextlib.suppress(OSError):
                process.stdin.close()
            try:
                process.wait(2.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self._finalizer()

    def _start(self) -> tuple[subprocess.Popen[bytes], dict[str, Any]]:
        root = str(Path(__file__).resolve().parents[2])
        paths = [root, *filter(None, [self._environ.get("PYTHONPATH")])]
        with (self.folder / "stderr.txt").open("ab") as stderr:
            process = subprocess.Popen(
                # -P: a module in the folder of the user must not shadow one of the library.
                [sys.executable, "-P", "-m", "harness.meters.sampler", json.dumps(self._spec)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                bufsize=0,
                env={**self._environ, "PYTHONPATH": os.pathsep.join(paths)},
                start_new_session=True,
            )
        header = _line(process, START_TIMEOUT_S)
        if header is None:
            _kill(process)
            words = self._last_words()
            raise MeterError(
                "the sampler of the power sensors did not start" + (f": {words}" if words else ""),
                where=", ".join(str(spec["reader"]) for spec in self._spec_readers()),
            )
        if "error" in header:
            _kill(process)
            raise MeterError(**header["error"])
        return process, header

    def _spec_readers(self) -> list[dict[str, Any]]:
        readers = self._spec["readers"]
        assert isinstance(readers, list)
        return readers

    def _segment_count(self) -> int:
        found = [int(path.stem) for path in self.folder.glob(f"*{SEGMENT_SUFFIX}")]
        return max([self._segment, *found]) + 1

    def _last_words(self) -> str:
        try:
            lines = (self.folder / "stderr.txt").read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return lines[-1].strip() if lines else ""


def roomy_memory(folder: Path = SHARED_MEMORY, need_bytes: int = ROOM_BYTES) -> Path | None:
    """Give the folder in memory if there is room in it and TMPDIR names no other.

    A write there costs half of one to a disk, and never waits for one.
    """
    if "TMPDIR" in os.environ or not os.access(folder, os.W_OK):
        return None
    return folder if shutil.disk_usage(folder).free >= need_bytes else None


def _line(process: subprocess.Popen[bytes], timeout_s: float) -> dict[str, Any] | None:
    """Next line of JSON on the output of a process, or None if it ends or stays silent."""
    assert process.stdout is not None
    if process.stdout.closed:
        return None
    until = time.monotonic() + timeout_s
    data = b""
    while not data.endswith(b"\n"):
        left = max(0.0, until - time.monotonic())
        if not select.select([process.stdout], [], [], left)[0]:
            return None
        more = process.stdout.read(65536)
        if not more:
            return None
        data += more
    message: dict[str, Any] = json.loads(data.splitlines()[-1])
    return message


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _remove(folder: Path, owner: int) -> None:
    """Remove the folder, unless this is a fork of the process that made it."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
