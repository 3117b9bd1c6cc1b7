"""Pairs of nights whose truth is known: false alarms, power, odd GPUs, symmetry."""

from __future__ import annotations

from typing import Any

import compare_data as data
import numpy as np
import pytest

from energylens.comparison import Comparison, Options, compare_frames
from energylens.comparison.inference import adjusted, median_interval

ODD = data.gpu(3)


def two_nights(
    seed: int, new: dict[str, Any] | None = None, old: dict[str, Any] | None = None, **both: Any
) -> Comparison:
    return compare_frames(
        data.night(2 * seed, **{**both, **(old or {})}),
        data.night(2 * seed + 1, **{**both, **(new or {})}),
    )


def slower(model_id: str, by: float) -> dict[str, Any]:
    return {"factor": lambda row: 1 + by if row["model_id"] == model_id else 1.0}


def test_where_nothing_changed_a_regression_is_rarer_than_the_rate():
    alarms = sum(two_nights(seed).verdict == "regression" for seed in range(200))
    assert alarms <= 10  # 5 % of 200


@pytest.mark.parametrize(
    "both",
    [{"launch_sd": 0.005}, {"cards": data.fixed}, {"cards": data.drawn, "reps_of_launch": 4}],
    ids=["launches scatter", "same GPUs", "GPUs drawn anew"],
)
def test_it_stays_so_with_launches_and_gpus(both):
    alarms = sum(two_nights(1000 + seed, **both).verdict == "regression" for seed in range(30))
    assert alarms <= 3


def test_gpus_that_always_differed_are_no_regression_when_work_moves_between_them():
    rng = np.random.default_rng(5)
    spread = {data.gpu(i): float(np.exp(0.03 * rng.standard_normal())) for i in range(8)}
    both = {"cards": data.drawn, "card_factor": spread, "reps_of_launch": 4}
    alarms = sum(two_nights(2000 + seed, **both).verdict == "regression" for seed in range(30))
    assert alarms <= 3


def test_a_model_that_costs_5_percent_more_is_found():
    found = 0
    for seed in range(40):
        result = two_nights(3000 + seed, slower(data.MODELS[1], 0.05))
        worse = {f.name for f in result.findings("worse") if f.kind == "model_id"}
        found += result.verdict == "regression" and worse == {data.MODELS[1]}
    assert found >= 38  # 95 %


def test_a_change_too_small_to_matter_is_none_and_a_smaller_limit_shows_it():
    small = slower(data.MODELS[1], 0.015)
    old, new = data.night(1, noise=0.002), data.night(2, noise=0.002, **small)
    assert compare_frames(old, new).verdict == "no change"
    assert compare_frames(old, new, Options(min_change=0.01)).verdict == "regression"


def test_an_improvement_is_shown_and_is_no_regression():
    result = two_nights(7, slower(data.MODELS[0], -0.06))
    assert result.verdict == "improvement"
    assert {f.name for f in result.findings("better")} == {data.MODELS[0]}


def test_one_configuration_is_no_fault_of_its_group():
    def odd(row):
        alone = row["model_id"] == data.MODELS[0] and row["batch"] == 8
        return 1.3 if alone and row["input_tokens"] == 1024 else 1.0

    result = two_nights(11, {"factor": odd})
    assert result.verdict == "regression"
    assert not result.findings("worse")
    worse = result.configurations_of("worse")
    assert set(worse["cause"]) == {"alone"}
    assert set(worse["workload"]) == {"batch 8, 1024 in, 32 out"}


@pytest.mark.parametrize("cards", [data.fixed, data.drawn], ids=["same GPUs", "drawn anew"])
def test_one_bad_card_of_eight_is_named(cards):
    named = 0
    for seed in range(20):
        both = {"cards": cards, "reps_of_launch": 6}
        result = two_nights(4000 + seed, {"card_factor": {ODD: 1.06}}, **both)
        worse = [f.name for f in result.findings("worse") if f.kind == "gpu"]
        named += worse == [ODD]
    assert named >= 18


def test_a_card_that_was_as_bad_last_night_is_shown_and_does_not_fail():
    both = {"cards": data.drawn, "reps_of_launch": 6, "layouts": (1, 2, 4), "noise": 0.005}
    both["card_factor"] = {ODD: 1.10}
    results = [two_nights(5000 + seed, **both) for seed in range(10)]
    standing = [[f.name for f in r.cards if f.verdict == "standing"] for r in results]
    assert sum(names == [ODD] for names in standing) >= 7
    assert sum(r.verdict == "regression" for r in results) <= 1


def test_a_model_that_ran_on_one_card_only_says_nothing_about_the_card():
    one = {"cards": lambda launch, rng: [data.gpu(launch // 2)], "layouts": (1, 2)}
    result = two_nights(3, slower(data.MODELS[1], 0.08), **one)
    assert not result.cards
    assert "cannot be told" in result.cards_note
    assert data.MODELS[1] in {f.name for f in result.findings("worse")}


def test_swapping_the_nights_swaps_the_sign_and_nothing_else():
    both = {"cards": data.fixed, "reps_of_launch": 4}
    old = data.night(21, **both)
    new = data.night(22, **both, **slower(data.MODELS[2], 0.07))
    there, back = compare_frames(old, new), compare_frames(new, old)
    keys = ["task_id", "metric"]
    a, b = (r.configurations.set_index(keys).sort_index() for r in (there, back))
    assert np.allclose(np.log1p(a["change"]), -np.log1p(b["change"]))
    assert np.allclose(np.log1p(a["lo"]), -np.log1p(b["hi"]))
    assert np.allclose(a["p"], b["p"], equal_nan=True)
    opposite = {"worse": "better", "better": "worse"}
    assert [opposite.get(v, v) for v in a["verdict"]] == b["verdict"].tolist()
    assert np.allclose(
        [np.log1p(f.change) for f in there.groups], [-np.log1p(f.change) for f in back.groups]
    )
    assert (there.verdict, back.verdict) == ("regression", "improvement")


def test_a_run_compared_with_itself_did_not_change():
    frame = data.night(5, cards=data.fixed)
    result = compare_frames(frame, frame.copy())
    assert result.verdict == "no change"
    assert (result.configurations["change"] == 0).all()
    assert (result.configurations["p"] == 1).all()
    assert not result.versions
    assert not result.unpaired


def test_intervals_hold_the_truth_as_often_as_they_say():
    inside = []
    for seed in range(20):
        result = two_nights(6000 + seed)
        own = result.configurations[result.configurations["metric"] == "total"]
        inside += ((own["lo"] <= 0) & (own["hi"] >= 0)).tolist()
    assert 0.92 <= np.mean(inside) <= 0.995


def test_adjusted_p_values_are_those_of_benjamini_and_hochberg():
    p = np.array([0.01, np.nan, 0.04, 0.03, 0.005])
    expected = [0.02, np.nan, 0.04, 0.04, 0.02]
    assert np.allclose(adjusted(p), expected, equal_nan=True)


def test_median_interval_is_the_one_of_order_statistics():
    middle, lo, hi = median_interval(np.arange(1.0, 11.0))
    assert (middle, lo, hi) == (5.5, 2.0, 9.0)  # P(2 <= X <= 8) = 97.9 % for n = 10
    assert np.isnan(median_interval(np.arange(5.0))[1])
