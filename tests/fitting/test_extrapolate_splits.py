"""What is held out is never learnt from, whatever the table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from extrapolation_data import model
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fitting.extrapolation.splits import (
    KINDS,
    base_names,
    cuts_of,
    draw,
    limit_of,
    siblings,
)
from fitting.facts import Facts
from fitting.rows import row_hash
from harness.store import FitError

NAMES = ("a/One", "a/One-FP8", "a/One-VL", "b/Two", "b/Two-FP8", "c/Three", "d/Four")
FACTS = Facts(
    {},
    {
        "a/One": model("a/One", "one"),
        "a/One-VL": model("a/One-VL", "one"),
        "c/Three": model("c/Three", "three"),
    },
)


VALUES: dict[str, tuple] = {
    "model_id": NAMES,
    "hardware": ("H", "L", "B"),
    "precision": ("bf16", "fp8", None),
    "modality": ("text", "image", "video"),
    "family": ("dense", "moe"),
    "task": ("chat", "code", None),
    "batch": (1, 2, 4, 16, 96),
    "input_tokens": (128, 512, 2048),
    "output_tokens": (32, 128, 512),
    "tensor_parallel": (1, 2, 4),
}


def any_table(size: int, seed: int) -> pd.DataFrame:
    """A table of that many rows, with any of the values that kinds tell apart."""
    rng = np.random.default_rng(seed)
    picked = {
        name: [known[i] for i in rng.integers(len(known), size=size)]
        for name, known in VALUES.items()
    }
    return pd.DataFrame(picked).drop_duplicates(ignore_index=True)


TABLES = st.builds(any_table, st.integers(1, 60), st.integers(0, 10**6))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25)
@given(rows=TABLES, samples=st.integers(1, 6), seed=st.integers(0, 3), total=st.booleans())
def test_no_held_out_row_or_sibling_is_learnt_from(kind, rows, samples, seed, total) -> None:
    try:
        cuts = cuts_of(rows, kind, FACTS)
    except FitError:
        assume(False)
    shared = siblings(rows, FACTS)
    column = {"model": "model_id"}.get(kind, kind)
    for cut in cuts:
        split = draw(rows, kind, cut, samples, seed, in_total=total)
        train, asked = rows.iloc[split.train], rows.iloc[split.asked]
        assert len(asked)
        assert not {*split.train} & {*split.asked}
        assert (train.groupby(["model_id", "hardware"]).size() <= samples).all()
        if kind in ("model", "family", "modality"):
            assert not {*shared[split.train]} & {*shared[split.asked]}
        if kind in ("batch", "length"):
            names = ["batch"] if kind == "batch" else ["input_tokens", "output_tokens"]
            assert any(not len(train) or asked[name].min() > train[name].max() for name in names)
        else:
            assert not {*train[column].dropna()} & {*asked[column].dropna()}
        earlier = split.shots(0)
        assert not earlier.any()
        for k in (1, 4):
            now = split.shots(k)
            assert (earlier <= now).all()
            groups = (
                [pd.Series(0, asked.index)] if total else [asked["model_id"], asked["hardware"]]
            )
            assert (asked.loc[now].groupby([g.loc[now] for g in groups]).size() <= k).all()
            earlier = now


@settings(max_examples=15)
@given(rows=TABLES, seed=st.integers(0, 3))
def test_a_draw_is_the_same_in_any_order(rows, seed) -> None:
    assume(rows["hardware"].nunique() > 1)
    turned = rows.iloc[::-1].reset_index(drop=True)
    found = []
    for frame in (rows, turned):
        cut = cuts_of(frame, "hardware", FACTS)[0]
        split = draw(frame, "hardware", cut, 3, seed)
        keys = row_hash(frame)  # rows of one configuration are drawn alike
        found.append([sorted(keys[split.train]), sorted(keys[split.asked[split.shots(2)]])])
    assert found[0] == found[1]


def test_checkpoints_of_one_model_are_siblings() -> None:
    rows = pd.DataFrame({"model_id": list(NAMES)})
    assert list(base_names(rows)) == [
        "a/One",
        "a/One",
        "a/One-VL",
        "b/Two",
        "b/Two",
        "c/Three",
        "d/Four",
    ]
    assert list(siblings(rows, FACTS)) == ["one", "one", "one", "b/Two", "b/Two", "three", "d/Four"]


def test_the_limit_leaves_two_doublings() -> None:
    assert limit_of(np.array([1.0, 2, 4, 8, 16, 32, 64])) == 16
    assert limit_of(np.array([8.0, 16, 24])) is None
    assert limit_of(np.array([np.nan])) is None
    # Nothing lies within two doublings of 16, so 4 is the limit and 16 is asked about.
    assert limit_of(np.array([1.0, 2, 4, 16, 96])) == 4
    # One row in a hundred is at 4096: too few to be what is asked about.
    assert limit_of(np.array([64.0] * 50 + [256.0] * 49 + [4096.0])) == 64


def test_each_doubling_is_asked_about_apart() -> None:
    rows = pd.DataFrame({"batch": [1, 2, 4, 8, 16, 32, 64] * 3, "model_id": "m", "hardware": "h"})
    cuts = cuts_of(rows, "batch", FACTS)
    assert [cut.left_out for cut in cuts] == ["32 (2 x 16)", "64 (4 x 16)"]
    for cut in cuts:
        assert rows.loc[cut.allowed, "batch"].max() == 16


@pytest.mark.parametrize("kind", KINDS)
def test_one_value_only_is_an_error_that_says_so(kind) -> None:
    rows = pd.DataFrame(
        {
            "model_id": ["m"] * 3,
            "hardware": "H100",
            "precision": "bf16",
            "modality": "text",
            "family": "dense",
            "task": "chat",
            "batch": 8,
            "input_tokens": 128,
            "output_tokens": 32,
        }
    )
    with pytest.raises(FitError, match="Nothing to hold out") as error:
        cuts_of(rows, kind, FACTS)
    assert error.value.fix
    if kind == "hardware":
        assert "H100" in str(error.value)
