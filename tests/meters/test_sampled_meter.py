"""A meter fed by a real sampler process: whole, killed, stopped, orphaned, out of disk."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from harness.errors import MeterError
from harness.meters import SensorFacts, window_energy
from harness.meters.records import record_struct, segment_name
from harness.meters.sampled import SampledMeter
from harness.meters.sampler_process import ReaderSpec, SamplerProcess

HERE = Path(__file__).parent
FACTS = SensorFacts(counter_period_s=0.05, poll_period_s=1.0, gain_error=0.0)
POWER_W = 300.0
ENVIRON = {**os.environ, "PYTHONPATH": str(HERE)}


def steady(folder: Path, devices: tuple[str, ...] = ("a", "b"), **options: str) -> ReaderSpec:
    return ReaderSpec("sampler_readers:SteadyReader", devices, {"folder": str(folder), **options})


@pytest.fixture
def open_meter(tmp_path):
    with contextlib.ExitStack() as stack:

        def make(*more: ReaderSpec, period_s: float = 0.01, **options) -> SampledMeter:
            meter = SampledMeter(
                "nvml",
                [steady(tmp_path), *more],
                FACTS,
                scope="gpu",
                period_s=period_s,
                environ=ENVIRON,
                **options,
            )
            return stack.enter_context(meter)

        yield make


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.01)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_window_is_read_with_its_margins(open_meter):
    meter = open_meter()
    start = time.monotonic_ns()
    time.sleep(0.6)
    end = time.monotonic_ns()
    samples = meter.read(start, end)
    assert samples.gpu_uuids == ("a", "b")
    assert samples.missed <= 0.2 * samples.t_ns.size
    assert samples.t_ns[-1] >= end + meter.margin_ns
    assert samples.power_w.shape == samples.energy_mj.shape == (2, samples.t_ns.size)
    assert (samples.throttle_mask == 4).all()
    assert np.abs(samples.wall_ns - samples.t_ns - (time.time_ns() - time.monotonic_ns())).max() < (
        50_000_000
    )
    meter.forget(start)
    energy, _ = window_energy(meter.read(start + 10**8, end), start + 10**8, end, meter.sensor)
    true_j = 2 * POWER_W * (end - start - 10**8) / 1e9
    assert energy.integral_j == pytest.approx(true_j, rel=1e-9)
    assert energy.energy_j == pytest.approx(true_j, rel=0.05)
    with pytest.raises(MeterError, match="let go"):
        meter.read(start - 10**8, end)


def test_samples_from_before_the_window_are_given_as_far_as_there_are_any(open_meter):
    meter = open_meter()
    wait_for(lambda: meter.latest() is not None)
    time.sleep(0.5)
    start = time.monotonic_ns()
    samples = meter.read(start, start)
    assert samples.t_ns[0] <= start - meter.margin_ns
    assert samples.t_ns[0] > start - meter.margin_ns - 50_000_000


def test_sensor_facts_carry_the_polling_period(open_meter):
    assert open_meter(period_s=0.05).sensor.poll_period_s == 0.05


@pytest.mark.parametrize("period_s", [0.0, 0.001, 0.2, float("nan")])
def test_periods_outside_20_to_100_polls_a_second_are_refused(open_meter, period_s):
    with pytest.raises(MeterError, match="cannot poll"):
        open_meter(period_s=period_s)


def test_waiting_for_a_tick_returns_on_a_step(open_meter):
    meter = open_meter()
    for _ in range(3):
        time.sleep(0.013)
        meter.wait_for_tick()
        since_tick_s = time.monotonic() % 0.05
        assert since_tick_s < 0.035


def test_waiting_for_a_tick_gives_up_on_a_frozen_counter(open_meter, tmp_path):
    meter = open_meter()
    (tmp_path / "lose-a").touch()
    started = time.monotonic()
    meter.wait_for_tick()
    assert time.monotonic() - started < 2.0


def test_a_lost_device_is_a_gap_of_its_own(open_meter, tmp_path):
    meter = open_meter()
    start = time.monotonic_ns()
    time.sleep(0.2)
    (tmp_path / "lose-a").touch()
    time.sleep(0.2)
    samples = meter.read(start, time.monotonic_ns())
    assert np.isnan(samples.energy_mj[0, -1])
    assert np.isnan(samples.power_w[0, -1])
    assert np.isfinite(samples.energy_mj[0, 0])
    assert np.isfinite(samples.energy_mj[1]).all()
    assert meter.statuses() == {"a": 15, "b": 0}


def test_a_killed_sampler_is_started_again_once_and_the_gap_is_seen(open_meter):
    meter = open_meter()
    start = time.monotonic_ns()
    time.sleep(0.2)
    os.kill(meter.sampler_pid, signal.SIGKILL)
    time.sleep(0.3)
    end = time.monotonic_ns()
    samples = meter.read(start, end)
    assert meter.restarts == 1
    assert samples.missed >= 20
    assert samples.t_ns[0] <= start + 10**8
    assert samples.t_ns[-1] >= end
    energy, _ = window_energy(samples, start, end, meter.sensor)
    assert "samples_missing" in energy.reasons
    os.kill(meter.sampler_pid, signal.SIGKILL)
    with pytest.raises(MeterError, match="ended \\(signal 9\\)"):
        meter.read(end, time.monotonic_ns())
    # What came before is not lost, and the reason is given again.
    assert meter.read(start, end).t_ns.size == samples.t_ns.size
    with pytest.raises(MeterError, match="signal 9"):
        meter.read(end, time.monotonic_ns())


def test_a_sampler_that_stalls_is_started_again(open_meter):
    meter = open_meter()
    wait_for(lambda: meter.latest() is not None)
    start = time.monotonic_ns()
    first = meter.sampler_pid
    os.kill(first, signal.SIGSTOP)
    samples = meter.read(start, time.monotonic_ns())
    assert meter.restarts == 1
    assert not running(first)
    assert samples.missed >= 50


def test_a_reader_that_fails_leaves_its_last_words(open_meter, tmp_path):
    meter = open_meter()
    (tmp_path / "raise").touch()
    with pytest.raises(MeterError, match="ZeroDivisionError: a fault of the reader"):
        meter.read(time.monotonic_ns(), time.monotonic_ns() + 10**8)


def test_what_keeps_a_reader_from_opening_is_said(tmp_path):
    with pytest.raises(MeterError, match="no such sensor") as caught:
        SampledMeter(
            "nvml",
            [steady(tmp_path, error="no such sensor")],
            FACTS,
            scope="gpu",
            environ=ENVIRON,
        )
    assert (caught.value.where, caught.value.fix) == ("the test", "leave it out")


def test_a_reader_that_does_not_exist_is_said(tmp_path):
    with pytest.raises(MeterError, match="did not start: ModuleNotFoundError"):
        SampledMeter("nvml", [ReaderSpec("nowhere:Reader")], FACTS, scope="gpu", environ=ENVIRON)


def test_other_devices_than_asked_for_are_refused(open_meter):
    with pytest.raises(MeterError, match="2 devices, not the 1 asked for"):
        open_meter(gpu_uuids=["a"])


def test_files_read_to_their_end_are_removed(open_meter):
    size = record_struct(2).size
    meter = open_meter(segment_bytes=5 * size)
    time.sleep(0.3)
    start = time.monotonic_ns()
    samples = meter.read(start - 2 * 10**8, start)
    left = list(meter._process.folder.glob("*.samples"))
    assert len(left) <= 2
    assert (np.diff(samples.t_ns) > 0).all()
    assert samples.missed <= 0.2 * samples.t_ns.size
    assert samples.t_ns.size >= 30


def test_a_torn_record_is_not_read(tmp_path):
    process = SamplerProcess([steady(tmp_path)], 0.01, environ=ENVIRON)
    try:
        wait_for(lambda: (process.folder / segment_name(0)).stat().st_size > 0)
        process.kill()
        before = process.drain()
        with (process.folder / segment_name(0)).open("ab") as file:
            file.write(b"\x55" * (record_struct(2).size - 1))
        assert process.drain().size == 0
        process.restart()
        wait_for(lambda: (process.folder / segment_name(1)).stat().st_size > 0)
        after = process.drain()
        assert after.size > 0
        assert before["slot"][-1] < after["slot"][0]
        assert after["t_ns"][0] - before["t_ns"][-1] < 10 * 10**9
        assert (process.folder / segment_name(0)).exists() is False
    finally:
        process.close()


def test_a_full_disk_ends_the_sampling_and_is_said(open_meter):
    meter = open_meter()
    start = time.monotonic_ns()
    time.sleep(0.4)
    full = (meter._process.folder / segment_name(0)).stat().st_size + 100
    resource.prlimit(meter.sampler_pid, resource.RLIMIT_FSIZE, (full, full))
    with pytest.raises(MeterError, match="cannot write its samples") as caught:
        meter.read(start, start + 10**9)
    assert caught.value.fix
    assert meter.restarts == 0
    latest = meter.latest()
    assert latest is not None
    assert latest.t_ns[0] > start
    assert meter.read(start, start + 10**7).t_ns.size > 2


def test_no_sampler_and_no_file_outlives_a_killed_parent(tmp_path):
    script = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from test_sampled_meter import *\n"
        "meter = SampledMeter('nvml', [steady(Path(sys.argv[2]))], FACTS, scope='gpu',"
        " environ=ENVIRON)\n"
        "print(meter.sampler_pid, meter._process.folder, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(HERE), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
    )
    assert parent.stdout is not None
    pid, folder = parent.stdout.readline().split()
    assert running(int(pid))
    parent.kill()
    parent.wait()
    wait_for(lambda: not running(int(pid)))
    assert not Path(folder).exists()
    parent.stdout.close()


def test_control_c_is_left_to_the_parent(open_meter):
    meter = open_meter()
    os.kill(meter.sampler_pid, signal.SIGINT)
    now = time.monotonic_ns()
    meter.read(now, now + 10**8)
    assert meter.restarts == 0


def test_closing_ends_the_process_removes_its_files_and_may_be_repeated(open_meter):
    meter = open_meter()
    pid, folder = meter.sampler_pid, meter._process.folder
    meter.close()
    meter.close()
    assert not running(pid)
    assert not folder.exists()
    with pytest.raises(MeterError, match="closed"):
        meter.read(0, 1)


def powercap(folder: Path, energy_uj: int) -> Path:
    zone = folder / "powercap" / "intel-rapl:0"
    zone.mkdir(parents=True, exist_ok=True)
    (zone / "name").write_text("package-0\n")
    (zone / "max_energy_range_uj").write_text("262143328850\n")
    temporary = zone / "new"
    temporary.write_text(f"{energy_uj}\n")
    with (zone / "energy_uj").open("w") as file:
        file.write(f"{energy_uj:12d}\n")
    return folder / "powercap"


def test_energy_of_the_host_is_read_beside_the_gpus(open_meter, tmp_path):
    root = powercap(tmp_path, 1_000_000)
    meter = open_meter(ReaderSpec("rapl", options={"root": str(root)}, optional=True))
    assert meter.gpu_uuids == ("a", "b")
    assert meter.host_ids == ("package-0",)
    time.sleep(0.1)
    start = time.monotonic_ns()
    time.sleep(0.1)
    powercap(tmp_path, 3_500_000)
    time.sleep(0.1)
    end = time.monotonic_ns()
    assert meter.read_host(start, end) == pytest.approx(2.5, abs=1e-9)
    assert meter.read_host(start - 10**10, end) is None
    assert meter.read(start, end).gpu_uuids == ("a", "b")


def test_without_counters_of_the_host_there_is_no_number(open_meter, tmp_path):
    meter = open_meter(ReaderSpec("rapl", options={"root": str(tmp_path)}, optional=True))
    assert meter.read_host(0, 1) is None
    assert "no energy counter" in meter.host_problem
