"""Window energies against a known power curve, seen through a simulated sensor."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.meters import SensorFacts, window_energy
from harness.meters.twin import Segment, SensorFaults, TwinMeter

EXACT = SensorFacts(counter_period_s=0.1, poll_period_s=0.05, gain_error=0.0)


def burst(start_ns: int, power_w: float, seconds: float, count: int) -> Segment:
    return Segment(start_ns, np.array([0.0, seconds]), np.array([0.0, power_w * seconds]), count)


def true_energy_j(segments: list[Segment], devices: int) -> float:
    return devices * sum(float(s.energy_j[-1]) * s.count for s in segments)


def meter(devices: int = 2, **options: object) -> TwinMeter:
    settings: dict[str, object] = {"seed": 1, "sensor": EXACT, "noise_w": 0.0, **options}
    return TwinMeter("TEST", devices, 100.0, **settings)  # type: ignore[arg-type]


@given(
    power_w=st.floats(120, 1000),
    seconds=st.floats(0.02, 2.0),
    start_ns=st.integers(0, 10**12),
    seed=st.integers(0, 1000),
    devices=st.integers(1, 8),
)
def test_energy_of_a_long_window_is_right_whatever_the_polling_phase(
    power_w: float, seconds: float, start_ns: int, seed: int, devices: int
) -> None:
    m = meter(devices, seed=seed)
    segment = burst(start_ns, power_w, seconds, int(np.ceil(10 / seconds)))
    m.record(segment)
    end_ns = start_ns + int(segment.duration_s * 1e9)
    energy, _ = window_energy(m.read(start_ns, end_ns), start_ns, end_ns, EXACT)
    truth = true_energy_j([segment], devices)
    assert energy.energy_j == pytest.approx(truth, rel=0.01)
    assert energy.integral_j == pytest.approx(truth, rel=0.01)
    assert energy.reasons == ()


def test_the_stated_error_covers_the_true_one() -> None:
    errors, stated = [], []
    for seed in range(200):
        m = meter(1, seed=seed)
        start_ns = seed * 37_000_001
        segment = burst(start_ns, 600.0, 0.31, 17)
        m.record(segment)
        end_ns = start_ns + int(segment.duration_s * 1e9)
        energy, _ = window_energy(m.read(start_ns, end_ns), start_ns, end_ns, EXACT)
        errors.append(energy.energy_j - true_energy_j([segment], 1))
        stated.append(energy.stderr_j)
    inside = np.abs(errors) <= 1.96 * np.array(stated)
    assert inside.mean() >= 0.9
    assert abs(np.mean(errors)) < np.mean(stated)


def test_idle_is_charged_to_every_device() -> None:
    m = meter(4)
    energy, _ = window_energy(m.read(0, 10**10), 0, 10**10, EXACT)
    assert energy.energy_j == pytest.approx(4 * 100.0 * 10, rel=0.01)


def test_windows_are_additive() -> None:
    m = meter(2)
    m.record(burst(0, 500.0, 0.25, 80))
    whole = 20 * 10**9
    samples = m.read(0, whole)
    _, line = window_energy(samples, 0, whole, EXACT)
    cuts = np.array([0, 3.3e9, 11.7e9, whole])
    parts = np.diff(line.at(cuts))
    assert parts.sum() == pytest.approx(float(line.at(whole) - line.at(0)))
    assert (parts >= 0).all()


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        (SensorFaults(freeze_from=0.0), "counter_frozen"),
        (SensorFaults(freeze_from=0.4), "meter_disagreement"),
        (SensorFaults(backwards_at=0.5), "counter_backwards"),
        (SensorFaults(lose_from=0.3, lose_to=0.5), "samples_missing"),
        (SensorFaults(throttle_from=0.5), "throttled"),
    ],
)
def test_each_fault_of_the_sensor_is_named(faults: SensorFaults, reason: str) -> None:
    m = meter(1, faults=faults)
    segment = burst(0, 500.0, 0.5, 20)
    m.record(segment)
    energy, _ = window_energy(m.read(0, 10**10), 0, 10**10, EXACT)
    assert reason in energy.reasons


def test_a_window_short_against_the_counter_is_flagged() -> None:
    m = meter(1)
    m.record(burst(0, 500.0, 0.4, 1))
    energy, _ = window_energy(m.read(0, 4 * 10**8), 0, 4 * 10**8, EXACT)
    assert "window_too_short" in energy.reasons


def test_repeated_readings_of_a_slow_counter_are_not_lost_energy() -> None:
    """Dropping equal readings is a known mistake: the integral must use every poll."""
    slow = SensorFacts(counter_period_s=0.5, poll_period_s=0.02, gain_error=0.0)
    m = meter(1, sensor=slow)
    segment = burst(0, 300.0, 1.0, 30)
    m.record(segment)
    energy, _ = window_energy(m.read(0, 30 * 10**9), 0, 30 * 10**9, slow)
    assert energy.integral_j == pytest.approx(9000, rel=0.01)
    assert energy.energy_j == pytest.approx(9000, rel=0.01)


def test_a_device_keeps_its_gain_from_run_to_run() -> None:
    sensor = SensorFacts(counter_period_s=0.1, poll_period_s=0.05, gain_error=0.05)
    readings = []
    for seed in (1, 2):
        m = TwinMeter("TEST", 1, 100.0, seed=seed, sensor=sensor, noise_w=0.0)
        m.record(burst(0, 500.0, 10.0, 1))
        energy, _ = window_energy(m.read(0, 10**10), 0, 10**10, sensor)
        readings.append(energy.energy_j)
    assert readings[0] == pytest.approx(readings[1], rel=0.01)
