"""The pooled law: known truths, pooling from no rows to many, intervals, files, errors."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from pooling_data import FACTS, GPUS, MODELS, SHARED, error, head, table

from fitting.facts import Facts
from fitting.pooling import fit_pooled, from_dict
from fitting.pooling.parameters import INDEX
from harness.store import FitError

NEW = "three"


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return table()


@pytest.fixture(scope="module")
def law(rows):
    return fit_pooled(head(rows, 30), FACTS)


@pytest.fixture(scope="module")
def without_new(rows):
    return fit_pooled(head(rows[rows["hardware"] != NEW], 30), FACTS)


def test_truth_comes_back(rows, law):
    test = rows.drop(head(rows, 30).index)
    assert error(law.predict(test), test) < 0.025
    shared = law.found.effects[0]
    wide = law.unsure.covariance[0, :, 0, :]
    for name in ("prefill_compute", "decode_weights", "decode_launch"):
        i = INDEX[name]
        assert abs(shared[i] - SHARED[name]) < 3.0 * np.sqrt(wide[i, i]), name


def test_without_effects_a_new_gpu_type_follows_from_its_datasheet():
    rows = table(apart=0.0, seed=3)
    seen = rows[rows["hardware"] != NEW]
    law = fit_pooled(head(seen, 20), FACTS)
    asked = rows[rows["hardware"] == NEW]
    assert law.covers(asked).all()
    assert error(law.predict(asked), asked) < 0.07


def test_more_rows_of_a_new_gpu_type_are_better(rows, without_new):
    asked = rows[rows["hardware"] == NEW]
    test = asked.drop(head(asked, 20).index)
    errors = [error(without_new.predict(test), test)]
    errors += [error(without_new.updated(head(asked, k)).predict(test), test) for k in (1, 5, 20)]
    assert errors[0] < 0.3
    assert errors[1] < errors[0]
    assert errors[3] < 0.025
    assert errors[3] < errors[2] < errors[0]


def test_update_is_close_to_a_new_fit(rows, without_new):
    asked = rows[rows["hardware"] == NEW]
    more = head(asked, 10)
    again = fit_pooled(pd.concat([head(rows[rows["hardware"] != NEW], 30), more]), FACTS)
    gap = without_new.updated(more).predict(asked) / again.predict(asked) - 1.0
    assert np.abs(gap).mean() < 0.01


def test_a_pair_with_few_rows_borrows_and_one_with_many_keeps_its_own():
    """One pair costs half as much again as its kin; rows decide who is believed."""
    rows = table(apart=0.0, noise=0.02, seed=5)
    odd = (rows["model_id"] == MODELS[0].model_id) & (rows["hardware"] == NEW)
    for name in ("prefill_energy_j", "decode_energy_j", "total_energy_j"):
        rows[name] = rows[name].where(~odd, 1.5 * rows[name])
    rest, own = head(rows[~odd], 20), rows[odd]
    test = own.iloc[50:]
    law = fit_pooled(rest, FACTS)
    errors = [error(law.predict(test), test)]
    errors += [error(law.updated(own.head(k)).predict(test), test) for k in (2, 50)]
    assert errors[0] > 0.28
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.04


def test_intervals_cover(rows, law, without_new):
    test = rows.drop(head(rows, 30).index)
    asked = rows[rows["hardware"] == NEW]
    for fitted, frame, lowest in ((law, test, 0.90), (without_new, asked, 0.88)):
        found = fitted.predict_phases(frame)
        for kind in ("prefill", "decode", "total"):
            energy = frame[f"{kind}_energy_j"]
            inside = (energy >= found[f"{kind}_energy_j_lo"]) & (
                energy <= found[f"{kind}_energy_j_hi"]
            )
            assert inside.mean() > lowest, kind
    known = law.predict_phases(asked)
    unknown = without_new.predict_phases(asked)
    reach = [f["total_energy_j_hi"] / f["total_energy_j"] for f in (known, unknown)]
    assert reach[0].mean() < reach[1].mean()


def test_phases_add_up(rows, law):
    found = law.predict_phases(rows)
    total = found["prefill_energy_j"] + found["decode_energy_j"]
    np.testing.assert_allclose(total, found["total_energy_j"], rtol=1e-12)
    np.testing.assert_allclose(law.predict(rows), total, rtol=1e-12)
    assert found.index.equals(rows.index)


def test_order_of_rows_does_not_matter(rows, law):
    used = head(rows, 30)
    again = fit_pooled(used.sample(frac=1.0, random_state=1), FACTS)
    np.testing.assert_array_equal(again.predict(rows), law.predict(rows))


def test_units_of_the_facts_change_factors_only(rows, law):
    """Powers in other units: every energy at datasheet rates is larger, every factor smaller."""
    unit = 1.3
    scaled = {
        h.hardware: type(h)(
            **{
                **{f: getattr(h, f) for f in h.__dataclass_fields__},
                "power_limit_w": unit * h.power_limit_w,
                "idle_power_w": unit * h.idle_power_w,
                "loaded_idle_power_w": unit * h.loaded_idle_power_w,
            }
        )
        for h in GPUS
    }
    other = fit_pooled(head(rows, 30), Facts(scaled, FACTS.models))
    np.testing.assert_allclose(other.predict(rows), law.predict(rows), rtol=0.05)
    assert error(other.predict(rows), rows) == pytest.approx(
        error(law.predict(rows), rows), abs=2e-3
    )
    i = INDEX["decode_weights"]
    moved = other.found.effects[0, i] - law.found.effects[0, i]
    assert moved == pytest.approx(-np.log(unit), abs=0.08)


def test_json_round_trip(rows, law):
    again = from_dict(json.loads(json.dumps(law.to_dict())))
    np.testing.assert_allclose(again.predict(rows), law.predict(rows), rtol=1e-12)
    pd.testing.assert_frame_equal(
        again.predict_phases(rows.head(50)), law.predict_phases(rows.head(50)), rtol=1e-9
    )
    assert again.provenance == law.provenance
    assert again.name == law.to_dict()["name"] == "energylens_pooled"
    assert json.dumps(again.to_dict()) == json.dumps(law.to_dict())


def test_damaged_files_are_refused(law):
    data = law.to_dict()
    del data["pull"]
    with pytest.raises(FitError, match="damaged"):
        from_dict(data)
    with pytest.raises(FitError, match="other parameters"):
        from_dict({**law.to_dict(), "parameters": ["x"]})


def test_totals_alone_are_enough(rows):
    used = head(rows, 40).drop(columns=["prefill_energy_j", "decode_energy_j"])
    law = fit_pooled(used, FACTS)
    test = rows.drop(used.index)
    assert error(law.predict(test), test) < 0.06


def test_what_is_covered(rows, law):
    asked = rows.head(4).copy()
    assert law.covers(asked).all()
    asked["hardware"] = [NEW, "unheard-of", NEW, NEW]
    asked["model_id"] = ["x/new", "a/8B", "a/8B", "a/8B"]
    asked["batch"] = [1.0, 1.0, np.nan, 1.0]
    np.testing.assert_array_equal(law.covers(asked), [True, False, False, True])
    assert not law.covers(asked.iloc[:1].drop(columns="params_total")).any()
    with pytest.raises(FitError, match="unheard-of"):
        law.predict(asked.iloc[1:2])


def test_gpu_type_without_datasheet_lives_from_its_rows(rows):
    facts = Facts({h.hardware: h for h in GPUS if h.hardware != NEW}, FACTS.models)
    law = fit_pooled(head(rows, 30), facts)
    test = rows.drop(head(rows, 30).index)
    test = test[test["hardware"] == NEW]
    assert law.covers(test).all()
    assert error(law.predict(test), test) < 0.06


def test_without_any_facts_rows_are_enough(rows):
    law = fit_pooled(head(rows, 30), Facts())
    test = rows.drop(head(rows, 30).index)
    assert error(law.predict(test), test) < 0.06


def test_unknown_model_is_estimated_from_its_columns(rows, law):
    renamed = rows[rows["model_id"] == "a/8B"].assign(model_id="x/unknown-8B")
    facts = law.facts.models
    assert "x/unknown-8B" not in facts
    assert law.covers(renamed).all()
    assert error(law.predict(renamed), renamed) < 0.5


def test_facts_may_come_with_the_question(rows):
    seen = rows[rows["hardware"] != NEW]
    known = Facts({h.hardware: h for h in GPUS if h.hardware != NEW}, FACTS.models)
    law = fit_pooled(head(seen, 15), known)
    asked = rows[rows["hardware"] == NEW]
    assert not law.covers(asked).any()
    assert law.covers(asked, FACTS).all()
    assert np.isfinite(law.predict(asked, FACTS)).all()


def test_refusals(rows, law):
    mixed = rows.assign(provenance=np.where(np.arange(len(rows)) < 300, "measured", "projected"))
    with pytest.raises(FitError, match="provenance"):
        fit_pooled(mixed, FACTS)
    with pytest.raises(FitError, match="provenance"):
        law.updated(rows.head(5).assign(provenance="measured"))
    with pytest.raises(FitError, match="too few"):
        fit_pooled(rows.head(5), FACTS)
    with pytest.raises(FitError, match="form"):
        fit_pooled(rows, FACTS, form="energylens6")


def test_parameters_of_a_pair_have_units_and_intervals(law):
    found = {p.name: p for p in law.pair_parameters("a/8B", NEW)}
    for p in found.values():
        assert p.lo <= p.value <= p.hi, p.name
    assert found["decode_weights"].unit.startswith("J")
    assert 0.0 < found["waiting_power_ratio"].value < 1.0
    with pytest.raises(FitError):
        law.pair_parameters("nobody/knows", NEW)


def test_formula_fits_the_screen(law):
    text = law.formula()
    assert max(map(len, text.splitlines())) <= 80
    assert len(text.splitlines()) <= 25
    known = {row["name"]: row for row in law.to_dict()["shared"]}
    assert set(known["decode_weights"]["apart"]) == {*law.levels.names[1:], "pair"}
    assert "decode_weights" in text
    assert "360 projected rows" in text
