"""The launches of an acceptance run: which models, in which order, how closely measured.

    first launch of every model -> second of every model -> ... -> the same again, more repeats

The order gives rows of every model early, so that a run that stops anywhere is of use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.catalog import Hardware, ModelFacts, load_model
from harness.gpucheck.estimate import MEMORY_SHARE, fits, launch_seconds
from harness.gpucheck.workloads import GROUPS, Group, workloads_of
from harness.measuring.settings import LaunchSpec, Protocol
from harness.meters.base import SensorFacts
from harness.spec.deployment import Deployment
from harness.spec.workload import Workload

SWEEP = "gpu-check"
FAST_COUNTER_S = 0.05
"""Counters at least this quick leave time for a second repeat in the first pass."""
SHORTEST_WINDOW_S = 1.0
RUN_TIMEOUT_S = 60.0
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Pace:
    """How closely the first pass measures.

    Attributes
    ----------
    repeats, check_repeats
        Trials of a launch; of one that also has decode windows of its own.
    again
        Trials of the second pass.
    window_s
        Shortest window.
    warm_up_s
        Longest warm-up.
    """

    repeats: int = 2
    check_repeats: int = 3
    again: int = 3
    window_s: float = SHORTEST_WINDOW_S
    warm_up_s: float = 6.0


@dataclass(frozen=True, slots=True)
class PlannedLaunch:
    """One launch with its estimate, seconds."""

    spec: LaunchSpec
    model: ModelFacts
    seconds: float


@dataclass(frozen=True, slots=True)
class CheckPlan:
    """Launches in order, and what was left out and why."""

    launches: tuple[PlannedLaunch, ...]
    left_out: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """Workloads of all launches."""
        return sum(len(launch.spec.workloads) for launch in self.launches)

    @property
    def seconds(self) -> float:
        """Estimate of the whole first pass."""
        return sum(launch.seconds for launch in self.launches)


def pace_for(sensor: SensorFacts) -> Pace:
    """Return the pace that the sensor allows: a slow counter needs long windows."""
    window_s = max(SHORTEST_WINDOW_S, sensor.shortest_window_s)
    if sensor.counter_period_s <= FAST_COUNTER_S:
        return Pace(window_s=window_s)
    return Pace(repeats=1, check_repeats=1, window_s=window_s)


def make_check_plan(
    hardware: Hardware,
    sensor: SensorFacts,
    pace: Pace | None = None,
    groups: Sequence[Group] = GROUPS,
) -> CheckPlan:
    """Plan the first pass for one GPU.

    Parameters
    ----------
    hardware
        The GPU; models and workloads that do not fit into its memory are replaced or left out.
    sensor
        How its sensor behaves.
    pace
        How closely to measure; by the sensor if None.
    groups
        What to measure.
    """
    pace = pace or pace_for(sensor)
    queues: list[list[PlannedLaunch]] = []
    left_out: list[str] = []
    for group in groups:
        model, why = _choose(group, hardware)
        left_out += why
        if model is None:
            continue
        kept, dropped = _fitting(model, group, hardware)
        left_out += dropped
        queues.append(_launches(model, group, kept, hardware, sensor, pace))
    longest = max((len(queue) for queue in queues), default=0)
    rounds = [queue[i] for i in range(longest) for queue in queues if i < len(queue)]
    return CheckPlan(tuple(rounds), tuple(left_out))


def deployment_on(hardware: Hardware) -> Deployment:
    """One GPU, bf16."""
    return Deployment(engine="transformers", hardware=hardware.hardware, precision="bf16")


def _choose(group: Group, hardware: Hardware) -> tuple[ModelFacts | None, list[str]]:
    why: list[str] = []
    for name in group.candidates:
        model = load_model(name)
        need = model.weight_bytes("bf16")
        if need <= MEMORY_SHARE * hardware.memory_bytes:
            return model, why
        why.append(
            f"{name}: its weights take {need / GIB:.0f} GiB in bf16, "
            f"{hardware.hardware} has {hardware.memory_bytes / GIB:.0f} GiB"
        )
    return None, why


def _fitting(
    model: ModelFacts, group: Group, hardware: Hardware
) -> tuple[list[Workload], list[str]]:
    kept, dropped = [], []
    for workload in workloads_of(model, group):
        fine, need = fits(model, deployment_on(hardware), workload, hardware.memory_bytes)
        if fine:
            kept.append(workload)
        else:
            dropped.append(
                f"{model.model_id}, batch {workload.batch}, {workload.input_tokens} in: about "
                f"{need / GIB:.0f} GiB of {hardware.memory_bytes / GIB:.0f} GiB"
            )
    return kept, dropped


def _launches(
    model: ModelFacts,
    group: Group,
    workloads: Sequence[Workload],
    hardware: Hardware,
    sensor: SensorFacts,
    pace: Pace,
) -> list[PlannedLaunch]:
    out: list[PlannedLaunch] = []
    left = list(workloads)
    for number, size in enumerate(group.launches):
        part, left = left[:size], left[size:]
        if not part:
            break
        check = number == 0
        repeats = pace.check_repeats if check else pace.repeats
        spec = LaunchSpec(
            launch_id=f"{SWEEP}-{hardware.hardware}-{group.kind}-{number + 1}",
            model_id=model.model_id,
            config_path=model.config_path,
            deployment=deployment_on(hardware),
            workloads=tuple(part),
            protocol=Protocol(
                repeats=repeats,
                window_s=pace.window_s,
                warm_up_s=pace.warm_up_s,
                run_timeout_s=RUN_TIMEOUT_S,
                decode_windows=check,
                # Two values of it show no drift.
                sentinel=None if repeats > 1 else False,
                seed=number + 1,
            ),
            sweep=SWEEP,
            keep_traces=(0,),
        )
        out.append(
            PlannedLaunch(spec, model, launch_seconds(spec, model, hardware, sensor)),
        )
    return out


def second_pass(
    launch: PlannedLaunch,
    workloads: Sequence[Workload],
    hardware: Hardware,
    sensor: SensorFacts,
    pace: Pace,
) -> PlannedLaunch:
    """Return the launch once more for some of its workloads, as attempt 2 with more repeats."""
    old = launch.spec
    protocol = old.protocol.model_copy(
        update={"repeats": pace.again, "sentinel": None, "seed": 100 + old.protocol.seed}
    )
    spec = old.model_copy(
        update={"workloads": tuple(workloads), "protocol": protocol, "attempt": 2}
    )
    seconds = launch_seconds(spec, launch.model, hardware, sensor)
    return PlannedLaunch(spec, launch.model, seconds)
