"""Cells that hold a list of texts, whatever pandas made of a missing one."""

from __future__ import annotations

from typing import Any


def texts(cell: Any) -> tuple[str, ...]:
    """Return the texts of a list cell; a missing list has none."""
    if cell is None or isinstance(cell, float | str) or not hasattr(cell, "__iter__"):
        return ()
    return tuple(str(item) for item in cell)
