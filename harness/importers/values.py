"""Columns of text or numbers into columns of the table, with the rows that do not fit."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from harness.errors import ImportDataError
from harness.store.schema import Column

_NULLS = {"", "nan", "na", "n/a", "null", "none", "<na>"}
_TRUE = {"true", "1", "1.0", "yes"}
_FALSE = {"false", "0", "0.0", "no"}
_SHOWN = 5

_POSITIVE = {
    "total_energy_j",
    "energy_per_output_token_j",
    "batch",
    "output_tokens",
    "params_total",
    "params_active",
    "num_gpus",
    "num_nodes",
    "tensor_parallel",
    "pipeline_parallel",
    "expert_parallel",
    "data_parallel",
    "ulysses_degree",
    "ring_degree",
    "attempt",
    "power_limit_w",
    "request_rate_per_s",
}
_SIGNED = {"counter_vs_integral", "seed"}


def row_list(bad: Sequence[bool] | np.ndarray | pd.Series) -> str:
    """Name the first five bad rows; row 1 is the first row of data."""
    numbers = np.flatnonzero(np.asarray(bad, dtype=bool)) + 1
    text = ", ".join(str(n) for n in numbers[:_SHOWN])
    more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return f"row{'s' if len(numbers) > 1 else ''} {text}{more}"


def refuse(
    what: str, path: Path, column: str, fix: str, bad: np.ndarray | pd.Series | None = None
) -> ImportDataError:
    """Build the error about a column of a file, with its rows."""
    where = f"{path}, column {column}"
    if bad is not None:
        where += f", {row_list(bad)} (row 1 is the first row of data)"
    return ImportDataError(what, where=where, fix=fix)


def missing(series: pd.Series) -> pd.Series:
    """Tell which values are missing: nulls, NaN, and the words people write for them."""
    gone = series.isna()
    if series.dtype == object or pd.api.types.is_string_dtype(series.dtype):
        words = [isinstance(v, str) and v.strip().lower() in _NULLS for v in series.tolist()]
        gone = gone | np.asarray(words, dtype=bool)
    return gone


def parse(series: pd.Series, column: Column, path: Path) -> pd.Series:
    """Give a column of a file the type of its column in the table, nulls as None or NaN.

    Raises
    ------
    ImportDataError
        If a value is of the wrong type or out of range: names file, column and rows.
    """
    gone = missing(series)
    if column.type in {"int", "float"}:
        return _numbers(series, gone, column, path)
    if column.type == "str":
        text = series.map(lambda v: str(v).strip()).astype(object)
        return text.where(~gone, None)
    if column.type == "bool":
        return _truths(series, gone, column, path)
    if column.type == "time":
        return _times(series, gone, column, path)
    return _lists(series, gone, column, path)


def _numbers(series: pd.Series, gone: pd.Series, column: Column, path: Path) -> pd.Series:
    numbers, bad = _floats(series, gone)
    if bad.any():
        raise refuse(
            f"{path.name} holds values in {column.name} that are not numbers, "
            f"such as {series[bad].iloc[0]!r}.",
            path,
            column.name,
            "write plain numbers with a decimal point and no unit or thousands sign",
            bad,
        )
    if (infinite := np.isinf(numbers)).any():
        raise refuse(
            f"{column.name} is infinite.", path, column.name, "leave it empty if unknown", infinite
        )
    low = 0.0 if column.name not in _SIGNED else -np.inf
    bad = (numbers <= low) if column.name in _POSITIVE else (numbers < low)
    if bad.any():
        least = "must be above 0" if column.name in _POSITIVE else "must not be negative"
        raise refuse(
            f"{column.name} {least}; found {numbers[bad].iloc[0]:g}.",
            path,
            column.name,
            "correct these rows, or leave the value empty where it was not measured"
            if not column.required
            else "correct or remove these rows",
            bad,
        )
    if column.type == "int":
        bad = numbers.notna() & (numbers != numbers.round())
        if bad.any():
            raise refuse(
                f"{column.name} must be a whole number; found {numbers[bad].iloc[0]:g}.",
                path,
                column.name,
                "round it, or check that the column holds what its name says",
                bad,
            )
    return numbers


def _floats(series: pd.Series, gone: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Return the numbers, exactly as written, and which values are none."""
    numbers = np.full(len(series), np.nan)
    bad = np.zeros(len(series), dtype=bool)
    for index, (value, empty) in enumerate(zip(series.tolist(), gone, strict=True)):
        if empty:
            continue
        try:
            if isinstance(value, (bool, np.bool_)) or (isinstance(value, str) and "_" in value):
                raise ValueError("not a number")
            numbers[index] = float(value)
        except (TypeError, ValueError):
            bad[index] = True
    return pd.Series(numbers, index=series.index), pd.Series(bad, index=series.index)


def _truths(series: pd.Series, gone: pd.Series, column: Column, path: Path) -> pd.Series:
    words = series.map(lambda v: str(v).strip().lower())
    bad = ~gone & ~words.isin(_TRUE | _FALSE)
    if bad.any():
        raise refuse(
            f"{column.name} must be true or false; found {series[bad].iloc[0]!r}.",
            path,
            column.name,
            "write true or false",
            bad,
        )
    return words.isin(_TRUE).astype(object).where(~gone, None)


def _times(series: pd.Series, gone: pd.Series, column: Column, path: Path) -> pd.Series:
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        times = series
    else:
        numeric = series.map(lambda v: isinstance(v, (int, float)) and not pd.isna(v)).astype(bool)
        text = series.where(~gone & ~numeric, None)
        times = pd.to_datetime(text, utc=True, errors="coerce", format="ISO8601")
    bad = times.isna() & ~gone
    if bad.any():
        raise refuse(
            f"{column.name} must be a time; found {series[bad].iloc[0]!r}.",
            path,
            column.name,
            "write it as 2026-11-20T08:30:00Z",
            bad,
        )
    return times


def _lists(series: pd.Series, gone: pd.Series, column: Column, path: Path) -> pd.Series:
    out: list[list[str] | None] = []
    bad = np.zeros(len(series), dtype=bool)
    for index, (value, empty) in enumerate(zip(series, gone, strict=True)):
        if isinstance(value, (list, tuple, np.ndarray)):
            out.append([str(v) for v in value])
        elif empty:
            out.append(None)
        elif str(value).lstrip().startswith("["):
            try:
                out.append([str(v) for v in ast.literal_eval(str(value).strip())])
            except (ValueError, SyntaxError):
                out.append(None)
                bad[index] = True
        else:
            out.append([part.strip() for part in str(value).split(";") if part.strip()])
    if bad.any():
        raise refuse(
            f"{column.name} must be a list of codes.",
            path,
            column.name,
            'write code;code or ["code","code"]',
            bad,
        )
    return pd.Series(out, index=series.index, dtype=object)
