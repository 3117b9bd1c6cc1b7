"""One model that is up on one device and takes work."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.catalog import ModelFacts
from harness.engines.base import Phase, RunStamps
from harness.engines.transformers.devices import Device, free_memory_bytes, synchroniser
from harness.engines.transformers.failures import (
    EngineBrokenError,
    release_memory,
    translate,
)
from harness.engines.transformers.generate import (
    Generator,
    HeldPrefill,
    Stamps,
)
from harness.engines.transformers.inputs import InputMaker
from harness.engines.transformers.memory import check_workload
from harness.errors import NotSupportedError
from harness.meters.window import rest_needed_s
from harness.spec import Deployment, Workload

if TYPE_CHECKING:
    from harness.meters.base import Meter


class TransformersSession:
    """Runs workloads on a model and stamps their phases.

    Parameters
    ----------
    model
        A transformers model on the device, in evaluation mode.
    facts
        Its catalog facts.
    deployment
        How it is served.
    device
        Where it is.
    meter
        Reads that device; the session closes it.
    seed
        Seed of the prompts.
    environment
        What is known about the surroundings by now.
    clock_ns, sleep
        Monotonic clock and pause.
    """

    virtual = False

    def __init__(
        self,
        model: Any,
        facts: ModelFacts,
        deployment: Deployment,
        device: Device,
        meter: Meter,
        *,
        seed: int,
        environment: dict[str, Any],
        clock_ns: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._model = model
        self._facts = facts
        self._deployment = deployment
        self._device = device
        self._meter = meter
        self._environment = environment
        self._clock_ns = clock_ns
        self._sleep = sleep
        self._inputs = InputMaker(facts, model.config, device.torch_name, model.dtype, seed)
        self._generator = Generator(model, clock_ns, synchroniser(device))
        self._visual: dict[str, Any] = {}
        self._broken: EngineBrokenError | None = None
        self._closed = False
        self._phases = self._probe()

    @property
    def meter(self) -> Meter:
        """The meter of this device."""
        return self._meter

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Prefill and full; decode where the cache of the model can be rewound."""
        return self._phases

    @property
    def provenance(self) -> str:
        """``projected`` if the sensor is simulated, else ``measured``."""
        return "projected" if self._meter.simulated else "measured"

    def environment(self) -> dict[str, Any]:
        """Devices, versions, settings, idle powers, and the sizes of visual inputs so far."""
        return {**self._environment, "visual_inputs": dict(self._visual)}

    def prepare(self, workloads: Sequence[Workload]) -> None:
        """Nothing to prepare: inputs are made run by run."""

    def run(self, workload: Workload, phase: Phase, count: int) -> RunStamps:
        """Run `phase` of `workload` `count` times, each prefill on a fresh prompt.

        Raises
        ------
        NotSupportedError
            If the model cannot take this input, or the phase does not exist.
        OutOfMemoryError
            If it does not fit; the session goes on.
        EngineError
            If it crashes; with kind ``engine_broken`` nothing can run any more.
        """
        where = self._where(workload)
        self._check(workload, phase, where)
        try:
            if phase == "decode":
                stamps = self._decode(workload, count)
            else:
                tokens = 1 if phase == "prefill" else workload.output_tokens
                stamps = [self._whole(workload, tokens) for _ in range(count)]
        except Exception as error:  # whatever the libraries raise is a result of this workload
            ours = translate(error, where)
            if isinstance(ours, EngineBrokenError):
                self._broken = ours
                raise ours from error
            error.__traceback__ = None  # its frames hold tensors
        else:
            return _columns(stamps, phase)
        release_memory()
        raise ours

    def rest(self, seconds: float) -> tuple[int, int]:
        """Do nothing for `seconds`; return the interval."""
        start_ns = self._generator.now_ns() if self._broken is None else self._clock_ns()
        self._sleep(seconds)
        return start_ns, self._clock_ns()

    def close(self) -> None:
        """Free the model and end the meter; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._model = None
        del self._generator
        try:
            if self._broken is None:
                release_memory()
        finally:
            self._meter.close()

    def _where(self, workload: Workload) -> str:
        shape = f"batch {workload.batch}, {workload.input_tokens} in, {workload.output_tokens} out"
        return f"{self._facts.model_id} on {self._deployment.summary}, {workload.modality}, {shape}"

    def _check(self, workload: Workload, phase: Phase, where: str) -> None:
        if self._broken is not None:
            raise self._broken
        if workload.request_rate_per_s is not None:
            raise NotSupportedError(
                "the transformers engine serves fixed batches, not a request rate",
                where=where,
                fix="leave request_rate_per_s out, or use an engine that serves",
            )
        if phase not in self._phases or (phase == "decode" and workload.output_tokens < 2):
            raise NotSupportedError(f"there is no {phase} phase to run by itself here", where=where)
        vision = self._inputs.check(workload)
        if vision is not None:
            self._visual[f"{workload.image_height}x{workload.image_width}"] = vision.describe()
        check_workload(
            self._facts,
            workload,
            phase,
            self._deployment.precision,
            free_memory_bytes(self._device),
            where,
        )

    def _whole(self, workload: Workload, tokens: int) -> Stamps:
        inputs, replies = self._inputs.make(workload), self._inputs.replies(workload)
        stamps, _ = self._generator.run(inputs, tokens, replies)
        return stamps

    def _decode(self, workload: Workload, count: int) -> list[Stamps]:
        """One prefill, then `count` stretches of decode steps from its end."""
        inputs = self._inputs.make(workload)
        out = []
        with HeldPrefill(self._model, self._start_on_a_tick) as held:
            for _ in range(count):
                held.rewind()
                replies = self._inputs.replies(workload)
                stamps, _ = self._generator.run(inputs, workload.output_tokens, replies)
                out.append(stamps)
        return out

    def _start_on_a_tick(self) -> None:
        """Rest after the prefill: the edge of the window that starts now is anchored in it."""
        self._generator.now_ns()
        if self._meter.has_power:
            self._sleep(rest_needed_s(self._meter.sensor))
            self._meter.wait_for_tick()

    def _probe(self) -> tuple[Phase, ...]:
        """Generate two tokens: shows that the model runs at all, and what its cache is."""
        workload = Workload(batch=1, input_tokens=8, output_tokens=2)
        try:
            with HeldPrefill(self._model) as held:
                self._generator.run(self._inputs.make(workload), 2)
                return ("prefill", "decode", "full") if held.can_rewind else ("prefill", "full")
        except Exception as error:  # as in run
            raise translate(error, self._where(workload)) from error


def _columns(stamps: Sequence[Stamps], phase: Phase) -> RunStamps:
    first = np.array([s.first_token_ns for s in stamps], dtype=np.int64)
    starts = np.array([s.start_ns for s in stamps], dtype=np.int64)
    ends = np.array([s.end_ns for s in stamps], dtype=np.int64)
    if phase == "prefill":
        return RunStamps(starts, ends, ends)
    if phase == "decode":
        return RunStamps(first, first.copy(), ends)
    return RunStamps(starts, first, ends)
