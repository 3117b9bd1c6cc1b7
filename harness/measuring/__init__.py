"""How one launch measures: settings, warm-up, windows, stopping, drift, verdicts, rows."""

from harness.measuring.settings import LaunchSpec, Protocol, read_spec

__all__ = ["LaunchSpec", "Protocol", "read_spec"]
