"""Warm-up: how long a run takes once caches are warm, and heating until power is flat.

    power  ______/~~~~~~~~~        chunks of a few seconds; flat when the last three agree
           |--|--|--|--|--|

There is no pause between the warm-up and the first window: a device that cools down in between
would be measured on its way back up.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from harness.engines import Phase, Session
from harness.meters.window import window_energy
from harness.spec.workload import Workload

SETTLED = 0.10
"""Two runs in a row that differ by less than this have warm caches."""
MOST_RUNS = 4
CHUNK_S = 2.0
FLAT_CHUNKS = 3
FLAT = 0.01
"""Spread of the mean power of the last chunks under which power is flat."""
FLAT_TIME = 0.05
"""The same for run times, where there is no power to look at."""


def warm_up(
    session: Session,
    workload: Workload,
    *,
    decode_windows: bool = True,
    check: Callable[[float], None] = lambda run_s: None,
) -> dict[Phase, float]:
    """Run each phase until its time settles; return seconds a run, by which windows are sized.

    A virtual session has no caches: one run of each.

    Parameters
    ----------
    session, workload
        Where, and what.
    decode_windows
        Whether decode will have windows of its own.
    check
        Told the seconds of every run; raises where that is too long.
    """
    decodes = decode_windows and workload.output_tokens > 1
    out: dict[Phase, float] = {}
    for phase in session.phases:
        if phase == "decode" and not decodes:
            continue
        before = math.inf
        for _ in range(1 if session.virtual else MOST_RUNS):
            stamps = session.run(workload, phase, 1)
            out[phase] = max((stamps.end_ns - stamps.start_ns) / 1e9, 1e-6)
            check(out[phase])
            if abs(out[phase] / before - 1) < SETTLED or out[phase] > 10 * CHUNK_S:
                break
            before = out[phase]
    return out


@dataclass(frozen=True, slots=True)
class Heated:
    """How the warm-up went.

    Attributes
    ----------
    flat
        Whether power (or, without a meter, the run time) was steady at the end.
    seconds
        How long it took.
    levels
        Mean power of each chunk, watts; seconds a run where there is no meter.
    """

    flat: bool
    seconds: float
    levels: list[float] = field(default_factory=list)


def heat(session: Session, workload: Workload, run_s: float, limit_s: float) -> Heated:
    """Run a workload until power is flat, or until `limit_s`.

    Parameters
    ----------
    session
        An open session.
    workload
        What to run; the heaviest of the launch.
    run_s
        Seconds that one whole run takes.
    limit_s
        Longest time; 0 skips the warm-up, which then counts as not flat.
    """
    meter = session.meter
    tolerance = FLAT if meter.has_power else FLAT_TIME
    levels: list[float] = []
    spent_s = 0.0
    while spent_s < limit_s:
        stamps = session.run(workload, "full", max(1, math.ceil(CHUNK_S / run_s)))
        length_s = (stamps.end_ns - stamps.start_ns) / 1e9
        spent_s += length_s
        if meter.has_power:
            samples = meter.read(stamps.start_ns, stamps.end_ns)
            energy, _ = window_energy(samples, stamps.start_ns, stamps.end_ns, meter.sensor)
            levels.append(energy.energy_j / length_s)
        else:
            levels.append(length_s / stamps.count)
        if _flat(levels, tolerance):
            return Heated(True, spent_s, levels)
    return Heated(False, spent_s, levels)


def _flat(levels: list[float], tolerance: float) -> bool:
    last = levels[-FLAT_CHUNKS:]
    if len(last) < FLAT_CHUNKS or not all(math.isfinite(x) and x > 0 for x in last):
        return False
    return max(last) / min(last) - 1 <= 2 * tolerance
