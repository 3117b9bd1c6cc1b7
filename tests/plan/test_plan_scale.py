"""What lets a plan grow to 100,000 tasks: fast ids, shared parts, a memory in columns."""

from __future__ import annotations

import tempfile
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.catalog import load_hardware, load_model
from harness.plan import (
    RememberingEstimator,
    RooflineEstimator,
    SkipReason,
    TaskEstimate,
    make_plan,
)
from harness.spec import (
    Deployment,
    Task,
    Workload,
    configuration_columns,
    expand_sweep,
    load_models,
    parse_sweep,
)
from harness.store.files import write_atomic
from harness.store.identity import task_id_of

COUNTS = st.integers(1, 10**9)
MAYBE = st.integers(0, 10**4)
WORKLOADS = st.builds(
    Workload,
    modality=st.sampled_from(["text", "image", "video"]),
    batch=COUNTS,
    input_tokens=COUNTS,
    output_tokens=COUNTS,
    visual_tokens=MAYBE,
    images=MAYBE,
    frames=MAYBE,
    image_height=MAYBE,
    image_width=MAYBE,
    request_rate_per_s=st.none() | st.floats(1e-3, 1e3),
)
DEPLOYMENTS = st.builds(
    Deployment,
    engine=st.sampled_from(["twin", "vllm"]),
    hardware=st.sampled_from(["H100-SXM5-80GB", 'a "quoted" name, Ω']),
    tensor_parallel=COUNTS,
    pipeline_parallel=st.integers(1, 3),
    expert_parallel=st.integers(1, 2),
    data_parallel=st.integers(1, 2),
    precision=st.sampled_from(["bf16", "fp8"]),
    power_limit_w=st.none() | st.sampled_from([400.0, 412.5]),
)

GRID = """\
name: grid
models: [meta-llama/Meta-Llama-3.1-8B, Qwen/Qwen3-VL-8B-Instruct]
hardware: [H100, L40S]
tensor_parallel: [1, 2]
pipeline_parallel: [1, 2]
blocks:
  - batch: {range: [1, 64], factor: 2}
    input_tokens: {range: [128, 2048], factor: 2}
    output_tokens: {range: [32, 256], factor: 2}
  - modality: image
    models: Qwen/Qwen3-VL-8B-Instruct
    batch: [1, 8]
    text_tokens: [0, 64]
    images: [1, 2]
    image_size: [448, 448]
    output_tokens: [32, 64]
"""


@given(WORKLOADS, DEPLOYMENTS, st.sampled_from(["Qwen/Qwen3-8B", "modèle\\ \n.json"]))
def test_ids_are_those_of_the_table(workload: Workload, deployment: Deployment, name: str) -> None:
    task = Task(model_id=name, workload=workload, deployment=deployment)
    assert task.task_id == task_id_of(configuration_columns(task))


def test_values_without_a_place_in_an_identity_stay_refused() -> None:
    odd = Workload.model_construct(batch=True, input_tokens=1, output_tokens=1)
    task = Task.model_construct(
        model_id="a", workload=odd, deployment=Deployment(hardware="H100-SXM5-80GB")
    )
    with pytest.raises(ValueError, match="truth value"):
        _ = task.task_id


def test_equal_parts_of_tasks_are_one_object() -> None:
    sweep = parse_sweep(GRID)
    tasks = expand_sweep(sweep, load_models(sweep)).tasks
    deployments = [task.deployment for task in tasks]
    workloads = [task.workload for task in tasks]
    assert len({id(item) for item in deployments}) == len(set(deployments))
    assert len({id(item) for item in workloads}) == len(set(workloads))
    assert len(set(tasks)) == len(tasks)


def test_a_task_takes_little_memory() -> None:
    sweep = parse_sweep(GRID)
    models = load_models(sweep)
    expand_sweep(sweep, models)
    tracemalloc.start()
    try:
        tasks = expand_sweep(sweep, models).tasks
        ids = [task.task_id for task in tasks]
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(ids) > 2000
    assert used / len(tasks) < 550


def test_tasks_of_a_plan_are_made_once_and_counted() -> None:
    plan = make_plan(parse_sweep(GRID), estimator=RooflineEstimator())
    assert plan.tasks == tuple(task for launch in plan.launches for task in launch.tasks)
    assert plan.tasks is plan.tasks
    assert plan.task_count == len(plan.tasks) == sum(plan.estimators.values())


class Strict:
    """Refuses odd batches, estimates the others from their numbers, and counts questions."""

    def __init__(self) -> None:
        self.asked: list[tuple[Deployment, Workload]] = []

    def fits(self, model: Any, hardware: Any, deployment: Any, workloads: Any) -> list[Any]:
        self.asked += [(deployment, w) for w in workloads]
        return [
            (SkipReason.DOES_NOT_FIT_IN_MEMORY, f"batch {w.batch}") if w.batch % 2 else None
            for w in workloads
        ]

    def estimate(self, model: Any, hardware: Any, deployment: Any, workloads: Any) -> list[Any]:
        return [
            TaskEstimate(w.batch / 3, deployment.num_gpus / 7, w.output_tokens / 11, "strict")
            for w in workloads
        ]


MODEL, GPU = load_model("meta-llama/Meta-Llama-3.1-8B"), load_hardware("H100-SXM5-80GB")
WAYS = tuple(Deployment(hardware=GPU.hardware, tensor_parallel=ways) for ways in (1, 2))
ASKED = st.lists(
    st.tuples(
        st.sampled_from(WAYS),
        st.lists(
            st.builds(
                Workload,
                batch=st.integers(1, 4),
                input_tokens=st.just(8),
                output_tokens=st.integers(1, 2),
            ),
            max_size=6,
        ),
        st.booleans(),
    ),
    max_size=8,
)


@settings(max_examples=40, deadline=None)
@given(ASKED)
def test_whatever_is_asked_the_memory_answers_as_the_one_it_asks(
    questions: Sequence[tuple[Deployment, list[Workload], bool]],
) -> None:
    inner, truth = Strict(), Strict()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.parquet"
        memory = RememberingEstimator(inner, path)
        for deployment, workloads, start_again in questions:
            refusals = truth.fits(MODEL, GPU, deployment, workloads)
            fitting = [w for w, refusal in zip(workloads, refusals, strict=True) if not refusal]
            assert memory.fits(MODEL, GPU, deployment, workloads) == refusals
            assert memory.estimate(MODEL, GPU, deployment, fitting) == truth.estimate(
                MODEL, GPU, deployment, fitting
            )
            if start_again:
                memory.save(write_atomic)
                memory = RememberingEstimator(inner, path)
    assert len(inner.asked) == len(set(inner.asked))
