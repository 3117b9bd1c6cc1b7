"""A meter whose samples are taken by a process of its own.

    sampler process -> records on disk -> SampledMeter -> Samples of any window, until forgotten

A sampler that dies or stalls is started again once on the same schedule: what it missed is a gap
that the window sees, what came before is kept.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from harness.errors import MeterError
from harness.meters.base import Samples, SensorFacts
from harness.meters.records import READING_FIELDS, SEGMENT_BYTES
from harness.meters.sampler_process import ReaderSpec, Records, SamplerProcess

MARGIN_PERIODS = 4
"""Counter periods that are read beyond each edge of a window."""

STALL_PERIODS = 50
STALL_S = 1.0
"""No new record for so many polling periods, and so long, means that the sampler stalls."""

MAX_RESTARTS = 1

KEEP_S = 3600.0
"""Records older than this are let go; an hour of 8 GPUs at 50 Hz takes about 120 MB."""

HOST_READER = "rapl"

_FIELD = {name: i for i, name in enumerate(READING_FIELDS)}


class SampledMeter:
    """Samples of one or more readers, taken beside the measured work.

    Parameters
    ----------
    name
        What the table says under `meter`: nvml, amdsmi, rapl.
    readers
        What the sampler opens. The devices of the first are those of the meter; those of
        `rapl`, first or later, are the host's.
    sensor
        Facts about the sensor; its `poll_period_s` is set to `period_s`.
    scope
        What the counter covers: gpu, module, package.
    simulated
        Whether no physical sensor takes part.
    gpu_uuids
        Names of the devices; None takes those that the reader finds.
    period_s
        Time between two polls, 0.01 to 0.05 s.
    environ
        Environment of the sampler; this process's by default.
    segment_bytes
        Size of one file of records.
    sleep
        Sleeps for so many seconds.

    Raises
    ------
    MeterError
        If the sensors cannot be opened, or other devices than `gpu_uuids` are found.
    """

    has_power = True

    def __init__(
        self,
        name: str,
        readers: Sequence[ReaderSpec],
        sensor: SensorFacts,
        *,
        scope: str,
        simulated: bool = False,
        gpu_uuids: Sequence[str] | None = None,
        period_s: float = 0.02,
        environ: Mapping[str, str] | None = None,
        segment_bytes: int = SEGMENT_BYTES,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.name = name
        self.simulated = simulated
        self.scope = scope
        self.restarts = 0
        self._sensor = dataclasses.replace(sensor, poll_period_s=period_s)
        self._sleep = sleep
        self._process = SamplerProcess(
            readers, period_s, environ=environ, segment_bytes=segment_bytes
        )
        self._closed = False
        self._failure: MeterError | None = None
        found = [tuple(about["devices"]) for about in self._process.readers]
        self.gpu_uuids: tuple[str, ...] = found[0]
        if gpu_uuids is not None and tuple(gpu_uuids) != found[0]:
            self.close()
            raise MeterError(
                f"the sampler reads {len(found[0])} devices, not the {len(gpu_uuids)} asked for",
                where=", ".join(sorted(set(gpu_uuids) ^ set(found[0]))),
            )
        self._host: slice | None = None
        self.host_problem = ""
        offset = 0
        for about, devices in zip(self._process.readers, found, strict=True):
            if about["reader"] == HOST_READER and devices:
                self._host = slice(offset, offset + len(devices))
            if about["error"]:
                self.host_problem = str(about["error"]["what"])
            offset += len(devices)
        self._chunks: list[Records] = []
        self._forgotten_ns = 0
        self._seen_ns = time.monotonic_ns()

    @property
    def sensor(self) -> SensorFacts:
        """Facts about the sensor behind this meter."""
        return self._sensor

    @property
    def margin_ns(self) -> int:
        """How far beyond the edges of a window samples are read, nanoseconds."""
        sensor = self._sensor
        period_s = max(sensor.counter_period_s, sensor.poll_period_s)
        return int(1e9 * (MARGIN_PERIODS * period_s + sensor.lag_s))

    @property
    def host_ids(self) -> tuple[str, ...]:
        """Names of the host's energy counters, empty where none can be read."""
        return () if self._host is None else self._process.device_ids[self._host]

    @property
    def sampler_pid(self) -> int:
        """Process id of the sampler."""
        return self._process.pid

    def read(self, start_ns: int, end_ns: int) -> Samples:
        """Wait for the samples of a window and return them, with a margin on both sides.

        Parameters
        ----------
        start_ns, end_ns
            The window, monotonic time.

        Raises
        ------
        MeterError
            If the sampler is gone for good, or the samples were let go already.
        """
        return self._samples(self._window(start_ns, end_ns), slice(0, len(self.gpu_uuids)))

    def host_samples(self, start_ns: int, end_ns: int) -> Samples | None:
        """Samples of the host's energy counters, or None where none can be read."""
        if self._host is None:
            return None
        return self._samples(self._window(start_ns, end_ns), self._host)

    def read_host(self, start_ns: int, end_ns: int) -> float | None:
        """Energy of the CPU packages and their memory between two instants, joules.

        Counters are interpolated at both edges. None where they cannot be read, not over the
        whole of the window, or where one was reset.
        """
        samples = self.host_samples(start_ns, end_ns)
        if samples is None or samples.delay_ns is None or samples.t_ns.size < 2:
            return None
        total_j = 0.0
        for energy_mj, delay_ns in zip(samples.energy_mj, samples.delay_ns, strict=True):
            t_ns = samples.t_ns + delay_ns
            if not t_ns[0] <= start_ns <= end_ns <= t_ns[-1] or np.isnan(energy_mj).any():
                return None
            if (np.diff(energy_mj) < 0).any():
                return None
            # From the first sample on: floats would round nanoseconds since boot.
            edges = np.array([start_ns - t_ns[0], end_ns - t_ns[0]], dtype=np.float64)
            start_mj, end_mj = np.interp(edges, (t_ns - t_ns[0]).astype(np.float64), energy_mj)
            total_j += (end_mj - start_mj) / 1e3
        return float(total_j)

    def latest(self) -> Samples | None:
        """The newest poll alone, or None if there is none yet."""
        self._drain()
        if not self._chunks:
            return None
        return self._samples(self._chunks[-1][-1:], slice(0, len(self.gpu_uuids)))

    def statuses(self) -> dict[str, int]:
        """Give the error code of each device's newest poll; 0 where it could be read."""
        self._drain()
        if not self._chunks:
            return {}
        codes = self._chunks[-1]["values"][-1, : len(self.gpu_uuids), _FIELD["status"]]
        return {uuid: int(code) for uuid, code in zip(self.gpu_uuids, codes, strict=True)}

    def wait_for_tick(self) -> None:
        """Return just after the counter of the first device moved.

        Gives up after ten counter periods, or a second: a counter that stands still is for
        the verdict on the window to find. Without a counter it returns at once.
        """
        if not self._sensor.has_counter:
            return
        patience_ns = int(1e9 * max(1.0, 10 * self._sensor.counter_period_s))
        until_ns = time.monotonic_ns() + patience_ns
        self._drain()
        before = self._counter()
        while time.monotonic_ns() < until_ns:
            if not self._drain():
                self._check()
                self._sleep(self._sensor.poll_period_s / 4)
                continue
            now = self._counter()
            if now > before:
                return
            before = now

    def forget(self, before_ns: int) -> None:
        """Let go of all samples taken before an instant."""
        kept = [chunk[chunk["t_ns"] >= before_ns] for chunk in self._chunks]
        self._chunks = [chunk.copy() for chunk in kept if chunk.size]
        self._forgotten_ns = max(self._forgotten_ns, before_ns)

    def close(self) -> None:
        """End the sampler and remove its files; may be called again."""
        self._closed = True
        self._process.close()

    def __enter__(self) -> SampledMeter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _window(self, start_ns: int, end_ns: int) -> Records:
        """Wait for the records of a window with its margins, and return them."""
        first_ns, last_ns = start_ns - self.margin_ns, end_ns + self.margin_ns
        if start_ns < self._forgotten_ns:
            raise MeterError(
                "the samples of this window were let go already",
                where=f"window from {start_ns} ns, samples kept from {self._forgotten_ns} ns",
            )
        self._wait_until(last_ns)
        after = [i for i, chunk in enumerate(self._chunks) if chunk["t_ns"][-1] >= last_ns]
        before = [i for i, chunk in enumerate(self._chunks) if chunk["t_ns"][0] <= first_ns]
        records = np.concatenate(self._chunks[max(before, default=0) : min(after) + 1])
        t_ns = records["t_ns"]
        begin = max(0, int(np.searchsorted(t_ns, first_ns, side="right")) - 1)
        end = int(np.searchsorted(t_ns, last_ns, side="left")) + 1
        return records[begin:end]

    def _wait_until(self, t_ns: int) -> None:
        """Wait for a record of this instant or later."""
        self._drain()
        while not self._chunks or self._chunks[-1]["t_ns"][-1] < t_ns:
            self._check()
            left_s = (t_ns - time.monotonic_ns()) / 1e9
            self._sleep(min(0.5, max(left_s, self._sensor.poll_period_s / 2)))
            self._drain()

    def _drain(self) -> bool:
        """Take what the sampler has written; return whether there was anything."""
        if self._closed:
            raise MeterError("the meter is closed", where=self.name)
        new = self._process.drain()
        if not new.size:
            return False
        self._seen_ns = time.monotonic_ns()
        # Few large chunks rather than one a poll.
        if self._chunks and self._chunks[-1].size < 4096:
            self._chunks[-1] = np.concatenate((self._chunks[-1], new))
        else:
            self._chunks.append(new)
        oldest_ns = int(self._chunks[-1]["t_ns"][-1]) - int(KEEP_S * 1e9)
        while self._chunks[0]["t_ns"][-1] < oldest_ns:
            self._forgotten_ns = int(self._chunks.pop(0)["t_ns"][-1]) + 1
        return True

    def _check(self) -> None:
        """Start a dead or stalled sampler again, once.

        Raises
        ------
        MeterError
            If it is gone for good; it says so again each time.
        """
        if self._failure is not None:
            raise self._failure
        stall_s = max(STALL_S, STALL_PERIODS * self._sensor.poll_period_s)
        alive = self._process.alive
        if alive and (time.monotonic_ns() - self._seen_ns) / 1e9 < stall_s:
            return
        # Written before it ended, after the last look; or only this process was held up.
        if self._drain() and alive:
            return
        if alive:
            error = MeterError(
                f"the sampler of the power sensors gave no sample for {stall_s:g} s",
                where=f"process {self._process.pid}",
                fix="look for a hung driver (the kernel log tells)",
            )
        else:
            error = self._process.error()
        try:
            if self.restarts >= MAX_RESTARTS or self._process.refused:
                raise error
            self._process.kill()
            self._drain()
            self._process.restart()
        except MeterError as failure:
            self._failure = failure
            raise
        self.restarts += 1
        self._seen_ns = time.monotonic_ns()

    def _counter(self) -> float:
        """Energy counter of the first device, mJ."""
        if not self._chunks:
            return np.nan
        return float(self._chunks[-1]["values"][-1, 0, _FIELD["energy_mj"]])

    def _samples(self, records: Records, devices: slice) -> Samples:
        values = records["values"][:, devices]

        def field(name: str) -> npt.NDArray[np.float64]:
            return np.ascontiguousarray(values[:, :, _FIELD[name]].T)

        slots = records["slot"]
        polled = int(slots[-1] - slots[0]) + 1 if slots.size else 0
        return Samples(
            t_ns=records["t_ns"].astype(np.int64),
            gpu_uuids=self._process.device_ids[devices],
            power_w=field("power_w"),
            energy_mj=field("energy_mj"),
            throttle_mask=np.nan_to_num(field("throttle_mask")).astype(np.int64),
            temperature_c=field("temperature_c"),
            sm_clock_mhz=field("sm_clock_mhz"),
            mem_clock_mhz=field("mem_clock_mhz"),
            process_count=field("process_count"),
            status=np.nan_to_num(field("status")).astype(np.int64),
            delay_ns=np.rint(np.nan_to_num(field("delay_s")) * 1e9).astype(np.int64),
            wall_ns=records["wall_ns"].astype(np.int64),
            missed=polled - int(slots.size),
        )
