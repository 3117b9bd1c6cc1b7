"""What a plan consists of: launches with their tasks, skips, estimates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from harness.spec.deployment import Deployment
from harness.spec.reasons import SkipReason
from harness.spec.task import Task

if TYPE_CHECKING:
    from harness.catalog.hardware import Hardware
    from harness.catalog.models import ModelFacts
    from harness.spec.sweep import Sweep


@dataclass(frozen=True, slots=True)
class Cost:
    """What work is projected to take on real GPUs.

    Parameters
    ----------
    duration_s
        Time, one launch after the other, in seconds.
    gpu_hours
        Time multiplied by the GPUs of each deployment, in hours.
    energy_kwh
        Energy of those GPUs, in kWh.
    price
        In the currency of the sweep's prices; None if a price is missing.
    """

    duration_s: float = 0.0
    gpu_hours: float = 0.0
    energy_kwh: float = 0.0
    price: float | None = None

    def __add__(self, other: Cost) -> Cost:
        known = self.price is not None and other.price is not None
        return Cost(
            self.duration_s + other.duration_s,
            self.gpu_hours + other.gpu_hours,
            self.energy_kwh + other.energy_kwh,
            (self.price or 0.0) + (other.price or 0.0) if known else None,
        )


@dataclass(frozen=True, slots=True)
class Launch:
    """One start of an engine, which measures many workloads of one model in turn.

    Parameters
    ----------
    launch_id
        Hash of model and deployment: the same on every machine.
    model_id, deployment
        What is started.
    tasks
        What it measures, in the order of the sweep.
    cost
        Projected time and energy of the launch.
    """

    launch_id: str
    model_id: str
    deployment: Deployment
    tasks: tuple[Task, ...]
    cost: Cost


@dataclass(frozen=True, slots=True)
class Skip:
    """Configurations of one model and deployment that are not measured, and why.

    Parameters
    ----------
    count
        How many configurations.
    model_id, hardware, deployment
        The model, the GPU type, and the deployment in words.
    reason, detail
        Reason code, and a sentence with the numbers.
    task_ids
        Ids of the tasks, where they were made before the reason was known.
    """

    count: int
    model_id: str
    hardware: str
    deployment: str
    reason: SkipReason
    detail: str
    task_ids: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """Launches and tasks of a sweep, what is skipped, and what it will take.

    Parameters
    ----------
    sweep
        The sweep that was planned.
    launches
        In the order of the sweep.
    skips
        What is not measured, one entry for each model, deployment and reason.
    excluded
        Configurations that the sweep's own exclude conditions removed.
    cost
        Projected time and energy of all launches.
    estimators
        Number of tasks by the name of what estimated them.
    models, hardware
        Facts by canonical id.
    provenance
        Always ``projected``: a plan measures nothing.
    """

    sweep: Sweep = field(repr=False)
    launches: tuple[Launch, ...] = field(repr=False)
    skips: tuple[Skip, ...] = field(repr=False)
    excluded: int
    cost: Cost
    estimators: Mapping[str, int]
    models: Mapping[str, ModelFacts] = field(repr=False)
    hardware: Mapping[str, Hardware] = field(repr=False)
    provenance: str = "projected"
    _tasks: list[tuple[Task, ...]] = field(
        default_factory=list, init=False, repr=False, compare=False
    )

    @property
    def tasks(self) -> tuple[Task, ...]:
        """All tasks, launch by launch; made once."""
        if not self._tasks:
            self._tasks.append(tuple(task for launch in self.launches for task in launch.tasks))
        return self._tasks[0]

    @property
    def task_count(self) -> int:
        """Number of tasks of all launches."""
        return sum(len(launch.tasks) for launch in self.launches)

    @property
    def skipped(self) -> dict[str, int]:
        """Number of skipped configurations by reason, most frequent first."""
        counts: Counter[str] = Counter()
        for skip in self.skips:
            counts[skip.reason.value] += skip.count
        return dict(counts.most_common())

    @property
    def summary(self) -> list[dict[str, Any]]:
        """Rows for a table, one for each hardware type in the order of the sweep.

        Columns: hardware, tasks, launches, skipped, hours, gpu_hours, energy_kwh, price.
        """
        rows: list[dict[str, Any]] = []
        for name in self.hardware:
            launches = [launch for launch in self.launches if launch.deployment.hardware == name]
            cost = sum_costs(launch.cost for launch in launches)
            rows.append(
                {
                    "hardware": name,
                    "tasks": sum(len(launch.tasks) for launch in launches),
                    "launches": len(launches),
                    "skipped": sum(skip.count for skip in self.skips if skip.hardware == name),
                    "hours": cost.duration_s / 3600,
                    "gpu_hours": cost.gpu_hours,
                    "energy_kwh": cost.energy_kwh,
                    "price": cost.price,
                }
            )
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return {
            "sweep": self.sweep.name,
            "engine": self.sweep.engine,
            "provenance": self.provenance,
            "tasks": self.task_count,
            "excluded": self.excluded,
            "skipped": self.skipped,
            "estimates": asdict(self.cost),
            "estimators": dict(self.estimators),
            "by_hardware": self.summary,
            "launches": [
                {
                    "launch_id": launch.launch_id,
                    "model_id": launch.model_id,
                    "deployment": launch.deployment.model_dump(),
                    "num_gpus": launch.deployment.num_gpus,
                    "task_ids": [task.task_id for task in launch.tasks],
                    **asdict(launch.cost),
                }
                for launch in self.launches
            ],
            "skips": [
                {
                    "count": skip.count,
                    "model_id": skip.model_id,
                    "hardware": skip.hardware,
                    "deployment": skip.deployment,
                    "reason": skip.reason.value,
                    "detail": skip.detail,
                    "task_ids": list(skip.task_ids),
                }
                for skip in self.skips
            ],
        }


def sum_costs(costs: Any) -> Cost:
    """Sum costs; the price is known only if every price is."""
    total = Cost(price=0.0)
    for cost in costs:
        total = total + cost
    return total
