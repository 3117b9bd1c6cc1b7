"""A FIT file that remembers which measurements it was made from."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from energylens.fingerprint import fingerprint
from harness.errors import StoreError

if TYPE_CHECKING:
    import pandas as pd

    from fitting import Fit

KEY = "measurements"


def save_fit(law: Fit, path: Path, frame: pd.DataFrame) -> None:
    """Write a FIT file stamped with the fingerprint of its measurements, whole or not at all.

    Raises
    ------
    StoreError
        When the file cannot be written.
    """
    data = {**law.to_dict(), KEY: fingerprint(frame)}
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise StoreError(
            f"the fit cannot be written: {error.strerror}",
            where=str(path),
            fix="give another place with --out",
        ) from error


def is_of(path: Path, frame: pd.DataFrame) -> bool:
    """Tell whether a FIT file was made from these very measurements.

    A file without a stamp (`Fit.save`) counts if it knows no pair that is not in the table.
    """
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if KEY in data:
            return bool(data[KEY] == fingerprint(frame))
        pairs = [*data["pairs"], *data.get("pooled_pairs", [])]
        known = {(pair["model_id"], pair["hardware"]) for pair in pairs}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return known <= set(zip(frame["model_id"], frame["hardware"], strict=True))
