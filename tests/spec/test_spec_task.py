"""Tasks: ids and table columns."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from harness.catalog.models import load_model
from harness.spec import Deployment, Task, Workload, task_columns
from harness.spec.task import configuration_columns, launch_id_of
from harness.store.identity import IDENTITY_DEFAULTS, task_id_of
from harness.store.schema import COLUMNS


def task(**deployment: object) -> Task:
    return Task(
        model_id="Qwen/Qwen3-8B",
        workload=Workload(batch=2, input_tokens=10, output_tokens=5),
        deployment=Deployment.model_validate({"hardware": "H100-SXM5-80GB", **deployment}),
    )


def test_the_id_is_known() -> None:
    assert task().task_id == task_id_of(
        {
            "model_id": "Qwen/Qwen3-8B",
            "engine": "twin",
            "hardware": "H100-SXM5-80GB",
            "batch": 2,
            "input_tokens": 10,
            "output_tokens": 5,
        }
    )
    assert len(task().task_id) == 16


def test_defaults_written_out_leave_the_id() -> None:
    written = Task(
        model_id="Qwen/Qwen3-8B",
        workload=Workload(
            modality="text", batch=2, input_tokens=10, output_tokens=5, images=0, visual_tokens=0
        ),
        deployment=Deployment(
            engine="twin", hardware="H100-SXM5-80GB", tensor_parallel=1, precision="bf16"
        ),
    )
    assert written.task_id == task().task_id
    assert written == task()


@pytest.mark.parametrize(
    "change",
    [
        {"engine": "vllm"},
        {"hardware": "L40S-48GB"},
        {"tensor_parallel": 2},
        {"pipeline_parallel": 2},
        {"expert_parallel": 2},
        {"data_parallel": 2},
        {"precision": "fp8"},
        {"power_limit_w": 400.0},
    ],
)
def test_every_part_of_the_deployment_counts(change: dict[str, object]) -> None:
    assert task(**change).task_id != task().task_id


@given(st.sampled_from(sorted(Workload.model_fields)))
def test_every_part_of_the_workload_counts(name: str) -> None:
    values: dict[str, object] = {"modality": "video", "request_rate_per_s": 2.5}
    plain = task()
    changed = plain.workload.model_copy(update={name: values.get(name, 77)})
    assert plain.model_copy(update={"workload": changed}) != plain
    again = Task(model_id=plain.model_id, workload=changed, deployment=plain.deployment)
    assert again.task_id != plain.task_id


def test_the_identity_has_all_that_a_task_has() -> None:
    assert set(configuration_columns(task())) - set(IDENTITY_DEFAULTS) == {"num_gpus"}


def test_table_columns_exist_in_the_schema() -> None:
    columns = task_columns(
        task(tensor_parallel=2, pipeline_parallel=4), load_model("Qwen/Qwen3-8B")
    )
    assert set(columns) <= {column.name for column in COLUMNS}
    assert columns["num_gpus"] == 8
    assert columns["family"] == "dense"
    assert columns["num_experts"] is None
    assert task_id_of(columns) == columns["task_id"]


def test_columns_of_a_mixture() -> None:
    mixture = task().model_copy(update={"model_id": "Qwen/Qwen3-30B-A3B"})
    columns = task_columns(mixture, load_model("Qwen/Qwen3-30B-A3B"))
    assert (columns["family"], columns["num_experts"], columns["experts_per_token"]) == (
        "moe",
        128,
        8,
    )


def test_tasks_travel_between_processes() -> None:
    plain = task()
    assert pickle.loads(pickle.dumps(plain)).task_id == plain.task_id
    assert Task.model_validate_json(plain.model_dump_json()) == plain


def test_gpus_and_launch_ids() -> None:
    deployment = task(tensor_parallel=2, pipeline_parallel=2, data_parallel=2, expert_parallel=4)
    assert deployment.deployment.num_gpus == 8
    assert deployment.deployment.summary == "H100-SXM5-80GB t2 p2 ep4 dp2 bf16"
    plain = launch_id_of("a", task().deployment)
    assert plain == launch_id_of("a", task(tensor_parallel=1).deployment)
    assert plain != launch_id_of("b", task().deployment)
    assert plain != launch_id_of("a", task(tensor_parallel=2).deployment)


@pytest.mark.parametrize(
    "wrong", [{"batch": 0}, {"batch": "1"}, {"input_tokens": 0}, {"modality": "smell"}, {"x": 1}]
)
def test_workloads_are_strict(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Workload.model_validate({"batch": 1, "input_tokens": 1, "output_tokens": 1, **wrong})
