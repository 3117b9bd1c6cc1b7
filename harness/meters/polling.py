"""Fast polls of one sensor in the process that also drives the load.

A sampler of its own is right for measuring; here the sensor is the subject, the load is ours, and
a poll every 2 ms is wanted for less than a minute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import numpy.typing as npt

from harness.errors import MeterError
from harness.meters.base import READING_FIELDS, Reader

POLL_PERIOD_S = 0.002
MAX_BROKEN_SHARE = 0.02
"""Share of polls that may fail before the device counts as lost."""

_ENERGY = READING_FIELDS.index("energy_mj")
_POWER = READING_FIELDS.index("power_w")
_AVERAGE = READING_FIELDS.index("average_power_w")
_PROCESSES = READING_FIELDS.index("process_count")
_STATUS = READING_FIELDS.index("status")
_DELAY = READING_FIELDS.index("delay_s")


@dataclass(frozen=True, slots=True)
class Readings:
    """What one device showed at each poll.

    Attributes
    ----------
    t_ns
        int64 (n,), monotonic time of each read.
    energy_mj, power_w, average_power_w
        float64 (n,), as in `READING_FIELDS`; NaN where it could not be read.
    status
        float64 (n,), error code of each read; 0 is none.
    """

    t_ns: npt.NDArray[np.int64]
    energy_mj: npt.NDArray[np.float64]
    power_w: npt.NDArray[np.float64]
    average_power_w: npt.NDArray[np.float64]
    status: npt.NDArray[np.float64]

    @property
    def spacing_s(self) -> float:
        """Median time between two polls."""
        return float(np.median(np.diff(self.t_ns))) / 1e9

    @property
    def seconds(self) -> float:
        """Time between the first and the last poll."""
        return float(self.t_ns[-1] - self.t_ns[0]) / 1e9


def join(parts: Sequence[Readings]) -> Readings:
    """Put readings one behind the other."""
    return Readings(
        *(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Readings))
    )


@dataclass(slots=True)
class Poller:
    """Polls one device of a reader on an absolute schedule; late slots are skipped.

    Parameters
    ----------
    reader
        The sensor.
    device
        Position of the device in the reader.
    clock
        Monotonic time, nanoseconds.
    sleep
        Waits for some seconds.
    period_s
        Time between two polls, as far as the sensor answers that fast.
    """

    reader: Reader
    device: int
    clock: Callable[[], int]
    sleep: Callable[[float], None]
    period_s: float = POLL_PERIOD_S
    _next_ns: int = 0
    _rows: list[tuple[float, ...]] = field(default_factory=list)
    _times: list[int] = field(default_factory=list)

    def poll(self) -> None:
        """Wait for the next slot of the schedule, then read once."""
        now = self.clock()
        step = int(self.period_s * 1e9)
        if self._next_ns <= now:
            self._next_ns = now if not self._times else now + step - (now - self._next_ns) % step
        if self._next_ns > now:
            self.sleep((self._next_ns - now) / 1e9)
        self._next_ns += step
        t_ns = self.clock()
        row = self.reader.read(False)[self.device]
        delay = row[_DELAY]
        self._times.append(t_ns + (int(delay * 1e9) if delay == delay else 0))
        self._rows.append((row[_ENERGY], row[_POWER], row[_AVERAGE], row[_STATUS]))

    def watch(self, seconds: float) -> Readings:
        """Poll for some seconds; return what was read since the last `take`."""
        until = self.clock() + int(seconds * 1e9)
        while self.clock() < until:
            self.poll()
        return self.take()

    def take(self) -> Readings:
        """Hand over what was read so far.

        Raises
        ------
        MeterError
            If the device answered too few polls.
        """
        values = np.array(self._rows, dtype=np.float64).reshape(-1, 4)
        times = np.array(self._times, dtype=np.int64)
        self._rows, self._times = [], []
        broken = (values[:, 3] != 0) & np.isnan(values[:, :3]).all(axis=1)
        if times.size < 2 or broken.mean() > MAX_BROKEN_SHARE:
            code = int(values[broken, 3][0]) if broken.any() else 0
            raise MeterError(
                f"the GPU stopped answering: {int(broken.sum())} of {times.size} polls failed",
                where=f"{self.reader.device_ids[self.device]}, error code {code} of the driver",
                fix="see dmesg for Xid errors; reset or reboot, then characterise again",
            )
        keep = ~broken
        return Readings(times[keep], *(values[keep, i] for i in range(4)))

    def processes(self) -> float:
        """Compute processes on the device now; NaN where the driver does not say."""
        return float(self.reader.read(True)[self.device][_PROCESSES])
