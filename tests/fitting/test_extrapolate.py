"""Extrapolation on tables whose law is known."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from extrapolation_data import FACTS, hardware, model, serving_table, table
from hypothesis import given
from hypothesis import strategies as st

import fitting
from fitting.extrapolation import Thresholds, extrapolate
from fitting.extrapolation.answers import Answer, Question
from fitting.extrapolation.nearness import Nearness, phase_ratios
from fitting.extrapolation.pairlaws import Laws, kin
from fitting.extrapolation.scores import Truth, outcome, record
from fitting.extrapolation.verdicts import enough_rows, verdict
from fitting.facts import Facts
from fitting.scenarios import Scenarios
from harness.store import FitError

OWN = ("energylens12", "kin", "fewest_gpus")


@pytest.fixture(scope="module")
def exact() -> pd.DataFrame:
    return table()


@pytest.fixture(scope="module")
def result(exact: pd.DataFrame):
    return extrapolate(exact, FACTS, hold_out=["hardware", "batch"], rows=(0, 3, 20), methods=OWN)


def figures(result, kind: str, method: str, rows: int, name: str = "all") -> dict:
    t = result.table
    found = t[
        t["hold_out"].eq(kind)
        & t["method"].eq(method)
        & t["rows"].eq(rows)
        & t["left_out"].eq(name)
    ]
    assert len(found) == 1
    return found.iloc[0].to_dict()


def test_three_rows_of_a_gpu_type_that_differs_by_a_scale_tell_all(result) -> None:
    before = figures(result, "hardware", "kin", 0, "new-GPU")
    assert before["mape"] == pytest.approx(1.0 / 0.8 - 1.0, rel=0.05)
    after = figures(result, "hardware", "kin", 3, "new-GPU")
    assert after["mape"] < 0.02
    assert after["top1"] > 0.95
    assert after["verdict"] == "holds with 3 rows"


def test_own_laws_need_rows_of_their_own(result) -> None:
    t = result.table
    own = t[t["method"].eq("energylens12") & t["hold_out"].eq("hardware")]
    assert {*own["rows"]} == {20}
    assert (own["answered"] == 1.0).all()


def test_an_exact_law_holds_past_its_batches(result) -> None:
    found = figures(result, "batch", "energylens12", 0)
    assert found["mape"] < 0.02
    assert found["verdict"] == "holds"
    assert found["scenarios"] > 0
    names = {*result.table.query("hold_out == 'batch'")["left_out"]}
    assert names == {"all", "64 (4 x 16)"}


def test_a_rule_is_judged_by_its_choices_alone(result) -> None:
    found = figures(result, "hardware", "fewest_gpus", 0)
    assert pd.isna(found["verdict"])
    assert math.isnan(found["mape"])
    assert 0.0 < found["top1"] <= 1.0


def test_shown_rows_are_not_counted(result, exact) -> None:
    whole = figures(result, "hardware", "kin", 0)["n"]
    shown = figures(result, "hardware", "kin", 3)["n"]
    assert whole == len(exact)
    assert whole - shown == 3 * 9
    assert (
        figures(result, "hardware", "kin", 0)["scenarios"]
        == figures(result, "hardware", "kin", 3)["scenarios"]
    )


def test_the_verdict_comes_in_words(result) -> None:
    verdicts = {(v.hold_out, v.method): v for v in result.verdicts}
    held = verdicts["batch", "energylens12"]
    assert held.verdict == "holds"
    assert held.sentence.startswith("Larger batch: holds (")
    assert json.dumps(result.to_dict(), allow_nan=False)


def test_the_table_of_the_caller_stays_as_it_is(exact) -> None:
    before = exact.copy(deep=True)
    extrapolate(exact, FACTS, hold_out=["hardware"], rows=(0,), methods=["fewest_gpus"])
    pd.testing.assert_frame_equal(exact, before)


def test_the_api_is_reached_from_the_package() -> None:
    assert fitting.extrapolate is extrapolate


def test_rows_in_total_are_shared_by_the_models(exact) -> None:
    found = extrapolate(
        exact, FACTS, hold_out=["hardware"], rows=(0, 4), methods=["kin"], rows_in_total=True
    )
    whole = figures(found, "hardware", "kin", 0, "new-GPU")["n"]
    assert whole - figures(found, "hardware", "kin", 4, "new-GPU")["n"] == 4
    # All models differ by one scale, so rows of some of them tell it for the others.
    assert figures(found, "hardware", "kin", 4, "new-GPU")["mape"] < 0.02
    assert any("in all" in v.sentence for v in found.verdicts) or not any(
        v.rows for v in found.verdicts
    )


def test_several_seeds_average(exact) -> None:
    small = exact[exact["hardware"].ne("far-GPU")]
    ask = {"hold_out": ["hardware"], "rows": (0, 3), "methods": ["kin"]}
    one = extrapolate(small, FACTS, seeds=(0,), **ask)
    two = extrapolate(small, FACTS, seeds=(1,), **ask)
    both = extrapolate(small, FACTS, seeds=(0, 1), **ask)
    mean = np.mean([figures(r, "hardware", "kin", 0)["mape"] for r in (one, two)])
    assert figures(both, "hardware", "kin", 0)["mape"] == pytest.approx(mean)
    assert figures(both, "hardware", "kin", 0)["n"] == figures(one, "hardware", "kin", 0)["n"]


def test_nothing_that_is_held_out_changes_what_is_learnt(exact) -> None:
    spoilt = exact.copy()
    far = spoilt["hardware"].eq("new-GPU")
    for name in ("prefill_energy_j", "decode_energy_j", "total_energy_j"):
        spoilt.loc[far, name] *= 7.0
    question = Question("hardware", "total_energy_j", FACTS)
    answers = []
    for frame in (exact, spoilt):
        learnt = kin(Laws())(frame.loc[~far], question)
        answers.append(learnt.answer(exact.loc[far].drop(columns="total_energy_j")).energy)
    assert np.array_equal(*answers)


def test_serving_rows_take_their_own_law() -> None:
    found = extrapolate(
        serving_table(),
        Facts(),
        hold_out=["task"],
        rows=(0, 3),
        methods=["energylens_serving", "fewest_gpus"],
    )
    assert {*found.table["table"]} == {"serving"}
    unseen = figures(found, "task", "energylens_serving", 0)
    told = figures(found, "task", "energylens_serving", 3)
    assert told["mape"] < unseen["mape"]
    assert unseen["coverage"] > 0.85
    assert unseen["scenarios"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hold_out": ["colour"]}, "Unknown kind 'colour'"),
        ({"hold_out": []}, "No hold_out"),
        ({"hold_out": ["precision"]}, "only bf16"),
        ({"hold_out": ["task"]}, "cannot be held out"),
        ({"methods": ["astrology"]}, "Unknown method"),
        ({"rows": []}, "No rows"),
        ({"rows": [-1]}, "at least 0"),
        ({"samples": 0}, "at least 1"),
    ],
)
def test_bad_input_is_one_clear_error(exact, options, message) -> None:
    with pytest.raises(FitError, match=message):
        extrapolate(exact, FACTS, **options)


def test_too_few_rows_is_an_error(exact) -> None:
    with pytest.raises(FitError, match="too few rows"):
        extrapolate(exact.groupby("hardware").head(3), FACTS, hold_out=["hardware"])
    with pytest.raises(FitError, match="No row can be used"):
        extrapolate(exact.assign(valid=False), FACTS)


def test_numbers_of_rows_that_leave_nothing_to_ask_are_not_tried(exact) -> None:
    few = exact.groupby(["model_id", "hardware"]).head(30)
    found = extrapolate(few, FACTS, hold_out=["hardware"], rows=(0, 20, 29), methods=["kin"])
    assert {*found.table["rows"]} == {0, 20}


def test_kin_is_the_nearest_by_datasheet() -> None:
    near = Nearness(FACTS)
    rows = pd.DataFrame({"params_active": [8e9]})
    fits = dict.fromkeys([("a/Model-8B", "old-GPU"), ("a/Model-8B", "far-GPU")])
    assert near.nearest(("a/Model-8B", "new-GPU"), rows, fits) == ("a/Model-8B", "old-GPU")
    assert near.between_models("a/Model-8B", "a/Model-8B-Instruct", rows) < 1e-3
    assert near.between_hardware("new-GPU", "nobody") > near.between_hardware("new-GPU", "old-GPU")


def test_datasheet_ratios_follow_power_bandwidth_and_weights() -> None:
    facts = Facts(
        {"h": hardware("h"), "fast": hardware("fast", speed=2.0, power=1.5)},
        {
            "dense": model("dense", "d", params_active=8e9, params_total=8e9),
            "moe": model(
                "moe",
                "m",
                params_active=4e9,
                params_total=36e9,
                experts=64,
                experts_per_token=8,
            ),
        },
    )
    rows = pd.DataFrame({"batch": [1, 100_000], "precision": ["bf16", "bf16"]})
    same = phase_ratios(facts, ("dense", "h"), ("dense", "h"), rows)
    assert np.allclose([*same["prefill"], *same["decode"]], 1.0)
    moved = phase_ratios(facts, ("dense", "h"), ("dense", "fast"), rows)
    assert np.allclose([*moved["prefill"], *moved["decode"]], 1.5 / 2.0)
    other = phase_ratios(facts, ("dense", "h"), ("moe", "h"), rows)
    assert np.allclose(other["prefill"], 0.5)
    # One request reads the experts of one token; very many read them all.
    assert np.allclose(other["decode"], [(4 + 32 / 8) / 8, 36 / 8])


def truth(energy: list[float]) -> Truth:
    n = len(energy)
    rows = np.arange(n, dtype=np.intp).reshape(-1, 2)
    return Truth(np.array(energy), np.zeros(n), Scenarios("S1", rows))


def test_an_outcome_counts_what_was_not_shown() -> None:
    predicted = np.array([1.1, 2.0, 3.3, np.nan])
    answer = Answer(predicted, predicted, predicted * 0.95, predicted * 1.05)
    found = outcome(truth([1.0, 2.0, 3.0, 4.0]), answer, np.array([True, False, False, False]))
    assert found.errors == pytest.approx([0.0, 0.1])
    assert found.inside.tolist() == [1.0, 0.0]
    assert found.asked == 3
    assert len(found.top1) == 1  # the second choice has a candidate without an answer
    assert record([found])["answered"] == pytest.approx(2 / 3)


def test_intervals_of_three_names_draw_names() -> None:
    parts = [
        outcome(
            truth([1.0, 2.0]), Answer(np.array([x, 2 * x]), np.array([x, 2 * x])), np.zeros(2, bool)
        )
        for x in (1.0, 1.1, 1.3)
    ]
    found = record(parts)
    assert found["mape_lo"] == pytest.approx(0.0)
    assert found["mape_hi"] == pytest.approx(0.3)
    assert found["n"] == 6


def budget(rows: int, mape: float, **other: float) -> dict:
    return {
        "table": "workloads",
        "hold_out": "hardware",
        "left_out": "all",
        "method": "kin",
        "rows": rows,
        "n": 10,
        "answered": 1.0,
        "mape": mape,
        "top1": 0.9,
        "coverage": 0.95,
        **other,
    }


@given(st.lists(st.booleans(), min_size=1, max_size=6))
def test_a_law_holds_from_the_rows_on_after_which_it_never_fails(passes) -> None:
    records = [budget(k, 0.05 if good else 0.5) for k, good in enumerate(passes)]
    found = enough_rows(records, Thresholds())
    if found is None:
        assert not passes[-1]
    else:
        assert all(passes[found:])
        assert found == 0 or not passes[found - 1]


@pytest.mark.parametrize(
    ("change", "passed"),
    [
        ({}, True),
        ({"mape": 0.11}, False),
        ({"mape": float("nan")}, False),
        ({"top1": 0.84}, False),
        ({"top1": float("nan")}, True),
        ({"coverage": 0.5}, False),
        ({"coverage": float("nan")}, True),
        ({"answered": 0.5}, False),
    ],
)
def test_thresholds(change, passed) -> None:
    assert Thresholds().passed({**budget(0, 0.05), **change}) is passed


def test_verdicts_name_what_fails() -> None:
    overall = [budget(0, 0.3), budget(3, 0.06)]
    names = [
        budget(0, 0.3, left_out="good"),
        budget(3, 0.02, left_out="good"),
        budget(3, 0.2, left_out="bad"),
    ]
    found = verdict(overall, names, Thresholds(), in_total=False)
    assert found.verdict == "holds with 3 rows"
    assert found.failing == ("bad",)
    assert found.sentence == (
        "New GPU type: holds with 3 rows of each model and GPU type (6.0 % MAPE, Top-1 90 %, "
        "95 % within the interval); not on bad (20.0 % MAPE)."
    )
    hopeless = verdict(overall[:1], names[:1], Thresholds(), in_total=True)
    assert hopeless.verdict == "does not hold"
    assert hopeless.rows is None
    assert hopeless.sentence.endswith("; too far off: error.")
