"""Readers that tests hand to the sampler's process: a steady power, with faults on demand."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

from harness.errors import MeterError

POWER_W = 300.0
TICK_S = 0.05


class SteadyReader:
    """Every device draws `POWER_W`; a file in `folder` named after a fault brings it about."""

    def __init__(self, device_ids: Sequence[str], folder: str = "", error: str = "") -> None:
        print("vendors print on standard output")
        if error:
            raise MeterError(error, where="the test", fix="leave it out")
        self.device_ids = tuple(device_ids)
        self._folder = Path(folder)

    def read(self, slow: bool) -> list[tuple[float, ...]]:
        if (self._folder / "raise").exists():
            raise ZeroDivisionError("a fault of the reader")
        rows: list[tuple[float, ...]] = []
        for device in self.device_ids:
            if (self._folder / f"lose-{device}").exists():
                rows.append((*([math.nan] * 8), 15.0, 0.0))
            else:
                ticks = math.floor(time.monotonic() / TICK_S)
                energy_mj = ticks * TICK_S * POWER_W * 1e3
                rows.append((energy_mj, POWER_W, POWER_W, 50.0, 1980.0, 2619.0, 4.0, 1.0, 0.0, 0.0))
        return rows

    def close(self) -> None:
        pass
