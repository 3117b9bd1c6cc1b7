"""Pairs that only a pooled law was fitted to, and which rows lie beyond them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fitting.domain import Domain, distance, domain_of
from fitting.rows import Group, fingerprint

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class PooledPair:
    """A (model, hardware) with training rows, but no law of its own.

    Attributes
    ----------
    model_id, hardware
        The pair.
    law
        Name of the pooled law that its rows are part of.
    n_rows
        Training rows.
    provenance
        Provenance -> rows.
    domain
        Ranges and labels of the training rows.
    fingerprint
        Hash of the training rows.
    """

    model_id: str
    hardware: str
    law: str
    n_rows: int
    provenance: dict[str, int]
    domain: Domain
    fingerprint: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "model_id": self.model_id,
            "hardware": self.hardware,
            "law": self.law,
            "n_rows": self.n_rows,
            "provenance": self.provenance,
            "domain": self.domain.to_dict(),
            "fingerprint": self.fingerprint,
        }

    @staticmethod
    def from_dict(data: dict[str, Any]) -> PooledPair:
        """Rebuild from `to_dict`."""
        return PooledPair(**{**data, "domain": Domain.from_dict(data["domain"])})


def pooled_pair(group: Group, law: str) -> PooledPair:
    """Describe the rows of a pair that a pooled law was fitted to."""
    return PooledPair(
        model_id=group.model_id,
        hardware=group.hardware,
        law=law,
        n_rows=len(group.rows),
        provenance=counts(group.rows),
        domain=domain_of(group.rows),
        fingerprint=fingerprint(group),
    )


def counts(rows: pd.DataFrame) -> dict[str, int]:
    """Return provenance -> rows; empty without that column."""
    if "provenance" not in rows.columns:
        return {}
    found = rows["provenance"].fillna("unknown").value_counts().sort_index()
    return {str(kind): int(n) for kind, n in found.items()}


def beyond(frame: pd.DataFrame, pairs: Sequence[PooledPair]) -> NDArray[np.bool_]:
    """Say which rows lie outside of what pooled rows covered, shape (rows,).

    A row of another (model, hardware) does; so does one outside of the ranges of its pair.
    """
    result = np.ones(len(frame), dtype=bool)
    for pair in pairs:
        mine = frame["model_id"].eq(pair.model_id) & frame["hardware"].eq(pair.hardware)
        rows = np.flatnonzero(mine.to_numpy(dtype=bool))
        if len(rows):
            # A pair may have rows of more than one kind; inside of either is inside.
            result[rows] &= distance(frame.iloc[rows], pair.domain) > 0.0
    return result
