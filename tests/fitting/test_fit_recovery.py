"""The solver gives back the parameters of a law that it is shown."""

from __future__ import annotations

import numpy as np
import pytest
from fitting_data import synthetic

from fitting import fit_frame
from fitting.forms import FORMS, n_parameters

DOMINANT = ("prefill_compute", "decode_weights", "decode_launch")


def _values(fit):
    return {p.name: p.value for p in fit.pairs[0].parameters}


def test_exact_rows_give_the_exact_parameters(exact, truth):
    found = _values(fit_frame(exact, samples=60))
    for name, value in truth.items():
        assert found[name] == pytest.approx(value, rel=2e-3), name


def test_dominant_coefficients_return_from_50_noisy_rows(noisy, truth):
    found = _values(fit_frame(noisy, samples=50, seed=3))
    for name in DOMINANT:
        assert found[name] == pytest.approx(truth[name], rel=0.15), name
    assert found["waiting_power_ratio"] == pytest.approx(truth["waiting_power_ratio"], abs=0.03)
    assert found["weight_shard_exponent"] == pytest.approx(0.15, abs=0.12)


def test_totals_alone_give_the_parameters_and_say_so(exact, truth):
    totals = exact.drop(columns=["prefill_energy_j", "decode_energy_j"])
    fit = fit_frame(totals, samples=80)
    assert not fit.pairs[0].by_phase
    assert any("total" in note for note in fit.pairs[0].notes)
    found = _values(fit)
    for name in DOMINANT:
        assert found[name] == pytest.approx(truth[name], rel=0.05), name


def test_outliers_do_not_move_the_law(noisy):
    spoiled = noisy.copy()
    picked = spoiled.sample(frac=0.06, random_state=1).index
    for name in ("prefill_energy_j", "decode_energy_j", "total_energy_j"):
        spoiled.loc[picked, name] *= 3.0
    clean = fit_frame(noisy, samples=50).predict(noisy)
    robust = fit_frame(spoiled, samples=50).predict(noisy)
    assert np.abs(robust / clean - 1.0).mean() < 0.05


def test_errors_shrink_with_rows_and_cover_the_truth(truth):
    inside, widths = [], {30: [], 120: []}
    for seed in range(6):
        frame = synthetic(noise=0.03, seed=seed)
        for n in widths:
            for p in fit_frame(frame, samples=n, seed=seed).pairs[0].parameters:
                if p.name in DOMINANT:
                    widths[n].append(p.stderr)
                    inside.append(p.lo <= truth[p.name] <= p.hi)
    assert np.mean(widths[120]) < 0.7 * np.mean(widths[30])
    assert np.mean(inside) > 0.8


def test_prediction_intervals_hold_95_percent():
    shares = []
    for seed in range(5):
        frame = synthetic(noise=0.03, seed=seed)
        bands = fit_frame(frame, samples=50, seed=seed).predict_phases(frame)
        energy = frame["total_energy_j"]
        shares.append(
            np.mean((energy >= bands["total_energy_j_lo"]) & (energy <= bands["total_energy_j_hi"]))
        )
    assert 0.90 <= np.mean(shares) <= 0.99


def test_small_terms_are_marked_not_identifiable(noisy):
    text = noisy[noisy["visual_tokens"] == 0]
    by_name = {p.name: p for p in fit_frame(text, samples=50).pairs[0].parameters}
    encoder = by_name["prefill_encoder"]
    assert not encoder.identifiable
    assert encoder.value == 0.0
    assert np.isinf(encoder.hi)
    assert by_name["decode_weights"].identifiable
    single = text[text["tensor_parallel"] == 1]
    by_name = {p.name: p for p in fit_frame(single, samples=50).pairs[0].parameters}
    assert not by_name["decode_sync"].identifiable
    assert not by_name["weight_shard_exponent"].identifiable


def test_the_law_has_at_most_12_parameters_and_names_them(exact):
    assert n_parameters(FORMS["energylens12"]) == 12
    assert n_parameters(FORMS["energylens6"]) == 6
    for p in fit_frame(exact).pairs[0].parameters:
        assert p.meaning
        assert p.unit or p.name in ("waiting_power_ratio", "weight_shard_exponent")
        assert p.lo <= p.value <= p.hi
