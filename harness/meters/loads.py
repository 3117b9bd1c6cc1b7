"""Loads of known switch times: what a sensor is characterised with.

start(0.2)     done()  done()  done() -> True
    |------- work on the GPU -------|
    ^ edges() says from when        ^ to when, by the device's own stamps
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from harness.errors import MeterError

LONGEST_BURST_S = 1.2
SHORTEST_BURST_S = 0.004


class Load(Protocol):
    """Work that a device can be put to, in bursts whose edges are known to about 1 ms."""

    def prepare(self) -> None:
        """Open the context, allocate, warm up and calibrate; the device is at rest after it."""
        ...

    def start(self, seconds: float) -> None:
        """Begin a burst of about that length and return at once."""
        ...

    def done(self) -> bool:
        """Whether the burst is over; must be asked every few milliseconds, it feeds the device."""
        ...

    def edges(self) -> list[tuple[int, int]]:
        """Start and end of each burst since the last call, monotonic nanoseconds."""
        ...

    def close(self) -> None:
        """Free what `prepare` took."""
        ...


def burst_plan(seconds: float, period_s: float, seed: int) -> list[tuple[float, float]]:
    """Random bursts and pauses that tell widths from delays at every scale.

    Parameters
    ----------
    seconds
        How long all of them take.
    period_s
        Update period of the reading; a fifth of the shortest and above the longest are covered.
    seed
        Seed of the lengths.

    Returns
    -------
    list of tuple
        Seconds on, seconds off; log-uniform, so that short and long ones both occur.
    """
    rng = np.random.default_rng(seed)
    low = max(SHORTEST_BURST_S, 0.2 * period_s)
    high = max(LONGEST_BURST_S, 1.5 * period_s)
    plan = []
    left = seconds
    while left > 0:
        on, off = (float(low * (high / low) ** u) for u in rng.random(2))
        plan.append((on, off))
        left -= on + off
    return plan


class TorchLoad:
    """Matrix products on one CUDA device, kept in flight so that power stays up.

    Parameters
    ----------
    device
        UUID of the GPU, or its number as torch counts. A UUID is looked up by `prepare`, because
        that starts CUDA and may open a context, and power without one is measured before.
    size
        Rows of the square matrices; one product should take about a millisecond.
    clock
        Monotonic time, nanoseconds.
    torch
        The module; imported by `prepare` if None.
    """

    _AHEAD_S = 0.06

    def __init__(
        self,
        device: str | int,
        size: int = 8192,
        clock: Callable[[], int] = time.monotonic_ns,
        torch: Any = None,
    ) -> None:
        self._wanted = device
        self._size = size
        self._clock = clock
        self._torch = torch
        self._kernel_s = math.nan
        self._left = 0
        self._flying: deque[Any] = deque()
        self._spans: list[tuple[Any, Any]] = []
        self._first: Any = None

    def prepare(self) -> None:
        """Allocate two matrices and time their product.

        Raises
        ------
        MeterError
            If torch or the device refuses.
        """
        if self._torch is None:
            import torch as module

            self._torch = module
        torch = self._torch
        try:
            index = self._find() if isinstance(self._wanted, str) else self._wanted
            self._device = torch.device("cuda", index)
            while True:
                try:
                    self._a = torch.randn(
                        self._size, self._size, device=self._device, dtype=torch.bfloat16
                    )
                    self._b = torch.randn_like(self._a)
                    self._out = torch.empty_like(self._a)
                    break
                except torch.cuda.OutOfMemoryError:
                    if self._size <= 1024:
                        raise
                    self._size //= 2
            for _ in range(3):
                torch.mm(self._a, self._b, out=self._out)
            self._kernel_s = self._time(20)
            self._zero = self._stamp()
            torch.cuda.synchronize(self._device)
            self._zero_ns = self._clock()
        except RuntimeError as error:
            raise MeterError(
                f"the load does not start: {str(error).splitlines()[0]}",
                where=str(self._wanted),
                fix="free the GPU, and install a torch that belongs to its driver",
            ) from error

    def _find(self) -> int:
        cuda = self._torch.cuda
        for index in range(cuda.device_count()):
            found = str(getattr(cuda.get_device_properties(index), "uuid", ""))
            if found and found.removeprefix("GPU-") == str(self._wanted).removeprefix("GPU-"):
                return index
        raise MeterError(
            "torch does not show this GPU",
            where=str(self._wanted),
            fix="see CUDA_VISIBLE_DEVICES, and whether this torch is of the driver's CUDA",
        )

    def _time(self, count: int) -> float:
        start = self._stamp()
        for _ in range(count):
            self._torch.mm(self._a, self._b, out=self._out)
        end = self._stamp()
        self._torch.cuda.synchronize(self._device)
        return float(start.elapsed_time(end)) / 1e3 / count

    def _stamp(self) -> Any:
        event = self._torch.cuda.Event(enable_timing=True)
        event.record(self._torch.cuda.current_stream(self._device))
        return event

    def start(self, seconds: float) -> None:
        """Begin a burst of as many products as last that long."""
        self._left = max(1, round(seconds / self._kernel_s))
        self._first = self._stamp()
        self._feed()

    def _feed(self) -> None:
        """Keep about 60 ms of work in flight: the queue never runs dry and never blocks."""
        per_chunk = max(1, round(0.25 * self._AHEAD_S / self._kernel_s))
        while self._left and len(self._flying) < 4:
            chunk = min(per_chunk, self._left)
            for _ in range(chunk):
                self._torch.mm(self._a, self._b, out=self._out)
            self._left -= chunk
            self._flying.append(self._stamp())

    def done(self) -> bool:
        """Feed the device; true once the last product has ended."""
        last = None
        while self._flying and self._flying[0].query():
            last = self._flying.popleft()
        self._feed()
        if self._flying or last is None:
            return False
        self._spans.append((self._first, last))
        return True

    def edges(self) -> list[tuple[int, int]]:
        """Start and end of each burst by the stamps of the device, on the host's clock."""
        out = [(self._host_ns(start), self._host_ns(end)) for start, end in self._spans]
        self._spans = []
        return out

    def _host_ns(self, event: Any) -> int:
        return self._zero_ns + int(float(self._zero.elapsed_time(event)) * 1e6)

    def close(self) -> None:
        """Free the matrices; the context stays until the process ends."""
        if math.isfinite(self._kernel_s):
            self._torch.cuda.synchronize(self._device)
            del self._a, self._b, self._out
            self._torch.cuda.empty_cache()


def torch_load(uuid: str) -> tuple[TorchLoad | None, str]:
    """Load for the GPU of that UUID, if torch can use GPUs at all; opens no context.

    Returns
    -------
    tuple
        The load, or None; and why there is none, in words with what to do.
    """
    try:
        import torch
    except ImportError:
        return None, "the load needs torch (pip install 'energylens[transformers]')"
    if torch.version.cuda is None:
        return None, "this torch has no CUDA (install the CUDA build from pytorch.org)"
    if not torch.cuda.is_available():
        return None, "torch cannot use this driver (see torch.cuda.is_available)"
    return TorchLoad(uuid), ""
