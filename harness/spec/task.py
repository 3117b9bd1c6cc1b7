"""A task: one configuration to be measured, and its id."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from harness.spec.deployment import Deployment
from harness.spec.taskid import TaskIds
from harness.spec.workload import Workload

if TYPE_CHECKING:
    from harness.catalog.models import ModelFacts


class Task(BaseModel):
    """A model, a workload and a deployment.

    Parameters
    ----------
    model_id
        Model, as in the catalog.
    workload
        What is asked of it.
    deployment
        How it is served.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model_id: str
    workload: Workload
    deployment: Deployment

    @cached_property
    def task_id(self) -> str:
        """Hash of the configuration and nothing else: the same on every machine."""
        return _ids(self.model_id, self.deployment).of(self.workload)


@lru_cache(maxsize=1024)
def _ids(model_id: str, deployment: Deployment) -> TaskIds:
    return TaskIds({"model_id": model_id, **_deployment_columns(deployment)})


def launch_id_of(model_id: str, deployment: Deployment) -> str:
    """Hash of a model and its deployment: the id of the launch that serves it."""
    from harness.store.identity import task_id_of

    return task_id_of({"model_id": model_id, **deployment.model_dump()})


def configuration_columns(task: Task) -> dict[str, Any]:
    """Columns of the measurement table that say which configuration a task is."""
    workload, deployment = task.workload, _deployment_columns(task.deployment)
    return {
        "engine": deployment.pop("engine"),
        "model_id": task.model_id,
        "modality": workload.modality,
        **deployment,
        "batch": workload.batch,
        "input_tokens": workload.input_tokens,
        "output_tokens": workload.output_tokens,
        "visual_tokens": workload.visual_tokens,
        "images": workload.images,
        "frames": workload.frames,
        "image_height": workload.image_height,
        "image_width": workload.image_width,
        "request_rate_per_s": workload.request_rate_per_s,
    }


def _deployment_columns(deployment: Deployment) -> dict[str, Any]:
    return {
        "engine": deployment.engine,
        "hardware": deployment.hardware,
        "num_gpus": deployment.num_gpus,
        "tensor_parallel": deployment.tensor_parallel,
        "pipeline_parallel": deployment.pipeline_parallel,
        "expert_parallel": deployment.expert_parallel,
        "data_parallel": deployment.data_parallel,
        "precision": deployment.precision,
        "power_limit_w": deployment.power_limit_w,
    }


def task_columns(task: Task, facts: ModelFacts) -> dict[str, Any]:
    """Columns of the measurement table that are known before a task is measured.

    Parameters
    ----------
    task
        The task.
    facts
        Architecture facts of its model.

    Returns
    -------
    dict
        Identity, model, deployment and workload columns, by column name. What does not
        apply to the model (experts of a dense model) is None.
    """
    return {
        "task_id": task.task_id,
        **configuration_columns(task),
        "family": facts.family,
        "params_total": facts.params_total,
        "params_active": facts.params_active,
        "hidden_size": facts.hidden_size,
        "num_experts": facts.experts or None,
        "experts_per_token": facts.experts_per_token or None,
        "kv_bytes_per_token": facts.kv_bytes_per_token(),
        "state_bytes_per_sequence": facts.state_bytes_per_sequence,
    }
