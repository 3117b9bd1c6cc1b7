"""The sweep: a declared set of configurations, read from strict YAML."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from harness.spec.axes import MAX_INTEGER, MAX_PIXELS, Names, PositiveAxis, problem
from harness.spec.blocks import (
    BLOCKS,
    AxisGroup,
    Block,
    Linked,
    Precisions,
    Sampling,
    SamplingField,
    linked_groups,
)
from harness.spec.conditions import Condition
from harness.spec.deployment import Precision
from harness.spec.problems import suggestion, sweep_error
from harness.spec.registry import known_engines
from harness.spec.yamlfile import KeyPath, YamlDocument, parse_yaml, read_yaml

DEPLOYMENT_AXES = ("tensor_parallel", "pipeline_parallel", "expert_parallel", "data_parallel")


def _listed(value: object) -> object:
    if isinstance(value, list | tuple):
        return tuple(value)
    raise problem(f"a list is needed, not {value!r}", fix="start each item with a dash.")


_Pixels = Annotated[int, Field(ge=1, le=MAX_PIXELS)]
OneSize = Annotated[tuple[_Pixels, _Pixels], BeforeValidator(_listed)]


class Configuration(BaseModel):
    """One configuration written out, to be measured whatever the grid holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    model: str = Field(min_length=1, description="Model id, or path of its config.json.")
    hardware: str = Field(min_length=1, description="Hardware id or alias.")
    precision: Precision = "bf16"
    tensor_parallel: int = Field(default=1, ge=1, le=MAX_INTEGER)
    pipeline_parallel: int = Field(default=1, ge=1, le=MAX_INTEGER)
    expert_parallel: int = Field(default=1, ge=1, le=MAX_INTEGER)
    data_parallel: int = Field(default=1, ge=1, le=MAX_INTEGER)
    modality: Literal["text", "image", "video"] = "text"
    batch: int = Field(ge=1, le=MAX_INTEGER)
    input_tokens: int | None = Field(
        default=None, ge=1, le=MAX_INTEGER, description="Of text inputs."
    )
    text_tokens: int | None = Field(
        default=None, ge=0, le=MAX_INTEGER, description="Of image and video inputs."
    )
    images: int | None = Field(default=None, ge=1, le=MAX_INTEGER)
    image_size: OneSize | None = None
    frames: int | None = Field(default=None, ge=1, le=MAX_INTEGER)
    frame_size: OneSize | None = None
    output_tokens: int = Field(ge=1, le=MAX_INTEGER)

    @model_validator(mode="after")
    def _fields_fit_modality(self) -> Configuration:
        axes = BLOCKS[self.modality].axes
        every = {axis for block in BLOCKS.values() for axis in block.axes}
        for axis in sorted(every):
            given = getattr(self, axis) is not None
            if given and axis not in axes:
                raise problem(
                    f"{axis} does not belong to the modality {self.modality}",
                    at=(axis,),
                    fix=f"keys of this modality: {', '.join(axes)}.",
                )
            if not given and axis in axes:
                raise problem(
                    f"the key {axis!r} is missing for the modality {self.modality}",
                    fix=f"add {axis}: with a value.",
                )
        return self


class Budgets(BaseModel):
    """Where planning stops adding launches."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    gpu_hours: float | None = Field(default=None, gt=0, description="GPU-hours of all launches.")
    energy_kwh: float | None = Field(default=None, gt=0, description="Energy of all launches.")


class TwinSettings(BaseModel):
    """Settings of the twin engine."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    repeat_noise: float = Field(
        default=0.02, ge=0, lt=0.5, description="Relative spread of repeated windows."
    )
    seed: int = Field(default=0, ge=0, description="Seed of that spread.")


class Measuring(BaseModel):
    """How real engines are measured; the twin needs none of it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    max_repeats: int | None = Field(
        default=None, ge=1, description="Repeat up to so often while intervals are too wide."
    )
    target_ci95: float = Field(
        default=0.03,
        gt=0,
        lt=1,
        description="Half width of the 95 % interval, as a share of the energy, that is enough.",
    )
    warm_up_s: float = Field(
        default=30.0, ge=0, description="Longest time to heat up until power is flat, s."
    )
    run_timeout_s: float = Field(
        default=600.0, gt=0, description="Longest time that one run of a workload may take, s."
    )
    budget_s: float | None = Field(
        default=None, gt=0, description="Longest time of one launch, loading included, s."
    )
    sentinel: bool = Field(
        default=True, description="Measure one workload again in every trial, to see drift."
    )
    seed: int = Field(default=0, ge=0, description="Seed of prompts and of the order of trials.")


class TransformersSettings(BaseModel):
    """Settings of the transformers engine."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="auto: what the hardware says; cpu, cuda or cuda:N.",
    )
    attention: str | None = Field(
        default=None, description="Attention implementation, such as sdpa or eager."
    )
    threads: int | None = Field(default=None, ge=1, description="Host threads of torch.")


