"""A design: what to measure next, in order, with its cost and what it is expected to bring."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "order",
    "task_id",
    "launch",
    "model_id",
    "hardware",
    "num_gpus",
    "tensor_parallel",
    "pipeline_parallel",
    "precision",
    "modality",
    "batch",
    "input_tokens",
    "output_tokens",
    "visual_tokens",
    "cost_s",
    "gain",
)
"""Columns of the table of a design, as far as the candidates have them."""


@dataclass(frozen=True, slots=True)
class PairOutlook:
    """What a design does for one (model, hardware).

    Attributes
    ----------
    model_id, hardware
        The pair.
    candidates, measured, chosen
        Configurations in all, measured before, and chosen now.
    scenarios
        Choices of (t, p) at a fixed GPU count and workload among the candidates.
    regret_before, regret_after
        Expected regret of those choices, as the law sees it, now and when the design is
        measured; NaN without scenarios.
    """

    model_id: str
    hardware: str
    candidates: int
    measured: int
    chosen: int
    scenarios: int
    regret_before: float
    regret_after: float


@dataclass(frozen=True, slots=True)
class Design:
    """What to measure next.

    Attributes
    ----------
    table
        One row a configuration, in the order of choice; see `COLUMNS`. `launch` numbers the
        launches; `cost_s` is the time of the row, and for the first of a launch its start too;
        `gain` is by the criterion of the method, NaN for random and Latin hypercube sampling.
        The index holds the positions of the rows in the candidates.
    method
        How the rows were chosen.
    pairs
        Outlook of each (model, hardware).
    cost_s, gpu_s
        Time of all launches one after the other, and times their GPUs, s.
    notes
        What a reader should know.
    """

    table: pd.DataFrame
    method: str
    pairs: tuple[PairOutlook, ...]
    cost_s: float
    gpu_s: float
    notes: tuple[str, ...] = field(default=())

    @property
    def launches(self) -> int:
        """Number of engine launches."""
        return int(self.table["launch"].nunique())

    @property
    def regret_before(self) -> float:
        """Expected regret of the choices now, mean over the scenarios of all pairs."""
        return self._mean("regret_before")

    @property
    def regret_after(self) -> float:
        """Expected regret once the design is measured, mean over the scenarios of all pairs."""
        return self._mean("regret_after")

    def _mean(self, name: str) -> float:
        count = sum(pair.scenarios for pair in self.pairs)
        if not count:
            return float("nan")
        parts = (getattr(pair, name) * pair.scenarios for pair in self.pairs if pair.scenarios)
        return float(sum(parts) / count)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, NaN as None."""
        records = self.table.astype(object).where(self.table.notna(), None)
        return {
            "method": self.method,
            "rows": len(self.table),
            "launches": self.launches,
            "hours": self.cost_s / 3600.0,
            "gpu_hours": self.gpu_s / 3600.0,
            "regret_before": _number(self.regret_before),
            "regret_after": _number(self.regret_after),
            "pairs": [
                {
                    "model_id": pair.model_id,
                    "hardware": pair.hardware,
                    "candidates": pair.candidates,
                    "measured": pair.measured,
                    "chosen": pair.chosen,
                    "scenarios": pair.scenarios,
                    "regret_before": _number(pair.regret_before),
                    "regret_after": _number(pair.regret_after),
                }
                for pair in self.pairs
            ],
            "tasks": records.to_dict(orient="records"),
            "notes": list(self.notes),
        }


def _number(value: float) -> float | None:
    return None if value != value else value
