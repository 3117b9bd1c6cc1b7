"""Windows of 5 s or more: within 1 % of the truth for every trusted sensor, else flagged."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.meters import Samples, SensorFacts, window_energy
from harness.meters.twin import Segment, SensorFaults, TwinMeter
from harness.meters.window import rest_needed_s

IDLE_W = 90.0
BASE = SensorFacts(counter_period_s=0.1, poll_period_s=0.02, gain_error=0.0)


def run(prefill_s: float, decode_s: float, pause_s: float) -> tuple[np.ndarray, np.ndarray]:
    """One run: prefill at 650 W, decode at 380 W, a pause at idle; knots and energy."""
    knots = np.cumsum([0.0, prefill_s, decode_s, pause_s])
    energy = np.cumsum([0.0, 650 * prefill_s, 380 * decode_s, IDLE_W * pause_s])
    return knots, energy


def measured_window(
    behaviour: SensorFacts,
    believed: SensorFacts,
    *,
    seconds: float = 6.0,
    shape: tuple[float, float, float] = (0.13, 0.31, 0.002),
    seed: int = 0,
    faults: SensorFaults | None = None,
    noise_w: float = 2.0,
):  # -> (WindowEnergy, true joules, samples, start, end, rest)
    meter = TwinMeter(
        "TEST",
        2,
        IDLE_W,
        seed=seed,
        sensor=believed,
        behaviour=behaviour,
        faults=faults,
        noise_w=noise_w,
    )
    rest_s = rest_needed_s(believed)
    start_ns = 10**10 + seed * 37_000_001
    warm = Segment(
        start_ns - round(1e9 * (rest_s + 3)), np.array([0.0, 3.0]), np.array([0.0, 1950.0]), 1
    )
    knots, energy = run(*shape)
    count = int(np.ceil(seconds / knots[-1]))
    work = Segment(start_ns, knots, energy, count)
    meter.record(warm)
    meter.record(work)
    end_ns = start_ns + round(1e9 * (work.duration_s - shape[2]))
    truth = 2 * (float(energy[-1]) * count - IDLE_W * shape[2])
    rest_ns = round(1e9 * rest_s)
    samples = meter.read(start_ns - rest_ns, end_ns + rest_ns)
    window, _ = window_energy(samples, start_ns, end_ns, believed, rest_s=rest_s)
    return window, truth, samples, start_ns, end_ns, rest_s


PERIODS = (0.01, 0.02, 0.05, 0.1)
LAGS = (0.0, 0.05, 0.2)
WIDTHS = (0.0, 0.1, 1.0)
SHARES = (1.0, 0.5, 0.25)


@pytest.mark.parametrize(
    ("period", "lag", "width", "share"), list(itertools.product(PERIODS, LAGS, WIDTHS, SHARES))
)
@pytest.mark.parametrize("known", [True, False])
def test_within_one_per_cent_or_flagged(
    period: float, lag: float, width: float, share: float, known: bool
) -> None:
    """Characterised facts, and facts that are only assumed: wrong joules are never unflagged."""
    behaviour = replace(
        BASE,
        counter_period_s=period,
        power_period_s=period,
        lag_s=lag,
        power_averaging_s=width,
        sampled_fraction=share,
    )
    believed = behaviour if known else replace(BASE, sampled_fraction=share)
    trusted = 0
    for seed in range(6):
        window, truth, *_ = measured_window(behaviour, believed, seed=seed)
        if not window.reasons:
            trusted += 1
            assert window.energy_j == pytest.approx(truth, rel=0.01)
    if share == 1.0 and known:
        assert trusted == 6


def test_half_a_second_between_updates_needs_longer_windows() -> None:
    slow = replace(BASE, counter_period_s=0.5, power_period_s=0.5)
    short, *_ = measured_window(slow, slow, seconds=6)
    assert "window_too_short" in short.reasons
    window, truth, *_ = measured_window(slow, slow, seconds=26)
    assert window.reasons == ()
    assert window.energy_j == pytest.approx(truth, rel=0.005)


def test_uneven_power_behind_a_part_time_sensor_is_flagged_and_even_power_is_not() -> None:
    part = replace(BASE, sampled_fraction=0.25)
    uneven, *_ = measured_window(part, part, shape=(0.9, 1.9, 0.002))
    assert "sensor_part_time" in uneven.reasons
    even, truth, *_ = measured_window(part, part, shape=(0.0001, 2.0, 0.0001))
    assert even.reasons == ()
    assert even.energy_j == pytest.approx(truth, rel=0.01)


def test_power_read_as_a_trailing_mean_does_not_halve_a_short_phase() -> None:
    """A known mistake: 0.4 s at 650 W read by a 1 s mean after idle shows 91 J of 260 J."""
    mean = replace(BASE, counter_period_s=0.02, power_period_s=0.02, power_averaging_s=1.0)
    window, truth, *_ = measured_window(mean, mean, seconds=1.2, shape=(0.4, 0.0001, 0.8))
    assert window.energy_j == pytest.approx(truth, rel=0.02)
    assert window.integral_j == pytest.approx(truth, rel=0.05)


def test_without_a_counter_energy_is_the_integral_and_says_how_sure_it_is() -> None:
    facts = replace(BASE, has_counter=False, power_averaging_s=0.1, power_period_s=0.1)
    window, truth, samples, start_ns, end_ns, rest_s = measured_window(facts, facts)
    blind = replace_energy(samples, np.full_like(samples.energy_mj, np.nan))
    window, _ = window_energy(blind, start_ns, end_ns, facts, rest_s=rest_s)
    assert window.reasons == ()
    assert window.energy_j == pytest.approx(truth, rel=0.01)
    assert window.stderr_j > 0


def test_a_missing_counter_is_null_and_never_zero() -> None:
    """A known mistake: 0 J where the counter is missing."""
    _, _, samples, start_ns, end_ns, rest_s = measured_window(BASE, BASE)
    energy = samples.energy_mj.copy()
    energy[1] = np.nan
    window, _ = window_energy(
        replace_energy(samples, energy), start_ns, end_ns, BASE, rest_s=rest_s
    )
    assert np.isnan(window.energy_j)
    assert "counter_missing" in window.reasons


def test_a_jump_of_the_counter_is_named() -> None:
    _, _, samples, start_ns, end_ns, rest_s = measured_window(BASE, BASE)
    energy = samples.energy_mj.copy()
    energy[0, energy.shape[1] // 2 :] += 400e3
    window, _ = window_energy(
        replace_energy(samples, energy), start_ns, end_ns, BASE, rest_s=rest_s
    )
    assert "counter_jump" in window.reasons


def replace_energy(samples: Samples, energy_mj: np.ndarray) -> Samples:
    return replace(samples, energy_mj=energy_mj)


def without_poll(samples: Samples, i: int) -> Samples:
    keep = np.ones(samples.t_ns.size, dtype=bool)
    keep[i] = False
    return replace(
        samples,
        t_ns=samples.t_ns[keep],
        power_w=samples.power_w[:, keep],
        energy_mj=samples.energy_mj[:, keep],
        throttle_mask=samples.throttle_mask[:, keep],
    )


@given(
    where=st.floats(0, 1),
    seed=st.integers(0, 200),
    period=st.sampled_from(PERIODS),
    rests=st.booleans(),
)
def test_a_lost_sample_never_lowers_the_stated_uncertainty(
    where: float, seed: int, period: float, rests: bool
) -> None:
    facts = replace(BASE, counter_period_s=period)
    whole, _, samples, start_ns, end_ns, rest_s = measured_window(
        facts, facts, seed=seed, noise_w=0.0
    )
    rest_s = rest_s if rests else 0.0
    whole, _ = window_energy(samples, start_ns, end_ns, facts, rest_s=rest_s)
    lost = without_poll(samples, round(where * (samples.t_ns.size - 1)))
    window, _ = window_energy(lost, start_ns, end_ns, facts, rest_s=rest_s)
    assert window.stderr_j >= whole.stderr_j * (1 - 1e-12)


@given(seed=st.integers(0, 1000), cut=st.floats(0.1, 0.9), period=st.sampled_from(PERIODS))
def test_parts_of_a_window_add_up_and_are_not_negative(
    seed: int, cut: float, period: float
) -> None:
    facts = replace(BASE, counter_period_s=period)
    _, _, samples, start_ns, end_ns, _ = measured_window(facts, facts, seed=seed)
    middle = round(start_ns + cut * (end_ns - start_ns))
    parts = [
        window_energy(samples, a, b, facts)[0]
        for a, b in ((start_ns, middle), (middle, end_ns), (start_ns, end_ns))
    ]
    assert parts[0].energy_j + parts[1].energy_j == pytest.approx(parts[2].energy_j)
    assert parts[0].integral_j + parts[1].integral_j == pytest.approx(parts[2].integral_j)
    assert min(p.energy_j for p in parts) >= 0
    assert min(p.integral_j for p in parts) >= 0


@given(seeds=st.tuples(st.integers(0, 500), st.integers(501, 1000)))
def test_the_phase_of_the_polls_does_not_matter(seeds: tuple[int, int]) -> None:
    shares = []
    for seed in seeds:
        window, truth, *_ = measured_window(BASE, BASE, seed=seed)
        shares.append(window.energy_j / truth)
    assert shares[0] == pytest.approx(shares[1], abs=0.01)


def test_a_counter_of_unknown_period_is_flagged() -> None:
    _, truth, samples, start_ns, end_ns, rest_s = measured_window(BASE, BASE)
    unknown = replace(BASE, counter_period_s=float("nan"))
    window, _ = window_energy(samples, start_ns, end_ns, unknown, rest_s=rest_s)
    assert "period_unknown" in window.reasons
    assert window.energy_j == pytest.approx(truth, rel=0.01)
    assert np.isfinite(window.stderr_j)


def test_a_lost_device_is_named() -> None:
    _, _, samples, start_ns, end_ns, rest_s = measured_window(BASE, BASE)
    energy, power = samples.energy_mj.copy(), samples.power_w.copy()
    half = energy.shape[1] // 2
    energy[0, half:] = power[0, half:] = np.nan
    status = np.zeros(energy.shape, dtype=np.int64)
    status[0, half:] = 15
    lost = replace(samples, energy_mj=energy, power_w=power, status=status)
    window, _ = window_energy(lost, start_ns, end_ns, BASE, rest_s=rest_s)
    assert "device_lost" in window.reasons
