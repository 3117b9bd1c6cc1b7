"""The solver gives back the parameters of a law that it is shown."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from fitting_data import TRUE_EXPONENTS, energies, synthetic

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
    assert "prefill_encoder" not in by_name
    assert by_name["decode_weights"].identifiable
    single = text[text["tensor_parallel"] == 1]
    by_name = {p.name: p for p in fit_frame(single, samples=50).pairs[0].parameters}
    bridge = by_name["shared_bridge"]
    assert not bridge.identifiable
    assert bridge.value == 0.0
    assert np.isinf(bridge.hi)
    assert not by_name["decode_sync"].identifiable
    assert not by_name["weight_shard_exponent"].identifiable


def test_one_law_for_two_precisions_finds_what_the_reduced_one_costs(truth):
    frame = synthetic(noise=0.02, visual=False)
    reduced = frame.assign(precision="fp8", task_id=frame["task_id"] + "-fp8")
    for phase, energy in energies(reduced, factor=2.5, extra=0.6).items():
        reduced[f"{phase}_energy_j"] = energy
    reduced["total_energy_j"] = reduced["prefill_energy_j"] + reduced["decode_energy_j"]
    both = pd.concat([frame, reduced], ignore_index=True)
    fit = fit_frame(both, samples=100)
    found = {p.name: p for p in fit.pairs[0].parameters}
    assert fit.pairs[0].n_parameters == 12
    assert found["reduced_precision_cost"].value == pytest.approx(2.5, rel=0.1)
    assert found["decode_launch_extra"].value == pytest.approx(0.6, rel=0.3)
    assert np.abs(fit.predict(both) / both["total_energy_j"] - 1.0).mean() < 0.03
    single = fit_frame(reduced, samples=50).pairs[0]
    assert single.n_parameters == 10
    assert single.mape < 0.05


def test_rows_of_wide_intervals_hardly_pull(noisy):
    spoiled = noisy.copy()
    for phase in ("prefill", "decode", "total"):
        spoiled[f"{phase}_energy_j_ci95_j"] = 0.03 * spoiled[f"{phase}_energy_j"]
    picked = spoiled.sample(frac=0.3, random_state=2).index
    spoiled.loc[picked, "decode_energy_j"] *= 1.4
    known = spoiled.copy()
    known.loc[picked, "decode_energy_j_ci95_j"] = 0.8 * known.loc[picked, "decode_energy_j"]
    clean = fit_frame(noisy, samples=60).predict(noisy)
    pulled = np.abs(fit_frame(spoiled, samples=60).predict(noisy) / clean - 1.0).mean()
    steady = np.abs(fit_frame(known, samples=60).predict(noisy) / clean - 1.0).mean()
    assert steady < 0.5 * pulled


def test_the_law_has_at_most_12_parameters_and_names_them(exact):
    assert FORMS["energylens12"].most_parameters == 12
    assert n_parameters(FORMS["energylens6"]) == FORMS["energylens6"].most_parameters == 6
    for p in fit_frame(exact).pairs[0].parameters:
        assert p.meaning
        assert p.unit or p.name in TRUE_EXPONENTS
        assert p.lo <= p.value <= p.hi
