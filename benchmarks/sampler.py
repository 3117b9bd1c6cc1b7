"""What the sampler costs and how well it keeps time, on this machine, without a GPU.

    python benchmarks/sampler.py            # about two and a half minutes
    python benchmarks/sampler.py --quick    # a look, about half a minute

Eight GPUs of the scripted NVML library are read 50 times a second by the real reader, through
the real bindings, in the real sampler process. Goals: at most 1.5 % of a core, a p99 spacing of
at most 1.2 periods beside a busy interpreter, at most 0.5 % of slow-down of the measured program.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "nvml"))

from scripted import GpuScript, ScriptedNvml

from harness.meters import SensorFacts
from harness.meters.sampled import SampledMeter
from harness.meters.sampler_process import ReaderSpec

GPUS = 8
PERIOD_S = 0.02
FACTS = SensorFacts(counter_period_s=0.1, poll_period_s=PERIOD_S, gain_error=0.0)


def open_sampler(nvml: ScriptedNvml) -> SampledMeter:
    """A meter over all scripted GPUs."""
    uuids = tuple(gpu.uuid.decode() for gpu in nvml._script.gpus[:GPUS])
    return SampledMeter(
        "nvml",
        [ReaderSpec("nvml", uuids)],
        FACTS,
        scope="gpu",
        simulated=True,
        period_s=PERIOD_S,
        environ={**os.environ, **nvml.env},
    )


def cpu_ns(pid: int) -> int:
    """Time all threads of a process have spent on a core, nanoseconds."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(path.read_text().split()[0]) for path in threads)


def spacing(meter: SampledMeter, start_ns: int, end_ns: int) -> str:
    """Spacing of the polls in an interval, and how many slots were missed."""
    samples = meter.read(start_ns, end_ns)
    gaps = np.diff(samples.t_ns) / 1e9 / PERIOD_S
    p50, p99 = np.quantile(gaps, [0.5, 0.99])
    share = samples.missed / (samples.missed + samples.t_ns.size)
    return (
        f"spacing p50 {p50:.3f}, p99 {p99:.3f}, max {gaps.max():.2f} periods; "
        f"missed {samples.missed} of {samples.missed + samples.t_ns.size} ({share:.2%})"
    )


def cost(nvml: ScriptedNvml, seconds: float) -> None:
    """CPU time of the sampler beside an idle parent."""
    with open_sampler(nvml) as meter:
        time.sleep(1.0)
        start_ns, before = time.monotonic_ns(), cpu_ns(meter.sampler_pid)
        time.sleep(seconds)
        end_ns, after = time.monotonic_ns(), cpu_ns(meter.sampler_pid)
        share = (after - before) / (end_ns - start_ns)
        samples = meter.read(start_ns, end_ns)
        delay_us = samples.delay_ns[-1].mean() / 1e3 if samples.delay_ns is not None else 0.0
        poll_us = share * PERIOD_S * 1e6
        print(
            f"cost: {share:.2%} of a core, {poll_us:.0f} us a poll; "
            f"the last GPU is read {delay_us:.0f} us after a poll"
        )
        print(f"idle parent: {spacing(meter, start_ns, end_ns)}")


def busy(nvml: ScriptedNvml, seconds: float) -> None:
    """Keep an interpreter busy beside the sampler."""
    with open_sampler(nvml) as meter:
        time.sleep(1.0)
        start_ns = time.monotonic_ns()
        x = 0
        while time.monotonic_ns() < start_ns + seconds * 1e9:
            for i in range(10_000):
                x = (x * 31 + i) % 1_000_003
        print(f"busy parent: {spacing(meter, start_ns, time.monotonic_ns())}")


def slow_down(nvml: ScriptedNvml, pairs: int, seconds: float, rng: random.Random) -> None:
    """Time of a fixed piece of work with the sampler over without, in pairs.

    Wall time is what counts and what other programs disturb most; the thread's own CPU time
    leaves out what they take, and what the sampler takes on the same core. That is in the
    switches: how often the work was interrupted against its will.
    """
    import torch

    torch.set_num_threads(1)
    a = torch.randn(512, 512)

    def work() -> tuple[float, float, float]:
        start, cpu_s, switches = time.perf_counter(), time.thread_time(), interruptions()
        x = a
        for _ in range(count):
            x = torch.tanh(x @ a)
        wall_s = time.perf_counter() - start
        return wall_s, time.thread_time() - cpu_s, (interruptions() - switches) / wall_s

    count = 20
    count = max(1, round(count * seconds / min(work()[0] for _ in range(5))))
    found: dict[bool, list[tuple[float, float, float]]] = {True: [], False: []}
    with open_sampler(nvml) as meter:
        for _ in range(pairs):
            for sampled in rng.sample([True, False], 2):
                # A stopped process costs nothing; opening one anew would.
                os.kill(meter.sampler_pid, signal.SIGCONT if sampled else signal.SIGSTOP)
                time.sleep(0.02)
                found[sampled].append(work())
        os.kill(meter.sampler_pid, signal.SIGCONT)
    beside, alone = np.array(found[True]), np.array(found[False])
    rows = np.random.default_rng(0).integers(0, pairs, (4000, pairs))
    for i, name in enumerate(("wall time", "CPU time")):
        ratios = beside[:, i] / alone[:, i]
        low, high = np.quantile(np.median(ratios[rows], axis=1), [0.025, 0.975])
        print(
            f"slow-down, {name}: {np.median(ratios) - 1:+.2%} [{low - 1:+.2%}, {high - 1:+.2%}] "
            f"(median of {pairs} pairs of {seconds:g} s, 95 % interval)"
        )
    print(
        f"interruptions a second: {beside[:, 2].mean():.0f} with the sampler, "
        f"{alone[:, 2].mean():.0f} without"
    )


def interruptions() -> int:
    """How often this thread had to leave a core against its will."""
    lines = Path("/proc/thread-self/status").read_text().splitlines()
    return int(next(x for x in lines if x.startswith("nonvoluntary")).split()[1])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all three."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--pairs", type=int, default=300)
    options = parser.parse_args(arguments)
    seconds = 5.0 if options.quick else 20.0
    with (
        tempfile.TemporaryDirectory() as folder,
        ScriptedNvml([GpuScript() for _ in range(GPUS)], folder=Path(folder)) as nvml,
    ):
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {GPUS} GPUs at 50 Hz")
        cost(nvml, seconds)
        busy(nvml, seconds)
        slow_down(nvml, 60 if options.quick else options.pairs, 0.1, random.Random(0))


if __name__ == "__main__":
    main()
