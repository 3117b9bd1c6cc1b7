"""Phase energies and their intervals from simulated repeats with a known truth."""

from __future__ import annotations

import numpy as np
import pytest

from harness.meters import PhaseSamples, combine_repeats


def repeats(
    rng: np.random.Generator, prefill_j: float, decode_j: float, noise: float, count: int
) -> PhaseSamples:
    full = prefill_j + decode_j
    return PhaseSamples(
        prefill_j * (1 + noise * rng.standard_normal(count)),
        full * (1 + noise * rng.standard_normal(count)),
        decode_j * (1 + noise * rng.standard_normal(count)),
        (1e-9, 1e-9, 1e-9),
    )


def test_intervals_cover_the_truth_in_nineteen_of_twenty() -> None:
    rng = np.random.default_rng(0)
    inside = {"prefill": [], "decode": [], "total": []}  # type: dict[str, list[bool]]
    for _ in range(40):
        launch = [repeats(rng, 50.0, 300.0, 0.02, 3) for _ in range(10)]
        for e in combine_repeats(launch):
            inside["prefill"].append(abs(e.prefill_j - 50) <= e.prefill_ci95_j)
            inside["decode"].append(abs(e.decode_j - 300) <= e.decode_ci95_j)
            inside["total"].append(abs(e.total_j - 350) <= e.total_ci95_j)
    for name, hits in inside.items():
        assert 0.92 <= np.mean(hits) <= 0.98, name


def test_pooling_makes_intervals_of_three_repeats_usable() -> None:
    rng = np.random.default_rng(1)
    alone = [combine_repeats([repeats(rng, 50.0, 300.0, 0.02, 3)])[0] for _ in range(50)]
    pooled = combine_repeats([repeats(rng, 50.0, 300.0, 0.02, 3) for _ in range(50)])
    spread = [np.std([e.total_ci95_j for e in group]) for group in (alone, pooled)]
    assert spread[1] < 0.5 * spread[0]


def test_decode_is_the_difference_where_the_counter_is_too_coarse() -> None:
    nan = np.full(3, np.nan)
    samples = PhaseSamples(np.full(3, 40.0), np.full(3, 100.0), nan, (0.1, 0.1, 0.1))
    energy = combine_repeats([samples])[0]
    assert energy.decode_j == pytest.approx(60.0)
    assert energy.additivity == pytest.approx(0.0)
    assert energy.additive


def test_phases_that_do_not_add_up_are_noticed() -> None:
    rng = np.random.default_rng(2)
    good = [repeats(rng, 50.0, 300.0, 0.01, 3) for _ in range(20)]
    cached = PhaseSamples(
        good[0].prefill_j * 0.02, good[0].full_j, good[0].decode_j, (1e-9, 1e-9, 1e-9)
    )
    energies = combine_repeats([*good, cached])
    assert not energies[-1].additive
    assert sum(not e.additive for e in energies[:-1]) <= 1


def test_the_sensor_bounds_the_interval_from_below() -> None:
    same = np.full(3, 100.0)
    energy = combine_repeats([PhaseSamples(same, same * 2, same, (5.0, 5.0, 5.0))])[0]
    assert energy.prefill_ci95_j > 1.96 * 5.0 / np.sqrt(3) * 0.99


def test_one_repeat_has_the_sensors_interval() -> None:
    one = np.array([100.0])
    energy = combine_repeats([PhaseSamples(one, one * 3, one * 2, (2.0, 3.0, 4.0))])[0]
    assert energy.total_ci95_j == pytest.approx(1.96 * 4.0, rel=0.01)
