"""Other people's measurements into the measurement table."""

from __future__ import annotations

from harness.importers.base import FORMATS, ImportSummary, import_data

__all__ = ["FORMATS", "ImportSummary", "import_data"]
