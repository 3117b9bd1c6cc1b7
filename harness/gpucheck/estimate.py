"""How long launches take, before and after the first of them was timed.

The figures are assumptions of planning: the library's own time for each layer and step rules
at these sizes, arithmetic and memory rule long prompts. What a launch really took corrects the
estimates of those that follow.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from harness.catalog import Hardware, ModelFacts
from harness.measuring.settings import LaunchSpec
from harness.meters.base import SensorFacts
from harness.meters.window import rest_needed_s
from harness.plan.roofline import RooflineEstimator, memory_bytes
from harness.spec.deployment import Deployment
from harness.spec.workload import Workload

HOST_S = {"dense": 0.75e-3, "moe": 1.1e-3, "ssm": 0.7e-3}
"""Host time for one layer of one step, seconds: launching kernels from Python."""
START_S = 18.0
"""Interpreter, libraries, device context, two tokens to try."""
PARAMETERS_PER_S = 2e9
"""Random weights made a second."""
WARM_RUNS = 2.2
"""Runs of each phase until its time settles."""
SCAN_BYTES = 16.0
"""Bytes that reference kernels of state layers hold for each token and value of the state."""
MEMORY_SHARE = 0.9
"""Share of the memory that a workload may be thought to need before it is left out."""


@dataclass(frozen=True, slots=True)
class RunTime:
    """Seconds of one run: until the first token, and after it."""

    prefill_s: float
    decode_s: float

    @property
    def full_s(self) -> float:
        """Seconds of the whole run."""
        return self.prefill_s + self.decode_s


def run_time(
    model: ModelFacts, hardware: Hardware, deployment: Deployment, workload: Workload
) -> RunTime:
    """Estimate one run."""
    found = RooflineEstimator().estimate(model, hardware, deployment, [workload])[0]
    host_s = HOST_S[model.family] * model.layers
    steps = workload.output_tokens - 1
    scan_s = scan_bytes(model, workload) * 2 * model.state_layers
    scan_s /= hardware.memory_bandwidth_bytes_per_s
    return RunTime(max(found.prefill_s, host_s) + scan_s, max(found.decode_s, steps * host_s))


def scan_bytes(model: ModelFacts, workload: Workload) -> float:
    """Bytes that the scan of one state layer holds during prefill."""
    if not model.state_layers:
        return 0.0
    values = model.state_bytes_per_sequence / 2.0 / model.state_layers
    return SCAN_BYTES * values * workload.batch * workload.input_tokens


def fits(
    model: ModelFacts, deployment: Deployment, workload: Workload, memory: float
) -> tuple[bool, float]:
    """Whether a workload is thought to fit into `memory` bytes, and the bytes it needs."""
    need = memory_bytes(model, deployment, workload) + scan_bytes(model, workload)
    return need <= MEMORY_SHARE * memory, need


def launch_seconds(
    spec: LaunchSpec, model: ModelFacts, hardware: Hardware, sensor: SensorFacts
) -> float:
    """Estimate one launch, from starting its process to its rows on disk.

    Parameters
    ----------
    spec
        The launch.
    model, hardware
        What it runs, and where.
    sensor
        How long windows and rests have to be.
    """
    protocol = spec.protocol
    window_s = max(protocol.window_s, sensor.shortest_window_s)
    rest_s = rest_needed_s(sensor) + sensor.counter_period_s

    def windowed(run_s: float) -> float:
        return max(1, math.ceil(1.1 * window_s / run_s)) * run_s + rest_s

    times = [run_time(model, hardware, spec.deployment, w) for w in spec.workloads]
    total_s = START_S + model.params_total / PARAMETERS_PER_S
    total_s += 4.5 + 2 * max(5.0, sensor.shortest_window_s) + protocol.warm_up_s
    for time in times:
        total_s += WARM_RUNS * (time.prefill_s + time.full_s)
        total_s += protocol.repeats * (windowed(time.prefill_s) + windowed(time.full_s))
        if protocol.decode_windows and time.decode_s > 0:
            total_s += WARM_RUNS * time.full_s
            total_s += protocol.repeats * (time.prefill_s + windowed(time.decode_s))
    if protocol.sentinel is not False:
        median_s = statistics.median_low([time.full_s for time in times])
        total_s += (protocol.repeats + 1) * windowed(median_s)
    return total_s


def correction(past: Iterable[tuple[str, float, float]], model_id: str) -> float:
    """Factor on estimates from launches that are done.

    Parameters
    ----------
    past
        Model, estimated and real seconds of each.
    model_id
        Its own launches count alone; without any, those of all models do.

    Returns
    -------
    float
        1 without any launch; else within a quarter to four.
    """
    ratios = [(name, real / guessed) for name, guessed, real in past if guessed > 0]
    own = [ratio for name, ratio in ratios if name == model_id]
    known = own or [ratio for _, ratio in ratios]
    return min(4.0, max(0.25, statistics.median(known))) if known else 1.0
