"""The protocol of a launch on a machine whose true joules are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from real_twin import BELIEVED, WORK, RealTwin, tasks, truth

from harness.errors import MeterError
from harness.measuring.campaign import Campaign, Outcome
from harness.measuring.idle import Idle, drawn_between, idle_power
from harness.measuring.journal import NoJournal
from harness.measuring.settings import Protocol
from harness.meters import SensorFacts
from harness.meters.base import Samples
from harness.spec import Workload

PHASES = ("prefill", "decode", "total")


def measure(session: RealTwin, work=WORK, **protocol) -> tuple[Outcome, list]:
    todo = tasks(work)
    settings = Protocol(**{"warm_up_s": 6.0, **protocol})
    campaign = Campaign(
        session, todo, settings, NoJournal(), clock=session.now_s, started_s=session.now_s()
    )
    return campaign.run(), todo


def rows(outcome: Outcome, todo: list) -> list[dict]:
    return [outcome.columns[task.task_id] for task in todo]


def test_two_hundred_runs_cover_the_truth() -> None:
    """95 % intervals of total, prefill and decode hold the truth at least 90 % of the time."""
    inside: dict[str, list[bool]] = {phase: [] for phase in PHASES}
    expected = [truth(RealTwin(noise=0.0), w) for w in WORK[:2]]
    for seed in range(200):
        lag_s = 0.05 * (seed % 4)
        known = replace(BELIEVED, lag_s=lag_s, origin="characterised")
        session = RealTwin(seed=seed, lag_s=lag_s, believed=known if seed % 2 else BELIEVED)
        outcome, todo = measure(session, WORK[:2], seed=seed, max_repeats=5)
        for row, true in zip(rows(outcome, todo), expected, strict=True):
            for phase, value in zip(PHASES, true, strict=True):
                error = abs(row[f"{phase}_energy_j"] - value)
                inside[phase].append(error <= row[f"{phase}_energy_j_ci95_j"])
    print({phase: float(np.mean(hits)) for phase, hits in inside.items()})
    for phase, hits in inside.items():
        assert len(hits) == 400
        assert np.mean(hits) >= 0.90, phase


def test_a_steady_machine_gives_the_truth_and_a_clean_verdict() -> None:
    session = RealTwin(noise=0.001, seed=3, believed=replace(BELIEVED, origin="characterised"))
    outcome, todo = measure(session)
    for row, work in zip(rows(outcome, todo), WORK, strict=True):
        assert row["reasons"] == []
        assert row["valid"] is True
        found = [row[f"{phase}_energy_j"] for phase in PHASES]
        assert found == pytest.approx(truth(session, work), rel=0.01)
        assert abs(row["additivity"]) < 0.01


def test_gross_and_net_differ_by_the_idle_power_and_both_token_figures_are_labelled() -> None:
    """A known mistake: J per output token and per total token differ 9 times at 8k in, 1k out."""
    work = (Workload(batch=1, input_tokens=8192, output_tokens=1024),)
    outcome, todo = measure(RealTwin(noise=0.001), work)
    row = rows(outcome, todo)[0]
    idle_j = row["idle_power_w"] * row["total_latency_s"]
    assert row["total_energy_j"] - row["total_net_energy_j"] == pytest.approx(idle_j)
    parts = row["prefill_net_energy_j"] + row["decode_net_energy_j"]
    assert parts == pytest.approx(row["total_net_energy_j"], rel=0.02)
    ratio = row["energy_per_output_token_j"] / row["energy_per_total_token_j"]
    assert ratio == pytest.approx(9.0)


def test_the_order_is_drawn_anew_in_each_trial_from_the_recorded_seed() -> None:
    """A known mistake: a fixed order lets heat line up with a variable and flip a sign."""
    first, todo = measure(RealTwin(), seed=7, repeats=4)
    again, _ = measure(RealTwin(), seed=7, repeats=4)
    other, _ = measure(RealTwin(), seed=8, repeats=4)
    order = first.record["order"]
    assert first.record["seed"] == 7
    assert order == again.record["order"] != other.record["order"]
    assert len(order) == 4
    assert all(sorted(trial) == sorted(t.task_id for t in todo) for trial in order)
    assert len({tuple(trial) for trial in order}) > 1


def test_drift_is_seen_by_the_sentinel_and_flags_every_row() -> None:
    outcome, todo = measure(RealTwin(noise=0.0005, drift=0.5), repeats=4)
    assert outcome.record["sentinel"]["significant"]
    assert outcome.record["sentinel"]["change"] > 0.05
    for row in rows(outcome, todo):
        assert "drift" in row["reasons"]
        assert row["valid"] is False


def test_a_steady_machine_does_not_drift() -> None:
    flagged = 0
    for seed in range(40):
        outcome, _ = measure(RealTwin(seed=seed), WORK[:1], seed=seed, sentinel=True)
        flagged += outcome.record["sentinel"]["significant"]
    assert flagged <= 5


def test_repeats_go_on_until_the_interval_is_narrow_enough() -> None:
    noisy, todo = measure(RealTwin(noise=0.05), repeats=2, max_repeats=9, target_ci95=0.02)
    calm, _ = measure(RealTwin(noise=0.002), repeats=2, max_repeats=9, target_ci95=0.02)
    assert [row["repeats"] for row in rows(calm, todo)] == [2, 2, 2]
    assert max(row["repeats"] for row in rows(noisy, todo)) > 4
    for row in rows(noisy, todo):
        wide = row["total_energy_j_ci95_j"] > 0.02 * row["total_energy_j"]
        assert ("wide_interval" in row["reasons"]) == wide


def test_a_spent_budget_keeps_what_was_measured_and_leaves_the_rest_to_the_next_run() -> None:
    whole, todo = measure(RealTwin())
    seconds = RealTwin()
    outcome, _ = measure(seconds, budget_s=75.0)
    assert seconds.now_s() < 130
    assert 0 < len(outcome.columns) <= len(todo)
    for row in outcome.columns.values():
        assert "budget_spent" in row["reasons"]
        assert row["valid"] is True
    left = {task_id for task_id, kind, _ in outcome.failures if kind == "not_reached"}
    assert left | set(outcome.columns) == {task.task_id for task in todo}
    assert not set(whole.failures)


@pytest.mark.parametrize(("windows", "rows_kept"), [(0, 0), (3, 0), (9, 3)])
def test_asked_to_stop_it_begins_no_window_and_keeps_what_two_repeats_say(
    windows: int, rows_kept: int
) -> None:
    session = RealTwin()
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        # The warm-up asks once for each of the three workloads, and before it heats.
        return asked > 4 + windows

    todo = tasks()
    campaign = Campaign(
        session,
        todo,
        Protocol(repeats=3, warm_up_s=20.0),
        NoJournal(),
        clock=session.now_s,
        stop=stop,
    )
    outcome = campaign.run()
    assert len(outcome.columns) == rows_kept
    assert all(row["repeats"] >= 2 for row in outcome.columns.values())
    assert all("budget_spent" in row["reasons"] for row in outcome.columns.values())
    left = {task_id for task_id, kind, _ in outcome.failures if kind == "not_reached"}
    assert left | set(outcome.columns) == {task.task_id for task in todo}


class Steady:
    """A session of two devices that draw 100 W each, whose counters count since boot."""

    def __init__(self) -> None:
        self.meter = self
        self.has_power = True
        self.sensor = SensorFacts(counter_period_s=0.1, poll_period_s=0.1, gain_error=0.0)
        self.now_ns = 10**12

    def rest(self, seconds: float) -> tuple[int, int]:
        start, self.now_ns = self.now_ns, self.now_ns + int(seconds * 1e9)
        return start, self.now_ns

    def read(self, start_ns: int, end_ns: int) -> Samples:
        t_ns = np.arange(start_ns - 10**9, end_ns + 10**9, 10**8)
        energy_mj = np.tile(100.0 * t_ns / 1e6, (2, 1))
        power_w = np.full((2, t_ns.size), 100.0)
        return Samples(t_ns, ("a", "b"), power_w, energy_mj, np.zeros((2, t_ns.size), np.int64))


def test_counters_say_what_was_drawn_from_one_rest_to_the_next() -> None:
    session = Steady()
    before = idle_power(session)
    session.now_ns += 60 * 10**9
    after = idle_power(session)
    assert before.power_w == pytest.approx(200, rel=0.01)
    # From the end of the first rest, over a minute, to the end of the second one.
    assert drawn_between(before, after) == pytest.approx(200 * 65, rel=0.01)


def test_a_simulated_sensor_draws_nothing() -> None:
    outcome, _ = measure(RealTwin())
    assert outcome.record["drawn_energy_j"] is None


def test_without_counters_nobody_knows_what_was_drawn() -> None:
    known = Idle(100.0, counters_j=50.0)
    assert drawn_between(known, Idle(100.0, counters_j=80.0)) == 30.0
    assert drawn_between(known, Idle(100.0)) is None
    assert drawn_between(known, Idle(100.0, counters_j=20.0)) is None


def test_windows_are_as_long_as_the_sensor_asks() -> None:
    slow = replace(BELIEVED, counter_period_s=0.2)
    outcome, todo = measure(RealTwin(believed=slow), window_s=1.0)
    assert all(row["window_s"] >= 10 for row in rows(outcome, todo))


def test_one_repeat_says_so() -> None:
    outcome, todo = measure(RealTwin(), repeats=1)
    assert all("single_repeat" in row["reasons"] for row in rows(outcome, todo))


class Crowded(RealTwin):
    """Somebody else was on the device before."""

    def environment(self):
        return {"foreign_processes": 1}


def test_a_foreign_process_flags_every_row() -> None:
    outcome, todo = measure(Crowded(), WORK[:1])
    row = rows(outcome, todo)[0]
    assert "foreign_process" in row["reasons"]
    assert row["valid"] is False


def test_a_process_that_comes_later_is_foreign_too() -> None:
    session = RealTwin()
    read, calls = session.meter.read, [0]

    def with_processes(start_ns, end_ns):
        calls[0] += 1
        samples = read(start_ns, end_ns)
        count = np.full(samples.power_w.shape, 1.0 if calls[0] < 6 else 2.0)
        return replace(samples, process_count=count)

    session.meter.read = with_processes
    outcome, todo = measure(session, WORK[:1])
    assert "foreign_process" in rows(outcome, todo)[0]["reasons"]


def test_a_sampler_that_is_gone_for_good_costs_what_was_not_measured_yet() -> None:
    session = RealTwin()
    read, calls = session.meter.read, [0]

    def dies(start_ns, end_ns):
        calls[0] += 1
        if calls[0] > 16:
            raise MeterError("the sampler ended")
        return read(start_ns, end_ns)

    session.meter.read = dies
    outcome, todo = measure(session)
    assert outcome.columns
    for row in outcome.columns.values():
        assert "meter_lost" in row["reasons"]
        assert row["total_energy_j"] > 0
    left = {task_id for task_id, kind, _ in outcome.failures if kind == "not_reached"}
    assert left | set(outcome.columns) == {task.task_id for task in todo}
    assert outcome.record["meter_error"] == "the sampler ended"
