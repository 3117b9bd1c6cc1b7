"""The Fit object: predictions, files, domain, refusals."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from fitting_data import grid, synthetic
from hypothesis import given, settings
from hypothesis import strategies as st

from fitting import Fit, fit_frame, load_fit
from harness.store import FitError


@pytest.fixture(scope="module")
def table():
    return pd.concat(
        [
            synthetic(noise=0.02, seed=1),
            synthetic(noise=0.02, seed=2, hardware="A100-SXM4-80GB", scale=1.7),
        ],
        ignore_index=True,
    )


@pytest.fixture(scope="module")
def fit(table):
    return fit_frame(table, samples=50)


def test_one_law_a_pair(fit):
    assert [(p.hardware, p.n_rows, p.n_parameters) for p in fit.pairs] == [
        ("A100-SXM4-80GB", 50, 11),
        ("H100-SXM5-80GB", 50, 11),
    ]
    assert fit.pairs[0].provenance == {"projected": 50}
    assert fit.pairs[0].mape < 0.05


def test_predict_needs_only_design_columns(fit, table):
    columns = [
        "model_id",
        "hardware",
        "tensor_parallel",
        "pipeline_parallel",
        "precision",
        "batch",
        "input_tokens",
        "output_tokens",
        "visual_tokens",
    ]
    energy = fit.predict(table[columns])
    assert energy.dtype == np.float64
    assert energy.shape == (len(table),)
    assert np.abs(energy / table["total_energy_j"] - 1.0).mean() < 0.04


def test_phases_add_up_and_are_in_their_bands(fit, table):
    out = fit.predict_phases(table)
    total = out["prefill_energy_j"] + out["decode_energy_j"]
    np.testing.assert_allclose(out["total_energy_j"], total)
    np.testing.assert_allclose(out["total_energy_j"], fit.predict(table), rtol=1e-12)
    for phase in ("prefill", "decode", "total"):
        assert (out[f"{phase}_energy_j_lo"] <= out[f"{phase}_energy_j"]).all()
        assert (out[f"{phase}_energy_j_hi"] >= out[f"{phase}_energy_j"]).all()
    assert out.index.equals(table.index)


def test_file_round_trip_is_exact(fit, table, tmp_path):
    path = tmp_path / "deep" / "fit.json"
    fit.save(path)
    again = load_fit(path)
    assert np.array_equal(again.predict(table), fit.predict(table))
    assert again.predict_phases(table).equals(fit.predict_phases(table))
    assert again.to_dict() == fit.to_dict()
    text = path.read_text()
    assert "Infinity" not in text
    assert "NaN" not in text
    assert json.loads(text)["fit_version"] == 3


@pytest.mark.parametrize(
    "content", ["", "[1]", '{"fit_version": 99}', '{"fit_version": 1}', '{"fit_version": 2}']
)
def test_damaged_files_are_refused(content, tmp_path):
    path = tmp_path / "fit.json"
    path.write_text(content)
    with pytest.raises(FitError):
        load_fit(path)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(FitError, match="cannot be read"):
        load_fit(tmp_path / "none.json")


def test_unknown_pair_is_a_key_error_that_names_known_ones(fit, table):
    with pytest.raises(KeyError, match="H100-SXM5-80GB"):
        fit.predict(table.assign(hardware="Z9"))
    with pytest.raises(FitError, match="a/Model-8B"):
        fit.formula("a/Model-8B", "Z9")


def test_extrapolated_rows_are_marked_and_wider(fit):
    row = grid().iloc[[100]]
    outside = row.assign(batch=1024)
    other = row.assign(precision="fp8")
    replicas = row.assign(data_parallel=2)
    frame = pd.concat([row, outside, other, replicas])
    assert fit.extrapolated(frame).tolist() == [False, True, True, True]

    def width(frame):
        out = fit.predict_phases(frame)
        return float((out["total_energy_j_hi"] / out["total_energy_j"]).iloc[0])

    assert width(outside) > 2 * width(row) - 1


def test_formula_fits_80_columns_and_has_every_parameter(fit):
    text = fit.formula("a/Model-8B", "H100-SXM5-80GB")
    assert max(len(line) for line in text.splitlines()) <= 80
    for symbol in ("rho =", "e =", "(T + L) t (t-1) [t>2]", "w C t^e", "J/token"):
        assert symbol in text


def test_row_order_and_duplicates_do_not_matter(table):
    shuffled = pd.concat([table, table.iloc[:40]]).sample(frac=1.0, random_state=5)
    a, b = fit_frame(table, samples=30), fit_frame(shuffled, samples=30)
    assert np.array_equal(a.predict(table), b.predict(table))
    assert [p.fingerprint for p in a.pairs] == [p.fingerprint for p in b.pairs]
    assert [p.tasks_hash for p in a.pairs] == [p.tasks_hash for p in b.pairs]


def test_a_larger_budget_holds_the_smaller_and_seeds_differ(table):
    from fitting.rows import pairs, sample_order

    group = next(pairs(table))
    small = set(sample_order(group.hashes, 20, 1).tolist())
    assert small < set(sample_order(group.hashes, 40, 1).tolist())
    assert small != set(sample_order(group.hashes, 20, 2).tolist())


def test_too_few_rows_are_refused_or_get_the_smaller_law(table):
    with pytest.raises(FitError, match="11 usable rows are too few for the 12 parameters"):
        fit_frame(table, samples=11)
    auto = fit_frame(table, samples=11, form="auto")
    assert {p.form for p in auto.pairs} == {"energylens6"}
    assert any("energylens6" in note for note in auto.notes)
    with pytest.raises(FitError, match="too few"):
        fit_frame(table, samples=5, form="auto")
    assert fit_frame(table, samples=50, form="auto").pairs[0].form == "energylens12"


def test_bad_rows_are_left_out_and_counted(table):
    spoiled = table.copy()
    spoiled.loc[:4, "valid"] = False
    spoiled.loc[5:7, "total_energy_j"] = np.nan
    fit = fit_frame(spoiled)
    assert "5 rows left out: marked not valid." in fit.notes
    assert "3 rows left out: no positive total energy." in fit.notes
    assert sum(p.n_rows for p in fit.pairs) == len(table) - 8


def test_mixed_provenance_is_refused(table):
    mixed = table.copy()
    mixed.loc[:9, "provenance"] = "measured"
    with pytest.raises(FitError, match="provenance"):
        fit_frame(mixed)
    assert fit_frame(mixed[mixed["provenance"] == "projected"], samples=50).pairs


@pytest.mark.parametrize("column", ["model_id", "hardware", "total_energy_j"])
def test_missing_columns_are_refused(table, column):
    with pytest.raises(FitError, match=column):
        fit_frame(table.drop(columns=[column]))


def test_unknown_form_and_empty_tables_are_refused(table):
    with pytest.raises(FitError, match="energylens12"):
        fit_frame(table, form="magic")
    with pytest.raises(FitError, match="No row"):
        fit_frame(table.assign(valid=False))


def test_mixed_forms_predict_in_one_frame(fit, table):
    small = fit_frame(table[table["hardware"] == "A100-SXM4-80GB"], form="energylens6")
    large = [p for p in fit.pairs if p.hardware.startswith("H100")]
    both = Fit(large + small.pairs, form="auto")
    own = table["hardware"] == "A100-SXM4-80GB"
    np.testing.assert_allclose(both.predict(table)[own], small.predict(table[own]))
    np.testing.assert_allclose(both.predict(table)[~own], fit.predict(table[~own]))


@settings(max_examples=40)
@given(
    batch=st.integers(1, 4096),
    n=st.integers(1, 131072),
    m=st.integers(1, 32768),
    t=st.sampled_from([1, 2, 4, 8, 16]),
    p=st.sampled_from([1, 2, 4, 8, 16]),
    precision=st.sampled_from(["bf16", "fp8", "int4", "nvfp4", "fp32"]),
)
def test_predictions_are_finite_non_negative_and_grow_with_output(
    fit, batch, n, m, t, p, precision
):
    frame = pd.DataFrame(
        [
            {
                "model_id": "a/Model-8B",
                "hardware": "H100-SXM5-80GB",
                "batch": batch,
                "input_tokens": n,
                "output_tokens": out,
                "tensor_parallel": t,
                "pipeline_parallel": p,
                "precision": precision,
            }
            for out in (m, m + 1, 2 * m + 1)
        ]
    )
    energy = fit.predict(frame)
    assert np.isfinite(energy).all()
    assert (energy >= 0.0).all()
    assert (np.diff(energy) >= 0.0).all()


def test_empty_frame_predicts_nothing(fit, table):
    assert fit.predict(table.iloc[:0]).shape == (0,)
    assert len(fit.predict_phases(table.iloc[:0])) == 0
