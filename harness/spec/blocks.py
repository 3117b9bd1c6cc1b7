"""Workload blocks of a sweep: the axes of text, image and video inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
    model_validator,
)

from harness.spec.axes import (
    MAX_INTEGER,
    Names,
    NaturalAxis,
    PositiveAxis,
    SizeAxis,
    expand_sizes,
    one_or_many,
    problem,
)
from harness.spec.deployment import Precision
from harness.spec.problems import suggestion

AxisGroup = tuple[tuple[str, ...], tuple[tuple[Any, ...], ...]]
_PRECISIONS: tuple[str, ...] = get_args(Precision)


def _precisions(value: object) -> tuple[str, ...]:
    words = one_or_many(str, "precision")(value)
    for index, word in enumerate(words):
        if word not in _PRECISIONS:
            raise problem(
                f"{word!r} is not a precision",
                at=(index,) if isinstance(value, list | tuple) else (),
                fix=suggestion(word, _PRECISIONS, "precisions"),
            )
    return words


_PRECISION_SCHEMA: dict[str, Any] = {"enum": list(_PRECISIONS)}
Precisions = Annotated[
    tuple[Precision, ...],
    BeforeValidator(_precisions),
    WithJsonSchema(
        {
            "anyOf": [
                _PRECISION_SCHEMA,
                {"type": "array", "items": _PRECISION_SCHEMA, "minItems": 1},
            ]
        }
    ),
]


def _linked(value: object) -> tuple[dict[str, tuple[Any, ...]], ...]:
    many = isinstance(value, list | tuple)
    groups = value if isinstance(value, list | tuple) else [value]
    result = []
    for index, group in enumerate(groups):
        at: tuple[int | str, ...] = (index,) if many else ()
        if not isinstance(group, dict) or len(group) < 2:
            raise problem(
                "linked needs at least two axes with a list each",
                at=at,
                fix="write linked: {input_tokens: [128, 1024], output_tokens: [32, 256]}.",
            )
        result.append(_linked_group(group, at))
    return tuple(result)


def _linked_group(
    group: Mapping[str, object], at: tuple[int | str, ...]
) -> dict[str, tuple[Any, ...]]:
    columns: dict[str, tuple[Any, ...]] = {}
    for axis, values in group.items():
        if not isinstance(values, list | tuple) or not values:
            raise problem(
                f"a linked axis needs a list, not {values!r}",
                at=(*at, axis),
                fix="give every linked axis a list of the same length.",
            )
        columns[axis] = tuple(
            _linked_value(axis, item, (*at, axis, i)) for i, item in enumerate(values)
        )
    lengths = {axis: len(values) for axis, values in columns.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{axis} has {length}" for axis, length in lengths.items())
        raise problem(
            f"linked axes move together, but {shown} values",
            at=at,
            fix="give every linked axis a list of the same length.",
        )
    return columns


def _linked_value(axis: str, item: object, at: tuple[int | str, ...]) -> object:
    if axis in {"image_size", "frame_size"}:
        if isinstance(item, list | tuple) and len(item) == 2:
            return expand_sizes(item)[0]
        raise problem(f"a size is [height, width], not {item!r}", at=at)
    minimum = 0 if axis == "text_tokens" else 1
    whole = isinstance(item, int) and not isinstance(item, bool)
    if whole and minimum <= item <= MAX_INTEGER:  # type: ignore[operator]
        return item
    raise problem(
        f"a whole number from {minimum} to {MAX_INTEGER:,} is needed, not {item!r}",
        at=at,
        fix="write whole numbers; grids cannot be linked.",
    )


_LINKED_GROUP_SCHEMA: dict[str, Any] = {
    "type": "object",
    "minProperties": 2,
    "additionalProperties": {"type": "array", "minItems": 1},
}
Linked = Annotated[
    tuple[dict[str, tuple[Any, ...]], ...],
    BeforeValidator(_linked),
    WithJsonSchema(
        {"anyOf": [_LINKED_GROUP_SCHEMA, {"type": "array", "items": _LINKED_GROUP_SCHEMA}]}
    ),
]


def _sampling(value: object) -> object:
    return {"method": value} if isinstance(value, str) else value


class Sampling(BaseModel):
    """Which part of the grid is measured."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    method: Literal["full", "random", "latin_hypercube"] = Field(
        description="full: all; random: without order; latin_hypercube: stratified over every axis."
    )
    size: int | None = Field(default=None, ge=1, description="How many to keep.")
    seed: int = Field(default=0, ge=0, description="Seed; the same seed keeps the same ones.")
    over: Literal["tasks", "workloads"] = Field(
        default="tasks",
        description="tasks: choose configurations; workloads: choose workloads, and measure each "
        "of them in every deployment, so that deployments can be compared.",
    )

    @model_validator(mode="after")
    def _size_fits_method(self) -> Sampling:
        if self.method == "full" and self.size is not None:
            raise problem(
                "full keeps everything, so it has no size",
                at=("size",),
                fix="remove size, or use random or latin_hypercube.",
            )
        if self.method != "full" and self.size is None:
            raise problem(f"{self.method} needs a size", fix="add size: with a whole number.")
        return self


