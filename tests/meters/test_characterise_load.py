"""The torch load against a device whose stream is simulated: edges, gaps, refusals."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import MeterError
from harness.meters.loads import TorchLoad, torch_load

KERNEL_NS = 1_500_000


class OutOfMemoryError(RuntimeError): ...


class Device:
    """A stream that runs what it is given, one thing after the other, on a clock of its own."""

    def __init__(self, largest: int = 8192) -> None:
        self.now_ns = 5_000_000_000
        self.free_ns = 0
        self.gaps_ns: list[int] = []
        self.largest = largest
        self.cuda = SimpleNamespace(
            Event=lambda enable_timing: Event(self),
            synchronize=lambda device: setattr(self, "now_ns", max(self.now_ns, self.free_ns)),
            current_stream=lambda device: self,
            empty_cache=lambda: None,
            OutOfMemoryError=OutOfMemoryError,
            device_count=lambda: 2,
            get_device_properties=lambda i: SimpleNamespace(uuid=f"00-{i}"),
        )
        self.bfloat16 = "bf16"

    def device(self, kind: str, index: int) -> tuple[str, int]:
        return kind, index

    def randn(self, *shape: int, device: Any, dtype: Any) -> object:
        if shape[0] > self.largest:
            raise OutOfMemoryError("CUDA out of memory\nmore words")
        return object()

    def randn_like(self, other: object) -> object:
        return object()

    empty_like = randn_like

    def mm(self, a: object, b: object, out: object) -> None:
        if self.free_ns < self.now_ns:
            self.gaps_ns.append(self.now_ns - self.free_ns)
        self.free_ns = max(self.free_ns, self.now_ns) + KERNEL_NS
        self.now_ns += 8_000  # launching costs the host some time


class Event:
    def __init__(self, device: Device) -> None:
        self.device = device

    def record(self, stream: Device) -> None:
        self.at_ns = max(stream.now_ns, stream.free_ns)

    def query(self) -> bool:
        return self.device.now_ns >= self.at_ns

    def elapsed_time(self, later: Event) -> float:
        return (later.at_ns - self.at_ns) / 1e6


def test_edges_are_those_of_the_work_and_the_queue_never_runs_dry() -> None:
    device = Device()
    load = TorchLoad(0, clock=lambda: device.now_ns, torch=device)
    load.prepare()
    for seconds in (0.004, 0.05, 1.0, 3.0):
        device.now_ns += 200_000_000
        device.gaps_ns.clear()
        asked_ns = device.now_ns
        load.start(seconds)
        while not load.done():
            device.now_ns += 2_000_000
        ((start_ns, end_ns),) = load.edges()
        assert start_ns == pytest.approx(asked_ns, abs=50_000)
        assert end_ns - start_ns == pytest.approx(seconds * 1e9, abs=KERNEL_NS)
        assert end_ns == pytest.approx(device.free_ns, abs=50_000)
        assert len(device.gaps_ns) == 1, "the device waited in the middle of a burst"
    assert load.edges() == []
    load.close()


def test_a_small_gpu_gets_smaller_matrices_and_a_full_one_an_error() -> None:
    device = Device(largest=2048)
    load = TorchLoad(0, clock=lambda: device.now_ns, torch=device)
    load.prepare()
    load.close()
    device = Device(largest=0)
    full = TorchLoad(3, clock=lambda: device.now_ns, torch=device)
    with pytest.raises(MeterError, match="CUDA out of memory") as caught:
        full.prepare()
    assert "more words" not in str(caught.value)
    assert caught.value.fix
    full.close()


def test_the_gpu_is_looked_up_by_its_uuid_when_it_is_prepared() -> None:
    device = Device()
    load = TorchLoad("GPU-00-1", clock=lambda: device.now_ns, torch=device)
    load.prepare()
    assert load._device == ("cuda", 1)
    hidden = TorchLoad("GPU-00-7", clock=lambda: device.now_ns, torch=device)
    with pytest.raises(MeterError, match="does not show this GPU"):
        hidden.prepare()
    hidden.close()


def test_where_there_is_no_cuda_the_reason_is_in_words() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    load, why = torch_load("GPU-1")
    assert load is None
    assert "CUDA" in why or "driver" in why
