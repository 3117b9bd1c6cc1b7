"""Axes: values, lists and grids."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from harness.spec.axes import expand_integers, expand_sizes

INTEGERS = st.integers(min_value=1, max_value=10_000)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (8, (8,)),
        ([8, 1, 8], (8, 1)),
        ({"range": [1, 64], "factor": 2}, (1, 2, 4, 8, 16, 32, 64)),
        ({"from": 1, "to": 100, "factor": 4}, (1, 4, 16, 64)),
        ({"range": [10, 31], "step": 10}, (10, 20, 30)),
        ({"from": 3, "to": 3, "step": 5}, (3,)),
        ([3, {"range": [2, 4], "step": 1}], (3, 2, 4)),
        ({"range": [1, 4], "factor": 1.5}, (1, 2, 3)),
    ],
)
def test_axis_values(text: object, values: tuple[int, ...]) -> None:
    assert expand_integers(text) == values


@given(low=INTEGERS, span=st.integers(0, 1000), step=st.integers(1, 500))
def test_arithmetic_grid_stays_within_its_ends(low: int, span: int, step: int) -> None:
    values = expand_integers({"range": [low, low + span], "step": step})
    assert values[0] == low
    assert values[-1] <= low + span < values[-1] + step
    assert {b - a for a, b in itertools.pairwise(values)} <= {step}


@given(low=INTEGERS, ratio=st.integers(1, 100), factor=st.floats(1.01, 16, allow_nan=False))
def test_geometric_grid_rises_from_its_lower_end(low: int, ratio: int, factor: float) -> None:
    values = expand_integers({"range": [low, low * ratio], "factor": factor})
    assert values[0] == low
    assert all(a < b for a, b in itertools.pairwise(values))
    assert values[-1] <= low * ratio


@given(st.lists(INTEGERS, min_size=1, max_size=20))
def test_a_list_keeps_its_order_and_drops_repeats(values: list[int]) -> None:
    assert expand_integers(values) == tuple(dict.fromkeys(values))


@pytest.mark.parametrize(
    "wrong",
    [
        True,
        "8",
        1.5,
        None,
        0,
        -1,
        [],
        [1, "2"],
        10**10,
        {},
        {"range": [1, 64]},
        {"range": [64, 1], "factor": 2},
        {"range": [1, 64], "factor": 1},
        {"range": [1, 64], "factor": float("nan")},
        {"range": [1, 64], "factor": True},
        {"range": [0, 64], "factor": 2},
        {"range": [1, 64], "step": 0},
        {"range": [1, 64], "step": 2, "factor": 2},
        {"range": [1, 64, 3], "step": 2},
        {"range": 1, "step": 2},
        {"from": 1, "step": 2},
        {"from": 1, "to": 5, "range": [1, 5], "step": 2},
        {"range": [1, 64], "step": 1, "unit": "s"},
        {"range": [1, 1_000_000], "step": 1},
        {"range": [1, 1_000_000_000], "factor": 1.0000001},
    ],
)
def test_axis_refuses(wrong: object) -> None:
    with pytest.raises(PydanticCustomError):
        expand_integers(wrong)


def test_sizes_take_one_pair_or_several() -> None:
    assert expand_sizes([448, 672]) == ((448, 672),)
    assert expand_sizes([[448, 672], [1, 2], [448, 672]]) == ((448, 672), (1, 2))


@pytest.mark.parametrize("wrong", [[], 448, [448], [[448]], [448, 0], [448, 200_000], ["a", "b"]])
def test_sizes_refuse(wrong: object) -> None:
    with pytest.raises(PydanticCustomError):
        expand_sizes(wrong)
