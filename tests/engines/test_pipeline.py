"""Micro-batch schedules against hand-made cases and limits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.engines.twin.pipeline import schedule, transfer_s


@given(batch=st.integers(1, 512), stages=st.integers(1, 16))
def test_every_request_is_in_exactly_one_micro_batch(batch: int, stages: int) -> None:
    plan = schedule(batch, stages)
    assert plan.full * plan.full_count + plan.rest == batch
    assert 0 <= plan.rest < plan.full
    assert 1 <= plan.count <= stages


@given(batch=st.integers(1, 512), stages=st.integers(1, 16), pass_s=st.floats(1e-3, 10))
def test_walls_lie_between_one_pass_and_all_of_them(batch: int, stages: int, pass_s: float) -> None:
    plan = schedule(batch, stages)
    assert pass_s <= plan.prefill_wall_s(pass_s) <= plan.count * pass_s * (1 + 1e-12)
    assert plan.decode_wall_s(pass_s) >= pass_s


def test_without_a_pipeline_nothing_changes() -> None:
    plan = schedule(7, 1)
    assert (plan.full, plan.full_count, plan.rest) == (7, 1, 0)
    assert plan.prefill_wall_s(2.0) == 2.0
    assert plan.decode_wall_s(2.0) == 2.0


def test_two_stages_and_four_requests() -> None:
    plan = schedule(4, 2)
    assert (plan.full, plan.count) == (2, 2)
    assert plan.prefill_wall_s(1.0) == 1.5
    assert plan.decode_wall_s(1.0) == 1.0


def test_one_request_gains_nothing_from_four_stages() -> None:
    plan = schedule(1, 4)
    assert plan.count == 1
    assert plan.prefill_wall_s(1.0) == 1.0


def test_transfer_is_latency_plus_bytes() -> None:
    assert transfer_s(1000, 4096, 450e9) == pytest.approx(10e-6 + 2 * 1000 * 4096 / 450e9)
