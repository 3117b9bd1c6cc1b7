"""The report: one self-contained HTML page about a run."""

from energylens.report.write import WrittenReport, write_report

__all__ = ["WrittenReport", "write_report"]
