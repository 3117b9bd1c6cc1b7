"""Find out how the power sensor of one GPU behaves, from a load whose switch times are known.

    bare      no context: updates of the counter, idle power
    context   prepare() opens one and calibrates: idle power again
    steady    one long burst: counter against integral of power
    bursts    random bursts and pauses: lag, averaging, share of time that is sampled

Takes about 45 s a GPU, 20 s where it must be quick. Everything that waits or reads a clock comes
in as an argument, so a whole characterisation also runs on a virtual clock.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from harness.errors import MeterError
from harness.meters.base import Reader, SensorFacts
from harness.meters.choose import nvidia_facts
from harness.meters.loads import Load, burst_plan
from harness.meters.polling import Poller, Readings, join
from harness.meters.sensor_findings import Findings, Gpu, conclude, known_or
from harness.meters.sensor_report import Characterisation, IdlePower
from harness.meters.updates import changes, update_period

HANG_FACTOR, HANG_S = 10.0, 5.0


@dataclass(frozen=True, slots=True)
class Timing:
    """How long each part takes, seconds.

    Attributes
    ----------
    idle_s
        Shortest watch of idle power.
    longest_idle_s
        Longest, where 50 counter periods would take more.
    settle_s
        Rest after the context was opened, before its idle power is watched.
    steady_s
        The long burst.
    bursts_s
        Random bursts and pauses; at least 60 counter periods, up to twice as long.
    """

    idle_s: float = 5.0
    longest_idle_s: float = 10.0
    settle_s: float = 2.0
    steady_s: float = 6.0
    bursts_s: float = 20.0

    @property
    def total_s(self) -> float:
        """About how long one GPU takes."""
        return 2 * self.idle_s + self.settle_s + self.steady_s + self.bursts_s + 2.0


FULL = Timing()
QUICK = Timing(idle_s=2.0, longest_idle_s=4.0, settle_s=1.0, steady_s=3.0, bursts_s=9.0)


def characterise(
    reader: Reader,
    gpu: Gpu,
    *,
    load: Load | None,
    timing: Timing = FULL,
    assumed: SensorFacts | None = None,
    loaded: IdlePower | None = None,
    notes: tuple[str, ...] = (),
    seed: int = 0,
    clock: Callable[[], int] = time.monotonic_ns,
    sleep: Callable[[float], None] = time.sleep,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Characterisation:
    """Characterise the sensor of one GPU that nobody else uses.

    Parameters
    ----------
    reader
        Reads the GPU; it must be among its devices.
    gpu
        The GPU.
    load
        What it is put to; None finds out what can be had without.
    timing
        How long each part takes.
    assumed
        Facts that stand where nothing could be found out; those of the type of GPU if None.
    loaded
        Idle power with weights in memory, where the caller has it.
    notes
        What else to say in the result.
    seed
        Seed of the random bursts.
    clock, sleep, now
        Monotonic time in nanoseconds; waiting in seconds; wall clock.

    Raises
    ------
    MeterError
        If another process uses the GPU, or it stops answering.
    """
    started_ns = clock()
    assumed = nvidia_facts(gpu.name) if assumed is None else assumed
    poller = Poller(reader, reader.device_ids.index(gpu.uuid), clock, sleep)
    others = poller.processes()
    if others > 0:
        raise _foreign(gpu, others)
    found = Findings(gpu, _watch_idle(poller, timing), loaded=loaded, notes=notes)
    if load is not None:
        try:
            if refused := _prepare(load):
                found.notes += (refused,)
            else:
                _put_to_work(found, poller, load, timing, assumed, seed)
                others = poller.processes()
        finally:
            load.close()
        if others > 1:
            raise _foreign(gpu, others - 1)
    seconds = (clock() - started_ns) / 1e9
    return conclude(found, assumed, now(), seconds)


def _prepare(load: Load) -> str:
    """Why the load cannot run, in one line; empty if it can."""
    try:
        load.prepare()
    except MeterError as error:
        return f"no load: {error.what} ({error.where}); {error.fix}"
    return ""


def _put_to_work(
    found: Findings, poller: Poller, load: Load, timing: Timing, assumed: SensorFacts, seed: int
) -> None:
    """Watch the GPU with a context, under the long burst, and under the random ones."""
    poller.watch(timing.settle_s)
    found.context = _watch_idle(poller, timing)
    found.steady, long_ns = _burst(poller, load, [(timing.steady_s, 0.5)])
    rest = found.rest
    period_s = known_or(update_period(rest.t_ns, rest.energy_mj).period_s, assumed.counter_period_s)
    bursts_s = min(2 * timing.bursts_s, max(timing.bursts_s, 60 * period_s))
    found.bursts, short_ns = _burst(poller, load, burst_plan(bursts_s, period_s, seed))
    # A trailing mean still remembers the long burst.
    found.edges_s = (np.concatenate((long_ns, short_ns)) - found.bursts.t_ns[0]) / 1e9


def _foreign(gpu: Gpu, others: float) -> MeterError:
    return MeterError(
        f"{int(others)} other process{'es' if others > 1 else ''} on this GPU: "
        "their power would be taken for ours",
        where=f"{gpu.name}, {gpu.uuid}",
        fix="end them or wait (nvidia-smi lists them), then characterise again",
    )


def _watch_idle(poller: Poller, timing: Timing) -> Readings:
    """Watch a resting GPU for 50 counter periods, within the limits."""
    first = poller.watch(timing.idle_s)
    period_s = update_period(first.t_ns, first.energy_mj).period_s
    if math.isnan(period_s) and changes(first.energy_mj).size:
        period_s = timing.longest_idle_s  # slow, as it seems
    missing_s = min(timing.longest_idle_s, 50 * known_or(period_s, 0.0)) - timing.idle_s
    return first if missing_s <= 0 else join([first, poller.watch(missing_s)])


def _burst(
    poller: Poller, load: Load, plan: list[tuple[float, float]]
) -> tuple[Readings, npt.NDArray[np.int64]]:
    """Run bursts and pauses; return the readings and the edges (k, 2), nanoseconds."""
    poller.poll()
    for on_s, off_s in plan:
        load.start(on_s)
        limit_ns = poller.clock() + int((HANG_FACTOR * on_s + HANG_S) * 1e9)
        while not load.done():
            poller.poll()
            if poller.clock() > limit_ns:
                raise MeterError(
                    f"a burst of {on_s:.2g} s did not end in time",
                    where=poller.reader.device_ids[poller.device],
                    fix="see dmesg for Xid errors, and whether another process holds the GPU",
                )
        until_ns = poller.clock() + int(off_s * 1e9)
        while poller.clock() < until_ns:
            poller.poll()
    readings = poller.take()
    return readings, np.array(load.edges(), dtype=np.int64).reshape(-1, 2)
