"""Estimates from the twin's kernel tables and power law."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.plan.estimator import Refusal, TaskEstimate, memory_refusal
from harness.spec.deployment import Deployment
from harness.spec.reasons import SkipReason
from harness.spec.workload import Workload

if TYPE_CHECKING:
    from harness.catalog.hardware import Hardware
    from harness.catalog.models import ModelFacts
    from harness.engines.twin.project import Projection
    from harness.engines.twin.tables import NoKernelDataError

    Answer = Projection | NoKernelDataError


class TwinEstimator:
    """Projects workloads as the twin engine does; also for planning real engines."""

    name = "twin"

    def __init__(self) -> None:
        self._about: tuple[str, Deployment] | None = None
        self._known: dict[Workload, Answer] = {}

    def fits(
        self,
        model: ModelFacts,
        hardware: Hardware,
        deployment: Deployment,
        workloads: Sequence[Workload],
    ) -> list[Refusal | None]:
        """Refuse what the tables do not know and what needs more memory than a GPU has."""
        from harness.engines.twin.tables import NoKernelDataError

        refusals: list[Refusal | None] = []
        for answer in self._project(model, hardware, deployment, workloads):
            if isinstance(answer, NoKernelDataError):
                refusals.append((SkipReason.NO_KERNEL_DATA, str(answer)))
            else:
                refusals.append(memory_refusal(answer.memory_bytes, hardware))
        return refusals

    def estimate(
        self,
        model: ModelFacts,
        hardware: Hardware,
        deployment: Deployment,
        workloads: Sequence[Workload],
    ) -> list[TaskEstimate]:
        """Estimate workloads that fit.

        Raises
        ------
        NoKernelDataError
            A workload does not fit the tables; ask ``fits`` first.
        """
        from harness.engines.twin.tables import NoKernelDataError

        estimates = []
        for answer in self._project(model, hardware, deployment, workloads):
            if isinstance(answer, NoKernelDataError):
                raise answer
            energy_j = answer.prefill_j + answer.decode_j
            estimates.append(TaskEstimate(answer.prefill_s, answer.decode_s, energy_j, self.name))
        return estimates

    def _project(
        self,
        model: ModelFacts,
        hardware: Hardware,
        deployment: Deployment,
        workloads: Sequence[Workload],
    ) -> list[Answer]:
        """Project, keeping the answers of the latest deployment for the next question."""
        from harness.engines.twin.project import project

        about = (model.model_id, deployment)
        if self._about != about:
            self._about, self._known = about, {}
        new = [w for w in dict.fromkeys(workloads) if w not in self._known]
        if new:
            self._known.update(zip(new, project(model, hardware, deployment, new), strict=True))
        return [self._known[workload] for workload in workloads]
