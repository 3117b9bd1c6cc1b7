"""Kinds of rows: with an energy, with times only, and without numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

NO_POWER_METER = "no_power_meter"


def time_only(frame: pd.DataFrame) -> pd.Series:
    """Tell the rows that have times but no energy, because their machine has no power meter.

    Returns
    -------
    pandas.Series
        True or False, with the index of `frame`.
    """
    without = frame["total_energy_j"].isna() & frame["total_latency_s"].notna()
    named: pd.Series = frame["reasons"].map(
        lambda codes: codes is not None and NO_POWER_METER in codes
    )
    return without & named.astype(bool)


def without_numbers(frame: pd.DataFrame) -> pd.Series:
    """Tell the rows that only say why a task failed: neither energy nor time."""
    wrong = ~frame["valid"].fillna(True).astype(bool)
    return frame["total_energy_j"].isna() & frame["total_latency_s"].isna() & wrong


def origins(frame: pd.DataFrame) -> dict[str, int]:
    """Count the rows with an energy by provenance, most frequent first."""
    counted = frame.loc[frame["total_energy_j"].notna(), "provenance"].value_counts()
    return {str(name): int(rows) for name, rows in counted.items()}