SamplingField = Annotated[
    Sampling, BeforeValidator(_sampling, json_schema_input_type=Sampling | Literal["full"])
]


def linked_groups(
    linked: tuple[dict[str, tuple[Any, ...]], ...],
    singles: Mapping[str, tuple[Any, ...] | None],
    required: tuple[str, ...],
) -> list[AxisGroup]:
    """Unite linked and single axes into groups that move independently of each other.

    Raises
    ------
    PydanticCustomError
        A linked axis is unknown or given twice, or a required axis is missing.
    """
    taken: dict[str, AxisGroup] = {}
    for index, group in enumerate(linked):
        built: AxisGroup = (tuple(group), tuple(zip(*group.values(), strict=True)))
        for axis in group:
            at = ("linked", axis) if len(linked) == 1 else ("linked", index, axis)
            if axis not in singles:
                raise problem(
                    f"{axis!r} cannot be linked here",
                    at=at,
                    fix=suggestion(axis, tuple(singles), "axes here"),
                )
            if axis in taken or singles[axis] is not None:
                raise problem(
                    f"the axis {axis!r} is given twice",
                    at=at,
                    fix="give it either under linked or on its own.",
                )
            taken[axis] = built
    groups: list[AxisGroup] = []
    for axis, values in singles.items():
        if axis in taken:
            if taken[axis] not in groups:
                groups.append(taken[axis])
        elif values is not None:
            groups.append(((axis,), tuple((value,) for value in values)))
        elif axis in required:
            raise problem(
                f"the axis {axis!r} is missing",
                fix=f"add {axis}: here, or list it under linked.",
            )
    return groups


class _Block(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    axes: ClassVar[tuple[str, ...]] = ()

    name: str | None = Field(default=None, description="Name of the block, for the reader.")
    models: Names | None = Field(default=None, description="Narrows the models of the sweep.")
    hardware: Names | None = Field(default=None, description="Narrows the hardware of the sweep.")
    precision: Precisions | None = Field(default=None, description="Narrows the precisions.")
    tensor_parallel: PositiveAxis | None = Field(default=None, description="Narrows the axis.")
    pipeline_parallel: PositiveAxis | None = Field(default=None, description="Narrows the axis.")
    batch: PositiveAxis | None = Field(default=None, description="Requests served together.")
    output_tokens: PositiveAxis | None = Field(
        default=None, description="Tokens generated for each request."
    )
    linked: Linked = Field(
        default=(), description="Axes that move together: the first values, the second values..."
    )
    sampling: SamplingField | None = Field(
        default=None, description="Overrides the sampling of the sweep for this block."
    )

    @model_validator(mode="after")
    def _axes_complete(self) -> _Block:
        self.groups()
        return self

    def groups(self) -> list[AxisGroup]:
        """Axes of the workload, linked ones together, in the order batch, input, output."""
        singles = {axis: getattr(self, axis) for axis in self.axes}
        return linked_groups(self.linked, singles, self.axes)


class TextBlock(_Block):
    """Text in, text out."""

    axes: ClassVar[tuple[str, ...]] = ("batch", "input_tokens", "output_tokens")

    modality: Literal["text"] = "text"
    input_tokens: PositiveAxis | None = Field(
        default=None, description="Input tokens of each request."
    )


class ImageBlock(_Block):
    """Images and text in, text out."""

    axes: ClassVar[tuple[str, ...]] = (
        "batch",
        "text_tokens",
        "images",
        "image_size",
        "output_tokens",
    )

    modality: Literal["image"]
    text_tokens: NaturalAxis | None = Field(
        default=None, description="Text tokens of each request, without the images."
    )
    images: PositiveAxis | None = Field(default=None, description="Images of each request.")
    image_size: SizeAxis | None = Field(
        default=None, description="[height, width] of each image in pixels, or a list of those."
    )


class VideoBlock(_Block):
    """A video clip and text in, text out."""

    axes: ClassVar[tuple[str, ...]] = (
        "batch",
        "text_tokens",
        "frames",
        "frame_size",
        "output_tokens",
    )

    modality: Literal["video"]
    text_tokens: NaturalAxis | None = Field(
        default=None, description="Text tokens of each request, without the video."
    )
    frames: PositiveAxis | None = Field(default=None, description="Frames of each clip.")
    frame_size: SizeAxis | None = Field(
        default=None, description="[height, width] of each frame in pixels, or a list of those."
    )


def _modality(value: object) -> str | None:
    if isinstance(value, BaseModel):
        return str(getattr(value, "modality", "text"))
    if isinstance(value, dict):
        modality = value.get("modality", "text")
        return modality if isinstance(modality, str) else None
    return "text"


Block = Annotated[
    Annotated[TextBlock, Tag("text")]
    | Annotated[ImageBlock, Tag("image")]
    | Annotated[VideoBlock, Tag("video")],
    Discriminator(
        _modality,
        custom_error_type="sweep_value",
        custom_error_message="{message}",
        custom_error_context={
            "message": "the modality is not text, image or video",
            "at": ("modality",),
            "fix": "write modality: text, modality: image or modality: video.",
        },
    ),
]
BLOCKS: dict[str, type[_Block]] = {"text": TextBlock, "image": ImageBlock, "video": VideoBlock}
