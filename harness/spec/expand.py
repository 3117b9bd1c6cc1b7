"""Expands a sweep to its tasks, in a fixed order, and says what was left out and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import SweepError
from harness.spec.blocks import Sampling
from harness.spec.capable import engine_refusal
from harness.spec.deployment import Deployment
from harness.spec.facts import load_hardware_facts
from harness.spec.grid import (
    REASONS,
    Grid,
    axis_indices,
    block_grid,
    excluded,
    experts_divide,
    gpus_of,
    heads_divide,
    precision_runs,
    reason_table,
    token_counts,
)
from harness.spec.reasons import SkipReason
from harness.spec.sampling import apportion, choose
from harness.spec.sweep import DEPLOYMENT_AXES, Configuration, Sweep
from harness.spec.task import Task
from harness.spec.workload import Workload

if TYPE_CHECKING:
    from harness.catalog.hardware import Hardware
    from harness.catalog.models import ModelFacts
    from harness.spec.facts import HardwareByName

MAX_TASKS = 500_000
_TASK_FIELDS = set(Task.model_fields)
"""One set for all tasks: a set each would be a third of their memory."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """Configurations of one model and deployment that the sweep names but nothing can run.

    Parameters
    ----------
    model_id, deployment
        The model and how it would be served.
    reason, detail
        Reason code and a sentence with the numbers.
    count
        How many configurations.
    """

    model_id: str
    deployment: Deployment
    reason: SkipReason
    detail: str
    count: int


@dataclass(frozen=True, slots=True)
class Expansion:
    """Tasks of a sweep and what was dropped.

    Parameters
    ----------
    tasks
        Tasks in the order of the sweep, each once.
    dropped
        What cannot run, for reasons that need no estimate.
    excluded
        Number of configurations that the sweep's exclude conditions removed.
    """

    tasks: tuple[Task, ...]
    dropped: tuple[Dropped, ...]
    excluded: int


def expand(sweep: Sweep, models: Mapping[str, ModelFacts]) -> list[Task]:
    """Expand a sweep to its tasks.

    Parameters
    ----------
    sweep
        The sweep.
    models
        Facts by the name the sweep uses, or by canonical id; see ``load_models``.

    Returns
    -------
    list of Task
        In the order of the sweep (block, model, hardware, precision, deployment, workload),
        each configuration once.

    Raises
    ------
    SweepError
        Nothing is left, a hardware type is unknown, a tensor-parallel size suits no model,
        or a visual block has no model that can see.
    """
    expansion = expand_sweep(sweep, models)
    if not expansion.tasks:
        counts: dict[str, int] = {}
        for item in expansion.dropped:
            text = f"{item.reason} ({item.detail})"
            counts[text] = counts.get(text, 0) + item.count
        listed = "; ".join(f"{count} {text}" for text, count in list(counts.items())[:3])
        raise SweepError(
            f"No task of the sweep can run: {listed}.",
            where=sweep.where(),
            fix="change what the first reason names.",
        )
    return list(expansion.tasks)


def expand_sweep(
    sweep: Sweep,
    models: Mapping[str, ModelFacts],
    hardware: HardwareByName | None = None,
) -> Expansion:
    """Expand a sweep to tasks and keep account of what was left out; see :func:`expand`."""
    gpus = hardware if hardware is not None else load_hardware_facts(sweep)
    facts = _by_name(sweep, models)
    _check_tensor_parallel(sweep, facts)
    builder = _Builder(sweep.engine)
    blocks = [_BlockChoice(sweep, index, facts, gpus) for index in range(len(sweep.blocks))]
    _sample(sweep, blocks)
    _check_size(sweep, sum(int(block.possible.sum()) for block in blocks))
    for block in blocks:
        builder.add_grid(block)
    for extra in sweep.include:
        for gpu in gpus[extra.hardware]:
            builder.add_configuration(extra, facts[extra.model], gpu)
    removed = sum(block.excluded for block in blocks)
    if not builder.tasks and not builder.dropped:
        raise SweepError(
            f"The sweep is empty: its excludes remove all {removed} configurations.",
            where=sweep.where("exclude"),
            fix="remove or narrow a condition under exclude.",
        )
    return Expansion(tuple(builder.tasks.values()), builder.drops(), removed)


def _by_name(sweep: Sweep, models: Mapping[str, ModelFacts]) -> dict[str, ModelFacts]:
    found: dict[str, ModelFacts] = {}
    for name in sweep.model_names:
        if name not in models:
            raise SweepError(
                f"The model {name!r} was not loaded.",
                where=sweep.where("models"),
                fix="pass the result of load_models(sweep).",
            )
        found[name] = models[name]
    return found


def _check_tensor_parallel(sweep: Sweep, facts: Mapping[str, ModelFacts]) -> None:
    """Refuse a tensor-parallel size that divides the heads of no model."""
    for names, rows in sweep.deployment_groups():
        if "tensor_parallel" not in names:
            continue
        place = names.index("tensor_parallel")
        for ways in dict.fromkeys(row[place] for row in rows):
            if not any(model.heads % ways == 0 for model in facts.values()):
                heads = ", ".join(f"{m.model_id} has {m.heads}" for m in facts.values())
                raise SweepError(
                    f"tensor_parallel {ways} divides the attention heads of no model: {heads}.",
                    where=sweep.where("tensor_parallel"),
                    fix=f"remove {ways}, or use a divisor of the heads.",
                )


def _check_size(sweep: Sweep, count: int) -> None:
    if count > MAX_TASKS:
        raise SweepError(
            f"The sweep has {count:,} tasks; at most {MAX_TASKS:,} can be planned.",
            where=sweep.where("sampling"),
            fix="add sampling: {method: latin_hypercube, size: 5000}, or use fewer values.",
        )


class _BlockChoice:
    """A block's grid and which of its configurations are chosen."""

    def __init__(
        self,
        sweep: Sweep,
        index: int,
        models: Mapping[str, ModelFacts],
        hardware: HardwareByName,
    ) -> None:
        self.grid = block_grid(sweep, index, models, hardware)
        self.sampling = self.grid.sampling or sweep.sampling
        self.own_sampling = self.grid.sampling is not None
        self.reasons = reason_table(self.grid, sweep.engine, sweep.gpu_limit)
        removed = excluded(sweep, self.grid, models, hardware)
        self.excluded = int(removed.sum())
        self.named = ~removed
        self.possible = self.named & (self.reasons == 0)

    def candidates(self) -> int:
        """How many there are to sample from: workloads, or tasks."""
        if self.sampling.over == "workloads":
            return int(self.possible.any(axis=(0, 1, 2, 3)).sum())
        return int(self.possible.sum())

    def keep(self, sampling: Sampling, size: int) -> None:
        """Sample: what is not chosen is neither possible nor named any more."""
        if sampling.over == "workloads":
            seen = np.flatnonzero(self.possible.any(axis=(0, 1, 2, 3)))
            lengths = tuple(len(values) for _, values in self.grid.workload_groups)
            axes = np.stack(np.unravel_index(seen, lengths), axis=1).astype(np.int64)
            chosen = np.zeros(len(self.grid.workloads), dtype=bool)
            chosen[seen[choose(axes, sampling, size)]] = True
            self.named &= chosen
            self.possible &= chosen
        else:
            flat = np.flatnonzero(self.possible)
            picked = flat[choose(axis_indices(self.grid, flat), sampling, size)]
            self.possible = np.zeros_like(self.possible)
            self.possible.ravel()[picked] = True