class FleetSettings(BaseModel):
    """How launches are spread over the nodes of a cluster, and what a run may take."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    isolation: Literal["node", "gpu"] = Field(
        default="node",
        description="node: one launch at a time on a node; gpu: as many as its GPUs hold, which "
        "then share its power, heat and processors.",
    )
    max_hours: float | None = Field(
        default=None, gt=0, description="Wall time of a run, h; launches under way then finish."
    )
    max_gpu_hours: float | None = Field(
        default=None, gt=0, description="GPU-hours that launches of a run may hold."
    )
    max_kwh: float | None = Field(
        default=None, gt=0, description="Energy that GPUs may draw in a run, kWh, as measured."
    )
    max_cost: float | None = Field(
        default=None, gt=0, description="GPU-hours of a run at price_per_gpu_hour."
    )

    def limits(self) -> dict[str, float | None]:
        """The limits of a run by name."""
        return {name: value for name, value in self.model_dump().items() if name[:4] == "max_"}


def _prices(value: object) -> object:
    if isinstance(value, dict) and all(
        isinstance(price, int | float) and not isinstance(price, bool) and 0 <= price < math.inf
        for price in value.values()
    ):
        return {name: float(price) for name, price in value.items()}
    raise problem(
        f"prices are hardware names with numbers, not {value!r}",
        fix="write price_per_gpu_hour: {H100-SXM5-80GB: 2.5}.",
    )


class Sweep(BaseModel):
    """A declared set of configurations to measure."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$",
        max_length=100,
        description="Short name: letters, digits, dot, dash, underscore.",
    )
    description: str = Field(default="", description="What the sweep is for.")
    engine: str = Field(
        default="twin",
        description="Engine that serves: twin, transformers, vllm; or MODULE:CLASS of your own.",
    )
    models: Names = Field(
        description="Model ids of the catalog, or paths relative to this file; the folder models/ "
        "beside it is searched too."
    )
    hardware: Names = Field(description="Hardware ids or aliases; local: this machine.")
    precision: Precisions = Field(default=("bf16",), description="Number formats.")
    tensor_parallel: PositiveAxis | None = Field(
        default=None, description="Tensor-parallel ranks; 1 if not given."
    )
    pipeline_parallel: PositiveAxis | None = Field(
        default=None, description="Pipeline stages; 1 if not given."
    )
    expert_parallel: PositiveAxis | None = Field(
        default=None,
        description="Ranks the experts are spread over (no extra GPUs); 1 if not given.",
    )
    data_parallel: PositiveAxis | None = Field(
        default=None, description="Copies of the model; 1 if not given."
    )
    linked: Linked = Field(
        default=(), description="Deployment axes that move together, a list for each."
    )
    gpu_limit: int | None = Field(
        default=None, ge=1, description="Largest number of GPUs of one deployment."
    )
    blocks: Annotated[tuple[Block, ...], BeforeValidator(_listed)] = Field(
        default=(), description="Workloads: each block is a grid of one modality."
    )
    include: Annotated[tuple[Configuration, ...], BeforeValidator(_listed)] = Field(
        default=(), description="Configurations to add; excludes and sampling do not touch them."
    )
    exclude: Annotated[tuple[Condition, ...], BeforeValidator(_listed)] = Field(
        default=(),
        description="Conditions: a configuration that meets all keys of one is left out.",
    )
    sampling: SamplingField = Field(
        default=Sampling(method="full"), description="Which part of the grid is measured."
    )
    repeats: int = Field(default=3, ge=1, description="Repeats of every measurement.")
    window_s: float = Field(default=5.0, gt=0, description="Shortest measuring window, s.")
    launch_s: float = Field(
        default=120.0,
        ge=0,
        description="Time to start the engine and load weights that the plan counts, s. An "
        "assumption: set it to what your cluster takes.",
    )
    budgets: Budgets = Field(default=Budgets(), description="Where planning stops.")
    price_per_gpu_hour: Annotated[
        dict[str, float],
        BeforeValidator(_prices),
        WithJsonSchema(
            {"type": "object", "additionalProperties": {"type": "number", "minimum": 0}}
        ),
    ] = Field(default={}, description="Price of a GPU-hour by hardware, for the cost of the plan.")
    twin: TwinSettings = Field(default=TwinSettings(), description="Settings of the twin engine.")
    measuring: Measuring = Field(default=Measuring(), description="How real engines are measured.")
    transformers: TransformersSettings = Field(
        default=TransformersSettings(), description="Settings of the transformers engine."
    )
    fleet: FleetSettings = Field(
        default=FleetSettings(), description="Isolation on the nodes, and limits of a run."
    )
    keep_traces: int = Field(
        default=20, ge=0, description="Number of tasks whose power traces are kept."
    )
    isolate_launches: bool = Field(
        default=False,
        description="Run every launch in a process of its own, also those of the twin.",
    )

    _document: YamlDocument | None = PrivateAttr(default=None)
    _text: str | None = PrivateAttr(default=None)

    @property
    def path(self) -> Path | None:
        """File the sweep was read from, or None."""
        return self._document.path if self._document else None

    @property
    def text(self) -> str | None:
        """YAML text the sweep was read from, or None."""
        return self._text

    @property
    def model_names(self) -> tuple[str, ...]:
        """Every model as the sweep names it, those of ``include`` too."""
        return tuple(dict.fromkeys((*self.models, *(extra.model for extra in self.include))))

    @property
    def hardware_names(self) -> tuple[str, ...]:
        """Every hardware as the sweep names it, those of ``include`` too."""
        return tuple(dict.fromkeys((*self.hardware, *(extra.hardware for extra in self.include))))

    def where(self, *path: str | int) -> str:
        """Readable place of a key in the sweep's file, for errors."""
        document = self._document or YamlDocument(path=None, data={}, lines={})
        return document.where(path)

    def deployment_groups(self) -> list[AxisGroup]:
        """Axes of the deployment, linked ones together."""
        singles = {axis: getattr(self, axis) for axis in DEPLOYMENT_AXES}
        return linked_groups(self.linked, singles, ())

    @field_validator("engine")
    @classmethod
    def _engine_known(cls, engine: str) -> str:
        engines = known_engines()
        if engine not in engines and ":" not in engine:
            raise problem(
                f"unknown engine {engine!r}; known engines: {', '.join(engines)}",
                fix=suggestion(engine, engines, "engines"),
            )
        return engine

    @model_validator(mode="after")
    def _parts_agree(self) -> Sweep:
        most = self.measuring.max_repeats
        if most is not None and most < self.repeats:
            raise problem(
                f"max_repeats {most} is less than repeats {self.repeats}",
                at=("measuring", "max_repeats"),
                fix=f"use at least {self.repeats}, or lower repeats.",
            )
        if not self.blocks and not self.include:
            raise problem(
                "the sweep is empty: it has no blocks and no include",
                fix="add blocks: with at least one workload.",
            )
        self.deployment_groups()
        for index, block in enumerate(self.blocks):
            for axis in ("models", "hardware", "precision", "tensor_parallel", "pipeline_parallel"):
                self._check_narrowing(index, axis, getattr(block, axis))
        return self

    def _check_narrowing(self, index: int, axis: str, narrowed: tuple[Any, ...] | None) -> None:
        whole = getattr(self, axis)
        if whole is None and axis in DEPLOYMENT_AXES:
            linked = [group[axis] for group in self.linked if axis in group]
            whole = linked[0] if linked else (1,)
        for value in narrowed or ():
            if value not in whole:
                raise problem(
                    f"{value!r} is not among the {axis} of the sweep; a block can only narrow it",
                    at=("blocks", index, axis),
                    fix=f"add it to {axis} of the sweep, or use one of: "
                    f"{', '.join(str(item) for item in whole)}.",
                )


