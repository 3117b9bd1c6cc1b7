"""Designs: what they gain, what they cost, and that they never see what is not measured."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from fitting_data import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st

from fitting.design import METHODS, Budget, Cost, design
from fitting.design.choices import contrasts_of, expected_regret, scenarios_of
from fitting.design.criteria import CRITERIA, Belief, expected_loss, gains
from fitting.design.draws import latin_hypercube
from fitting.design.expected import from_scale, to_scale
from fitting.design.prior import parameter_names
from fitting.design.state import state_of
from fitting.facts import Facts
from fitting.forms import ENERGYLENS12
from harness.store import FitError

ENERGIES = ("total_energy_j", "prefill_energy_j", "decode_energy_j")


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Rows of one pair that follow the law with 2 % noise."""
    return synthetic(noise=0.02, visual=False)


def belief_of(rows: pd.DataFrame, measured: pd.DataFrame | None = None) -> Belief:
    state = state_of(rows, measured, Facts(), ENERGYLENS12)
    scenarios = scenarios_of(rows.drop(columns="provenance"))
    return Belief(
        state.covariance,
        state.observed,
        state.slope,
        contrasts_of(state, scenarios),
        len(scenarios),
    )


def after(belief: Belief, rows: np.ndarray) -> Belief:
    for row in rows:
        belief = belief.measure(int(row))
    return belief


def information(table: pd.DataFrame, method: str, seed: int = 0) -> float:
    """Log det of the precision of the parameters once a design of 15 rows is measured."""
    found = design(table, budget=15, method=method, seed=seed, cost=Cost(launch_s=0.0))
    belief = after(belief_of(table), found.table.index.to_numpy())
    return -float(np.linalg.slogdet(belief.covariance)[1])


def test_d_optimal_tells_more_of_the_parameters_than_chance(table: pd.DataFrame) -> None:
    best = information(table, "d-optimal")
    assert all(best > information(table, "random", seed) + 1.0 for seed in range(3))
    assert best > information(table, "lhs") + 1.0
    assert best > information(table, "i-optimal")


def test_i_optimal_lowers_the_variance_of_predictions_most(table: pd.DataFrame) -> None:
    def variance(method: str) -> float:
        found = design(table, budget=15, method=method, cost=Cost(launch_s=0.0))
        belief = after(belief_of(table), found.table.index.to_numpy())
        return float(np.einsum("nd,de,ne->n", belief.slope, belief.covariance, belief.slope).mean())

    assert variance("i-optimal") < min(variance(m) for m in ("d-optimal", "random", "lhs"))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_gains_are_what_measuring_a_row_changes(table: pd.DataFrame, criterion: str) -> None:
    belief = belief_of(table)
    rows = np.array([0, 57, 130])
    for row, gain in zip(rows, gains(belief, criterion, rows), strict=True):
        then = belief.measure(int(row))
        if criterion == "d-optimal":
            wanted = np.linalg.slogdet(belief.covariance)[1] - np.linalg.slogdet(then.covariance)[1]
        elif criterion == "i-optimal":
            fall = belief.covariance - then.covariance
            wanted = np.einsum("nd,de,ne->n", belief.slope, fall, belief.slope).mean()
        else:
            wanted = (_loss(belief) - _loss(then)) / belief.scenarios
        assert gain == pytest.approx(wanted, rel=1e-6, abs=1e-12)
        assert gain >= 0.0


def _loss(belief: Belief) -> float:
    slope = belief.contrasts.slope
    variance = np.einsum("md,de,me->m", slope, belief.covariance, slope)
    return float(expected_loss(belief.contrasts.gap, variance).sum())


@pytest.mark.parametrize("spread", [0.01, 0.3, 3.0])
def test_expected_loss_is_the_mean_of_what_is_lost(spread: float) -> None:
    draws = spread * np.random.default_rng(0).standard_normal(200_000)
    gaps = -spread * np.array([0.0, 0.5, 1.0, 2.0])
    found = expected_loss(gaps, np.full(4, spread**2))
    wanted = [np.maximum(gap + draws, 0.0).mean() for gap in gaps]
    np.testing.assert_allclose(found, wanted, atol=0.005 * spread)
    assert (found <= expected_loss(gaps, np.full(4, 4.0 * spread**2))).all()


