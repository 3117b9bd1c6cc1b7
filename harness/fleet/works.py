"""From a plan to works: which launches are missing, what each needs, how long it may take."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from harness.catalog.cpu import is_cpu
from harness.engines import load_engine
from harness.fleet.inventory import PRECISION_PACKAGES
from harness.fleet.leases import Job
from harness.fleet.nodes import Need, NodeFacts
from harness.fleet.schedule import PART, Work
from harness.launch import LaunchSpec, Protocol
from harness.plan import Plan
from harness.spec import Sweep

BATCH_TASKS = 96
"""Tasks in a batch of pooled launches: a second or two of work, so that progress is seen."""

LAUNCH_DEADLINE_S = 3600.0
"""Time that one launch may take at least; twin launches take seconds."""

DEADLINE_FACTOR = 5.0
"""A real launch may take so many times its plan, if that is longer."""


def missing_launches(sweep: Sweep, plan: Plan, done: set[str]) -> list[LaunchSpec]:
    """Launches of a plan with the workloads that are not done, in the order of the plan.

    Traces are kept for the first `keep_traces` tasks of an even spread over the plan.
    """
    wanted = _traced(plan, sweep.keep_traces)
    out = []
    for launch in plan.launches:
        tasks = [t for t in launch.tasks if t.task_id not in done]
        if not tasks:
            continue
        ids = hashlib.sha256("".join(t.task_id for t in tasks).encode()).hexdigest()[:8]
        out.append(
            LaunchSpec(
                launch_id=f"{launch.launch_id}-{ids}",
                model_id=launch.model_id,
                config_path=plan.models[launch.model_id].config_path.absolute(),
                deployment=launch.deployment,
                workloads=tuple(t.workload for t in tasks),
                protocol=_protocol(sweep, launch.deployment.engine),
                sweep=sweep.name,
                keep_traces=tuple(i for i, t in enumerate(tasks) if t.task_id in wanted),
                engine_options=_engine_options(sweep, launch.deployment.engine),
            )
        )
    return out


class Works:
    """Works of a run, and what is sent for each.

    Parameters
    ----------
    sweep, plan
        What is to be done.
    specs
        Launches that are missing.
    inventory
        Nodes, whose sizes decide what becomes a gang.

    Attributes
    ----------
    all
        Every work, in the order of the plan.
    specs
        work_id -> its launches, of the first attempt; parts of works that were split are added.
    real
        Whether launches measure, each alone on its node, or are projections, many in a worker.
    """

    def __init__(
        self,
        sweep: Sweep,
        plan: Plan,
        specs: Sequence[LaunchSpec],
        inventory: Sequence[NodeFacts],
    ) -> None:
        engine = load_engine(sweep.engine, **_engine_options(sweep, sweep.engine))
        self.real = engine.isolated
        self._isolated = sweep.isolate_launches or engine.isolated
        self._over_nodes = bool(getattr(engine, "multi_node", False))
        self._configs = {s.model_id: s.config_path for s in specs}
        self._planned_s = {launch.launch_id: launch.cost.duration_s for launch in plan.launches}
        self._largest: dict[str, int] = {}
        for facts in inventory:
            for hardware, count in facts.hardware.items():
                self._largest[hardware] = max(count, self._largest.get(hardware, 0))
        self.specs: dict[str, tuple[LaunchSpec, ...]] = {}
        self.all: list[Work] = []
        for group in _groups(specs, 1 if self._isolated else BATCH_TASKS):
            self._add(group)

    def models(self) -> dict[str, str]:
        """Config of each model as text: nodes need not see this machine's files."""
        return {i: path.read_text(encoding="utf-8") for i, path in self._configs.items()}

    def job(self, work: Work) -> Job:
        """What is sent for an attempt of a work."""
        specs = self.specs[work.work_id]
        texts = tuple(
            spec.model_copy(update={"attempt": work.attempt}).model_dump_json() for spec in specs
        )
        deadline_s = sum(self._deadline_s(spec) for spec in specs)
        return Job(texts, self._isolated, deadline_s)

    def split(self, work: Work) -> list[Work]:
        """Parts of a work that can fail by themselves, one a launch."""
        specs = self.specs[work.work_id]
        if len(specs) == 1:
            return [work]
        parts = []
        for spec in specs:
            part = f"{work.work_id}{PART}{spec.launch_id}"
            self.specs[part] = (spec,)
            parts.append(
                Work(part, work.need, 0.0, work.stratum, work.attempt, work.avoid, work.order)
            )
        return parts

    def _add(self, group: tuple[LaunchSpec, ...]) -> None:
        work_id = group[0].launch_id
        if len(group) > 1:
            ids = "".join(spec.launch_id for spec in group)
            work_id = f"batch-{hashlib.sha256(ids.encode()).hexdigest()[:16]}"
        self.specs[work_id] = group
        planned_s = sum(self._planned(spec) for spec in group) if self.real else 0.0
        order = float(len(self.all))
        work = Work(work_id, self._need(group[0]), planned_s, group[0].model_id, order=order)
        self.all.append(work)

    def _planned(self, spec: LaunchSpec) -> float:
        """Planned duration; of a launch that was done in part, too long."""
        return self._planned_s.get(spec.launch_id.partition("-")[0], 0.0)

    def _deadline_s(self, spec: LaunchSpec) -> float:
        return max(LAUNCH_DEADLINE_S, DEADLINE_FACTOR * self._planned(spec))

    def _need(self, spec: LaunchSpec) -> Need:
        deployment = spec.deployment
        if not self.real:
            return Need("", 0, engine=deployment.engine)
        gpus = _gpus(spec)
        nodes = self._nodes_for(deployment.hardware, gpus, deployment.pipeline_parallel)
        wanted = (deployment.engine, deployment.precision)
        precision = deployment.precision if wanted in PRECISION_PACKAGES else ""
        return Need(deployment.hardware, gpus // nodes, nodes, deployment.engine, precision)

    def _nodes_for(self, hardware: str, gpus: int, stages: int) -> int:
        """Fewest nodes that hold a deployment, whole pipeline stages on each."""
        largest = self._largest.get(hardware, 0)
        if gpus <= largest or not self._over_nodes or not largest:
            return 1
        fitting = (n for n in range(2, stages + 1) if stages % n == 0 and gpus // n <= largest)
        return next(fitting, 1)


def _protocol(sweep: Sweep, engine: str) -> Protocol:
    if engine == "twin":
        return Protocol(repeats=sweep.repeats, window_s=sweep.window_s, seed=sweep.twin.seed)
    return Protocol(repeats=sweep.repeats, window_s=sweep.window_s, **sweep.measuring.model_dump())


def _engine_options(sweep: Sweep, engine: str) -> dict[str, Any]:
    if engine == "twin":
        return {"repeat_noise": sweep.twin.repeat_noise}
    if engine == "transformers":
        return sweep.transformers.model_dump()
    return {}


def _traced(plan: Plan, count: int) -> set[str]:
    if not count:
        return set()
    step = max(1, len(plan.tasks) // count)
    return {t.task_id for t in plan.tasks[::step][:count]}


def _groups(specs: Sequence[LaunchSpec], size: int) -> list[tuple[LaunchSpec, ...]]:
    """Group neighbouring launches until a group holds `size` tasks."""
    out: list[tuple[LaunchSpec, ...]] = []
    group: list[LaunchSpec] = []
    tasks = 0
    for spec in specs:
        group.append(spec)
        tasks += len(spec.workloads)
        if tasks >= size:
            out.append(tuple(group))
            group, tasks = [], 0
    if group:
        out.append(tuple(group))
    return out


def _gpus(spec: LaunchSpec) -> int:
    """GPUs that a launch really occupies: none where the processor computes."""
    deployment = spec.deployment
    on_cpu = is_cpu(deployment.hardware) or spec.engine_options.get("device") == "cpu"
    return 0 if on_cpu else deployment.num_gpus
