"""Says before measuring whether a workload fits, how long it takes, and how much energy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from harness.spec.deployment import Deployment
from harness.spec.reasons import SkipReason
from harness.spec.workload import Workload

if TYPE_CHECKING:
    from harness.catalog.hardware import Hardware
    from harness.catalog.models import ModelFacts

Refusal = tuple[SkipReason, str]
USABLE_MEMORY = 0.9
"""Share of GPU memory that an engine may use: vLLM's default ``gpu_memory_utilization``."""


@dataclass(frozen=True, slots=True)
class TaskEstimate:
    """Projected run of one batch of a workload.

    Parameters
    ----------
    prefill_s, decode_s
        Time to the first token, and from there to the last one, in seconds.
    energy_j
        Energy of all GPUs of the deployment, in joules.
    source
        Name of what estimated it.
    """

    prefill_s: float
    decode_s: float
    energy_j: float
    source: str


class Estimator(Protocol):
    """Projects the workloads of one deployment of one model."""

    def fits(
        self,
        model: ModelFacts,
        hardware: Hardware,
        deployment: Deployment,
        workloads: Sequence[Workload],
    ) -> Sequence[Refusal | None]:
        """For each workload None if it can run, else the reason code and a sentence."""
        ...

    def estimate(
        self,
        model: ModelFacts,
        hardware: Hardware,
        deployment: Deployment,
        workloads: Sequence[Workload],
    ) -> Sequence[TaskEstimate]:
        """Estimate workloads that fit."""
        ...


def memory_refusal(needed_bytes: float, hardware: Hardware) -> Refusal | None:
    """Refuse what needs more than the usable memory of one GPU; None if it fits."""
    usable = USABLE_MEMORY * hardware.memory_bytes
    if needed_bytes <= usable:
        return None
    return (
        SkipReason.DOES_NOT_FIT_IN_MEMORY,
        f"needs {needed_bytes / 2**30:.0f} GiB a GPU; {usable / 2**30:.0f} of "
        f"{hardware.memory_bytes / 2**30:.0f} GiB are usable",
    )


class FallbackEstimator:
    """Uses one estimator, and another where the first has no data.

    Parameters
    ----------
    first, second
        The second is asked about whole deployments for which the first knows no workload's
        times, and about single workloads it lacks.
    """

    def __init__(self, first: Estimator, second: Estimator) -> None:
        self._first = first
        self._second = second

    def fits(
        self,
        model: ModelFacts,
        hardware: Hardware,
        deployment: Deployment,
        workloads: Sequence[Workload],
    ) -> list[Refusal | None]:
        """Ask the second about what the first has no data for."""
        refusals = list(self._first.fits(model, hardware, deployment, workloads))
        missing = [place for place, refusal in enumerate(refusals) if _no_data(refusal)]
        asked = [workloads[place] for place in missing]
        answers = self._second.fits(model, hardware, deployment, asked) if asked else []
        for place, answer in zip(missing, answers, strict=True):
            refusals[place] = answer
        return refusals

    def estimate(
        self,
        model: ModelFacts,
        hardware: Hardware,
        deployment: Deployment,
        workloads: Sequence[Workload],
    ) -> list[TaskEstimate]:
        """Estimate each workload with the estimator that has data for it."""
        refusals = self._first.fits(model, hardware, deployment, workloads)
        parts: dict[bool, list[int]] = {False: [], True: []}
        for place, refusal in enumerate(refusals):
            parts[_no_data(refusal)].append(place)
        found: dict[int, TaskEstimate] = {}
        for second, places in parts.items():
            if places:
                estimator = self._second if second else self._first
                asked = [workloads[place] for place in places]
                answers = estimator.estimate(model, hardware, deployment, asked)
                found.update(zip(places, answers, strict=True))
        return [found[place] for place in range(len(workloads))]


def _no_data(refusal: Refusal | None) -> bool:
    return refusal is not None and refusal[0] is SkipReason.NO_KERNEL_DATA


def default_estimator(engine: str) -> Estimator:
    """Choose the estimator of an engine.

    The twin can run only what its tables know, so nothing stands in for them. A real engine
    can also run what they do not know: there the roofline stands in.
    """
    from harness.plan.roofline import RooflineEstimator
    from harness.plan.twin import TwinEstimator

    twin = TwinEstimator()
    return twin if engine == "twin" else FallbackEstimator(twin, RooflineEstimator())
