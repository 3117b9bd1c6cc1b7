"""The whole evaluation: methods beside each other, budgets, notes, divergence."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from fitting_data import synthetic
from scenario_data import tiny

from fitting import divergence, evaluate
from fitting.evaluation import METHODS, SCORE_COLUMNS, gpu_count_notes
from fitting.methods import ALL_METHODS, REGISTRY, predict_method
from fitting.rows import pairs
from fitting.scenarios import FIXED, WORKLOAD, build
from fitting.scoring import Scored
from fitting.splits import held_out
from fitting.verdicts import curve_notes
from harness.store import FitError


def test_all_classes_and_all_methods_have_a_word(table):
    found = evaluate(table, classes=("all",), methods=("fewest_gpus",))
    assert list(dict.fromkeys(found.scores["scenario_class"])) == list(FIXED)
    assert set(METHODS) < set(ALL_METHODS)


def test_gpu_counts_weigh_the_same_in_a_note_of_their_own():
    base = {"scenario_class": "S1", "group_kind": "num_gpus", "method": "energylens12"}
    rows = [
        {**base, "samples": 50, "group": g, "scenarios": n, "top1": top1, "mean_regret": 0.01}
        for g, n, top1 in (("2", 10, 1.0), ("4", 30, 0.9))
    ]
    (note,) = gpu_count_notes(pd.DataFrame(rows))
    assert "Top-1 95.0 %" in note
    assert "(2, 4)" in note
    assert gpu_count_notes(pd.DataFrame(rows).assign(scenarios=10)) == []


@pytest.fixture(scope="module")
def table():
    parts = [
        synthetic(noise=0.01, seed=1, visual=False),
        synthetic(noise=0.01, seed=2, visual=False, hardware="A100-SXM4-80GB", scale=1.4),
    ]
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def result(table):
    return evaluate(table, samples=(30,))


def overall(result, name, method):
    s = result.scores
    pick = (s["scenario_class"] == name) & (s["method"] == method) & (s["group_kind"] == "all")
    return s[pick].iloc[0]


def test_scores_have_every_method_and_class(result):
    assert tuple(result.scores.columns) == SCORE_COLUMNS
    assert set(result.scores["method"]) == {m for m in METHODS if not REGISTRY[m].needs_facts}
    (note,) = (n for n in result.notes if n.startswith("Not judged"))
    assert all(m in note for m in METHODS if REGISTRY[m].needs_facts)
    assert set(result.scores["scenario_class"]) == {"S1", "S2", "S3"}
    shares = result.scores[["top1", "top1_strict", "top1_within_1pct", "top1_lo", "top1_hi"]]
    assert ((shares >= 0.0) & (shares <= 1.0)).all().all()
    assert (result.scores["top1_lo"] <= result.scores["top1"] + 1e-9).all()
    assert (result.scores["top1_hi"] >= result.scores["top1"] - 1e-9).all()
    assert (result.scores["top1"] >= result.scores["top1_strict"] - 1e-9).all()


def test_the_law_wins_where_the_law_holds(result):
    law = overall(result, "S1", "energylens12")
    assert law["top1"] > 0.97
    assert law["mean_regret"] < 0.005
    assert law["mape"] < 0.03
    for method in ("wilkins", "extra_trees", "gradient_boosting", "fewest_gpus"):
        assert overall(result, "S1", method)["top1"] < law["top1"], method
    assert np.isnan(overall(result, "S1", "fewest_gpus")["mape"])


def test_groups_partition_the_scenarios(result):
    s = result.scores
    s1 = s[(s["scenario_class"] == "S1") & (s["method"] == "energylens12")]
    whole = int(s1[s1["group_kind"] == "all"]["scenarios"].iloc[0])
    for kind in ("num_gpus", "family", "modality", "model_id", "hardware"):
        assert s1[s1["group_kind"] == kind]["scenarios"].sum() == whole, kind
    assert set(s1[s1["group_kind"] == "num_gpus"]["group"]) == {"2", "4", "8"}


def test_fitted_rows_and_error_rows_do_not_overlap(table, result):
    """Spoil the fitted rows: errors, taken on other rows, must not see it."""
    law = result.predictions[result.predictions["method"] == "energylens12"]
    assert law["fitted"].sum() == 60
    merged = table.merge(law, on="task_id")
    free = merged[~merged["fitted"]]
    gpus = free["num_gpus"] > 1
    expected = np.abs(free["predicted"] / free["total_energy_j"] - 1.0)[gpus].mean()
    assert overall(result, "S1", "energylens12")["mape"] == pytest.approx(expected)
    both = np.abs(merged["predicted"] / merged["total_energy_j"] - 1.0)[merged["num_gpus"] > 1]
    assert both.mean() != pytest.approx(expected, rel=1e-9)


def test_every_score_has_its_interval(result):
    s = result.scores[result.scores["kind"] != "rule"]
    for name in ("top1_strict", "top1_within_1pct", "mean_regret", "mape", "median_ape"):
        assert (s[f"{name}_lo"] <= s[name] + 1e-9).all(), name
        assert (s[f"{name}_hi"] >= s[name] - 1e-9).all(), name
    law = overall(result, "S1", "energylens12")
    assert law["coverage"] > 0.9
    assert law["rows_used"] == 30
    assert np.isnan(overall(result, "S1", "wilkins")["coverage"])


def test_a_budget_of_all_rows_leaves_no_error(table):
    sizes = table.groupby("hardware").size()
    found = evaluate(
        table, samples=(10, 10**6), classes=("S1",), methods=("energylens12", "wilkins")
    )
    s = found.scores[found.scores["group_kind"] == "all"].set_index(["method", "samples"])
    assert s.loc[("wilkins", 10), "rows_used"] == 10
    assert s.loc[("wilkins", 10**6), "rows_used"] == sizes.mean()
    assert s.loc[("wilkins", 10**6), "unfitted_rows"] == 0
    assert np.isnan(s.loc[("wilkins", 10**6), "mape"])
    assert any("At 1000000 samples 2 of 2 pairs" in note for note in found.notes)


def test_no_held_out_row_is_fitted_and_only_those_are_judged(table):
    test = held_out(table, 0.3)
    work = [c for c in WORKLOAD if c in table.columns and c != "model_id"]
    assert table.assign(test=test).groupby(work, dropna=False)["test"].nunique().eq(1).all()
    assert 0.15 < test.mean() < 0.45
    np.testing.assert_array_equal(held_out(table.iloc[::-1], 0.3), test[::-1])
    assert not held_out(table, 0.0).any()
    assert (held_out(table, 0.3, seed=1) != test).any()
    rows = table.reset_index(drop=True)
    groups = list(pairs(rows.assign(_row=np.arange(len(rows)))))
    for method in ("energylens12", "extra_trees", "wilkins"):
        run = predict_method(method, groups, len(rows), 10**6, 0, test=test)
        np.testing.assert_array_equal(run.fitted, ~test)
    scenarios = Scored(rows, {("wilkins", 10**6, 0): run}).known(build(rows, "S1", among=test))
    assert len(scenarios)
    assert test[scenarios.rows[scenarios.mask]].all()
    found = evaluate(
        table, samples=(20, 10**6), classes=("S1",), methods=("wilkins",), hold_out=0.3
    )
    whole = found.scores[found.scores["group_kind"] == "all"]
    assert whole["scenarios"].unique().tolist() == [len(scenarios)]
    assert (whole["unfitted_rows"] == len(np.unique(scenarios.rows[scenarios.mask]))).all()
    assert any(f"{int(test.sum())} of {len(test)} rows" in note for note in found.notes)
    with pytest.raises(FitError, match="hold_out"):
        evaluate(table, hold_out=1.0)


def test_a_method_without_facts_of_a_pair_is_judged_on_the_others(table):
    rows = table.reset_index(drop=True)
    groups = list(pairs(rows.assign(_row=np.arange(len(rows)))))
    run = predict_method("wilkins", groups, len(rows), 20, 0)
    one = rows["hardware"].eq("H100-SXM5-80GB").to_numpy()
    known = np.where(one, run.score, np.nan)
    lame = replace(run, score=known, energy=known)
    scored = Scored(rows, {("wilkins", 20, 0): run, ("llmcarbon", 20, 0): lame})
    records = pd.DataFrame(scored.records(scored.known(build(rows, "S1"))))
    whole = records[records["group_kind"] == "all"].set_index("method")
    assert whole.loc["llmcarbon", "scenarios"] == whole.loc["wilkins", "scenarios"] / 2


def test_a_learning_curve_is_read_as_a_sentence():
    base = {"scenario_class": "S1", "group_kind": "all"}
    rows = [
        {**base, "method": m, "samples": n, "top1": t}
        for m, n, t in (
            ("energylens12", 25, 0.91),
            ("energylens12", 50, 0.95),
            ("energylens12", 500, 0.96),
            ("extra_trees", 500, 0.93),
            ("random_forest", 500, 0.90),
        )
    ]
    (note,) = curve_notes(pd.DataFrame(rows))
    assert "energylens12 with 50 rows" in note
    assert "extra_trees with 500 (93.0 %)" in note
    rows[-2]["top1"] = 0.99
    assert "does not reach" in curve_notes(pd.DataFrame(rows))[0]


def test_evaluation_is_reproducible_and_budgets_differ(table):
    one = evaluate(table, samples=(12, 60), classes=("S1",), methods=("energylens12",))
    two = evaluate(table, samples=(12, 60), classes=("S1",), methods=("energylens12",))
    drop = ["fit_seconds"]
    pd.testing.assert_frame_equal(one.scores.drop(columns=drop), two.scores.drop(columns=drop))
    few, many = (one.scores[one.scores["samples"] == n].iloc[0]["mape"] for n in (12, 60))
    assert few > many


def test_too_small_a_budget_uses_the_smaller_law_and_says_so(table):
    found = evaluate(table, samples=(8,), classes=("S1",), methods=("energylens12",))
    assert any("energylens6 stands in" in note for note in found.notes)
    with_none = evaluate(table, samples=(4,), classes=("S1",), methods=("energylens12",))
    assert any("is not judged" in note for note in with_none.notes)
    assert not len(with_none.scores)


def test_a_rule_that_wins_is_named():
    found = evaluate(
        tiny(), samples=(50,), classes=("S2",), methods=("fewest_gpus",), limits={"ttft_s": 9.0}
    )
    assert any("fewest_gpus wins S2" in note for note in found.notes)
    assert any("ttft_s <= 9" in note for note in found.notes)


@pytest.mark.parametrize("bad", [{"classes": ("S9",)}, {"methods": ("magic",)}])
def test_unknown_names_are_refused(table, bad):
    with pytest.raises(FitError, match="Unknown"):
        evaluate(table, **bad)


@pytest.mark.parametrize("bad", [{"classes": ()}, {"samples": ()}, {"seeds": ()}])
def test_nothing_to_do_is_refused(table, bad):
    with pytest.raises(FitError, match="given"):
        evaluate(table, **bad)


def test_the_law_is_also_judged_where_it_fitted_no_candidate(table):
    result = evaluate(table, classes=("S1",), methods=("energylens12",), samples=(15, len(table)))
    some, none = (n for n in result.notes if "without a fitted configuration" in n)
    count, total = map(int, re.findall(r"\((\d+) of (\d+)\)", some)[0])
    scenarios = build(table.reset_index(drop=True), "S1")
    fitted = result.predictions.query("samples == 15").set_index("task_id")["fitted"]
    seen = fitted.loc[table["task_id"]].to_numpy()
    free = [not seen[row[row >= 0]].any() for row in scenarios.rows]
    assert (count, total) == (sum(free), len(free))
    assert "S1 has none" in none


def test_to_dict_is_plain(result):
    import json

    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert len(data["scores"]) == len(result.scores)


def test_divergence_counts_by_hand():
    found = divergence(tiny())
    assert found["scenarios"] == 2
    assert found["share"] == pytest.approx(0.5)
    assert found["max_penalty"] == pytest.approx(100 / 90 - 1)
    assert found["mean_penalty"] == pytest.approx(100 / 90 - 1)
    assert found["by_family"][0]["family"] == "dense"
    assert found["worst"][0]["fastest_tensor_parallel"] == 2
    assert found["worst"][0]["frugal_pipeline_parallel"] == 2
    assert found["all_free"]["scenarios"] == 2
    assert found["all_free"]["share"] == 1.0


def test_divergence_of_rows_without_latency_is_empty():
    found = divergence(tiny().drop(columns=["total_latency_s", "itl_s"]))
    assert found["scenarios"] == 0
    assert found["share"] is None
