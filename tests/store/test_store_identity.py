"""The identity hash: same work, same id, whatever form it comes in."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.store import IDENTITY_DEFAULTS, task_id_of

BASE = {"model_id": "org/m", "engine": "vllm", "hardware": "H100", "batch": 8, "output_tokens": 64}


def test_id_is_pinned():
    # An id in a published table must mean the same configuration for ever.
    assert task_id_of(BASE) == "605e4b8b926248b2"


@given(st.dictionaries(st.sampled_from(sorted(IDENTITY_DEFAULTS)), st.just(None)))
def test_nulls_and_defaults_leave_no_trace(nulls):
    defaults = {k: v for k, v in IDENTITY_DEFAULTS.items() if v is not None}
    assert task_id_of({**defaults, **dict.fromkeys(nulls), **BASE}) == task_id_of(BASE)


@given(st.integers(1, 10**6))
def test_whole_floats_numpy_and_ints_are_one(batch):
    ids = {
        task_id_of({**BASE, "batch": value})
        for value in (batch, float(batch), np.int32(batch), np.float64(batch))
    }
    assert len(ids) == 1


@pytest.mark.parametrize("nothing", [None, float("nan"), np.nan, pd.NA, pd.NaT])
def test_every_null_is_the_same(nothing):
    assert task_id_of({**BASE, "power_limit_w": nothing}) == task_id_of(BASE)


@given(st.sampled_from(sorted(IDENTITY_DEFAULTS)))
def test_every_identity_column_counts(name):
    other = "other" if isinstance(IDENTITY_DEFAULTS[name] or "x", str) else 12345
    assert task_id_of({**BASE, name: other}) != task_id_of(BASE)


def test_outcomes_do_not_count_and_order_does_not_matter():
    assert task_id_of({**BASE, "total_energy_j": 3.0, "attempt": 2, "seed": 5}) == task_id_of(BASE)
    assert task_id_of(dict(reversed(BASE.items()))) == task_id_of(BASE)


@pytest.mark.parametrize("value", [float("inf"), True, [1], {"a": 1}])
def test_values_without_a_place_are_refused(value):
    with pytest.raises(ValueError, match="batch"):
        task_id_of({**BASE, "batch": value})
