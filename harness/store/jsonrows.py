"""A few result rows as JSON, exact, and many such back into one table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType

import pyarrow as pa

from harness.store.convert import unite
from harness.store.schema import arrow_schema

_KINDS = MappingProxyType({bool: pa.bool_(), float: pa.float64(), str: pa.string()})


def to_json(table: pa.Table) -> str:
    """Encode rows without their nulls; times become microseconds, other columns keep values."""
    columns = {}
    for name in table.column_names:
        column = table.column(name)
        if column.null_count < len(column):
            columns[name] = column.cast(pa.int64()) if _is_time(column.type) else column
    rows = pa.table(columns).to_pylist() if columns else [{}] * len(table)
    return json.dumps([{k: v for k, v in row.items() if v is not None} for row in rows])


def from_json(texts: Sequence[str]) -> pa.Table:
    """Decode what `to_json` gave, one text after the other, into one table.

    Columns that no row has a value for are missing. An extra column of clashing types becomes
    text, as `unite` does it.
    """
    rows = [json.loads(text) for text in texts]
    extras: dict[str, type] = {}
    known = _known()
    for group in rows:
        for row in group:
            for name, value in row.items():
                if name not in known and extras.setdefault(name, type(value)) is not type(value):
                    return unite([_table(group) for group in rows])
    return _table([row for group in rows for row in group])


def _table(rows: list[dict[str, object]]) -> pa.Table:
    present: dict[str, object] = {}
    for row in rows:
        present.update(row)
    known = _known()
    fields = {name: known[name] for name in known if name in present}
    fields |= {n: _KINDS[type(v)] for n, v in present.items() if n not in known}
    arrays = {}
    for name, kind in fields.items():
        values = [row.get(name) for row in rows]
        if _is_time(kind):
            arrays[name] = pa.array(values, pa.int64()).cast(kind)
        else:
            arrays[name] = pa.array(values, kind)
    return pa.table(arrays)


def _is_time(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind))


@lru_cache(maxsize=1)
def _known() -> Mapping[str, pa.DataType]:
    return {field.name: field.type for field in arrow_schema(partition=False)}
