"""The transformers engine on the CPU, with a scripted GPU that draws what each phase should.

Every phase is drawn out to a fixed length, so that what else runs on the machine does not scatter
the true energies.
"""

from __future__ import annotations

import os
import time
from typing import Any

from scripted import ScriptedNvml

from harness.engines.transformers.engine import TransformersEngine
from harness.engines.transformers.generate import FirstTokenStamp, Generator, Stamps
from harness.engines.transformers.idle import idle_power_w

PREFILL_S, STEP_S = 0.15, 0.015
IDLE_W, PREFILL_W, DECODE_W = 110.0, 600.0, 350.0
LIBRARY = "POWERED_ENGINE_LIBRARY"
LOG: list[tuple[Any, str, Any]] = []
"""Workload, phase and stamps of every run call of this process."""


class PoweredGenerator(Generator):
    """Sets the true power of the GPU at the very stamps that it returns."""

    nvml: ScriptedNvml

    def run(self, inputs, tokens, replies=None):
        after_w = DECODE_W if tokens > 1 else IDLE_W
        answered, held = self._held()
        prefill_s = 0.0 if held else PREFILL_S
        first = FirstTokenStamp(lambda: self._at(start_ns, prefill_s, after_w), replies)
        start_ns = self._draw(IDLE_W if answered else PREFILL_W)
        out = self._generate(inputs, tokens, first)
        end_ns = self._at(first.at_ns, (tokens - 1) * STEP_S, IDLE_W) if tokens > 1 else first.at_ns
        return Stamps(start_ns, first.at_ns, end_ns), out

    def now_ns(self):
        return self._draw(IDLE_W)

    def _held(self) -> tuple[bool, bool]:
        """Whether the prefill of this run is answered from memory, and whether it is held at all.

        A run whose prefill is held starts with its first token, after a wait for a counter step.
        """
        prefill = self._model.__dict__.get("_prefill")
        return prefill is not None and prefill.__self__._bookmark is not None, prefill is not None

    def _at(self, from_ns: int, seconds: float, power_w: float) -> int:
        """Wait until a phase has lasted as long as it should; then draw other power."""
        time.sleep(max(0.0, seconds - (self._clock_ns() - from_ns) / 1e9))
        return self._draw(power_w)

    def _draw(self, power_w: float) -> int:
        now_ns = self._clock_ns()
        self.nvml.set_power(0, now_ns, power_w)
        return now_ns


class PoweredEngine(TransformersEngine):
    """As `TransformersEngine`, but its work shows as scripted power."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"device": "cpu", "threads": 1, "meter_period_s": 0.015, **options})

    def open(self, model, deployment, seed):
        session = super().open(model, deployment, seed)
        old = session._generator
        new = PoweredGenerator(old._model, old._clock_ns, old._synchronise)
        new.nvml = ScriptedNvml.attach(os.environ["NVML_SCRIPT"], os.environ[LIBRARY])
        session._generator = new
        run = session.run

        def logged(workload, phase, count):
            stamps = run(workload, phase, count)
            LOG.append((workload, phase, stamps))
            return stamps

        session.run = logged
        return session

    def _idle(self, meter):
        return idle_power_w(meter, 0.3)
