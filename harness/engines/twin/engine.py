"""The twin engine: sessions on a virtual clock whose power curve is projected, not drawn."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.catalog import Hardware, ModelFacts, load_hardware
from harness.engines.base import Phase, RunStamps
from harness.engines.twin.project import Projection, project, waiting_power_w
from harness.engines.twin.tables import NoKernelDataError, tables_version
from harness.errors import EngineError
from harness.meters.base import SensorFacts
from harness.meters.twin import Segment, SensorFaults, TwinMeter
from harness.spec import Deployment, Workload

GAP_S = 2e-3
"""Pause between two runs of a phase: the host prepares the next prompts."""


class TwinEngine:
    """Projects launches from kernel tables and an operator power law.

    Parameters
    ----------
    repeat_noise
        One standard deviation of the relative scatter between repeats, in time and in power:
        clocks, temperature, host. It is a setting of the sweep, not a measurement.
    faults
        Sensor faults, for tests.
    """

    name = "twin"
    provenance = "projected"
    isolated = False

    def __init__(self, repeat_noise: float = 0.02, faults: SensorFaults | None = None) -> None:
        self._repeat_noise = repeat_noise
        self._faults = faults

    def version(self, hardware: Hardware) -> str:
        """Version of the tables, and of the vLLM release they were taken with."""
        return f"aiconfigurator-core {tables_version()}, vllm {hardware.twin_version}"

    def open(self, model: ModelFacts, deployment: Deployment, seed: int) -> TwinSession:
        """Bring a virtual deployment up."""
        return TwinSession(
            model, deployment, repeat_noise=self._repeat_noise, seed=seed, faults=self._faults
        )


class TwinSession:
    """One virtual deployment.

    Every call of `run` draws one relative error of time and one of power, so windows scatter as
    repeats on a real machine do; within a window all runs are alike.
    """

    virtual = True
    phases: tuple[Phase, ...] = ("prefill", "full")

    def __init__(
        self,
        model: ModelFacts,
        deployment: Deployment,
        *,
        repeat_noise: float,
        seed: int,
        faults: SensorFaults | None = None,
        sensor: SensorFacts | None = None,
        behaviour: SensorFacts | None = None,
    ) -> None:
        self._model = model
        self._hardware = load_hardware(deployment.hardware)
        self._deployment = deployment
        self._repeat_noise = repeat_noise
        self._idle_power_w = waiting_power_w(self._hardware)
        self._clock_ns = 0
        self._projections: dict[Workload, Projection | NoKernelDataError] = {}
        name = f"{model.model_id} {deployment.summary}".encode()
        self._rng = np.random.default_rng([seed, zlib.crc32(name)])
        self._meter = TwinMeter(
            self._hardware.hardware,
            deployment.num_gpus,
            self._idle_power_w,
            seed=int(self._rng.integers(2**31)),
            faults=faults,
            sensor=sensor,
            behaviour=behaviour,
        )

    @property
    def meter(self) -> TwinMeter:
        """The simulated sensor of this session."""
        return self._meter

    def prepare(self, workloads: Sequence[Workload]) -> None:
        """Project many workloads at once: much cheaper than one by one."""
        new = [w for w in dict.fromkeys(workloads) if w not in self._projections]
        results = project(self._model, self._hardware, self._deployment, new)
        self._projections.update(zip(new, results, strict=True))

    def projection(self, workload: Workload) -> Projection:
        """The truth behind a workload: what the sensor of this session should find."""
        if workload not in self._projections:
            self.prepare([workload])
        result = self._projections[workload]
        if isinstance(result, NoKernelDataError):
            raise EngineError(
                f"the twin cannot project this: {result}",
                where=f"{self._model.model_id} on {self._deployment.summary}",
                fix="leave it out of the sweep, or choose hardware with kernel tables",
            )
        return result

    def run(self, workload: Workload, phase: Phase, count: int) -> RunStamps:
        """Put `count` runs on the virtual clock and on the power curve."""
        truth = self.projection(workload)
        slower, hotter = np.exp(self._repeat_noise * self._rng.standard_normal(2) / np.sqrt(2))
        gpus = self._deployment.num_gpus
        knots, energy = [0.0, truth.prefill_s], [0.0, truth.prefill_j / gpus]
        if phase == "full":
            knots.append(knots[-1] + truth.decode_s)
            energy.append(energy[-1] + truth.decode_j / gpus)
        knots_s = np.array(knots) * slower
        energy_j = np.array(energy) * slower * hotter
        knots_s = np.append(knots_s, knots_s[-1] + GAP_S)
        energy_j = np.append(energy_j, energy_j[-1] + GAP_S * self._idle_power_w)
        segment = Segment(self._clock_ns, knots_s, energy_j, count)
        self._meter.record(segment)
        starts = self._clock_ns + np.round(np.arange(count) * knots_s[-1] * 1e9).astype(np.int64)
        first = starts + round(knots_s[1] * 1e9)
        ends = starts + round(knots_s[-2] * 1e9)
        self._clock_ns += round(segment.duration_s * 1e9)
        return RunStamps(starts, first, ends)

    def rest(self, seconds: float) -> tuple[int, int]:
        """Let the virtual clock pass at idle power."""
        start = self._clock_ns
        self._clock_ns += int(seconds * 1e9)
        return start, self._clock_ns

    def environment(self) -> dict[str, Any]:
        """Nothing that the columns of a row do not say."""
        return {}

    def close(self) -> None:
        """Nothing runs, so nothing has to end."""
