"""What the operating system says of this machine: CPU, usable cores, memory, power limit."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DEFAULT_MEMORY_BYTES = 8.0 * 2**30


@dataclass(frozen=True, slots=True)
class Machine:
    """The CPU side of a machine, as far as this process may use it.

    Attributes
    ----------
    cpu_model
        Name of the CPU.
    cores
        Logical processors that the process may use: its affinity, and the limit of its control
        group where that is lower.
    cpu_flags
        Instruction sets.
    memory_bytes, memory_source
        Memory of the machine or of its control group, whichever is less, in bytes; where from.
    power_limit_w
        Sum of the long-term limits of the CPU packages, in W; None where RAPL shows none.
    """

    cpu_model: str
    cores: int
    cpu_flags: frozenset[str]
    memory_bytes: float
    memory_source: str
    power_limit_w: float | None


def this_machine(root: Path = Path("/"), affinity: int | None = None) -> Machine:
    """Read the facts of the machine that runs this.

    Parameters
    ----------
    root
        Where ``proc`` and ``sys`` lie.
    affinity
        Logical processors that the scheduler allows; asked for if None.
    """
    model, flags = _cpu(root / "proc" / "cpuinfo")
    groups = list(_control_groups(root))
    cores = affinity if affinity is not None else _affinity()
    quota = min((_quota(group) for group in groups), default=math.inf)
    memory, source = _memory(root / "proc" / "meminfo")
    limit = min((_memory_limit(group) for group in groups), default=math.inf)
    if limit < memory:
        memory, source = limit, "memory limit of the control group of this process"
    return Machine(
        cpu_model=model,
        cores=max(1, math.floor(min(cores, quota))),
        cpu_flags=flags,
        memory_bytes=memory,
        memory_source=source,
        power_limit_w=_power_limit(root / "sys" / "class" / "powercap"),
    )


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu(path: Path) -> tuple[str, frozenset[str]]:
    """Model name and flags of the first CPU; ARM kernels give no name, so the platform's."""
    fields: dict[str, str] = {}
    for line in _text(path).splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip().lower(), value.strip())
    name = fields.get("model name") or platform.processor() or platform.machine() or "unknown"
    flags = fields.get("flags") or fields.get("features") or ""
    return name, frozenset(flags.split())


def _control_groups(root: Path) -> Iterator[Path]:
    """Folders of the control groups of this process and of all groups around them."""
    top = root / "sys" / "fs" / "cgroup"
    for line in _text(root / "proc" / "self" / "cgroup").splitlines() or ["0::/"]:
        parts = line.split(":", 2)
        if len(parts) != 3:
            continue
        controllers, path = parts[1], Path(parts[2].strip("/"))
        if controllers not in ("", "memory", "cpu", "cpu,cpuacct", "cpuacct,cpu"):
            continue
        base = top / controllers if controllers else top
        yield base
        for inner in (path, *path.parents):
            if inner.parts and ".." not in inner.parts:
                yield base / inner


def _quota(group: Path) -> float:
    """Processors that a control group may use; infinite without a limit."""
    text = _text(group / "cpu.max") or " ".join(
        (_text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us"))
    )
    parts = text.split()
    try:
        quota, period = float(parts[0]), float(parts[1])
    except (IndexError, ValueError):
        return math.inf
    return quota / period if quota > 0 and period > 0 else math.inf


def _memory_limit(group: Path) -> float:
    text = _text(group / "memory.max") or _text(group / "memory.limit_in_bytes")
    try:
        limit = float(text)
    except ValueError:
        return math.inf
    return limit if limit > 0 else math.inf


def _memory(path: Path) -> tuple[float, str]:
    for line in _text(path).splitlines():
        if line.startswith("MemTotal:"):
            return float(line.split()[1]) * 1024, "MemTotal of this machine"
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        size = float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
        return size, "physical pages of this machine"
    return DEFAULT_MEMORY_BYTES, "estimated: the system does not tell its memory; assumed 8 GiB"


def _power_limit(powercap: Path) -> float | None:
    """Long-term limits of all CPU packages together, W; None if any of them is not readable."""
    total_w = 0.0
    packages = [each for each in sorted(powercap.glob("intel-rapl:*")) if each.name.count(":") == 1]
    for package in packages:
        if not _text(package / "name").startswith("package"):
            continue
        try:
            total_w += float(_text(package / "constraint_0_power_limit_uw")) / 1e6
        except ValueError:
            return None
    return total_w or None


def _text(path: Path) -> str:
    """Content of a file; empty where it is missing or not readable."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
