"""Pair the rows of two runs by task, and tell what has no partner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from energylens.comparison.texts import texts
from energylens.report.rows import layout, records, workload
from energylens.rowkinds import NO_POWER_METER, without_numbers
from harness.errors import EnergyLensError
from harness.measuring.reasons import REASONS

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Unpaired:
    """A task that cannot be compared, and why.

    Attributes
    ----------
    kind
        missing (in the old run only), new (in the new run only), failed (has no numbers any
        more), flagged (not valid any more), recovered (was not valid), never (valid in neither).
    reasons
        Codes of the row that is not valid.
    """

    task_id: str
    kind: str
    model_id: str
    hardware: str
    layout: str
    workload: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Matched:
    """Two runs, row by row.

    Attributes
    ----------
    old, new
        Rows that can be compared, indexed by task_id, in the same order.
    unpaired
        What cannot.
    provenance
        That of all compared rows.
    """

    old: pd.DataFrame
    new: pd.DataFrame
    unpaired: tuple[Unpaired, ...]
    provenance: str


def match(old: pd.DataFrame, new: pd.DataFrame) -> Matched:
    """Pair the usable rows of two measurement tables.

    Parameters
    ----------
    old, new
        Measurement tables, one row a task.

    Raises
    ------
    EnergyLensError
        If the tables hold different provenances, or no task is usable in both.
    """
    provenance = _one_provenance(old, new)
    before, after = old.set_index("task_id"), new.set_index("task_id")
    good_before, good_after = _usable(before), _usable(after)
    common = before.index.intersection(after.index)
    both = common[good_before.loc[common].to_numpy() & good_after.loc[common].to_numpy()]
    if both.empty:
        raise EnergyLensError(
            "the two runs have no task in common that is valid in both",
            where=f"{len(before)} tasks in the old run ({int(good_before.sum())} usable), "
            f"{len(after)} in the new one ({int(good_after.sum())} usable), "
            f"{len(common)} in both",
            fix="compare two runs of the same sweep on the same type of hardware; "
            "`energylens status DIR` shows what a run holds",
        )
    return Matched(
        before.loc[both],
        after.loc[both],
        tuple(_unpaired(before, after, good_before, good_after)),
        provenance,
    )


def name_of(row: dict[str, Any]) -> tuple[str, str, str, str]:
    """Return model, hardware, layout and workload of a record, as people read them."""
    return str(row["model_id"]), str(row["hardware"]), layout(row), workload(row)


def _usable(frame: pd.DataFrame) -> pd.Series:
    """Tell the rows that are valid, or lack nothing but a power meter: their times count."""
    only_meter: pd.Series = frame["reasons"].map(_only_meter).astype(bool)
    valid = frame["valid"].fillna(True).astype(bool)
    return valid | (only_meter & frame["total_latency_s"].notna())


def _only_meter(codes: Any) -> bool:
    hard = {code for code in texts(codes) if code not in REASONS or REASONS[code].hard}
    return hard == {NO_POWER_METER}


def _one_provenance(old: pd.DataFrame, new: pd.DataFrame) -> str:
    """Return the provenance of everything; refuse a mixture."""
    kinds = [sorted(str(v) for v in f["provenance"].fillna("unknown").unique()) for f in (old, new)]
    if kinds[0] != kinds[1] or len(kinds[0]) != 1:
        raise EnergyLensError(
            "rows of different provenance cannot be compared",
            where=f"old run: {', '.join(kinds[0]) or 'no rows'}; "
            f"new run: {', '.join(kinds[1]) or 'no rows'}",
            fix="compare measured runs with measured ones, projected with projected ones",
        )
    return kinds[0][0]


def _unpaired(
    before: pd.DataFrame, after: pd.DataFrame, good_before: pd.Series, good_after: pd.Series
) -> list[Unpaired]:
    """List what has no partner: failures first, then flags, missing, new and recovered tasks."""
    common = before.index.intersection(after.index)
    was, is_ = good_before.loc[common].to_numpy(), good_after.loc[common].to_numpy()
    empty = without_numbers(after).loc[common].to_numpy()
    parts = (
        ("failed", after, common[was & ~is_ & empty]),
        ("flagged", after, common[was & ~is_ & ~empty]),
        ("missing", before, before.index.difference(after.index)),
        ("new", after, after.index.difference(before.index)),
        ("recovered", before, common[~was & is_]),
        ("never", after, common[~was & ~is_]),
    )
    found = []
    for kind, frame, ids in parts:
        rows = frame.loc[ids]
        for task_id, row, codes in zip(ids, records(rows), rows["reasons"], strict=True):
            found.append(Unpaired(str(task_id), kind, *name_of(row), texts(codes)))
    return found
