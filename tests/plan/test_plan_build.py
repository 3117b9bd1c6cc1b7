"""Plans: launches, skips, costs, budgets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.catalog.hardware import Hardware, load_hardware
from harness.catalog.models import ModelFacts
from harness.errors import SweepError
from harness.plan import (
    Plan,
    Refusal,
    RooflineEstimator,
    SkipReason,
    TaskEstimate,
    make_plan,
    task_cost,
)
from harness.plan.build import IDLE_S
from harness.spec import Deployment, Workload, expand, load_models, parse_sweep

SWEEP: dict[str, Any] = {
    "name": "planned",
    "models": ["Qwen/Qwen3-8B", "Qwen/Qwen3-30B-A3B"],
    "hardware": ["H100", "L40S"],
    "tensor_parallel": [1, 2],
    "pipeline_parallel": [1, 2],
    "blocks": [{"batch": [1, 8], "input_tokens": [64, 512], "output_tokens": [1, 32]}],
    "launch_s": 100,
}


class FakeEstimator:
    """Each run takes a second and 100 J a GPU; a batch of 8 does not fit on L40S."""

    def __init__(self) -> None:
        self.asked = 0

    def fits(
        self,
        model: ModelFacts,
        hardware: Hardware,
        deployment: Deployment,
        workloads: Sequence[Workload],
    ) -> list[Refusal | None]:
        self.asked += len(workloads)
        refusal = (SkipReason.DOES_NOT_FIT_IN_MEMORY, "too large")
        small = hardware.hardware == "L40S-48GB"
        return [refusal if small and workload.batch == 8 else None for workload in workloads]

    def estimate(
        self,
        model: ModelFacts,
        hardware: Hardware,
        deployment: Deployment,
        workloads: Sequence[Workload],
    ) -> list[TaskEstimate]:
        return [TaskEstimate(0.25, 0.75, 100.0 * deployment.num_gpus, "fake") for _ in workloads]


def plan_of(change: dict[str, Any] | None = None) -> Plan:
    sweep = parse_sweep(json.dumps({**SWEEP, **(change or {})}))
    return make_plan(sweep, estimator=FakeEstimator())


def test_every_task_is_in_one_launch_or_one_skip() -> None:
    sweep = parse_sweep(json.dumps(SWEEP))
    every = [task.task_id for task in expand(sweep, load_models(sweep))]
    plan = plan_of()
    planned = [task.task_id for task in plan.tasks]
    skipped = [task_id for skip in plan.skips for task_id in skip.task_ids]
    assert sorted(planned + skipped) == sorted(every)
    assert len(planned) == 2 * 4 * (8 + 4)
    assert plan.skipped == {"does_not_fit_in_memory": 2 * 4 * 4}
    assert plan.estimators == {"fake": len(planned)}


def test_a_launch_is_one_model_and_one_deployment() -> None:
    plan = plan_of()
    assert len(plan.launches) == 2 * 2 * 4
    assert len({launch.launch_id for launch in plan.launches}) == len(plan.launches)
    for launch in plan.launches:
        assert {task.model_id for task in launch.tasks} == {launch.model_id}
        assert {task.deployment for task in launch.tasks} == {launch.deployment}


def test_launch_ids_depend_on_model_and_deployment_only() -> None:
    narrow = plan_of({"blocks": [{"batch": 1, "input_tokens": 9, "output_tokens": 9}]})
    first = [launch.launch_id for launch in narrow.launches]
    assert first == [launch.launch_id for launch in plan_of({"name": "other"}).launches]


def test_cost_of_a_task() -> None:
    estimate = TaskEstimate(0.4, 0.8, 120.0, "fake")
    seconds, joules = task_cost(estimate, window_s=5.0, repeats=3)
    prefill_window_s, full_window_s = 13 * 0.4, 5 * 1.2
    assert seconds == pytest.approx(0.4 + 1.2 + 3 * (prefill_window_s + full_window_s))
    assert joules == pytest.approx(seconds * 120.0 / 1.2)


@given(
    prefill_s=st.floats(1e-4, 100),
    decode_s=st.floats(0, 1000),
    window_s=st.floats(0.1, 30),
    repeats=st.integers(1, 10),
)
def test_windows_are_at_least_as_long_as_asked(
    prefill_s: float, decode_s: float, window_s: float, repeats: int
) -> None:
    estimate = TaskEstimate(prefill_s, decode_s, 1.0, "fake")
    seconds, _ = task_cost(estimate, window_s=window_s, repeats=repeats)
    warm_up_s = 2 * prefill_s + decode_s
    assert seconds >= (warm_up_s + 2 * repeats * window_s) * (1 - 1e-9)
    longest = warm_up_s + repeats * (2 * window_s + 2 * prefill_s + decode_s)
    assert seconds <= longest * (1 + 1e-9)


def test_costs_add_up() -> None:
    plan = plan_of({"price_per_gpu_hour": {"h100": 2.0, "L40S-48GB": 1.0}})
    h100 = load_hardware("H100")
    launch = next(item for item in plan.launches if item.deployment.num_gpus == 4)
    assert launch.deployment.hardware == "H100-SXM5-80GB"
    each_s = 1.25 + 3 * (5.0 + 5.0)
    assert launch.cost.duration_s == pytest.approx(100 + IDLE_S + 8 * each_s)
    assert launch.cost.gpu_hours == pytest.approx(launch.cost.duration_s * 4 / 3600)
    idle_j = (100 + IDLE_S) * 4 * (h100.loaded_idle_power_w or 0)
    assert launch.cost.energy_kwh == pytest.approx((idle_j + 8 * each_s * 400) / 3.6e6)
    assert launch.cost.price == pytest.approx(2.0 * launch.cost.gpu_hours)
    assert plan.cost.duration_s == pytest.approx(sum(x.cost.duration_s for x in plan.launches))
    rows = plan.summary
    assert [row["hardware"] for row in rows] == ["H100-SXM5-80GB", "L40S-48GB"]
    for key, total in (
        ("tasks", len(plan.tasks)),
        ("launches", len(plan.launches)),
        ("gpu_hours", plan.cost.gpu_hours),
        ("energy_kwh", plan.cost.energy_kwh),
        ("price", plan.cost.price),
        ("skipped", sum(plan.skipped.values())),
    ):
        assert sum(row[key] for row in rows) == pytest.approx(total)


def test_idle_windows_are_those_of_a_launch() -> None:
    from harness.measuring.idle import IDLE_WINDOW_S

    assert IDLE_S == 2 * IDLE_WINDOW_S


def test_an_unknown_price_is_null_not_zero() -> None:
    plan = plan_of({"price_per_gpu_hour": {"H100": 2.0}})
    assert plan.cost.price is None
    assert [row["price"] is None for row in plan.summary] == [False, True]


def test_a_price_of_unknown_hardware_is_refused() -> None:
    with pytest.raises(SweepError, match="'H1000'") as caught:
        plan_of({"price_per_gpu_hour": {"H1000": 2.0}})
    assert "price_per_gpu_hour.H1000" in str(caught.value)


@pytest.mark.parametrize("budget", ["gpu_hours", "energy_kwh"])
def test_planning_stops_at_the_budget(budget: str) -> None:
    whole = plan_of()
    limit = getattr(whole.cost, budget) / 3
    plan = plan_of({"budgets": {budget: limit}})
    assert 0 < len(plan.launches) < len(whole.launches)
    assert getattr(plan.cost, budget) <= limit
    assert [launch.launch_id for launch in plan.launches] == [
        launch.launch_id for launch in whole.launches[: len(plan.launches)]
    ]
    over = [skip for skip in plan.skips if skip.reason is SkipReason.OVER_BUDGET]
    assert len(over) == len(whole.launches) - len(plan.launches)
    assert sum(skip.count for skip in over) + len(plan.tasks) == len(whole.tasks)
    assert whole.launches[len(plan.launches)].launch_id in over[0].detail
    next_cost = whole.launches[len(plan.launches)].cost
    assert getattr(plan.cost + next_cost, budget) > limit


def test_a_budget_that_is_enough_skips_nothing() -> None:
    assert (
        plan_of({"budgets": {"gpu_hours": 1e6, "energy_kwh": 1e6}}).to_dict()["launches"]
        == (plan_of().to_dict()["launches"])
    )


def test_a_plan_is_json_and_says_projected() -> None:
    data = json.loads(json.dumps(plan_of().to_dict()))
    assert data["provenance"] == "projected"
    assert data["tasks"] == sum(len(launch["task_ids"]) for launch in data["launches"])
    assert data["skipped"] == {"does_not_fit_in_memory": 32}
    assert sum(skip["count"] for skip in data["skips"]) == 32
    assert data["estimates"]["gpu_hours"] > 0


def test_planning_is_repeatable() -> None:
    assert plan_of().to_dict() == plan_of().to_dict()


def test_dropped_and_refused_are_both_skips() -> None:
    plan = plan_of({"gpu_limit": 2, "precision": ["bf16", "nvfp4"]})
    assert plan.skipped == {
        "precision_not_supported": 2 * 2 * 3 * 8,
        "gpu_limit": 2 * 2 * 2 * 8,
        "does_not_fit_in_memory": 2 * 3 * 4,
    }
    assert {launch.deployment.precision for launch in plan.launches} == {"bf16"}


def test_a_path_is_planned_like_its_sweep(tmp_path: Any) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(json.dumps(SWEEP), encoding="utf-8")
    estimator = RooflineEstimator()
    by_path = make_plan(path, estimator=estimator)
    by_name = make_plan(str(path), estimator=estimator)
    assert by_path.to_dict() == by_name.to_dict()
    assert by_path.sweep.path == path


def test_a_real_engine_takes_longer_than_the_twin() -> None:
    """Decode windows, the heating and the sentinel of every trial are counted."""
    estimate = TaskEstimate(0.4, 0.8, 120.0, "fake")
    plain, _ = task_cost(estimate, window_s=5.0, repeats=3)
    whole, joules = task_cost(estimate, window_s=5.0, repeats=3, decode=True)
    assert whole - plain == pytest.approx(3 * (0.4 + 7 * 0.8))
    assert joules == pytest.approx(whole * 100.0)
    one = TaskEstimate(0.4, 0.0, 40.0, "fake")
    assert task_cost(one, window_s=5.0, repeats=3, decode=True) == task_cost(
        one, window_s=5.0, repeats=3
    )
    single = {"tensor_parallel": 1, "pipeline_parallel": 1}
    twin = plan_of(single).launches[0].cost.duration_s
    real = plan_of({**single, "engine": "transformers"}).launches[0].cost.duration_s
    bare = plan_of(
        {**single, "engine": "transformers", "measuring": {"warm_up_s": 0, "sentinel": False}}
    )
    assert real > bare.launches[0].cost.duration_s + 30 > twin + 30


def test_local_hardware_is_planned_under_its_canonical_id() -> None:
    from harness.catalog import local_hardware

    data = {
        **SWEEP,
        "engine": "transformers",
        "hardware": "local",
        "tensor_parallel": [1, 2],
        "pipeline_parallel": 1,
        "precision": ["fp32", "fp8"],
        "models": ["Qwen/Qwen3-0.6B"],
        "price_per_gpu_hour": {"local": 1.0},
    }
    plan = make_plan(parse_sweep(json.dumps(data)), estimator=RooflineEstimator())
    names = [gpu.hardware for gpu in local_hardware()]
    assert list(plan.hardware) == names
    assert {task.deployment.hardware for task in plan.tasks} <= set(names)
    assert "local" not in json.dumps(plan.to_dict()).replace("locally", "")
    assert {task.deployment.tensor_parallel for task in plan.tasks} == {1}
    assert plan.cost.price == pytest.approx(plan.cost.gpu_hours)
    assert plan.skipped["engine_not_capable"] >= 8
