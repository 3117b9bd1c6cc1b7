"""One block of a sweep as a grid: models x hardware x precisions x deployments x workloads."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import SweepError
from harness.spec.blocks import AxisGroup, Block, Sampling
from harness.spec.capable import engine_refusal
from harness.spec.conditions import NumberMatch, TextMatch
from harness.spec.facts import canonical_names
from harness.spec.problems import suggestion
from harness.spec.reasons import SkipReason
from harness.spec.sweep import DEPLOYMENT_AXES, Sweep

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from harness.catalog.hardware import Hardware
    from harness.catalog.models import ModelFacts
    from harness.spec.facts import HardwareByName

MAX_GRID = 5_000_000
WEIGHT_ONLY = frozenset({"int8", "int4", "mxfp4"})
"""Formats that serving engines use for weights, with 16-bit matrix products (W8A16, W4A16)."""
REASONS = tuple(SkipReason)
_MODEL, _HARDWARE, _PRECISION, _DEPLOYMENT, _WORKLOAD = range(5)


@dataclass(frozen=True, slots=True)
class Grid:
    """The grid of one block, all tables needed to judge its configurations.

    Parameters
    ----------
    models, hardware, precisions, deployments, workloads
        Values of the five dimensions. A deployment or workload is a dict of its axes.
    deployment_groups, workload_groups
        Axes that move independently, for stratified sampling.
    tokens
        Shape (models, workloads, 2): input tokens and visual tokens.
    sampling
        How this block is sampled.
    """

    modality: str
    models: tuple[ModelFacts, ...]
    hardware: tuple[Hardware, ...]
    precisions: tuple[str, ...]
    deployments: tuple[dict[str, int], ...]
    workloads: tuple[dict[str, Any], ...]
    deployment_groups: list[AxisGroup]
    workload_groups: list[AxisGroup]
    sampling: Sampling | None
    tokens: NDArray[np.int64] = field(repr=False)

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """Lengths of the five dimensions."""
        return (
            len(self.models),
            len(self.hardware),
            len(self.precisions),
            len(self.deployments),
            len(self.workloads),
        )


def block_grid(
    sweep: Sweep,
    index: int,
    models: Mapping[str, ModelFacts],
    hardware: HardwareByName,
) -> Grid:
    """Lay out the grid of one block of a sweep.

    Raises
    ------
    SweepError
        The grid is too large to lay out, or no model of a visual block can see.
    """
    block = sweep.blocks[index]
    deployment_groups = _narrow(sweep.deployment_groups(), block)
    workload_groups = block.groups()
    size = len(block.precision or sweep.precision)
    for count in (
        len(block.models or sweep.models),
        len(block.hardware or sweep.hardware),
        *(len(values) for _, values in (*deployment_groups, *workload_groups)),
    ):
        size *= count
    if size > MAX_GRID:
        raise SweepError(
            f"This block has {size:,} configurations; at most {MAX_GRID:,} can be laid out.",
            where=sweep.where("blocks", index),
            fix="use fewer values on an axis, or split the block.",
        )
    facts = tuple(
        {models[name].model_id: models[name] for name in block.models or sweep.models}.values()
    )
    if block.modality != "text" and all(model.vision is None for model in facts):
        raise SweepError(
            f"No model of this {block.modality} block has a vision tower.",
            where=f"{sweep.where('blocks', index)}, models {', '.join(m.model_id for m in facts)}",
            fix="name a vision-language model, such as Qwen/Qwen3-VL-8B-Instruct.",
        )
    workloads = tuple(_combinations(workload_groups))
    types = {
        each.hardware: each for name in block.hardware or sweep.hardware for each in hardware[name]
    }
    return Grid(
        modality=block.modality,
        models=facts,
        hardware=tuple(types.values()),
        precisions=block.precision or sweep.precision,
        deployments=tuple(_combinations(deployment_groups, dict.fromkeys(DEPLOYMENT_AXES, 1))),
        workloads=workloads,
        deployment_groups=deployment_groups,
        workload_groups=workload_groups,
        sampling=block.sampling,
        tokens=np.array(
            [[token_counts(model, block.modality, w) for w in workloads] for model in facts]
        ),
    )


def token_counts(model: ModelFacts, modality: str, workload: Mapping[str, Any]) -> tuple[int, int]:
    """Input tokens and visual tokens of a request; without a vision tower (text only, 0)."""
    if modality == "text":
        return workload["input_tokens"], 0
    visual = 0
    if model.vision is not None and modality == "image":
        visual = workload["images"] * model.visual_tokens(*workload["image_size"])
    elif model.vision is not None:
        visual = model.video_tokens(workload["frames"], *workload["frame_size"])
    return workload["text_tokens"] + visual, visual


def _combinations(
    groups: Sequence[AxisGroup], defaults: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    names = [name for group_names, _ in groups for name in group_names]
    rows = itertools.product(*(values for _, values in groups))
    base = dict(defaults or {})
    return [{**base, **dict(zip(names, itertools.chain(*row), strict=True))} for row in rows]


def _narrow(groups: list[AxisGroup], block: Block) -> list[AxisGroup]:
    """Keep of the deployment axes only the values that the block names."""
    wanted = {
        "tensor_parallel": block.tensor_parallel,
        "pipeline_parallel": block.pipeline_parallel,
    }
    narrowed: list[AxisGroup] = []
    for names, rows in groups:
        for axis, values in wanted.items():
            if values is not None and axis in names:
                place = names.index(axis)
                rows = tuple(row for row in rows if row[place] in values)
        narrowed.append((names, rows))
    return narrowed


def reason_table(grid: Grid, engine: str, gpu_limit: int | None) -> NDArray[np.int8]:
    """Why each configuration cannot be measured: 0 if it can, else 1 + place in ``REASONS``."""
    table = np.zeros(grid.shape, dtype=np.int8)

    def mark(reason: SkipReason, wrong: NDArray[np.bool_], *dimensions: int) -> None:
        code = REASONS.index(reason) + 1
        spread = np.broadcast_to(_spread(wrong, dimensions), grid.shape)
        table[spread & (table == 0)] = code

    if grid.modality != "text":
        blind = np.array([model.vision is None for model in grid.models])
        mark(SkipReason.NO_VISION_TOWER, blind, _MODEL)
    gpus = np.array([gpus_of(deployment) for deployment in grid.deployments])
    if gpu_limit is not None:
        mark(SkipReason.GPU_LIMIT, gpus > gpu_limit, _DEPLOYMENT)
    checks: tuple[tuple[SkipReason, Callable[[ModelFacts, dict[str, int]], bool]], ...] = (
        (SkipReason.HEADS_NOT_DIVISIBLE, heads_divide),
        (SkipReason.LAYERS_NOT_DIVISIBLE, lambda m, d: d["pipeline_parallel"] <= m.layers),
        (SkipReason.EXPERTS_NOT_DIVISIBLE, experts_divide),
    )
    for reason, fine in checks:
        wrong = [[not fine(model, item) for item in grid.deployments] for model in grid.models]
        mark(reason, np.array(wrong), _MODEL, _DEPLOYMENT)
    missing = [[not precision_runs(word, gpu) for word in grid.precisions] for gpu in grid.hardware]
    mark(SkipReason.PRECISION_NOT_SUPPORTED, np.array(missing), _HARDWARE, _PRECISION)
    refused = [
        [engine_refusal(engine, deployment, word) != "" for deployment in grid.deployments]
        for word in grid.precisions
    ]
    mark(SkipReason.ENGINE_NOT_CAPABLE, np.array(refused), _PRECISION, _DEPLOYMENT)
    output = np.array([workload["output_tokens"] for workload in grid.workloads])
    longest = np.array([model.max_position or np.iinfo(np.int64).max for model in grid.models])
    too_long = grid.tokens[:, :, 0] + output > longest[:, None]
    mark(SkipReason.CONTEXT_TOO_LONG, too_long, _MODEL, _WORKLOAD)
    return table


def gpus_of(deployment: Mapping[str, int]) -> int:
    """GPUs of a deployment given as a dict of its axes."""
    return (
        deployment["tensor_parallel"]
        * deployment["pipeline_parallel"]
        * deployment["data_parallel"]
    )


def heads_divide(model: ModelFacts, deployment: Mapping[str, int]) -> bool:
    """Say whether tensor parallelism can split the attention heads evenly."""
    return model.heads % deployment["tensor_parallel"] == 0


def experts_divide(model: ModelFacts, deployment: Mapping[str, int]) -> bool:
    """Say whether expert parallelism can spread the experts evenly over the ranks."""
    ways = deployment["expert_parallel"]
    ranks = deployment["tensor_parallel"] * deployment["data_parallel"]
    return ways == 1 or (model.experts > 0 and model.experts % ways == 0 and ranks % ways == 0)


def precision_runs(precision: str, gpu: Hardware) -> bool:
    """Say whether the hardware can serve a precision.

    It needs arithmetic in that format, except for formats of the weights only, which are
    widened to 16 bits before they are multiplied.
    """
    if precision in WEIGHT_ONLY and ({"bf16", "fp16"} & gpu.peak_flops.keys()):
        return True
    return precision in gpu.peak_flops


def excluded(
    sweep: Sweep, grid: Grid, models: Mapping[str, ModelFacts], hardware: HardwareByName
) -> NDArray[np.bool_]:
    """Which configurations of the grid meet one of the sweep's exclude conditions."""
    result = np.zeros(grid.shape, dtype=bool)
    for index, condition in enumerate(sweep.exclude):
        hit = np.ones(grid.shape, dtype=bool)
        for key, match in condition.given().items():
            match = _canonical(sweep, index, key, match, models, hardware)
            hit &= _matched(grid, key, match)
        result |= hit
    return result


