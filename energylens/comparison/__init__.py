"""What changed between two runs of the same work, and whether it got worse."""

from energylens.comparison.nights import compare_frames, compare_runs
from energylens.comparison.result import Comparison, Options

__all__ = ["Comparison", "Options", "compare_frames", "compare_runs"]