def test_regret_finds_the_planted_hard_choice(table: pd.DataFrame) -> None:
    """One workload has two layouts to choose from, all others have one: only that choice counts."""
    rows = table[(table["tensor_parallel"] == 2) & (table["pipeline_parallel"] == 1)]
    hard = table[
        (table["num_gpus"] == 2)
        & (table["batch"] == 16)
        & (table["input_tokens"] == 1024)
        & (table["output_tokens"] == 33)
    ]
    both = pd.concat([rows, hard]).drop_duplicates("task_id").reset_index(drop=True)
    budget = Budget(rows=2, per="total")
    found = design(both, budget=budget)
    assert set(found.table["task_id"]) & set(hard["task_id"])
    for method in ("random", "lhs"):
        assert found.regret_after < design(both, budget=budget, method=method).regret_after
    # D-optimal rows hold the same choice here: within a tenth, which of them is ahead is rounding.
    optimal = design(both, budget=budget, method="d-optimal").regret_after
    assert found.regret_after < 1.1 * optimal
    assert max(found.regret_after, optimal) < 0.2 * found.regret_before


def test_expected_regret_falls_and_is_zero_when_all_is_known(table: pd.DataFrame) -> None:
    found = design(table, budget=20)
    assert 0.0 < found.regret_after < 0.5 * found.regret_before
    state = state_of(table, None, Facts(), ENERGYLENS12)
    nothing = np.zeros_like(state.covariance)
    scenarios = scenarios_of(table.drop(columns="provenance"))
    assert expected_regret(state, scenarios, nothing).max() == pytest.approx(0.0, abs=1e-6)


def test_measured_rows_are_learnt_from(table: pd.DataFrame) -> None:
    rows = table.iloc[::5]
    state = state_of(table, rows, Facts(), ENERGYLENS12)
    truth = np.log(table["total_energy_j"].to_numpy())
    before = state_of(table, None, Facts(), ENERGYLENS12)
    assert np.abs(state.log_energy - truth).mean() < 0.04
    assert np.abs(before.log_energy - truth).mean() > 0.1
    assert np.linalg.slogdet(state.covariance)[1] < np.linalg.slogdet(before.covariance)[1] - 20.0


def test_rows_with_total_energies_only_are_learnt_from(table: pd.DataFrame) -> None:
    rows = table.iloc[::5].drop(columns=["prefill_energy_j", "decode_energy_j"])
    state = state_of(table, rows, Facts(), ENERGYLENS12)
    assert np.abs(state.log_energy - np.log(table["total_energy_j"])).mean() < 0.05


@pytest.mark.parametrize("method", METHODS)
def test_energies_of_rows_that_are_not_measured_are_never_seen(
    table: pd.DataFrame, method: str
) -> None:
    measured = table.iloc[:30]
    rng = np.random.default_rng(0)
    shuffled = table.copy()
    for name in [n for n in table.columns if "energy" in n or "latency" in n]:
        shuffled.loc[table.index[30:], name] = rng.permutation(table[name].iloc[30:])
    without = table.drop(columns=list(ENERGIES))
    plans = [
        design(rows, measured=measured, budget=10, method=method)
        for rows in (table, shuffled, without)
    ]
    for other in plans[1:]:
        pd.testing.assert_frame_equal(plans[0].table, other.table)
        assert plans[0].regret_after == other.regret_after


@pytest.mark.parametrize("method", METHODS)
def test_the_same_question_has_the_same_answer_in_any_order(
    table: pd.DataFrame, method: str
) -> None:
    one = design(table, budget=12, method=method, seed=3)
    again = design(table, budget=12, method=method, seed=3)
    mixed = design(table.sample(frac=1.0, random_state=1), budget=12, method=method, seed=3)
    pd.testing.assert_frame_equal(one.table, again.table)
    assert one.table["task_id"].tolist() == mixed.table["task_id"].tolist()


def test_nothing_is_measured_twice(table: pd.DataFrame) -> None:
    measured = table.iloc[:40]
    found = design(table, measured=measured, budget=30)
    assert not set(found.table["task_id"]) & set(measured["task_id"])
    assert found.table["task_id"].is_unique
    assert (found.pairs[0].measured, found.pairs[0].chosen) == (40, 30)
    assert table["task_id"].iloc[found.table.index].tolist() == found.table["task_id"].tolist()