def _canonical(
    sweep: Sweep,
    index: int,
    key: str,
    match: NumberMatch | TextMatch,
    models: Mapping[str, ModelFacts],
    hardware: HardwareByName,
) -> NumberMatch | TextMatch:
    """Replace names by canonical ids and refuse words that can match nothing."""
    if isinstance(match, NumberMatch):
        return match
    tables: dict[str, dict[str, tuple[str, ...]]] = {
        "model": {name: (model_id,) for name, model_id in canonical_names(models).items()},
        "hardware": {gpu.hardware: (gpu.hardware,) for types in hardware.values() for gpu in types}
        | {name: tuple(gpu.hardware for gpu in types) for name, types in hardware.items()},
        "family": {word: (word,) for word in ("dense", "moe", "ssm")},
        "precision": {str(word): (word,) for word in sweep.precision},
        "modality": {word: (word,) for word in ("text", "image", "video")},
    }
    known = tables[key]
    for word in match.words:
        if word not in known:
            raise SweepError(
                f"The exclude names a {key} that the sweep does not have: {word!r}.",
                where=sweep.where("exclude", index, key),
                fix=suggestion(word, tuple(known), f"{key} names"),
            )
    return TextMatch(tuple(name for word in match.words for name in known[word]))


def _matched(grid: Grid, key: str, match: NumberMatch | TextMatch) -> NDArray[np.bool_]:
    """Where one key of a condition holds, spread over the grid."""
    check: Callable[[Any], bool] = match.matches
    single: dict[str, tuple[int, list[Any]]] = {
        "model": (_MODEL, [model.model_id for model in grid.models]),
        "family": (_MODEL, [model.family for model in grid.models]),
        "hardware": (_HARDWARE, [gpu.hardware for gpu in grid.hardware]),
        "precision": (_PRECISION, list(grid.precisions)),
        "num_gpus": (_DEPLOYMENT, [gpus_of(item) for item in grid.deployments]),
    }
    if key in single:
        dimension, values = single[key]
        return _spread(np.array([check(value) for value in values]), (dimension,))
    if key == "modality":
        return np.full(grid.shape, check(grid.modality))
    if key in DEPLOYMENT_AXES:
        return _spread(np.array([check(item[key]) for item in grid.deployments]), (_DEPLOYMENT,))
    if key in ("input_tokens", "visual_tokens", "text_tokens"):
        total, visual = grid.tokens[:, :, 0], grid.tokens[:, :, 1]
        column = {"input_tokens": total, "visual_tokens": visual, "text_tokens": total - visual}[
            key
        ]
        held = np.array([check(int(value)) for value in column.ravel()]).reshape(column.shape)
        return _spread(held, (_MODEL, _WORKLOAD))
    return _spread(np.array([check(item.get(key, 0)) for item in grid.workloads]), (_WORKLOAD,))


def _spread(table: NDArray[np.bool_], dimensions: tuple[int, ...]) -> NDArray[np.bool_]:
    """Reshape a table over some of the five dimensions so that it broadcasts over all."""
    shape = [1] * 5
    for dimension, length in zip(dimensions, table.shape, strict=True):
        shape[dimension] = length
    return table.reshape(shape)


def axis_indices(grid: Grid, flat: NDArray[np.int64]) -> NDArray[np.int64]:
    """Index of every axis for the given flat positions: shape (positions, axes)."""
    places = np.unravel_index(flat, grid.shape)
    columns = [*places[:_DEPLOYMENT]]
    for groups, place in (
        (grid.deployment_groups, places[_DEPLOYMENT]),
        (grid.workload_groups, places[_WORKLOAD]),
    ):
        lengths = tuple(len(values) for _, values in groups)
        if lengths:
            columns += np.unravel_index(place, lengths)
    return np.stack(columns, axis=1).astype(np.int64)
