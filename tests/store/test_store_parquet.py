"""Result files: the rows in the footer are those of the pages, and only while they are."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.store import RunFolder, read_measurements
from harness.store.convert import to_table, unite
from harness.store.jsonrows import from_json, to_json
from harness.store.parquet import SMALL_ROWS, loose_bytes, read_rows
from harness.store.schema import arrow_schema

ROWS = st.lists(
    st.fixed_dictionaries(
        {"task_id": st.text(max_size=5)},
        optional={
            "attempt": st.integers(1, 9),
            "batch": st.integers(-(2**62), 2**62),
            "total_energy_j": st.floats(),
            "valid": st.booleans(),
            "reasons": st.lists(st.text(max_size=3), max_size=2),
            "measured_at": st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1)),
            "note": st.text(max_size=4),
            "extra_w": st.floats(),
        },
    ),
    min_size=1,
    max_size=4,
)


def stored(rows: list[dict[str, object]]) -> pa.Table:
    return to_table(rows).drop_columns(["hardware"])


def same(one: pa.Table, two: pa.Table) -> bool:
    whole = arrow_schema(partition=False).empty_table()
    frames = [unite([whole, table]).to_pandas() for table in (one, two)]
    return bool(frames[0].sort_index(axis=1).equals(frames[1].sort_index(axis=1)))


@given(files=st.lists(ROWS, min_size=1, max_size=4))
def test_json_gives_the_rows_back(files):
    tables = [stored(rows) for rows in files]
    back = from_json([to_json(table) for table in tables])
    assert same(back, unite(tables))


def test_extra_columns_of_clashing_types_become_text_as_ever():
    tables = [stored([{"task_id": "a", "note": 1.0}]), stored([{"task_id": "b", "note": "x"}])]
    assert same(from_json([to_json(t) for t in tables]), unite(tables))


@pytest.mark.parametrize("count", [0, 1, SMALL_ROWS, SMALL_ROWS + 1])
def test_a_file_reads_the_same_with_and_without_us(tmp_path: Path, count: int):
    rows = [
        {"task_id": f"{i}", "total_energy_j": i / 3, "measured_at": datetime.now(UTC)}
        for i in range(count)
    ]
    table = stored(rows) if rows else arrow_schema(partition=False).empty_table()
    path = tmp_path / "loose-k.parquet"
    path.write_bytes(loose_bytes(table))
    content = read_rows(path)
    assert isinstance(content, str) == (0 < count <= SMALL_ROWS) or count == 0
    ours = from_json([content]) if isinstance(content, str) else content
    assert same(ours, table)
    assert same(pq.read_table(path), table)


def test_rows_of_a_file_that_somebody_changed_are_those_of_its_pages(tmp_path: Path):
    folder = RunFolder.create(tmp_path / "run", {})
    path = folder.write_result("k", "H", [{"task_id": "a", "total_energy_j": 1.0}])
    table = pq.ParquetFile(path).read()
    metadata = pq.read_metadata(path).metadata
    index = table.column_names.index("total_energy_j")
    changed = table.set_column(index, "total_energy_j", pa.array([2.0]))
    with pq.ParquetWriter(path, changed.schema, compression="none", use_dictionary=False) as writer:
        writer.write_table(changed)
        writer.add_key_value_metadata({k: v for k, v in metadata.items() if b"energylens" in k})
    assert b"energylens.rows" in pq.read_metadata(path).metadata
    assert read_measurements(folder)["total_energy_j"].tolist() == [2.0]
    folder.compact()
    assert read_measurements(folder)["total_energy_j"].tolist() == [2.0]