def load_sweep(path: str | Path) -> Sweep:
    """Read a sweep file.

    Parameters
    ----------
    path
        The YAML file.

    Returns
    -------
    Sweep
        The validated sweep, which knows its file for later errors.

    Raises
    ------
    SweepError
        Missing file, not YAML, unknown or duplicate key, wrong type or value. The error
        names the file, the line and the key.
    """
    document = read_yaml(Path(path))
    return _build(document, Path(path).read_text(encoding="utf-8"))


def parse_sweep(text: str, *, path: Path | None = None) -> Sweep:
    """Read a sweep from YAML text; ``path`` says which file relative paths start from."""
    return _build(parse_yaml(text, path), text)


def _build(document: YamlDocument, text: str) -> Sweep:
    try:
        sweep = Sweep.model_validate(document.data)
    except ValidationError as error:
        raise sweep_error(error, document, _allowed_keys) from None
    sweep._document = document
    sweep._text = text
    return sweep


_NESTED: dict[str, type[BaseModel]] = {
    "sampling": Sampling,
    "budgets": Budgets,
    "twin": TwinSettings,
    "measuring": Measuring,
    "transformers": TransformersSettings,
    "fleet": FleetSettings,
    "include": Configuration,
    "exclude": Condition,
}


def _allowed_keys(path: KeyPath, data: object) -> list[str]:
    """Keys that are allowed beside the unknown one at the end of a path."""
    model: type[BaseModel] = Sweep
    if path[0] == "blocks" and isinstance(data, dict) and isinstance(path[1], int):
        model = BLOCKS[data["blocks"][path[1]].get("modality", "text")]
    for part in path[:-1]:
        model = _NESTED.get(str(part), model)
    return list(model.model_fields)
