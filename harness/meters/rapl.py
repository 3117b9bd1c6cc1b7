"""Energy counters of CPU packages and their memory, from the power capping interface of Linux.

    intel-rapl:0        package-0   counted
    intel-rapl:0:0      core        part of its package: not counted again
    intel-rapl:0:1      dram        beside its package: counted
    intel-rapl:1        psys        the whole platform: not counted again

AMD's processors offer the same tree under the same name. A counter wraps at
`max_energy_range_uj`, after minutes on a server under load; polled quicker than that it is
unwrapped here, a wrap missed in between cannot be seen. Source: Linux kernel,
Documentation/power/powercap/powercap.rst.
"""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.errors import MeterError

POWERCAP = "/sys/class/powercap"

MAX_POWER_W = 5000.0
"""No package draws more; a step back that would need more was a reset, not a wrap."""

_FIX_PERMISSION = (
    "run as root, or let all users read the counters until the next boot: "
    "sudo chmod -R a+r /sys/class/powercap/intel-rapl*/; for good, a udev rule: "
    'SUBSYSTEM=="powercap", ACTION=="add", RUN+="/bin/chmod a+r /sys%p/energy_uj"'
)


class RaplReader:
    """Unwrapped energy of every package and its memory.

    Parameters
    ----------
    device_ids
        Names as `find_domains` gives them; empty takes all.
    root
        Folder of the power capping interface.
    clock
        Monotonic time, ns.

    Raises
    ------
    MeterError
        If no counter is offered, one asked for is missing, or one cannot be read.
    """

    def __init__(
        self,
        device_ids: Sequence[str] = (),
        root: str | Path = POWERCAP,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        found = find_domains(Path(root))
        missing = sorted(set(device_ids) - set(found))
        if missing:
            raise MeterError(
                f"no energy counter named {', '.join(missing)}",
                where=str(root),
                fix=f"choose among: {', '.join(found)}",
            )
        self.device_ids = tuple(device_ids) or tuple(found)
        self._clock = clock
        self._counters = [_Counter(found[name], clock()) for name in self.device_ids]

    def read(self, slow: bool) -> list[tuple[float, ...]]:
        """Read every counter: `READING_FIELDS` with energy, status and delay."""
        start_ns = self._clock()
        rows: list[tuple[float, ...]] = []
        for counter in self._counters:
            now_ns = self._clock()
            energy_mj, status = counter.read(now_ns)
            rows.append((energy_mj, *([math.nan] * 7), status, (now_ns - start_ns) / 1e9))
        return rows

    def close(self) -> None:
        """Close the files."""
        for counter in self._counters:
            counter.close()


def find_domains(root: Path) -> dict[str, Path]:
    """Folders of the counters that add up to the host's energy, by name.

    Packages come first to last, each followed by its memory: `package-0`, `dram-0`.

    Raises
    ------
    MeterError
        If there is none.
    """
    found: dict[str, Path] = {}
    for zone in sorted(root.glob("intel-rapl:*"), key=lambda path: _numbers(path.name)):
        name = _text(zone / "name")
        if len(_numbers(zone.name)) == 1 and name.startswith("package"):
            found[name] = zone
            for part in sorted(zone.glob(f"{zone.name}:*")):
                if _text(part / "name") == "dram":
                    found[f"dram-{name.removeprefix('package-')}"] = part
    if not found:
        raise MeterError(
            "this machine offers no energy counter of its CPU",
            where=str(root),
            fix="a virtual machine has none, some containers hide it; else modprobe intel_rapl_msr",
        )
    return found


class _Counter:
    """One counter, made monotone from its first reading on."""

    def __init__(self, zone: Path, now_ns: int) -> None:
        self._path = zone / "energy_uj"
        try:
            self._range_uj = int((zone / "max_energy_range_uj").read_text())
            self._file = self._path.open("rb", buffering=0)
            self._last_uj = self._read_uj()
        except PermissionError as error:
            raise MeterError(
                "only root may read the energy counters of the CPU",
                where=str(self._path),
                fix=_FIX_PERMISSION,
            ) from error
        except (OSError, ValueError) as error:
            raise MeterError(
                f"an energy counter of the CPU cannot be read: {error}", where=str(self._path)
            ) from error
        self._total_uj = self._last_uj
        self._last_ns = now_ns

    def read(self, now_ns: int) -> tuple[float, float]:
        """Cumulative energy in mJ, and 0 or the error number."""
        try:
            now_uj = self._read_uj()
        except OSError as error:
            return math.nan, float(error.errno or errno.EIO)
        except ValueError:
            return math.nan, float(errno.EIO)
        step_uj = now_uj - self._last_uj
        elapsed_s = (now_ns - self._last_ns) / 1e9
        self._last_uj, self._last_ns = now_uj, now_ns
        if step_uj < 0:
            step_uj += self._range_uj
            if step_uj > MAX_POWER_W * 1e6 * elapsed_s:
                return math.nan, float(errno.EIO)
        self._total_uj += step_uj
        return self._total_uj / 1e3, 0.0

    def close(self) -> None:
        self._file.close()

    def _read_uj(self) -> int:
        self._file.seek(0)
        return int(self._file.read(64))


def _numbers(name: str) -> tuple[int, ...]:
    """Numbers of a zone: intel-rapl:0:1 is (0, 1)."""
    return tuple(int(part) for part in name.split(":")[1:] if part.isdigit())


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
