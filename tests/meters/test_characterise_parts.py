"""Update periods and step responses, apart from any sensor."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.meters.loads import burst_plan
from harness.meters.step_response import OnTime, fit_response
from harness.meters.updates import change_times, changes, on_beat, update_period


def polled(period_s: float, poll_s: float, seconds: float, seed: int) -> tuple:
    """Polls of a value that is renewed every period, each poll up to a fifth late."""
    rng = np.random.default_rng(seed)
    t = np.arange(0, seconds, poll_s)
    t += 0.2 * poll_s * rng.random(t.size)
    phase = period_s * rng.random()
    return (t * 1e9).astype(np.int64), np.floor((t + phase) / period_s) * 17.0


@given(ratio=st.floats(3.2, 200.0), poll_s=st.floats(0.001, 0.02), seed=st.integers(0, 10**6))
def test_a_period_longer_than_three_polls_is_found_whatever_the_phase(
    ratio: float, poll_s: float, seed: int
) -> None:
    period_s = ratio * poll_s
    found = update_period(*polled(period_s, poll_s, 60 * period_s, seed))
    assert found.resolved
    assert found.period_s == pytest.approx(period_s, rel=0.02)


@given(ratio=st.floats(0.05, 2.0), poll_s=st.floats(0.001, 0.02), seed=st.integers(0, 10**6))
def test_a_period_that_the_polls_cannot_resolve_is_bounded(
    ratio: float, poll_s: float, seed: int
) -> None:
    period_s = ratio * poll_s
    found = update_period(*polled(period_s, poll_s, 400 * poll_s, seed))
    assert not found.resolved
    assert period_s <= found.period_s <= 3 * poll_s


def test_updates_that_bring_the_same_value_are_not_missed_in_the_period() -> None:
    rng = np.random.default_rng(3)
    t = np.arange(0, 30, 0.002)
    state = np.repeat(rng.integers(0, 2, 300), 50).astype(float)  # renewed every 0.1 s
    found = update_period((t * 1e9).astype(np.int64), state)
    assert found.updates < 200
    assert found.period_s == pytest.approx(0.1, rel=0.01)


def test_values_without_a_beat_give_a_bound_not_a_period() -> None:
    rng = np.random.default_rng(4)
    at = np.cumsum(rng.exponential(0.3, 60))
    t = np.arange(0, float(at[-1]), 0.002)
    found = update_period((t * 1e9).astype(np.int64), np.searchsorted(at, t).astype(float))
    assert not found.resolved
    assert found.period_s < 0.1


def test_too_few_updates_are_no_period() -> None:
    t = np.arange(1000) * 2_000_000
    for values in (np.full(1000, 5.0), np.full(1000, math.nan), np.arange(1000) // 400 * 1.0):
        found = update_period(t, values)
        assert math.isnan(found.period_s)
        assert not found.resolved


def test_nan_is_no_change() -> None:
    values = np.array([1.0, math.nan, 1.0, 2.0, math.nan, math.nan, 2.0, 3.0])
    assert changes(values).tolist() == [3, 7]


def test_the_beat_places_updates_better_than_a_poll() -> None:
    t_ns, values = polled(0.0511, 0.01, 20.0, 5)
    times = change_times(t_ns, changes(values))
    placed = on_beat(times, update_period(t_ns, values))
    steps = np.diff(placed)
    assert steps.std() < 0.1 * np.diff(times).std()


@given(
    low=st.floats(0, 1),
    length=st.floats(0.01, 2),
    width=st.floats(0.001, 3),
    centre=st.floats(0, 3),
    t=st.floats(-5, 10),
)
def test_shares_lie_between_nothing_and_all(
    low: float, length: float, width: float, centre: float, t: float
) -> None:
    on = OnTime(np.array([[low, low + length], [low + length + 1, low + length + 3]]))
    share = on.share(np.array([t]), width, np.array([centre]))
    assert -1e-9 <= share[0, 0] <= 1 + 1e-9


@pytest.mark.parametrize(("width", "delay"), [(0.0, 0.0), (0.025, 0.03), (0.1, 0.0), (1.0, 0.3)])
def test_width_and_delay_are_recovered_with_noise(width: float, delay: float) -> None:
    rng = np.random.default_rng(11)
    plan = np.array(burst_plan(20.0, 0.1, 3))
    starts = np.concatenate(([0.0], np.cumsum(plan.sum(axis=1))[:-1]))
    edges = np.column_stack((starts, starts + plan[:, 0]))
    t = np.arange(0.05, 20, 0.1)
    share = OnTime(edges).share(t, width, np.array([delay + width / 2]))[0]
    value = 100 + 500 * share + 0.5 * t + 5 * rng.standard_normal(t.size)
    found = fit_response(
        t, value, edges, widths_s=(0, 1.6), delays_s=(-0.1, 0.6), scale_s=0.025, spacing_s=0.002
    )
    assert found is not None
    assert found.width_s == pytest.approx(width, abs=max(0.004, 4 * found.width_stderr_s))
    assert found.delay_s == pytest.approx(delay, abs=max(0.003, 4 * found.delay_stderr_s))
    assert found.high_w - found.low_w == pytest.approx(500, rel=0.02)
    assert found.misfit < 0.02


def test_noise_alone_is_not_explained() -> None:
    rng = np.random.default_rng(12)
    edges = np.array([[0.0, 0.3], [0.8, 1.1], [2.0, 2.7], [3.0, 3.2]])
    t = np.arange(0, 5, 0.1)
    assert (
        fit_response(
            t,
            rng.standard_normal(t.size),
            edges,
            widths_s=(0, 0.1),
            delays_s=(0, 0.05),
            scale_s=0.02,
            spacing_s=0.002,
        )
        is None
    )


@given(seconds=st.floats(1, 60), period_s=st.floats(0.001, 1), seed=st.integers(0, 10**6))
def test_bursts_fill_the_time_and_reach_both_sides_of_the_period(
    seconds: float, period_s: float, seed: int
) -> None:
    plan = np.array(burst_plan(seconds, period_s, seed))
    assert plan.min() >= 0.004 * (1 - 1e-9)
    assert seconds <= plan.sum() < seconds + 2 * max(1.2, 1.5 * period_s)
    assert burst_plan(seconds, period_s, seed) == burst_plan(seconds, period_s, seed)
