"""Axes of a sweep: a value, a list of values, or a grid, all turned into one tuple."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

MAX_AXIS_VALUES = 10_000
MAX_INTEGER = 10**9
MAX_PIXELS = 100_000
GRID_FORMS = "{range: [1, 64], factor: 2} or {from: 1, to: 64, step: 1}"
_GRID_KEYS = {"range", "from", "to", "factor", "step"}

Value = TypeVar("Value")


def problem(message: str, *, at: tuple[int | str, ...] = (), fix: str | None = None) -> Exception:
    """Error of a value of a sweep; ``at`` leads to the item inside the value."""
    context: dict[str, Any] = {"message": message, "at": at, "fix": fix}
    return PydanticCustomError("sweep_value", "{message}", context)


def expand_integers(value: object, *, minimum: int = 1) -> tuple[int, ...]:
    """Turn the text of an axis into its integers, in the order given, each once.

    Parameters
    ----------
    value
        An integer, a grid, or a list of integers and grids. A grid is ``{range: [lo, hi],
        factor: f}`` (geometric), ``{range: [lo, hi], step: s}`` (arithmetic), or the same
        with ``from`` and ``to``. The upper end belongs to the grid if the steps meet it.
    minimum
        Smallest integer allowed.

    Returns
    -------
    tuple of int
        The values, not sorted.

    Raises
    ------
    PydanticCustomError
        A value is of the wrong type, too small, or the grid is malformed.

    Examples
    --------
    >>> expand_integers([3, {"range": [1, 8], "factor": 2}])
    (3, 1, 2, 4, 8)
    """
    items = value if isinstance(value, list | tuple) else [value]
    if not items:
        raise problem("an empty list of values", fix="give at least one value.")
    result: dict[int, None] = {}
    for index, item in enumerate(items):
        at = (index,) if isinstance(value, list | tuple) else ()
        values = _grid(item, at) if isinstance(item, dict) else (_integer(item, at),)
        for number in values:
            if number < minimum:
                raise problem(
                    f"{number} is smaller than {minimum}", at=at, fix=f"use {minimum} or more."
                )
            result[number] = None
        if len(result) > MAX_AXIS_VALUES:
            raise problem(
                f"more than {MAX_AXIS_VALUES} values on one axis",
                at=at,
                fix="use a larger step or a factor.",
            )
    return tuple(result)


def _integer(item: object, at: tuple[int, ...]) -> int:
    if isinstance(item, int) and not isinstance(item, bool):
        if abs(item) > MAX_INTEGER:
            raise problem(f"{item} is too large", at=at, fix=f"use a number up to {MAX_INTEGER:,}.")
        return item
    raise problem(
        f"a whole number is needed, not {item!r}",
        at=at,
        fix=f"write a whole number without quotes, a list of them, or a grid like {GRID_FORMS}.",
    )


def _grid(grid: dict[str, Any], at: tuple[int, ...]) -> Iterable[int]:
    keys = set(grid)
    ends_ok = ("range" in keys) != ({"from", "to"} <= keys) and len(keys & {"from", "to"}) != 1
    if not keys <= _GRID_KEYS or not ends_ok or len(keys & {"factor", "step"}) != 1:
        shown = "{" + ", ".join(f"{key}: {item}" for key, item in grid.items()) + "}"
        raise problem(f"{shown} is not a grid", at=at, fix=f"write {GRID_FORMS}.")
    ends = grid.get("range", [grid.get("from"), grid.get("to")])
    if not isinstance(ends, list | tuple) or len(ends) != 2:
        raise problem(f"range must be two numbers, not {ends!r}", at=at, fix=f"write {GRID_FORMS}.")
    low, high = _integer(ends[0], at), _integer(ends[1], at)
    if low > high:
        raise problem(f"the grid runs from {low} down to {high}", at=at, fix="swap the two ends.")
    if "step" in keys:
        return _steps(low, high, grid["step"], at)
    return _factors(low, high, grid["factor"], at)


def _steps(low: int, high: int, step: object, at: tuple[int, ...]) -> Iterable[int]:
    size = _integer(step, at)
    if size < 1:
        raise problem(f"a step of {size} never ends", at=at, fix="use a step of 1 or more.")
    return range(low, high + 1, size)


def _factors(low: int, high: int, factor: object, at: tuple[int, ...]) -> Iterable[int]:
    if isinstance(factor, bool) or not isinstance(factor, int | float):
        raise problem(f"the factor must be a number, not {factor!r}", at=at)
    if not math.isfinite(factor) or factor <= 1:
        raise problem(f"a factor of {factor} never ends", at=at, fix="use a factor above 1.")
    if low < 1:
        raise problem(f"a grid with a factor cannot start at {low}", at=at, fix="start at 1.")
    if math.log(high / low) / math.log(factor) > MAX_AXIS_VALUES:
        raise problem(f"a factor of {factor} takes too many steps", at=at, fix="use a larger one.")
    values: dict[int, None] = {}
    number = float(low)
    while round(number) <= high:
        values[round(number)] = None
        number *= factor
    return values


def expand_sizes(value: object) -> tuple[tuple[int, int], ...]:
    """Turn ``[height, width]`` or a list of such pairs into pairs of pixels."""
    fix = "write [height, width] in pixels, or a list of such pairs."
    if not isinstance(value, list | tuple) or not value:
        raise problem(f"an image size is two numbers, not {value!r}", fix=fix)
    single = not isinstance(value[0], list | tuple)
    result: dict[tuple[int, int], None] = {}
    for index, item in enumerate([value] if single else value):
        at = () if single else (index,)
        if not isinstance(item, list | tuple) or len(item) != 2:
            raise problem(f"an image size is two numbers, not {item!r}", at=at, fix=fix)
        height, width = (_integer(number, at) for number in item)
        if not 1 <= height <= MAX_PIXELS or not 1 <= width <= MAX_PIXELS:
            raise problem(
                f"an image of {height} x {width} pixels is not possible",
                at=at,
                fix=f"use 1 to {MAX_PIXELS:,} pixels a side.",
            )
        result[(height, width)] = None
    return tuple(result)


def one_or_many(kind: type[Value], what: str) -> Callable[[object], tuple[Value, ...]]:
    """Make a validator that takes one value of a kind, or a list of them, each once."""

    def expand(value: object) -> tuple[Value, ...]:
        many = isinstance(value, list | tuple)
        items = value if isinstance(value, list | tuple) else [value]
        if not items:
            raise problem("an empty list", fix=f"give at least one {what}.")
        result: dict[Value, None] = {}
        for index, item in enumerate(items):
            if not isinstance(item, kind) or isinstance(item, bool) or item == "":
                raise problem(
                    f"a {what} is needed, not {item!r}",
                    at=(index,) if many else (),
                    fix=f"write one {what}, or a list of them.",
                )
            result[item] = None
        return tuple(result)

    return expand


_GRID_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "A grid: two ends and a factor or a step.",
    "properties": {
        "range": {
            "type": "array",
            "items": {"type": "integer"},
            "minItems": 2,
            "maxItems": 2,
            "description": "Lower and upper end.",
        },
        "from": {"type": "integer", "description": "Lower end."},
        "to": {"type": "integer", "description": "Upper end."},
        "factor": {"type": "number", "exclusiveMinimum": 1},
        "step": {"type": "integer", "minimum": 1},
    },
    "additionalProperties": False,
    "oneOf": [
        {"required": ["range", "factor"]},
        {"required": ["range", "step"]},
        {"required": ["from", "to", "factor"]},
        {"required": ["from", "to", "step"]},
    ],
}


def _axis_schema(minimum: int) -> dict[str, Any]:
    integer = {"type": "integer", "minimum": minimum}
    items = {"anyOf": [integer, _GRID_SCHEMA]}
    return {"anyOf": [integer, _GRID_SCHEMA, {"type": "array", "items": items, "minItems": 1}]}


_SIZE_SCHEMA: dict[str, Any] = {
    "type": "array",
    "items": {"type": "integer", "minimum": 1},
    "minItems": 2,
    "maxItems": 2,
}
_NAME_SCHEMA: dict[str, Any] = {"type": "string", "minLength": 1}

PositiveAxis = Annotated[
    tuple[int, ...], BeforeValidator(expand_integers), WithJsonSchema(_axis_schema(1))
]
NaturalAxis = Annotated[
    tuple[int, ...],
    BeforeValidator(lambda value: expand_integers(value, minimum=0)),
    WithJsonSchema(_axis_schema(0)),
]
SizeAxis = Annotated[
    tuple[tuple[int, int], ...],
    BeforeValidator(expand_sizes),
    WithJsonSchema(
        {"anyOf": [_SIZE_SCHEMA, {"type": "array", "items": _SIZE_SCHEMA, "minItems": 1}]}
    ),
]
Names = Annotated[
    tuple[str, ...],
    BeforeValidator(one_or_many(str, "name")),
    WithJsonSchema(
        {"anyOf": [_NAME_SCHEMA, {"type": "array", "items": _NAME_SCHEMA, "minItems": 1}]}
    ),
]
