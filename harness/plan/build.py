"""Makes a plan of a sweep: groups tasks into launches and accounts for what is left out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.plan.estimator import Estimator, TaskEstimate, default_estimator
from harness.plan.explain import nothing_left
from harness.plan.records import Cost, Launch, Plan, Skip, sum_costs
from harness.spec.deployment import Deployment
from harness.spec.expand import Dropped, expand_sweep
from harness.spec.facts import load_hardware_facts, load_models, load_prices
from harness.spec.reasons import SkipReason
from harness.spec.sweep import Sweep, load_sweep
from harness.spec.task import Task, launch_id_of

if TYPE_CHECKING:
    from harness.catalog.hardware import Hardware
    from harness.catalog.models import ModelFacts

JOULES_PER_KWH = 3.6e6
DECODES = frozenset({"transformers"})
"""Engines that go back to the end of a prompt, so that decode has windows of its own."""
IDLE_S = 10.0
"""The two idle windows of a launch, before and after its measurements (`harness.launch`)."""


def make_plan(sweep: Sweep | str | Path, *, estimator: Estimator | None = None) -> Plan:
    """Plan a sweep. Writes nothing and needs no GPU.

    Parameters
    ----------
    sweep
        A sweep, or the path of its file.
    estimator
        What says whether work fits and how long it takes; by default the twin's kernel
        tables, and for real engines the roofline where there are none.

    Returns
    -------
    Plan
        Launches in the order of the sweep. Time and energy are projected for real GPUs, also
        if the engine is the twin, which itself occupies none.

    Raises
    ------
    SweepError
        The sweep is wrong.
    PlanError
        Nothing is left to measure.
    """
    if not isinstance(sweep, Sweep):
        sweep = load_sweep(sweep)
    by_name = load_models(sweep)
    gpus_by_name = load_hardware_facts(sweep)
    expansion = expand_sweep(sweep, by_name, gpus_by_name)
    models = {model.model_id: model for model in by_name.values()}
    hardware = {gpu.hardware: gpu for types in gpus_by_name.values() for gpu in types}
    prices = load_prices(sweep)
    ask = estimator if estimator is not None else default_estimator(sweep.engine)
    skips = [_skip_of(dropped) for dropped in expansion.dropped]
    groups = _groups(expansion.tasks)
    planned: list[_Planned] = []
    for (model_id, _), tasks in groups.items():
        gpu = hardware[tasks[0].deployment.hardware]
        result, refused = _plan_group(
            sweep, models[model_id], gpu, prices.get(gpu.hardware), tasks, ask
        )
        skips += refused
        if result is not None:
            planned.append(result)
    kept, over = _within_budgets(sweep, planned)
    skips += over
    if not kept:
        raise nothing_left(sweep, expansion, skips, models, hardware)
    return Plan(
        sweep=sweep,
        launches=tuple(item.launch for item in kept),
        skips=tuple(skips),
        excluded=expansion.excluded,
        cost=sum_costs(item.launch.cost for item in kept),
        estimators=dict(sum((item.sources for item in kept), Counter())),
        models=models,
        hardware=hardware,
    )


@dataclass(frozen=True, slots=True)
class _Planned:
    launch: Launch
    sources: Counter[str]


def _skip_of(dropped: Dropped) -> Skip:
    return Skip(
        count=dropped.count,
        model_id=dropped.model_id,
        hardware=dropped.deployment.hardware,
        deployment=dropped.deployment.summary,
        reason=dropped.reason,
        detail=dropped.detail,
    )


def _groups(tasks: Iterable[Task]) -> dict[tuple[str, int], list[Task]]:
    """Group tasks by model and deployment; equal deployments of a sweep are one object."""
    groups: dict[tuple[str, int], list[Task]] = {}
    for task in tasks:
        groups.setdefault((task.model_id, id(task.deployment)), []).append(task)
    return groups


def _plan_group(
    sweep: Sweep,
    model: ModelFacts,
    gpu: Hardware,
    price: float | None,
    tasks: list[Task],
    ask: Estimator,
) -> tuple[_Planned | None, list[Skip]]:
    """Make one launch of the tasks that fit, and skips of the others."""
    deployment = tasks[0].deployment
    refusals = ask.fits(model, gpu, deployment, [task.workload for task in tasks])
    kept: list[Task] = []
    refused: dict[SkipReason, list[tuple[Task, str]]] = {}
    for task, refusal in zip(tasks, refusals, strict=True):
        if refusal is None:
            kept.append(task)
        else:
            refused.setdefault(refusal[0], []).append((task, refusal[1]))
    skips = [
        Skip(
            count=len(pairs),
            model_id=model.model_id,
            hardware=gpu.hardware,
            deployment=deployment.summary,
            reason=reason,
            detail=_joined(detail for _, detail in pairs),
            task_ids=tuple(task.task_id for task, _ in pairs),
        )
        for reason, pairs in refused.items()
    ]
    if not kept:
        return None, skips
    estimates = ask.estimate(model, gpu, deployment, [task.workload for task in kept])
    launch = Launch(
        launch_id=launch_id_of(model.model_id, deployment),
        model_id=model.model_id,
        deployment=deployment,
        tasks=tuple(kept),
        cost=_launch_cost(sweep, gpu, price, deployment, estimates),
    )
    return _Planned(launch, Counter(item.source for item in estimates)), skips


def _joined(details: Iterable[str]) -> str:
    """First and last of several distinct details."""
    distinct = list(dict.fromkeys(details))
    return distinct[0] if len(distinct) == 1 else f"{distinct[0]} ... {distinct[-1]}"


def _launch_cost(
    sweep: Sweep,
    gpu: Hardware,
    price: float | None,
    deployment: Deployment,
    estimates: Sequence[TaskEstimate],
) -> Cost:
    """Cost of starting, waiting at idle before and after, and every task's windows."""
    idle_w = gpu.loaded_idle_power_w or gpu.idle_power_w or 0.0
    start_s = sweep.launch_s + IDLE_S
    duration_s = start_s
    energy_j = start_s * idle_w * deployment.num_gpus
    runs = [(e.prefill_s + e.decode_s, e.energy_j) for e in estimates]
    for estimate in estimates:
        seconds, joules = task_cost(
            estimate,
            window_s=sweep.window_s,
            repeats=sweep.repeats,
            decode=sweep.engine in DECODES,
        )
        duration_s += seconds
        energy_j += joules
    if sweep.engine != "twin":
        run_s, run_j = sorted(runs)[len(runs) // 2]
        extra_s = _extra_s(sweep, run_s)
        duration_s += extra_s
        energy_j += extra_s * run_j / run_s
    gpu_hours = duration_s * deployment.num_gpus / 3600
    return Cost(
        duration_s=duration_s,
        gpu_hours=gpu_hours,
        energy_kwh=energy_j / JOULES_PER_KWH,
        price=None if price is None else price * gpu_hours,
    )


def _extra_s(sweep: Sweep, run_s: float) -> float:
    """Seconds in which a real engine heats up and measures its sentinel before every trial."""
    sentinel = sweep.repeats + 1 if sweep.measuring.sentinel else 0
    return sweep.measuring.warm_up_s + sentinel * _whole_runs(run_s, sweep.window_s)


def task_cost(
    estimate: TaskEstimate, *, window_s: float, repeats: int, decode: bool = False
) -> tuple[float, float]:
    """Seconds and joules to measure one task.

    To warm up, one prefill and one full run; then for each repeat a window of prefills and a
    window of full runs, with `decode` also one of decodes, which starts with a prefill. A window is
    as many whole runs as fill ``window_s``. All of it draws the mean power of a full run.
    """
    full_s = estimate.prefill_s + estimate.decode_s
    windows_s = _whole_runs(estimate.prefill_s, window_s) + _whole_runs(full_s, window_s)
    if decode and estimate.decode_s > 0:
        windows_s += estimate.prefill_s + _whole_runs(estimate.decode_s, window_s)
    seconds = estimate.prefill_s + full_s + repeats * windows_s
    return seconds, estimate.energy_j * seconds / full_s


def _whole_runs(run_s: float, window_s: float) -> float:
    return math.ceil(window_s / run_s) * run_s


def _within_budgets(sweep: Sweep, planned: list[_Planned]) -> tuple[list[_Planned], list[Skip]]:
    """Stop at the first launch that would exceed a budget; the rest is skipped."""
    budgets = sweep.budgets
    limits: Mapping[str, float | None] = {
        "gpu_hours": budgets.gpu_hours,
        "energy_kwh": budgets.energy_kwh,
    }
    spent = Cost(price=0.0)
    for place, item in enumerate(planned):
        after = spent + item.launch.cost
        for name, limit in limits.items():
            if limit is not None and getattr(after, name) > limit:
                detail = (
                    f"{name} would reach {getattr(after, name):.3g} of {limit:g} at launch "
                    f"{place + 1} of {len(planned)}"
                )
                return planned[:place], [_over_budget(rest, detail) for rest in planned[place:]]
        spent = after
    return planned, []


def _over_budget(item: _Planned, detail: str) -> Skip:
    launch = item.launch
    return Skip(
        count=len(launch.tasks),
        model_id=launch.model_id,
        hardware=launch.deployment.hardware,
        deployment=launch.deployment.summary,
        reason=SkipReason.OVER_BUDGET,
        detail=f"launch {launch.launch_id}: {detail}",
        task_ids=tuple(task.task_id for task in launch.tasks),
    )