def _sample(sweep: Sweep, blocks: list[_BlockChoice]) -> None:
    """Sample blocks by their own sampling; share the sweep's size among the others."""
    sharing = [block for block in blocks if not block.own_sampling]
    if sweep.sampling.size is not None and sharing:
        shares = apportion(sweep.sampling.size, [block.candidates() for block in sharing])
        for block, share in zip(sharing, shares, strict=True):
            block.keep(sweep.sampling, share)
    for block in blocks:
        if block.own_sampling and block.sampling.size is not None:
            block.keep(block.sampling, block.sampling.size)


class _Builder:
    """Makes tasks and drops; equal workloads and deployments are one object each."""

    def __init__(self, engine: str) -> None:
        self.engine = engine
        self.tasks: dict[tuple[str, int, int], Task] = {}
        self.dropped: dict[tuple[str, int, SkipReason, str], int] = {}
        self._deployments: dict[tuple[object, ...], int] = {}
        self._workloads: dict[tuple[object, ...], int] = {}
        self._deployment_list: list[Deployment] = []
        self._workload_list: list[Workload] = []

    def deployment(self, hardware: str, precision: str, axes: Mapping[str, int]) -> int:
        """Return the number of the deployment object with these values."""
        values = (hardware, precision, *(axes[name] for name in DEPLOYMENT_AXES))
        number = self._deployments.setdefault(values, len(self._deployments))
        if number == len(self._deployment_list):
            self._deployment_list.append(
                Deployment(
                    engine=self.engine,
                    hardware=hardware,
                    precision=precision,  # type: ignore[arg-type]
                    **{name: axes[name] for name in DEPLOYMENT_AXES},
                )
            )
        return number

    def workload(self, modality: str, axes: Mapping[str, Any], tokens: tuple[int, int]) -> int:
        """Return the number of the workload object with these values."""
        height, width = axes.get("image_size") or axes.get("frame_size") or (0, 0)
        fields = {
            "modality": modality,
            "batch": axes["batch"],
            "input_tokens": tokens[0],
            "output_tokens": axes["output_tokens"],
            "visual_tokens": tokens[1],
            "images": axes.get("images") or 0,
            "frames": axes.get("frames") or 0,
            "image_height": height,
            "image_width": width,
        }
        number = self._workloads.setdefault(tuple(fields.values()), len(self._workloads))
        if number == len(self._workload_list):
            self._workload_list.append(Workload(**fields))
        return number

    def add_task(self, model_id: str, deployment: int, workload: int) -> None:
        """Add a task, unless the same one is there."""
        key = (model_id, deployment, workload)
        if key not in self.tasks:
            self.tasks[key] = Task.model_construct(
                _fields_set=_TASK_FIELDS,
                model_id=model_id,
                deployment=self._deployment_list[deployment],
                workload=self._workload_list[workload],
            )

    def add_grid(self, block: _BlockChoice) -> None:
        """Add the chosen configurations of a block, and account for those that cannot run."""
        grid = block.grid
        workload_ids: dict[tuple[int, int], int] = {}
        deployment_ids: dict[tuple[int, int, int], int] = {}
        places = np.unravel_index(np.flatnonzero(block.possible), grid.shape)
        for m, h, q, d, w in zip(*(place.tolist() for place in places), strict=True):
            workload = workload_ids.get((m, w))
            if workload is None:
                tokens = (int(grid.tokens[m, w, 0]), int(grid.tokens[m, w, 1]))
                workload = self.workload(grid.modality, grid.workloads[w], tokens)
                workload_ids[m, w] = workload
            deployment = deployment_ids.get((h, q, d))
            if deployment is None:
                deployment = self.deployment(
                    grid.hardware[h].hardware, grid.precisions[q], grid.deployments[d]
                )
                deployment_ids[h, q, d] = deployment
            self.add_task(grid.models[m].model_id, deployment, workload)
        self._add_dropped(grid, np.where(block.named, block.reasons, 0))

    def _add_dropped(self, grid: Grid, reasons: NDArray[np.int8]) -> None:
        for code in np.unique(reasons[reasons > 0]):
            reason = REASONS[code - 1]
            counts = (reasons == code).sum(axis=4)
            for m, h, q, d in np.argwhere(counts).tolist():
                deployment = self.deployment(
                    grid.hardware[h].hardware, grid.precisions[q], grid.deployments[d]
                )
                detail = _detail(
                    self.engine,
                    reason,
                    grid.models[m],
                    grid.hardware[h],
                    grid.precisions[q],
                    grid.deployments[d],
                )
                key = (grid.models[m].model_id, deployment, reason, detail)
                self.dropped[key] = self.dropped.get(key, 0) + int(counts[m, h, q, d])

    def add_configuration(self, extra: Configuration, model: ModelFacts, gpu: Hardware) -> None:
        """Add one configuration that the sweep writes out."""
        axes = extra.model_dump()
        deployment = self.deployment(gpu.hardware, extra.precision, axes)
        reason = _configuration_problem(self.engine, extra, model, gpu, axes)
        if reason is not None:
            detail = _detail(self.engine, reason, model, gpu, extra.precision, axes)
            key = (model.model_id, deployment, reason, detail)
            self.dropped[key] = self.dropped.get(key, 0) + 1
            return
        tokens = token_counts(model, extra.modality, axes)
        self.add_task(model.model_id, deployment, self.workload(extra.modality, axes, tokens))

    def drops(self) -> tuple[Dropped, ...]:
        """Everything that was dropped, in the order it was met."""
        return tuple(
            Dropped(model_id, self._deployment_list[deployment], reason, detail, count)
            for (model_id, deployment, reason, detail), count in self.dropped.items()
        )


