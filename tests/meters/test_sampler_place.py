"""The sampler stays off the core of the process beside it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from scripted import GpuScript

from harness.meters.sampler_place import core_of, stay_off
from harness.meters.sampler_process import ReaderSpec, SamplerProcess

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="no choice of cores on this system"
)


@pytest.fixture
def neighbour() -> Iterator[int]:
    """A process that has started and sleeps."""
    code = "print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.stdin.write(b"\n")


def cores_after(pid: int, allowed: set[int]) -> set[int]:
    """Cores left to a thread that was allowed some, after one move."""
    found: list[set[int]] = []

    def thread() -> None:
        os.sched_setaffinity(0, allowed)
        stay_off(pid)()
        found.append(os.sched_getaffinity(0))

    worker = threading.Thread(target=thread)
    worker.start()
    worker.join()
    return found[0]


def test_the_core_is_found_whatever_the_program_is_called():
    numbers = " ".join(str(i) for i in range(3, 53))
    assert core_of(f"12 (a ) b (c) S {numbers}".encode()) == 38
    with open("/proc/self/stat", "rb") as file:
        assert core_of(file.read()) in range(os.cpu_count() or 1)


def test_a_thread_leaves_the_core_of_the_other_process(neighbour):
    allowed = os.sched_getaffinity(0)
    for core in allowed:
        os.sched_setaffinity(neighbour, {core})
        with open(f"/proc/{neighbour}/stat", "rb") as file:
            taken = core_of(file.read())
        assert cores_after(neighbour, allowed) == (allowed - {taken} or allowed)


def test_a_single_core_is_shared(neighbour):
    for core in os.sched_getaffinity(0):
        os.sched_setaffinity(neighbour, {core})
        assert cores_after(neighbour, {core}) == {core}


def test_a_process_that_is_gone_changes_nothing():
    process = subprocess.Popen([sys.executable, "-c", ""])
    move = stay_off(process.pid)
    process.wait()
    before = os.sched_getaffinity(0)
    move()
    stay_off(process.pid)()
    assert os.sched_getaffinity(0) == before


def test_the_sampler_stays_off_the_core_of_this_process(scripted):
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("a single core")
    nvml = scripted([GpuScript()], virtual=False)
    sampler = SamplerProcess([ReaderSpec("nvml", nvml.uuids)], 0.02)
    try:
        for core in sorted(allowed)[:2]:
            os.sched_setaffinity(0, {core})
            until = time.monotonic() + 10
            while os.sched_getaffinity(sampler.pid) != allowed - {core}:
                assert time.monotonic() < until
                time.sleep(0.02)
    finally:
        os.sched_setaffinity(0, allowed)
        sampler.close()
