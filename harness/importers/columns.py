"""The columns of a CSV or Parquet file, or why the file cannot be read."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd

from harness.errors import ImportDataError


def read_columns(path: Path) -> pd.DataFrame:
    """Read a file: a CSV file as text, a Parquet file with its types.

    Parameters
    ----------
    path
        A file that ends in .csv, .parquet or .pq.

    Raises
    ------
    ImportDataError
        If it is of another kind, empty, truncated or damaged.
    """
    kind = path.suffix.lower()
    if path.is_dir() or kind not in {".csv", ".parquet", ".pq"}:
        raise ImportDataError(
            "A table is imported from one CSV or Parquet file.",
            where=str(path),
            fix="give a file whose name ends in .csv or .parquet",
        )
    if path.stat().st_size == 0:
        raise ImportDataError(
            "The file is empty.", where=str(path), fix="give a file with a header and rows"
        )
    return _read_csv(path) if kind == ".csv" else _read_parquet(path)


def _read_parquet(path: Path) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            # Without pandas' own metadata an index that was saved is a column like any other.
            frame: pd.DataFrame = file.read().to_pandas(ignore_metadata=True)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise ImportDataError(
            f"The Parquet file is truncated or damaged: {str(error).splitlines()[0]}",
            where=str(path),
            fix="copy it again from its source, and compare the sizes",
        ) from error
    labels = {
        n: object for n, kind in frame.dtypes.items() if isinstance(kind, pd.CategoricalDtype)
    }
    unnamed = [n for n in frame.columns if str(n).startswith("__index_level_")]
    return frame.drop(columns=unnamed).astype(labels)


def _read_csv(path: Path) -> pd.DataFrame:
    """Read a CSV file as text; a line with too few or too many fields is refused."""
    header: list[str] | None = None
    rows: list[list[str]] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            for fields in reader:
                if not any(field.strip() for field in fields):
                    continue
                if header is None:
                    header = [field.strip() for field in fields]
                    continue
                if len(fields) != len(header):
                    raise ImportDataError(
                        f"A line has {len(fields)} fields, the header has {len(header)}: "
                        "the file is truncated, or a field holds a comma.",
                        where=f"{path}, line {reader.line_num}, row {len(rows) + 1}",
                        fix='copy the file again, or put "..." around fields with commas',
                    )
                rows.append(fields)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ImportDataError(
            f"The file is not a whole CSV file in UTF-8: {error}",
            where=f"{path}, row {len(rows) + 1}",
            fix="export it again as CSV, UTF-8, fields separated by commas",
        ) from error
    if header is None:
        raise ImportDataError(
            "The file is empty.", where=str(path), fix="give a file with a header and rows"
        )
    return pd.DataFrame(rows, columns=pd.Index(header, dtype=object), dtype=object)
