"""Characterising sensors whose ways are known: every fact must be found again."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from sensor_models import Sensor, SensorLoad

from harness.errors import MeterError
from harness.meters.base import SensorFacts
from harness.meters.characterise import FULL, QUICK, Timing, characterise
from harness.meters.sensor_findings import Gpu
from harness.meters.sensor_report import Characterisation, IdlePower
from harness.meters.trust import WORDS, trusted

GPU = Gpu("GPU-test", "NVIDIA L40S", "570.1")
WHEN = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


def find_out(
    sensor: Sensor, timing: Timing = QUICK, *, loaded: bool = True, **options: object
) -> Characterisation:
    load = SensorLoad(sensor) if loaded else None
    return characterise(
        sensor,
        GPU,
        load=load,
        timing=timing,
        clock=sensor.clock,
        sleep=sensor.sleep,
        now=lambda: WHEN,
        **options,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("duty", [1.0, 0.5, 0.25])
@pytest.mark.parametrize("lag_s", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("period_s", [0.01, 0.02, 0.05, 0.1, 0.5])
def test_counters_are_found_out(period_s: float, lag_s: float, duty: float) -> None:
    found = find_out(Sensor(counter_period_s=period_s, lag_s=lag_s, duty=duty))
    facts = found.facts
    assert facts.origin == "characterised"
    assert facts.counter_period_s == pytest.approx(period_s, rel=0.01)
    assert facts.lag_s == pytest.approx(lag_s, abs=0.002)
    assert facts.sampled_fraction == pytest.approx(duty, abs=0.02)
    assert facts.shortest_window_s == pytest.approx(50 * period_s, rel=0.01)
    assert found.reasons == (() if duty == 1 else ("sensor_part_time",))


@pytest.mark.parametrize("averaging_s", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("power_period_s", [0.02, 0.1])
def test_the_trailing_mean_behind_a_power_reading_is_found_out(
    averaging_s: float, power_period_s: float
) -> None:
    sensor = Sensor(averaging_s=averaging_s, power_period_s=power_period_s, noise_w=2.0)
    found = find_out(sensor)
    assert found.facts.power_period_s == pytest.approx(power_period_s, rel=0.02)
    assert found.facts.power_averaging_s == pytest.approx(averaging_s, abs=0.006)
    assert found.average_response is not None
    assert found.average_response.width_s == pytest.approx(1.0, abs=0.01)
    assert found.reasons == ()


@pytest.mark.parametrize("timing", [QUICK, FULL])
@pytest.mark.parametrize("period_s", [0.01, 0.02, 0.1])
@pytest.mark.parametrize("duty", [1.0, 0.25])
def test_late_polls_and_an_unsteady_beat_stay_inside_the_stated_error(
    duty: float, period_s: float, timing: Timing
) -> None:
    sensor = Sensor(
        counter_period_s=period_s,
        duty=duty,
        noise_w=3.0,
        jitter_s=0.001,
        tick_jitter_s=0.03 * period_s,
        gain=1.02,
        power_gain=1.02,
    )
    found = find_out(sensor, timing)
    error = found.sampled_fraction_stderr
    assert 0 < error < 0.06
    assert abs(found.facts.sampled_fraction - duty) < 3 * error
    assert found.facts.counter_period_s == pytest.approx(period_s, rel=0.02)
    assert found.facts.lag_s < 0.004


def test_idle_powers_carry_an_error_that_covers_the_truth() -> None:
    sensor = Sensor(gain=1.0, jitter_s=0.001, noise_w=2.0, tick_jitter_s=0.003)
    found = find_out(sensor, FULL, loaded=True)
    for idle, truth in ((found.bare, 70.0), (found.context, 110.0)):
        assert idle is not None
        assert idle.seconds >= 4.8
        assert 0 < idle.stderr_w < 1.0
        assert abs(idle.power_w - truth) < 4 * idle.stderr_w
    assert found.load_w == pytest.approx(600.0, abs=3)


def test_a_counter_that_stands_still_is_said_so() -> None:
    found = find_out(Sensor(frozen=True))
    assert "counter_frozen" in found.reasons
    assert not found.facts.has_counter


def test_without_a_counter_power_takes_its_place() -> None:
    found = find_out(Sensor(has_counter=False, averaging_s=1.0, noise_w=1.0))
    assert found.facts.counter_period_s == pytest.approx(0.1, rel=0.02)
    assert found.facts.shortest_window_s == pytest.approx(50.0, abs=0.5)
    assert set(found.reasons) == {"counter_missing", "power_averaged"}
    assert found.bare is not None
    assert found.bare.power_w == pytest.approx(70.0, abs=1)


def test_counter_and_power_that_disagree_are_not_trusted() -> None:
    found = find_out(Sensor(power_gain=1.08))
    assert found.agreement == pytest.approx(1 / 1.08 - 1, abs=0.003)
    assert found.reasons == ("meter_disagreement",)
    assert find_out(Sensor(gain=1.02)).reasons == ()


def test_a_counter_faster_than_the_polls_gives_a_bound_and_its_lag() -> None:
    found = find_out(Sensor(counter_period_s=0.001, lag_s=0.05))
    assert not found.counter.resolved
    assert 0.001 < found.facts.counter_period_s < 0.02
    assert found.facts.lag_s == pytest.approx(0.05, abs=0.01)
    assert any("bound" in note for note in found.notes)


def test_without_a_load_periods_and_idle_power_remain() -> None:
    assumed = SensorFacts(0.2, 0.02, 0.03, sampled_fraction=0.25, lag_s=0.01)
    found = find_out(Sensor(counter_period_s=0.02), loaded=False, assumed=assumed)
    assert found.facts.counter_period_s == pytest.approx(0.02, rel=0.01)
    assert (found.facts.sampled_fraction, found.facts.lag_s) == (0.25, 0.01)
    assert found.context is None
    assert found.bare is not None
    assert set(found.reasons) == {"sensor_part_time", "not_loaded"}


def test_a_load_that_the_gpu_does_not_feel_is_noticed() -> None:
    class Idler(SensorLoad):
        def start(self, seconds: float) -> None:
            self._end_ns = self.sensor.now_ns + round(seconds * 1e9)
            self.spans.append((self.sensor.now_ns, self._end_ns))

    sensor = Sensor(noise_w=2.0)
    found = characterise(
        sensor, GPU, load=Idler(sensor), timing=QUICK, clock=sensor.clock, sleep=sensor.sleep
    )
    assert "load_not_followed" in found.reasons


def test_a_load_that_does_not_start_leaves_what_needs_none() -> None:
    class Broken(SensorLoad):
        def prepare(self) -> None:
            raise MeterError("out of memory", where="cuda:0", fix="free it")

    sensor = Sensor(counter_period_s=0.02)
    load = Broken(sensor)
    found = characterise(
        sensor, GPU, load=load, timing=QUICK, clock=sensor.clock, sleep=sensor.sleep
    )
    assert found.facts.counter_period_s == pytest.approx(0.02, rel=0.01)
    assert "not_loaded" in found.reasons
    assert "out of memory" in found.notes[0]
    assert load.closed


def test_a_lost_gpu_ends_it_and_the_load_is_let_go() -> None:
    sensor = Sensor()
    sensor.lost_from_ns = sensor.now_ns + 6_000_000_000
    load = SensorLoad(sensor)
    with pytest.raises(MeterError, match="stopped answering") as caught:
        characterise(sensor, GPU, load=load, timing=QUICK, clock=sensor.clock, sleep=sensor.sleep)
    assert "error code 15" in str(caught.value)
    assert load.closed


def test_a_foreign_process_is_refused_before_and_after() -> None:
    with pytest.raises(MeterError, match="1 other process on this GPU"):
        find_out(Sensor(processes=1.0))

    class Guest(SensorLoad):
        def prepare(self) -> None:
            super().prepare()
            self.sensor.processes = 3.0

    sensor = Sensor()
    with pytest.raises(MeterError, match="2 other processes"):
        characterise(
            sensor, GPU, load=Guest(sensor), timing=QUICK, clock=sensor.clock, sleep=sensor.sleep
        )


def test_a_burst_that_never_ends_is_given_up() -> None:
    class Hung(SensorLoad):
        def done(self) -> bool:
            return False

    sensor = Sensor()
    load = Hung(sensor)
    with pytest.raises(MeterError, match="did not end"):
        characterise(sensor, GPU, load=load, timing=QUICK, clock=sensor.clock, sleep=sensor.sleep)
    assert load.closed


def test_it_takes_as_long_as_it_says() -> None:
    for timing, limit in ((FULL, 60.0), (QUICK, 25.0)):
        assert find_out(Sensor(), timing).seconds < min(limit, 1.3 * timing.total_s)


def test_json_gives_back_the_same() -> None:
    loaded = IdlePower(130.0, 0.1, 5.0)
    for found in (
        find_out(Sensor(duty=0.5), loaded=True),
        find_out(Sensor(has_counter=False), loaded=False),
    ):
        again = Characterisation.from_json(found.to_json())
        assert again.to_json() == found.to_json()
        assert again.facts.counter_period_s == pytest.approx(
            found.facts.counter_period_s, nan_ok=True
        )
        assert again.measured_at == WHEN
    assert loaded == Characterisation.from_json(find_out_loaded(loaded).to_json()).loaded
    with pytest.raises(ValueError, match="not a characterisation"):
        Characterisation.from_json('{"uuid": "x"}')


def find_out_loaded(idle: IdlePower) -> Characterisation:
    sensor = Sensor()
    return characterise(
        sensor, GPU, load=None, timing=QUICK, loaded=idle, clock=sensor.clock, sleep=sensor.sleep
    )


def test_every_reason_has_words() -> None:
    bad = SensorFacts(
        float("nan"),
        0.02,
        0.02,
        sampled_fraction=0.25,
        lag_s=0.7,
        power_averaging_s=1.0,
        has_counter=False,
    )
    reasons = trusted(bad, agreement=0.2)
    assert set(reasons) == {
        "counter_missing",
        "power_averaged",
        "period_unknown",
        "sensor_part_time",
        "sensor_lag",
        "meter_disagreement",
    }
    assert set(reasons) <= set(WORDS)
    assert trusted(SensorFacts(0.1, 0.02, 0.02, lag_s=0.2)) == []
