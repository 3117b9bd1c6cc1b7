"""Which process holds something, and whether it is surely gone."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


def this_process() -> dict[str, object]:
    """Describe this process so that another on the same machine can tell whether it lives."""
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "machine": _machine(),
        "start_ticks": _start_ticks(os.getpid()),
    }


def is_gone(holder: Mapping[str, object]) -> bool:
    """Tell whether what `this_process` described has surely ended.

    Only a process of this machine, this boot and this pid namespace can be known to be gone.
    """
    machine, pid = holder.get("machine"), holder.get("pid")
    if not machine or machine != _machine() or not isinstance(pid, int):
        return False
    return _start_ticks(pid) != holder.get("start_ticks")


def _machine() -> str | None:
    """Name this boot of this machine and the pid namespace; None where Linux does not say."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    return None


def _start_ticks(pid: int) -> int | None:
    """Return the start of a process in clock ticks since boot; None if there is none."""
    with suppress(OSError, ValueError, IndexError):
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        fields = text.rpartition(")")[2].split()
        return None if fields[0] == "Z" else int(fields[19])
    return None
