"""What JSON output is made of."""

from __future__ import annotations

import datetime as dt
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from energylens.plain import plain


@dataclass(frozen=True)
class Point:
    x: float
    where: Path


@dataclass(frozen=True)
class Told:
    secret: int

    def to_dict(self) -> dict[str, int]:
        return {"told": 1}


def test_everything_becomes_json() -> None:
    value = {
        "nan": math.nan,
        "inf": np.float64("inf"),
        "int": np.int64(3),
        "flag": np.bool_(True),
        "array": np.array([1.0, np.nan]),
        "frame": pd.DataFrame({"a": [1, 2], "b": [None, "x"]}),
        "time": dt.datetime(2025, 11, 20, tzinfo=dt.UTC),
        "missing": pd.NaT,
        "na": pd.NA,
        "point": Point(1.5, Path("a/b")),
        "own": Told(7),
        ("key", 1): (1, 2),
    }
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == {
        "nan": None,
        "inf": None,
        "int": 3,
        "flag": True,
        "array": [1.0, None],
        "frame": [{"a": 1, "b": None}, {"a": 2, "b": "x"}],
        "time": "2025-11-20T00:00:00+00:00",
        "missing": None,
        "na": None,
        "point": {"x": 1.5, "where": "a/b"},
        "own": {"told": 1},
        "('key', 1)": [1, 2],
    }
