"""Conditions that exclude configurations: by value, by list, or by comparison."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema, model_validator

from harness.spec.axes import problem

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_COMPARISON = re.compile(r"^\s*(>=|<=|==|!=|>|<)\s*(-?\d+(?:\.\d+)?)\s*$")
_FIX = 'write a number, a list of numbers, or a comparison in quotes such as ">= 64".'


@dataclass(frozen=True, slots=True)
class NumberMatch:
    """Matches a number if any of its alternatives does.

    Parameters
    ----------
    alternatives
        Each alternative is a tuple of (operator, bound) that must all hold.
    """

    alternatives: tuple[tuple[tuple[str, float], ...], ...]

    def matches(self, value: float) -> bool:
        """Say whether the number meets one of the alternatives."""
        return any(
            all(_OPERATORS[sign](value, bound) for sign, bound in alternative)
            for alternative in self.alternatives
        )


@dataclass(frozen=True, slots=True)
class TextMatch:
    """Matches a word if it is one of those listed."""

    words: tuple[str, ...]

    def matches(self, value: str) -> bool:
        """Say whether the word is listed."""
        return value in self.words


def parse_number_match(value: object) -> NumberMatch:
    """Read a number, a list, or comparisons such as ``">= 64, < 512"`` (all must hold)."""
    if isinstance(value, NumberMatch):
        return value
    many = isinstance(value, list | tuple)
    items = value if isinstance(value, list | tuple) else [value]
    if not items:
        raise problem("an empty list matches nothing", fix=_FIX)
    alternatives: list[tuple[tuple[str, float], ...]] = []
    for index, item in enumerate(items):
        at = (index,) if many else ()
        if isinstance(item, int | float) and not isinstance(item, bool):
            alternatives.append((("==", float(item)),))
        elif isinstance(item, str):
            parts = [_COMPARISON.match(part) for part in item.split(",")]
            found = tuple((str(part[1]), float(part[2])) for part in parts if part)
            if len(found) != len(parts):
                raise problem(f"{item!r} is not a comparison", at=at, fix=_FIX)
            alternatives.append(found)
        else:
            raise problem(f"{item!r} is not a number or a comparison", at=at, fix=_FIX)
    return NumberMatch(tuple(alternatives))


def parse_text_match(value: object) -> TextMatch:
    """Read one word or a list of words."""
    if isinstance(value, TextMatch):
        return value
    many = isinstance(value, list | tuple)
    items = value if isinstance(value, list | tuple) else [value]
    words: list[str] = []
    for index, item in enumerate(items):
        if not isinstance(item, str) or not item:
            raise problem(
                f"a word is needed, not {item!r}",
                at=(index,) if many else (),
                fix="write one word, or a list of words.",
            )
        words.append(item)
    if not words:
        raise problem("an empty list matches nothing", fix="give at least one word.")
    return TextMatch(tuple(words))


_ONE_COMPARISON = r"\s*(>=|<=|==|!=|>|<)\s*-?\d+(\.\d+)?\s*"
_COMPARE_SCHEMA: dict[str, Any] = {
    "type": "string",
    "pattern": f"^{_ONE_COMPARISON}(,{_ONE_COMPARISON})*$",
}
_NUMBER_ITEM: dict[str, Any] = {"anyOf": [{"type": "number"}, _COMPARE_SCHEMA]}
_NUMBER_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "number"},
        _COMPARE_SCHEMA,
        {"type": "array", "items": _NUMBER_ITEM, "minItems": 1},
    ]
}
_TEXT_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1},
    ]
}

Numbers = Annotated[
    NumberMatch | None, BeforeValidator(parse_number_match), WithJsonSchema(_NUMBER_SCHEMA)
]
Words = Annotated[TextMatch | None, BeforeValidator(parse_text_match), WithJsonSchema(_TEXT_SCHEMA)]


class Condition(BaseModel):
    """What a configuration must be to be excluded: every key given must match."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    model: Words = None
    family: Words = None
    hardware: Words = None
    precision: Words = None
    modality: Words = None
    tensor_parallel: Numbers = None
    pipeline_parallel: Numbers = None
    expert_parallel: Numbers = None
    data_parallel: Numbers = None
    num_gpus: Numbers = None
    batch: Numbers = None
    input_tokens: Numbers = None
    output_tokens: Numbers = None
    text_tokens: Numbers = None
    visual_tokens: Numbers = None
    images: Numbers = None
    frames: Numbers = None

    @model_validator(mode="after")
    def _says_something(self) -> Condition:
        if not self.given():
            raise problem(
                "a condition without keys would exclude everything", fix="give at least one key."
            )
        return self

    def given(self) -> dict[str, NumberMatch | TextMatch]:
        """Return the keys that were given, with what they match."""
        pairs = ((name, getattr(self, name)) for name in type(self).model_fields)
        return {name: match for name, match in pairs if match is not None}
