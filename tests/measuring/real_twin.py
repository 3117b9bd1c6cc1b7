"""A twin that is measured as a real machine is: warm-up, rests, sentinel, a sensor with flaws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from harness.catalog import load_model
from harness.engines.twin.engine import TwinSession
from harness.meters import SensorFacts
from harness.spec import Deployment, Task, Workload

LLAMA = "meta-llama/Meta-Llama-3.1-8B"
DEPLOYMENT = Deployment(hardware="H100-SXM5-80GB")
BELIEVED = SensorFacts(counter_period_s=0.1, poll_period_s=0.02, gain_error=0.0)
WORK = (
    Workload(batch=1, input_tokens=256, output_tokens=64),
    Workload(batch=16, input_tokens=1024, output_tokens=128),
    Workload(batch=8, input_tokens=2048, output_tokens=32),
)


class RealTwin(TwinSession):
    """Virtual time, but nothing of the protocol is left out."""

    virtual = False

    def __init__(
        self,
        *,
        seed: int = 0,
        noise: float = 0.02,
        lag_s: float = 0.0,
        drift: float = 0.0,
        behaviour: SensorFacts | None = None,
        believed: SensorFacts = BELIEVED,
    ) -> None:
        actual = behaviour or replace(believed, lag_s=lag_s)
        super().__init__(
            load_model(LLAMA),
            DEPLOYMENT,
            repeat_noise=noise,
            seed=seed,
            sensor=believed,
            behaviour=actual,
        )
        self._drift = drift
        self.order: list[tuple[int, str]] = []

    def run(self, workload, phase, count):
        self.order.append((workload.batch, phase))
        if self._drift:
            truth = self.projection(workload)
            warm = 1 + self._drift * len(self.order) / 100
            self._projections[workload] = replace(
                truth, prefill_j=truth.prefill_j * warm, decode_j=truth.decode_j * warm
            )
            try:
                return super().run(workload, phase, count)
            finally:
                self._projections[workload] = truth
        return super().run(workload, phase, count)

    def now_s(self) -> float:
        return self._clock_ns / 1e9


def tasks(work=WORK) -> list[Task]:
    return [Task(model_id=LLAMA, workload=w, deployment=DEPLOYMENT) for w in work]


def truth(session: TwinSession, workload: Workload) -> np.ndarray:
    """Prefill, decode and total joules of one run."""
    found = session.projection(workload)
    return np.array([found.prefill_j, found.decode_j, found.prefill_j + found.decode_j])
