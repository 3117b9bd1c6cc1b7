"""Finds and ends what launches left behind: processes of ours whose holder is gone.

    holder (Ray worker)  --marks-->  launch process  -->  whatever it starts
         gone?                          SIGTERM ... grace ... SIGKILL

A child inherits the marker through its environment, so grandchildren are found too. A process
without a marker, of another user, or whose holder lives or cannot be seen from here (another
process namespace, such as a container's) is left alone.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

LAUNCH = "ENERGYLENS_LAUNCH"
HOLDER = "ENERGYLENS_HOLDER"

PROC = Path("/proc")
POLL_S = 0.05
ROUNDS = 3
"""A process may start another while it is being ended: looked for again so many times."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """A process of ours that nobody waits for.

    Attributes
    ----------
    pid
        Its number.
    launch_id
        Launch that it belongs to.
    name
        Program, as the kernel names it.
    started_ticks
        Start time, in clock ticks since boot: with the pid it names one process for good.
    ended
        Whether it is gone now; False where nobody tried.
    """

    pid: int
    launch_id: str
    name: str
    started_ticks: int
    ended: bool = False


def marker(launch_id: str, pid: int | None = None) -> dict[str, str]:
    """Variables that mark a launch's processes.

    Parameters
    ----------
    launch_id
        The launch.
    pid
        Process that holds it and outlives it; this one if None.
    """
    return {LAUNCH: launch_id, HOLDER: holder(os.getpid() if pid is None else pid)}


def holder(pid: int, root: Path = PROC) -> str:
    """Name of one process for good: `pid:start time in ticks:inode of its process namespace`.

    Empty parts stand for what this system does not tell; nothing with such a name is ended.
    """
    state = _state(root / str(pid))
    return f"{pid}:{state[1] if state else ''}:{_namespace(root / str(pid))}"


def is_marked(pid: int, root: Path = PROC) -> bool:
    """Whether a process belongs to a launch, as far as this user may see."""
    return bool(_environment(root / str(pid)).get(LAUNCH))


def leftovers(root: Path = PROC) -> list[Leftover]:
    """Processes of this user with the marker whose holder is gone, by pid.

    Parameters
    ----------
    root
        The kernel's folder of processes; without one, as on other systems, none is found.
    """
    here = _namespace(root / "self") or _namespace(PROC / "self")
    if not here:
        return []
    return [
        found
        for folder in sorted(_processes(root), key=lambda path: int(path.name))
        if (found := _examine(folder, root, here)) is not None
    ]


def end_leftovers(
    grace_s: float = 5.0,
    *,
    root: Path = PROC,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Leftover]:
    """End all leftovers: ask first, then force.

    Parameters
    ----------
    grace_s
        Time between asking (SIGTERM) and forcing (SIGKILL), and again for forcing to work.
    root
        The kernel's folder of processes.
    clock, sleep
        Monotonic seconds, and waiting.

    Returns
    -------
    list of Leftover
        What was found; `ended` is False for a process that even SIGKILL did not end, such as
        one that hangs in a driver.
    """
    found: dict[tuple[int, int], Leftover] = {}
    for _ in range(ROUNDS):
        new = leftovers(root)
        if not new:
            break
        found |= {(each.pid, each.started_ticks): each for each in new}
        for number in (signal.SIGTERM, signal.SIGKILL):
            for each in new:
                _send(each, number, root)
            deadline = clock() + grace_s
            while any(_lives(each, root) for each in new) and clock() < deadline:
                sleep(POLL_S)
    return [replace(each, ended=not _lives(each, root)) for each in found.values()]


def _examine(folder: Path, root: Path, here: str) -> Leftover | None:
    try:
        if folder.stat().st_uid != os.geteuid():
            return None
    except OSError:
        return None
    environment = _environment(folder)
    launch_id, held = environment.get(LAUNCH), environment.get(HOLDER, "")
    state = _state(folder)
    if not launch_id or state is None or not _is_gone(held, root, here):
        return None
    if int(folder.name) == os.getpid():
        return None
    return Leftover(int(folder.name), launch_id, _name(folder), state[1])


def _is_gone(held: str, root: Path, here: str) -> bool:
    """Whether a holder lived in our namespace and does not any more."""
    parts = held.split(":")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts) or parts[2] != here:
        return False
    state = _state(root / parts[0])
    return state is None or state[0] in "ZX" or state[1] != int(parts[1])


def _send(each: Leftover, number: signal.Signals, root: Path) -> None:
    """Signal exactly the process that was found, even if its number was given away since."""
    with suppress(OSError):
        handle = os.pidfd_open(each.pid)
        try:
            if _lives(each, root):
                signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)


def _lives(each: Leftover, root: Path) -> bool:
    state = _state(root / str(each.pid))
    return state is not None and state[0] not in "ZX" and state[1] == each.started_ticks


def _processes(root: Path) -> list[Path]:
    try:
        return [path for path in root.iterdir() if path.name.isdecimal()]
    except OSError:
        return []


def _environment(folder: Path) -> Mapping[str, str]:
    """Environment that a process was started with; empty where it may not be read."""
    try:
        text = (folder / "environ").read_bytes().decode("utf-8", "replace")
    except OSError:
        return {}
    pairs = (entry.partition("=") for entry in text.split("\0"))
    return {key: value for key, equals, value in pairs if equals}


def _state(folder: Path) -> tuple[str, int] | None:
    """State letter and start time in ticks (proc(5): fields 3 and 22 of stat); None if gone."""
    try:
        text = (folder / "stat").read_bytes().decode("utf-8", "replace")
        # The name of the program, in brackets, may hold spaces and brackets itself.
        fields = text.rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


def _name(folder: Path) -> str:
    try:
        return (folder / "comm").read_text(errors="replace").strip()
    except OSError:
        return "unknown"


def _namespace(folder: Path) -> str:
    """Inode of the process namespace that a process lives in; empty where it is not told."""
    try:
        return str((folder / "ns" / "pid").stat().st_ino)
    except OSError:
        return ""
