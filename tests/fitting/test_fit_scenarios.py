"""Scenarios, metrics and rules, on tables small enough to check by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scenario_data import batches, tiny

from fitting import evaluate
from fitting.baselines import fewest_gpus, highest_throughput, lowest_latency, wilkins
from fitting.metrics import interval, judge, mean_intervals, median_interval
from fitting.scenarios import build, work_units


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


ENERGY = np.array([[10.0, 11.0, 20.0], [5.0, 4.0, np.inf]])
MASK = np.isfinite(ENERGY)


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
