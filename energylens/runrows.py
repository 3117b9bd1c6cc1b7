"""What the rows of a run say: valid, flagged, failed, energy; read by the columns needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from energylens.rowkinds import NO_POWER_METER

if TYPE_CHECKING:
    import pyarrow as pa

    from harness.store import RunFolder

_COLUMNS = [
    "task_id",
    "attempt",
    "valid",
    "reasons",
    "total_energy_j",
    "total_latency_s",
    "provenance",
]
_THREADS = 4


@dataclass(frozen=True, slots=True)
class RowCounts:
    """Counts of the measurement table, one row a task.

    Attributes
    ----------
    done, valid, time_only
        Rows with numbers; those that are valid; those with times but no energy, because their
        machine has no power meter.
    energy_j
        Sum of total_energy_j; None where no row has one.
    reasons
        Reason code -> flagged rows.
    failures
        Class -> tasks without numbers, from their rows and from events.
    imported
        Whether all rows are somebody else's.
    """

    done: int
    valid: int
    time_only: int
    energy_j: float | None
    reasons: dict[str, int]
    failures: dict[str, int]
    imported: bool


def count_rows(folder: RunFolder, failed: Mapping[str, str]) -> RowCounts:
    """Count the rows of a run.

    Parameters
    ----------
    folder
        The run.
    failed
        Task -> class, of tasks that events call failed. One that was measured by a later
        attempt is not a failure.

    Raises
    ------
    StoreError
        If a file of the run is torn (named).
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from harness.store.folder import retrying

    table = _one_row_a_task(cast("pa.Table", retrying(lambda: _read(folder))))
    valid = pc.fill_null(table["valid"], True)
    no_energy, no_time = pc.is_null(table["total_energy_j"]), pc.is_null(table["total_latency_s"])
    empty = pc.and_(pc.and_(no_energy, no_time), pc.invert(valid))
    classes = dict(failed)
    without = table.filter(empty)
    for task_id, codes in _pairs(without, "task_id", "reasons"):
        classes.setdefault(task_id, ", ".join(codes or ()) or "unknown")
    measured = table.filter(pc.invert(empty))
    if classes:
        again = pc.is_in(measured["task_id"], value_set=pa.array(list(classes), pa.string()))
        for task_id in measured["task_id"].filter(again).to_pylist():
            del classes[task_id]
    is_valid = pc.fill_null(measured["valid"], True)
    timed = pc.and_(
        pc.is_null(measured["total_energy_j"]), pc.is_valid(measured["total_latency_s"])
    )
    flagged = measured.filter(pc.or_(pc.invert(is_valid), timed))
    reasons = Counter[str]()
    time_only = 0
    for energy_j, codes, good in zip(
        flagged["total_energy_j"].to_pylist(),
        flagged["reasons"].to_pylist(),
        flagged["valid"].to_pylist(),
        strict=True,
    ):
        if energy_j is None and NO_POWER_METER in (codes or ()):
            time_only += 1
        elif good is False:
            reasons.update(codes or ())
    origins = pc.unique(measured["provenance"]).to_pylist()
    return RowCounts(
        done=measured.num_rows,
        valid=int(pc.sum(is_valid).as_py() or 0),
        time_only=time_only,
        energy_j=pc.sum(measured["total_energy_j"]).as_py(),
        reasons=dict(reasons.most_common()),
        failures=dict(Counter(classes.values()).most_common()),
        imported=origins == ["imported"],
    )


def _read(folder: RunFolder) -> pa.Table:
    import pyarrow as pa

    from harness.store.compact import read_parquet, result_files
    from harness.store.schema import arrow_schema

    schema = arrow_schema()
    wanted = pa.schema([schema.field(name) for name in _COLUMNS])
    files = [path for _, partition in folder.partitions() for path in result_files(partition)]
    with ThreadPoolExecutor(_THREADS) as pool:
        tables = list(pool.map(lambda path: read_parquet(path, _COLUMNS), files))
    return pa.concat_tables([wanted.empty_table(), *tables], promote_options="permissive")


def _one_row_a_task(table: pa.Table) -> pa.Table:
    """Keep the highest attempt of each task, the later row on a tie."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pc.count_distinct(table["task_id"]).as_py() == table.num_rows:
        return table
    best: dict[str, tuple[int, int]] = {}
    for row, (task_id, attempt) in enumerate(_pairs(table, "task_id", "attempt")):
        number = 1 if attempt is None else attempt
        if number >= best.get(task_id, (number, 0))[0]:
            best[task_id] = (number, row)
    return table.take(pa.array(sorted(row for _, row in best.values()), pa.int64()))


def _pairs(table: pa.Table, one: str, other: str) -> Iterator[tuple[Any, Any]]:
    return zip(table[one].to_pylist(), table[other].to_pylist(), strict=True)
