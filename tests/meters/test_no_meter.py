"""A machine without a power sensor gives times, never joules."""

from __future__ import annotations

from harness.meters.base import Meter
from harness.meters.none import NoMeter


def test_it_gives_no_devices_and_no_joules():
    meter: Meter = NoMeter("no sensor here")
    with NoMeter() as other:
        assert other.reason == ""
    assert meter.has_power is False
    assert meter.name == "none"
    samples = meter.read(0, 10**9)
    assert samples.gpu_uuids == ()
    assert samples.energy_mj.shape == samples.power_w.shape == samples.throttle_mask.shape == (0, 0)
    assert samples.t_ns.size == 0
    meter.wait_for_tick()
    meter.close()
    meter.close()
    assert NoMeter("why").reason == "why"
    assert NoMeter().read_host(0, 1) is None


def test_no_window_is_too_short_for_it():
    assert NoMeter().sensor.shortest_window_s == 0.0
