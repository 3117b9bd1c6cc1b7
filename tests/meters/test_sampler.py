"""The sampler's loop on a virtual clock, its files, and how it spreads slow reads."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import MeterError
from harness.meters import base, records
from harness.meters.records import READING_FIELDS, record_struct, segment_name
from harness.meters.sampler import Poller, SegmentWriter, run_schedule
from harness.meters.sampler_process import record_dtype

PERIOD = 1000


class Machine:
    """A virtual clock on which waking up late and slow polls cost what they are told to."""

    def __init__(self, late: list[int], slow: list[int], now: int = 0) -> None:
        self.now = now
        self.late = late
        self.slow = slow
        self.polls: list[tuple[int, int]] = []
        self.waits = 0

    def clock(self) -> int:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.now += round(seconds * 1e9) + (self.late.pop(0) if self.late else 0)
        self.waits += 1
        return False

    def poll(self, slot: int) -> bool:
        self.polls.append((slot, self.now))
        self.now += self.slow.pop(0) if self.slow else 1
        return len(self.polls) < 40


@given(
    late=st.lists(st.integers(0, 10 * PERIOD), max_size=30),
    slow=st.lists(st.integers(1, 10 * PERIOD), max_size=30),
    start=st.integers(-5 * PERIOD, 5 * PERIOD),
)
def test_polls_stay_on_the_schedule_whatever_delays_them(late, slow, start):
    machine = Machine(late, slow)
    run_schedule(start, PERIOD, machine.poll, machine.clock, machine.wait)
    slots = [slot for slot, _ in machine.polls]
    times = [t for _, t in machine.polls]
    assert all(b > a for a, b in pairwise(slots))
    assert all(abs(t - start - slot * PERIOD) <= PERIOD / 2 for slot, t in machine.polls)
    assert min(b - a for a, b in pairwise(times)) >= PERIOD / 2  # never a burst
    # Once nothing delays them any more, not one slot is skipped and polls are on the dot.
    assert slots[-5:] == list(range(slots[-5], slots[-5] + 5))
    assert times[-4:] == [start + slot * PERIOD for slot in slots[-4:]]


@given(late=st.lists(st.integers(0, PERIOD // 2 - 2), max_size=39))
def test_small_delays_cost_no_slot(late):
    machine = Machine(late, [])
    run_schedule(0, PERIOD, machine.poll, machine.clock, machine.wait)
    assert [slot for slot, _ in machine.polls] == list(range(40))


def test_a_stall_skips_its_slots_for_good():
    machine = Machine([0, 0, 7 * PERIOD], [])
    run_schedule(PERIOD, PERIOD, machine.poll, machine.clock, machine.wait)
    assert [slot for slot, _ in machine.polls][:5] == [0, 1, 9, 10, 11]


def test_the_end_is_seen_even_if_every_poll_is_longer_than_a_period():
    machine = Machine([], [5 * PERIOD] * 100)
    asked: list[float] = []

    def wait(seconds: float) -> bool:
        asked.append(seconds)
        return len(asked) == 4

    run_schedule(0, PERIOD, machine.poll, machine.clock, wait)
    assert len(machine.polls) == 3


def test_fields_are_those_of_the_protocol():
    assert records.READING_FIELDS == base.READING_FIELDS


@pytest.mark.parametrize("devices", [0, 1, 8])
def test_records_read_back_as_written(devices):
    layout = record_struct(devices)
    assert layout.size == record_dtype(devices).itemsize
    import numpy as np

    values = [float(i) for i in range(devices * len(READING_FIELDS))]
    (record,) = np.frombuffer(layout.pack(7, 2**62, 3, *values), dtype=record_dtype(devices))
    assert (record["slot"], record["t_ns"], record["wall_ns"]) == (7, 2**62, 3)
    assert record["values"].ravel().tolist() == values


def test_files_of_records_are_closed_at_their_size(tmp_path):
    writer = SegmentWriter(tmp_path, 3, record_bytes=10, segment_bytes=25)
    for i in range(5):
        writer.write(bytes([i]) * 10)
    sizes = {path.name: path.stat().st_size for path in sorted(tmp_path.iterdir())}
    assert sizes == {segment_name(3): 20, segment_name(4): 20, segment_name(5): 10}


def test_a_full_disk_is_said(tmp_path):
    (tmp_path / segment_name(1)).symlink_to("/dev/full")
    writer = SegmentWriter(tmp_path, 0, record_bytes=8, segment_bytes=8)
    writer.write(b"12345678")
    with pytest.raises(MeterError, match="No space left") as caught:
        writer.write(b"12345678")
    assert caught.value.fix


class CountingReader:
    def __init__(self, machine: Machine, name: str) -> None:
        self.device_ids = (name,)
        self.slow_polls: list[int] = []
        self._machine = machine
        self._polls = 0

    def read(self, slow: bool) -> list[tuple[float, ...]]:
        if slow:
            self.slow_polls.append(self._polls)
        self._polls += 1
        self._machine.now += 500
        return [(0.0,) * (len(READING_FIELDS) - 1) + (3e-7,)]

    def close(self) -> None:
        pass


def test_slow_reads_take_turns_and_delays_add_up():
    machine = Machine([], [], now=10**12)
    readers = [CountingReader(machine, f"gpu{i}") for i in range(8)]
    poller = Poller(readers, 50, clock=machine.clock, wall_clock=lambda: 42)
    for slot in range(200):
        record = poller(slot)
    for i, reader in enumerate(readers):
        turns = [poll for poll in reader.slow_polls if poll > 0 or i == 0]
        assert reader.slow_polls[0] == 0
        assert all(b - a == 50 for a, b in pairwise(turns))
    later = [poll for reader in readers for poll in reader.slow_polls if poll > 0]
    assert max(later.count(poll) for poll in later) == 1
    slot, t_ns, wall_ns, *values = record_struct(8).unpack(record)
    assert (slot, wall_ns) == (199, 42)
    assert t_ns == 10**12 + 199 * 8 * 500
    delays = values[len(READING_FIELDS) - 1 :: len(READING_FIELDS)]
    assert delays == pytest.approx([i * 5e-7 + 3e-7 for i in range(8)])


def test_the_sampler_loads_nothing_heavy():
    code = "import harness.meters.sampler, sys; print([m for m in sys.modules if m in " + repr(
        ["numpy", "pandas", "torch", "pydantic", "pynvml", "amdsmi", "asyncio"]
    )
    shown = subprocess.run(
        [sys.executable, "-P", "-c", code + "])"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert shown.stdout.strip() == "[]"
