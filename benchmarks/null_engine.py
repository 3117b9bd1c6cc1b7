"""An engine that does nothing, at once: what is left is the harness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.catalog import Hardware, ModelFacts
from harness.engines import Phase, RunStamps
from harness.meters.none import NoMeter
from harness.spec import Deployment, Workload


class NullSession:
    """A deployment in virtual time, in which a run takes a millisecond."""

    virtual = True
    phases: tuple[Phase, ...] = ("prefill", "decode", "full")

    def __init__(self) -> None:
        self.meter = NoMeter()
        self._now_ns = 0

    def environment(self) -> dict[str, Any]:
        """Nothing to tell."""
        return {}

    def prepare(self, workloads: Sequence[Workload]) -> None:
        """Need nothing."""

    def run(self, workload: Workload, phase: Phase, count: int) -> RunStamps:
        """Stamp runs of a millisecond each."""
        starts = self._now_ns + 1_000_000 * np.arange(count, dtype=np.int64)
        self._now_ns += 1_000_000 * count
        firsts = starts + {"prefill": 1_000_000, "decode": 0, "full": 500_000}[phase]
        return RunStamps(starts, firsts, starts + 1_000_000)

    def rest(self, seconds: float) -> tuple[int, int]:
        """Pass virtual time."""
        start = self._now_ns
        self._now_ns += int(seconds * 1e9)
        return start, self._now_ns

    def close(self) -> None:
        """Hold nothing."""


class NullEngine:
    """Opens sessions that do nothing. Its rows have no energies."""

    name = "null"
    provenance = "projected"
    isolated = False

    def version(self, hardware: Hardware) -> str:
        """No version."""
        return "0"

    def open(self, model: ModelFacts, deployment: Deployment, seed: int) -> NullSession:
        """Bring nothing up."""
        return NullSession()
