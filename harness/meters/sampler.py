"""The sampler's process: polls sensors on an absolute schedule, appends records to files.

    slots    |----|----|----|----|----|     start + k * period, fixed for good
    polls    x    x           x  x    x     late: the slots slept through are missed, never
                      ^^^^^^                made up for in a burst

Run as `python -m harness.meters.sampler SPEC`, SPEC in JSON. The first line on standard output
tells the devices found, or what is wrong; one more line follows only if sampling must stop. It
ends within a poll once its standard input closes: it cannot outlive the process that started it.
Standard library only, besides what a reader itself needs.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import EnergyLensError, MeterError
from harness.meters.records import SEGMENT_BYTES, SEGMENT_SUFFIX, record_struct, segment_name
from harness.meters.sampler_place import stay_off

if TYPE_CHECKING:
    from harness.meters.base import Reader

READERS = {
    "nvml": "harness.meters.nvml:NvmlReader",
    "amdsmi": "harness.meters.amd:AmdReader",
    "rapl": "harness.meters.rapl:RaplReader",
}
"""Readers by name; any other is given as `module:Class`."""

SLOW_PERIOD_S = 1.0
"""How often temperature, clocks and processes are read."""

MOVE_PERIOD_S = 0.2
"""How often the sampler looks where the process beside it runs."""

NICENESS = -5

GRACE_S = 1.0
"""How long after the end a reader may still hang before the process ends all the same."""

REFUSED = 2
"""Exit code after an error that another start would meet again."""

END = b"end\n"
"""What the parent writes before it closes the pipe in good order."""


def run_schedule(
    start_ns: int,
    period_ns: int,
    poll: Callable[[int], bool],
    clock: Callable[[], int],
    wait: Callable[[float], bool],
) -> None:
    """Call `poll(slot)` at `start_ns + slot * period_ns` until told to end.

    A poll belongs to the nearest slot. After a stall the next one is due at the first slot more
    than half a period away, so polls are never closer than that.

    Parameters
    ----------
    start_ns, period_ns
        The schedule, on the clock.
    poll
        Takes the slot; returns False to end.
    clock
        Monotonic time, ns.
    wait
        Sleeps for so many seconds; returns True if it is time to end.
    """

    def nearest(now_ns: int) -> int:
        return (2 * (now_ns - start_ns) + period_ns) // (2 * period_ns)

    slot = max(0, -((start_ns - clock()) // period_ns))
    while True:
        due_ns = start_ns + slot * period_ns
        if wait(max(0, due_ns - clock()) / 1e9):
            return
        now_ns = clock()
        if now_ns < due_ns:
            continue
        slot = max(slot, nearest(now_ns))
        if not poll(slot):
            return
        slot += 1


class SegmentWriter:
    """Appends records to numbered files of bounded size, one write a record.

    Parameters
    ----------
    folder
        Where the files go.
    first
        Number of the first file.
    record_bytes
        Size of one record.
    segment_bytes
        Size at which a file is closed.
    """

    def __init__(
        self, folder: Path, first: int, record_bytes: int, segment_bytes: int = SEGMENT_BYTES
    ) -> None:
        self._folder = folder
        self._index = first
        self._record_bytes = record_bytes
        self._per_segment = max(1, segment_bytes // record_bytes)
        self._written = 0
        self._file = self._open()

    def _open(self) -> int:
        path = self._folder / segment_name(self._index)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, record: bytes) -> None:
        """Append one record.

        Raises
        ------
        MeterError
            If the disk takes no more.
        """
        try:
            if self._written == self._per_segment:
                os.close(self._file)
                self._index += 1
                self._written = 0
                self._file = self._open()
            short = os.write(self._file, record) < self._record_bytes
        except OSError as error:
            raise self._full(error.strerror or str(error)) from error
        if short:
            raise self._full("a record was cut short")
        self._written += 1

    def _full(self, why: str) -> MeterError:
        return MeterError(
            f"the sampler cannot write its samples: {why}",
            where=str(self._folder),
            fix="free some space there, or set TMPDIR to a folder with room",
        )


class Poller:
    """Reads all devices into one record; slow fields of one reader at a time.

    Parameters
    ----------
    readers
        Open readers.
    slow_every
        Each reader does a slow read once in so many polls.
    clock, wall_clock
        Monotonic and wall time, ns.
    """

    def __init__(
        self,
        readers: Sequence[Reader],
        slow_every: int,
        clock: Callable[[], int] = time.monotonic_ns,
        wall_clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._reads = [reader.read for reader in readers]
        self._slow_every = slow_every
        self._clock = clock
        self._wall_clock = wall_clock
        self._pack = record_struct(sum(len(r.device_ids) for r in readers)).pack
        self._turns: dict[int, list[int]] = {}
        for i in range(len(readers)):
            self._turns.setdefault(i * slow_every // len(readers), []).append(i)
        self._polls = 0

    def __call__(self, slot: int) -> bytes:
        """Poll every device; return the record."""
        clock = self._clock
        # The first poll reads everything, so that no field is unknown before its turn comes.
        turn: Sequence[int] = self._turns.get(self._polls % self._slow_every, ())
        first = self._polls == 0
        self._polls += 1
        t_ns = clock()
        values: list[float] = []
        for i, read in enumerate(self._reads):
            delay_s = (clock() - t_ns) / 1e9
            for row in read(first or i in turn):
                values += row
                values[-1] += delay_s  # the last field, counted by the reader from its own start
        return self._pack(slot, t_ns, self._wall_clock(), *values)


def open_readers(specs: Sequence[dict[str, Any]]) -> tuple[list[Reader], list[dict[str, Any]]]:
    """Open the readers of a spec; return them and what the header says about them.

    A reader with devices is opened once for each, so that slow reads take turns and no single
    poll is much longer than the others. One marked `optional` that fails has its error in the
    header; any other raises.
    """
    readers: list[Reader] = []
    found: list[dict[str, Any]] = []
    for spec in specs:
        module, _, name = READERS.get(spec["reader"], spec["reader"]).partition(":")
        options = spec.get("options", {})
        devices = list(spec.get("devices", []))
        about: dict[str, Any] = {"reader": spec["reader"], "devices": [], "error": None}
        found.append(about)
        try:
            make = getattr(importlib.import_module(module), name)
            opened = [make([device], **options) for device in devices] or [make([], **options)]
        except EnergyLensError as error:
            if not spec.get("optional", False):
                raise
            about["error"] = error_parts(error)
            continue
        readers += opened
        about["devices"] = [device for reader in opened for device in reader.device_ids]
    return readers, found


def error_parts(error: EnergyLensError) -> dict[str, str | None]:
    """Give the three parts of an error as plain values."""
    return {"what": error.what, "where": error.where, "fix": error.fix}


def sample(spec: dict[str, Any], say: Callable[[dict[str, Any]], None]) -> None:
    """Sample as the spec says until standard input closes.

    Parameters
    ----------
    spec
        `readers`, `period_s`, `folder`, and as the parent wishes `start_ns` (origin of the
        schedule), `first_segment`, `segment_bytes`, `parent` (its process id).
    say
        Takes the header.
    """
    folder = Path(spec["folder"])
    ending = watch_input(folder)
    readers, found = open_readers(spec["readers"])
    devices = sum(len(reader.device_ids) for reader in readers)
    period_ns = round(spec["period_s"] * 1e9)
    size = record_struct(devices).size
    writer = SegmentWriter(
        folder, spec.get("first_segment", 0), size, spec.get("segment_bytes", SEGMENT_BYTES)
    )
    slow_every = max(1, round(SLOW_PERIOD_S * 1e9 / period_ns))
    poller = Poller(readers, slow_every)
    parent: int = spec.get("parent", os.getppid())
    move = stay_off(parent)
    move_every = max(1, round(MOVE_PERIOD_S * 1e9 / period_ns))

    def poll(slot: int) -> bool:
        writer.write(poller(slot))
        if slot % move_every == 0:
            move()
        # A process forked off the parent may hold the pipe open after the parent's death.
        return slot % slow_every != 0 or os.getppid() == parent

    def wait(seconds: float) -> bool:
        time.sleep(seconds)
        return bool(ending)

    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    say({"readers": found, "pid": os.getpid(), "period_s": spec["period_s"]})
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        start_ns = spec.get("start_ns") or time.monotonic_ns()
        run_schedule(start_ns, period_ns, poll, time.monotonic_ns, wait)
    finally:
        for reader in readers:
            reader.close()
    if END not in ending:
        remove_folder(folder)


def watch_input(folder: Path) -> list[bytes]:
    """Wait for the end on standard input in a thread; return the list it will be put into.

    A thread that sleeps costs nothing, a `select` at each poll a tenth of the budget. It also
    sees the end while a driver hangs, and then ends the process without asking it.
    """
    ending: list[bytes] = []

    def watch() -> None:
        ending.append(os.read(0, len(END)))
        time.sleep(GRACE_S)
        if END not in ending:
            remove_folder(folder)
        os._exit(REFUSED)

    threading.Thread(target=watch, daemon=True).start()
    return ending


def remove_folder(folder: Path) -> None:
    """Remove the segment files that a parent left behind when it died."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.suffix == SEGMENT_SUFFIX or path.name == "stderr.txt":
                path.unlink()
        folder.rmdir()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sampler; return the exit code."""
    spec = json.loads((sys.argv[1:] if arguments is None else arguments)[0])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Vendors' libraries print on standard output; only the header may go there.
    line = os.dup(1)
    os.dup2(2, 1)

    def say(message: dict[str, Any]) -> None:
        os.write(line, json.dumps(message).encode() + b"\n")

    try:
        sample(spec, say)
    except EnergyLensError as error:
        with contextlib.suppress(OSError):
            say({"error": error_parts(error)})
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