def test_an_expensive_launch_means_fewer_launches(table: pd.DataFrame) -> None:
    def launches_per_row(launch_s: float) -> float:
        budget = Budget(rows=None, seconds=10.0 * (60.0 + launch_s))
        found = design(table, budget=budget, cost=Cost(launch_s=launch_s, task_s=60.0))
        assert found.cost_s <= budget.seconds
        return found.launches / len(found.table)

    cheap, dear = launches_per_row(0.0), launches_per_row(3600.0)
    assert dear < 0.5 * cheap


@settings(max_examples=5)
@given(hours=st.floats(0.1, 3.0), method=st.sampled_from(METHODS))
def test_budgets_in_time_are_kept(hours: float, method: str) -> None:
    table = synthetic(noise=0.0, visual=False).iloc[::4]
    cost = Cost(launch_s=120.0, task_s=40.0)
    found = design(table, budget=Budget(rows=None, seconds=3600 * hours), method=method, cost=cost)
    assert found.cost_s <= 3600 * hours
    assert found.cost_s == pytest.approx(120.0 * found.launches + 40.0 * len(found.table))
    found = design(
        table, budget=Budget(rows=None, gpu_seconds=3600 * hours), method=method, cost=cost
    )
    assert found.gpu_s <= 3600 * hours


def test_a_budget_for_all_goes_where_it_brings_most() -> None:
    """A pair that is known well gets less than one of which nothing is known."""
    known = synthetic(noise=0.02, visual=False, hardware="H100-SXM5-80GB")
    new = synthetic(noise=0.02, visual=False, hardware="L40S-48GB")
    both = pd.concat([known, new], ignore_index=True)
    found = design(both, measured=known.iloc[::4], budget=Budget(rows=20, per="total"))
    share = found.table["hardware"].value_counts()
    assert len(found.table) == 20
    assert share["L40S-48GB"] > 14
    each = design(both, measured=known.iloc[::4], budget=Budget(rows=20))
    assert each.table["hardware"].value_counts().tolist() == [20, 20]


def test_a_fit_stands_for_measured_rows(table: pd.DataFrame) -> None:
    from fitting import fit_frame

    law = fit_frame(table, samples=60)
    with_fit = design(table, budget=5, fit=law)
    without = design(table, budget=5)
    assert with_fit.regret_before < 0.5 * without.regret_before


def test_a_latin_hypercube_has_its_equal_share_of_every_value(table: pd.DataFrame) -> None:
    chosen = table.iloc[latin_hypercube(table, 40, 0)]
    assert not chosen.index.duplicated().any()
    for axis in ("batch", "input_tokens", "output_tokens"):
        counts = chosen[axis].value_counts()
        assert len(counts) == table[axis].nunique()
        assert counts.min() > 0.5 * counts.max()


def test_scale_and_back() -> None:
    names = parameter_names(ENERGYLENS12)
    values = np.linspace(0.1, 0.7, len(names))
    there = to_scale(ENERGYLENS12, values)
    np.testing.assert_allclose(from_scale(ENERGYLENS12, there), values)


def test_without_rivals_rows_serve_the_law(table: pd.DataFrame) -> None:
    alone = table[(table["tensor_parallel"] == 1) & (table["pipeline_parallel"] == 1)]
    found = design(alone, budget=5)
    assert len(found.table) == 5
    assert found.to_dict()["regret_before"] is None
    assert "nothing to choose" in found.notes[0]


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"method": "guess"}, "Unknown method 'guess'"),
        ({"budget": 0}, "buys nothing"),
        ({"budget": Budget(rows=None)}, "one budget"),
        ({"budget": Budget(rows=None, seconds=100.0)}, "does not pay for one launch"),
        ({"budget": Budget(rows=None, gpu_seconds=100.0)}, "0.05 GPU-hours"),
        ({"budget": Budget(rows=5, per="model")}, "pair or total"),
    ],
)
def test_bad_wishes_are_refused(table: pd.DataFrame, wish: dict[str, object], message: str) -> None:
    with pytest.raises(FitError, match=r"(?s)" + message):
        design(table, **wish)


def test_nothing_left_and_no_columns_are_refused(table: pd.DataFrame) -> None:
    with pytest.raises(FitError, match="Nothing is left to measure"):
        design(table, measured=table)
    with pytest.raises(FitError, match="no column 'batch'"):
        design(table.drop(columns="batch"))
