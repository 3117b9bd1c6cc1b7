"""Frames and rows into Arrow tables of the measurement schema, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from harness.errors import StoreError
from harness.store.schema import ALIASES, BY_NAME, COLUMNS, TRACE_COLUMNS, Column, trace_schema

Rows: TypeAlias = pd.DataFrame | Iterable[Mapping[str, object]]


def to_frame(table: pa.Table) -> pd.DataFrame:
    """Turn an Arrow table into a pandas frame, with lists as Python lists."""
    frame: pd.DataFrame = table.to_pandas()
    if "reasons" in frame.columns:
        values = table.column("reasons").to_pylist()
        frame["reasons"] = pd.Series(values, index=frame.index, dtype=object)
    return frame


def to_table(frame: Rows) -> pa.Table:
    """Turn a frame or rows into an Arrow table with every column of the measurement table."""
    frame = _as_frame(frame)
    arrays: dict[str, pa.Array] = {}
    for column in COLUMNS:
        if column.name in frame.columns:
            arrays[column.name] = _cast(frame[column.name], column)
        else:
            arrays[column.name] = pa.nulls(len(frame), column.arrow)
    for name in frame.columns:
        if name not in BY_NAME:
            extra = _extra(frame[name])
            if extra is not None:
                arrays[str(name)] = extra
    return pa.table(arrays)


def to_trace_table(frame: Rows, key: str) -> pa.Table:
    """Turn power samples into an Arrow table of the trace schema; other columns are kept."""
    frame = _as_frame(frame)
    schema = trace_schema()
    known = {name for name, _ in TRACE_COLUMNS}
    arrays: dict[str, pa.Array] = {}
    for field in schema:
        if field.name == "key":
            arrays["key"] = pa.repeat(pa.scalar(key), len(frame))
        elif field.name in frame.columns:
            try:
                arrays[field.name] = _array(frame[field.name]).cast(field.type)
            except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
                raise StoreError(
                    f"A trace holds a value that column {field.name} cannot hold: {error}",
                    where=f"trace {key}",
                ) from error
        else:
            arrays[field.name] = pa.nulls(len(frame), field.type)
    for name in frame.columns:
        if name not in known and (extra := _extra(frame[name])) is not None:
            arrays[str(name)] = extra
    return pa.table(arrays)


def unite(tables: list[pa.Table]) -> pa.Table:
    """Stack tables whose extra columns may differ; a clash of types becomes text."""
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        kinds: dict[str, set[pa.DataType]] = {}
        for table in tables:
            for field in table.schema:
                if field.name not in BY_NAME:
                    kinds.setdefault(field.name, set()).add(field.type)
        clashes = {name for name, types in kinds.items() if len(types) > 1}
        return pa.concat_tables(
            [_as_text(t, clashes) for t in tables], promote_options="permissive"
        )


def _as_text(table: pa.Table, names: set[str]) -> pa.Table:
    for index, field in enumerate(table.schema):
        if field.name in names:
            text = table.column(index).cast(pa.string())
            table = table.set_column(index, pa.field(field.name, pa.string()), text)
    return table


def _as_frame(frame: Rows) -> pd.DataFrame:
    if not isinstance(frame, pd.DataFrame):
        frame = pd.DataFrame.from_records([dict(row) for row in frame])
    renames = {old: new for old, new in ALIASES.items() if old in frame and new not in frame}
    return frame.rename(columns=renames) if renames else frame


def _array(series: pd.Series) -> pa.Array:
    array = pa.array(series, from_pandas=True)
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _cast(series: pd.Series, column: Column) -> pa.Array:
    """Cast one series to the type of its column, or say which value does not fit."""
    try:
        array = _array(series)
        if column.type == "time":
            return _times(array)
        if column.type == "list" and not (
            pa.types.is_list(array.type) or pa.types.is_null(array.type)
        ):
            raise StoreError(
                f"Column {column.name} needs a list of codes in each row.",
                where=f"column {column.name}",
            )
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        return array.cast(column.arrow)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise StoreError(
            f"Column {column.name} cannot hold this as {column.type}: {error}",
            where=f"column {column.name}",
            fix="give numbers in the unit that the column name says, and null where unknown",
        ) from error


def _times(array: pa.Array) -> pa.Array:
    utc = pa.timestamp("us", tz="UTC")
    if pa.types.is_timestamp(array.type) and array.type.tz is None:
        array = pc.assume_timezone(array.cast(pa.timestamp("us"), safe=False), "UTC")
    return array.cast(utc, safe=False)


def _extra(series: pd.Series) -> pa.Array | None:
    """Store a column that the schema does not know: numbers as double, else text."""
    array = _array(series)
    if array.null_count == len(array):
        return None
    kind = array.type
    if pa.types.is_boolean(kind) or pa.types.is_string(kind):
        return array
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return array.cast(pa.float64(), safe=False)
    return pa.array([None if v is None else str(v) for v in array.to_pylist()], pa.string())
