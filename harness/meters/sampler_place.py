"""Keeps the sampler off the core on which the process beside it works.

A poll that wakes up on that core interrupts the measured work, each time for all it takes; on
any other one it costs the work next to nothing. Linux only; elsewhere nothing happens.
"""

from __future__ import annotations

import os
from collections.abc import Callable

_CORE = 36
"""Position of the core in /proc/PID/stat, counted from after the name of the program."""


def core_of(stat: bytes) -> int:
    """Core that a process ran on last, from its `/proc/PID/stat`."""
    return int(stat[stat.rindex(b")") + 1 :].split()[_CORE])


def stay_off(pid: int) -> Callable[[], None]:
    """Return a call that moves this thread off the core of a process's main thread.

    It is meant to be made a few times a second: processes move. With a single core, or where
    the system forbids it, the thread stays where it is.
    """
    try:
        allowed = os.sched_getaffinity(0)
        stat = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except (AttributeError, OSError):
        return lambda: None
    last = -1

    def move() -> None:
        nonlocal last
        try:
            core = core_of(os.pread(stat, 4096, 0))
            if core != last:
                os.sched_setaffinity(0, allowed - {core} or allowed)
                last = core
        except OSError:
            return

    return move
