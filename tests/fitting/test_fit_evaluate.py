"""Scenarios, metrics, baselines and the whole evaluation, on tables small enough to check."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from fitting_data import synthetic

from fitting import divergence, evaluate
from fitting.baselines import fewest_gpus, highest_throughput, lowest_latency, wilkins
from fitting.evaluation import METHODS, SCORE_COLUMNS, gpu_count_notes
from fitting.methods import ALL_METHODS, REGISTRY, predict_method
from fitting.metrics import interval, judge, mean_intervals, median_interval
from fitting.rows import pairs
from fitting.scenarios import FIXED, WORKLOAD, build, work_units
from fitting.scoring import Scored
from fitting.splits import held_out
from fitting.verdicts import curve_notes
from harness.store import FitError


def tiny():
    """Two workloads on one GPU type: (t, p, J, s); the second has one candidate with 2 GPUs."""
    rows = [
        (1, 8, 2, 1, 100.0, 1.0),
        (1, 8, 1, 2, 90.0, 2.0),
        (1, 8, 1, 1, 80.0, 3.0),
        (1, 8, 4, 1, 150.0, 0.5),
        (1, 8, 2, 2, 151.0, 0.9),
        (4, 8, 2, 1, 400.0, 1.0),
        (4, 8, 1, 1, 300.0, 2.0),
    ]
    names = [
        "batch",
        "output_tokens",
        "tensor_parallel",
        "pipeline_parallel",
        "total_energy_j",
        "total_latency_s",
    ]
    frame = pd.DataFrame(rows, columns=names)
    return frame.assign(
        model_id="a/M",
        hardware="H",
        family="dense",
        modality="text",
        precision="bf16",
        input_tokens=64,
        num_gpus=frame["tensor_parallel"] * frame["pipeline_parallel"],
        ttft_s=frame["total_latency_s"] / 10,
        itl_s=frame["total_latency_s"] / 100,
        total_energy_j_ci95_j=1.0,
        task_id=[f"{i}" for i in range(len(frame))],
    )


def test_s1_holds_the_gpu_count():
    found = build(tiny(), "S1")
    assert sorted(sorted(r[r >= 0].tolist()) for r in found.rows) == [[0, 1], [3, 4]]


def test_s2_frees_it_under_limits():
    found = build(tiny(), "S2", {"ttft_s": 0.25})
    assert sorted(sorted(r[r >= 0].tolist()) for r in found.rows) == [[0, 1, 3, 4], [5, 6]]
    tight = build(tiny(), "S2", {"ttft_s": 0.095, "itl_s": 0.0095})
    assert sorted(sorted(r[r >= 0].tolist()) for r in tight.rows) == [[3, 4]]
    median = build(tiny(), "S2")
    assert sorted(sorted(r[r >= 0].tolist()) for r in median.rows) == [[0, 3, 4]]


def test_s3_frees_the_hardware_too():
    two = pd.concat([tiny(), tiny().assign(hardware="Z")], ignore_index=True)
    found = build(two, "S3", {"ttft_s": 9.0})
    assert sorted(len(r[r >= 0]) for r in found.rows) == [4, 10]


def test_a_projection_is_no_candidate_beside_a_measurement():
    kinds = [
        tiny().assign(hardware=h, provenance=p) for h, p in (("H", "measured"), ("Z", "projected"))
    ]
    found = build(pd.concat(kinds, ignore_index=True), "S3", {"ttft_s": 9.0})
    assert sorted(len(r[r >= 0]) for r in found.rows) == [2, 2, 5, 5]


def test_rows_of_unknown_latency_do_not_meet_a_limit():
    frame = tiny()
    frame.loc[0, "ttft_s"] = np.nan
    found = build(frame, "S2", {"ttft_s": 9.0})
    assert 0 not in found.rows


def test_ttft_falls_back_on_the_prefill_latency():
    frame = tiny().rename(columns={"ttft_s": "prefill_latency_s"})
    assert len(build(frame, "S2", {"ttft_s": 0.25})) == 2


def batches():
    """One request in three batches, two precisions and two layouts: 4 rows of 8 tokens each."""
    rows = [
        (1, 1, "bf16", 100.0, 1.0),
        (1, 2, "bf16", 130.0, 0.6),
        (4, 1, "bf16", 200.0, 2.0),
        (4, 1, "fp8", 220.0, 1.5),
        (16, 1, "bf16", 1000.0, 9.0),
    ]
    names = ["batch", "tensor_parallel", "precision", "total_energy_j", "total_latency_s"]
    frame = pd.DataFrame(rows, columns=names)
    return frame.assign(
        model_id="a/M",
        hardware="H",
        output_tokens=8,
        input_tokens=64,
        pipeline_parallel=1,
        num_gpus=frame["tensor_parallel"],
        ttft_s=frame["total_latency_s"] / 10,
        itl_s=frame["total_latency_s"] / 100,
        total_energy_j_ci95_j=1.0,
        task_id=[f"{i}" for i in range(len(frame))],
    )


def test_s4_frees_batch_and_precision_and_s5_the_hardware():
    two = pd.concat([batches(), batches().assign(hardware="Z")], ignore_index=True)
    limits = {"ttft_s": 0.5}
    assert sorted(len(r[r >= 0]) for r in build(two, "S4", limits).rows) == [4, 4]
    assert sorted(len(r[r >= 0]) for r in build(two, "S5", limits).rows) == [8]
    assert sorted(len(r[r >= 0]) for r in build(two, "S5", {"ttft_s": 9.0}).rows) == [10]
    longer = pd.concat([two, batches().assign(input_tokens=128)], ignore_index=True)
    assert len(build(longer, "S5", limits)) == 2  # another request is another scenario


def test_s4_compares_energy_per_output_token():
    """Batch 4 in 16 bit is best under the limit: 6.25 J a token against 12.5, 6.9 and 16."""
    frame = batches()
    np.testing.assert_allclose(work_units(frame, "S4"), 8.0 * frame["batch"])
    np.testing.assert_allclose(work_units(frame, "S1"), 1.0)
    found = evaluate(
        frame,
        classes=("S4",),
        methods=("fewest_gpus", "lowest_latency", "highest_throughput"),
        limits={"ttft_s": 0.5},
    )
    overall = found.scores[found.scores["group_kind"] == "all"].set_index("method")
    # Fewest GPUs: both precisions of batch 4 on one GPU tie, and one of them is right.
    assert overall.loc["fewest_gpus", "top1"] == 0.5
    assert overall.loc["fewest_gpus", "mean_regret"] == pytest.approx(0.05)
    assert overall.loc["lowest_latency", "mean_regret"] == pytest.approx(130 / 8 / 6.25 - 1)
    assert overall.loc["highest_throughput", "mean_regret"] == pytest.approx(0.1)
    assert overall.loc["highest_throughput", "knows"]


def test_all_classes_and_all_methods_have_a_word(table):
    found = evaluate(table, classes=("all",), methods=("fewest_gpus",))
    assert list(dict.fromkeys(found.scores["scenario_class"])) == list(FIXED)
    assert set(METHODS) < set(ALL_METHODS)


ENERGY = np.array([[10.0, 11.0, 20.0], [5.0, 4.0, np.inf]])
MASK = np.isfinite(ENERGY)


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


def test_judge_a_perfect_and_a_wrong_score():
    half = np.zeros_like(ENERGY)
    best = judge(ENERGY, half, ENERGY, MASK)
    assert best.strict.tolist() == [1.0, 1.0]
    assert best.regret.tolist() == [0.0, 0.0]
    assert best.pairwise.tolist() == [1.0, 1.0]
    worst = judge(ENERGY, half, -np.where(MASK, ENERGY, -np.inf), MASK)
    assert worst.top1.tolist() == [0.0, 0.0]
    assert worst.regret.tolist() == [1.0, 0.25]
    assert worst.pairwise.tolist() == [0.0, 0.0]


def test_ties_within_the_intervals_count_for_both():
    half = np.full_like(ENERGY, 0.8)
    second = judge(ENERGY, half, np.array([[2.0, 1.0, 3.0], [1.0, 2.0, np.inf]]), MASK)
    assert second.top1.tolist() == [1.0, 1.0]
    assert second.strict.tolist() == [0.0, 0.0]
    assert second.near.tolist() == [0.0, 0.0]
    assert second.pairwise[0] == 1.0
    assert np.isnan(second.pairwise[1])


def test_equal_scores_choose_at_random():
    flat = judge(ENERGY, np.zeros_like(ENERGY), np.ones_like(ENERGY), MASK)
    np.testing.assert_allclose(flat.strict, [1 / 3, 1 / 2])
    np.testing.assert_allclose(flat.regret, [1.1 / 3, 0.125])
    np.testing.assert_allclose(flat.pairwise, [0.5, 0.5])


def test_unknown_scores_are_chosen_last():
    half = np.zeros_like(ENERGY)
    found = judge(ENERGY, half, np.array([[np.nan, 1.0, 2.0], [np.nan, np.nan, np.inf]]), MASK)
    assert found.strict.tolist() == [0.0, 0.5]
    assert found.regret[0] == pytest.approx(0.1)
    np.testing.assert_allclose(found.pairwise, [1 / 3, 1 / 2])


def test_interval_of_a_share_matches_a_real_bootstrap():
    values = np.repeat([1.0, 0.0], [80, 20])
    rng = np.random.default_rng(0)
    low, high = interval(values)
    means = rng.choice(values, size=(4000, 100)).mean(axis=1)
    np.testing.assert_allclose([low, high], np.quantile(means, [0.025, 0.975]), atol=0.015)
    assert interval(np.ones(3)) == pytest.approx((0.025 ** (1 / 3), 1.0))
    assert interval(np.zeros(3)) == pytest.approx((0.0, 1 - 0.025 ** (1 / 3)))
    fractions = interval(values * 0.5 + 0.1)
    np.testing.assert_allclose(fractions, [low / 2 + 0.1, high / 2 + 0.1], atol=0.03)


def test_intervals_of_means_match_a_real_bootstrap():
    rng = np.random.default_rng(1)
    values = rng.exponential(size=(150, 2))
    values[:50, 1] = np.nan
    found = mean_intervals(values)
    for i, column in enumerate((values[:, 0], values[50:, 1])):
        means = rng.choice(column, size=(4000, len(column))).mean(axis=1)
        np.testing.assert_allclose(found[:, i], np.quantile(means, [0.025, 0.975]), atol=0.05)
    np.testing.assert_array_equal(found, mean_intervals(values))
    many = rng.exponential(size=(9000, 1))
    np.testing.assert_allclose(mean_intervals(many)[:, 0], 1.0, atol=0.05)
    assert np.isnan(mean_intervals(np.zeros((0, 1)))).all()
    medians = np.median(rng.choice(values[:, 0], size=(4000, 150)), axis=1)
    ends = np.quantile(medians, [0.025, 0.975])
    np.testing.assert_allclose(median_interval(values[:, 0]), ends, atol=0.08)


def test_rules_on_known_truths():
    frame = tiny()
    assert fewest_gpus(frame).argmin() in (2, 6)
    assert fewest_gpus(frame)[0] < fewest_gpus(frame)[1]
    assert lowest_latency(frame).argmin() == 3
    assert highest_throughput(frame).argmin() == 5  # 2 GPUs, 1 s, 32 tokens
    assert fewest_gpus(batches()).argmin() == 4  # one GPU, the largest batch
    without = frame.drop(columns=["num_gpus"])
    np.testing.assert_array_equal(fewest_gpus(without), fewest_gpus(frame))


def test_wilkins_gives_back_its_own_law():
    rng = np.random.default_rng(0)
    n, m = rng.integers(64, 4096, 60), rng.integers(16, 512, 60)
    batch = rng.integers(1, 32, 60)
    frame = pd.DataFrame({"input_tokens": n, "output_tokens": m, "batch": batch})
    frame["total_energy_j"] = batch * (0.5 * n + 31.0 * m + 4e-2 * n * m)
    np.testing.assert_allclose(wilkins(frame[:30], frame[30:]), frame["total_energy_j"][30:])


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