def _configuration_problem(
    engine: str, extra: Configuration, model: ModelFacts, gpu: Hardware, axes: Mapping[str, Any]
) -> SkipReason | None:
    if extra.modality != "text" and model.vision is None:
        return SkipReason.NO_VISION_TOWER
    if not heads_divide(model, axes):
        return SkipReason.HEADS_NOT_DIVISIBLE
    if extra.pipeline_parallel > model.layers:
        return SkipReason.LAYERS_NOT_DIVISIBLE
    if not experts_divide(model, axes):
        return SkipReason.EXPERTS_NOT_DIVISIBLE
    if not precision_runs(extra.precision, gpu):
        return SkipReason.PRECISION_NOT_SUPPORTED
    if engine_refusal(engine, axes, extra.precision):
        return SkipReason.ENGINE_NOT_CAPABLE
    context = token_counts(model, extra.modality, axes)[0] + extra.output_tokens
    if model.max_position and context > model.max_position:
        return SkipReason.CONTEXT_TOO_LONG
    return None


def _detail(
    engine: str,
    reason: SkipReason,
    model: ModelFacts,
    gpu: Hardware,
    precision: str,
    deployment: Mapping[str, int],
) -> str:
    """Sentence with the numbers behind a reason."""
    tensor, pipeline = deployment["tensor_parallel"], deployment["pipeline_parallel"]
    ways = deployment["expert_parallel"]
    sentences = {
        SkipReason.NO_VISION_TOWER: f"{model.model_id} takes text only",
        SkipReason.GPU_LIMIT: f"needs {gpus_of(deployment)} GPUs",
        SkipReason.HEADS_NOT_DIVISIBLE: f"{model.heads} heads over {tensor} ranks",
        SkipReason.LAYERS_NOT_DIVISIBLE: f"{model.layers} layers over {pipeline} stages",
        SkipReason.EXPERTS_NOT_DIVISIBLE: f"{model.experts} experts over {ways} of "
        f"{tensor * deployment['data_parallel']} ranks",
        SkipReason.PRECISION_NOT_SUPPORTED: f"{gpu.hardware} has {', '.join(gpu.peak_flops)}, "
        f"not {precision}",
        SkipReason.ENGINE_NOT_CAPABLE: engine_refusal(engine, deployment, precision),
        SkipReason.CONTEXT_TOO_LONG: f"longest context is {model.max_position} tokens",
    }
    return sentences[reason]
