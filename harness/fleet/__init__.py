"""The fleet: a driver that fans launches out over Ray and collects their rows."""

from harness.fleet.driver import RunSummary, run_sweep
from harness.fleet.progress import ProgressSink, Quiet

__all__ = ["ProgressSink", "Quiet", "RunSummary", "run_sweep"]
