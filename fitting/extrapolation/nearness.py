"""How near two platforms are by their datasheets, and what datasheets say of their energies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from fitting.work import column

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from fitting.facts import Facts, HardwareFacts, ModelFacts

Pair = tuple[str, str]
Law = TypeVar("Law")

UNKNOWN = math.log(4.0)
"""Distance to a name without facts, and between model families: as far as a factor of four."""


@dataclass(frozen=True)
class Nearness:
    """Distances between (model, hardware) pairs, by facts alone.

    The distance is the Euclidean one between logarithms of datasheet figures: bandwidth, peak
    arithmetic, power, memory and interconnect of a GPU; active and total parameters, layers,
    width and KV cache of a model.
    """

    facts: Facts

    def nearest(self, pair: Pair, rows: pd.DataFrame, fits: Mapping[Pair, Law]) -> Pair:
        """Return the pair of `fits` that is nearest; names decide between equals."""
        return min(
            fits,
            key=lambda other: (
                self.between_models(pair[0], other[0], rows)
                + self.between_hardware(pair[1], other[1]),
                other,
            ),
        )

    def unlike(self, pair: Pair, fits: Mapping[Pair, Law], kind: str) -> dict[Pair, Law]:
        """Return the pairs that would be left if this one were held out in the same way."""
        if kind == "hardware":
            return {other: law for other, law in fits.items() if other[1] != pair[1]}
        own = self.facts.backbone(pair[0])
        return {o: law for o, law in fits.items() if self.facts.backbone(o[0]) != own}

    def between_hardware(self, one: str, other: str) -> float:
        """Return the distance between two GPU types; 0 for the same."""
        if one == other:
            return 0.0
        a, b = self.facts.hardware.get(one), self.facts.hardware.get(other)
        return UNKNOWN if a is None or b is None else _distance(_datasheet(a), _datasheet(b))

    def between_models(self, one: str, other: str, rows: pd.DataFrame) -> float:
        """Return the distance between two models; 0 for the same backbone."""
        if one == other or self.facts.backbone(one) == self.facts.backbone(other):
            return 0.0 if one == other else 1e-6
        a, b = self.facts.models.get(one), self.facts.models.get(other)
        if b is None:
            return 2.0 * UNKNOWN
        if a is None:
            active, total = sizes(self.facts, one, rows)
            ratios = [active / b.params_active, total / b.params_total]
            return UNKNOWN + _distance([math.log(r) for r in ratios], [0.0, 0.0])
        family = 0.0 if a.family == b.family else UNKNOWN
        return family + _distance(_architecture(a), _architecture(b))


def _distance(a: list[float], b: list[float]) -> float:
    return math.dist(a, b)


def _datasheet(facts: HardwareFacts) -> list[float]:
    peak = facts.peak_flops.get("bf16", 0.0)
    values = (
        facts.memory_bandwidth_bytes_per_s,
        peak,
        facts.power_limit_w,
        facts.memory_bytes,
        facts.interconnect_bytes_per_s,
    )
    return [math.log(max(value, 1.0)) for value in values]


def _architecture(facts: ModelFacts) -> list[float]:
    values = (
        facts.params_active,
        facts.params_total,
        facts.layers,
        facts.hidden_size,
        facts.kv_bytes_per_token,
    )
    return [math.log(max(value, 1.0)) for value in values]


def sizes(facts: Facts, model_id: str, rows: pd.DataFrame) -> tuple[float, float]:
    """Return active and total parameters of a model, from its facts or from its rows."""
    known = facts.models.get(model_id)
    if known is not None:
        return known.params_active, known.params_total
    active = float(column(rows, "params_active", default=8e9)[0])
    return active, max(float(column(rows, "params_total", default=active)[0]), active)


def phase_ratios(
    facts: Facts, kin: Pair, pair: Pair, rows: pd.DataFrame
) -> dict[str, NDArray[np.float64]]:
    """Return by what a pair differs from its kin in energy, by phase and row, shape (rows,).

    Prefill computes: power over peak arithmetic, times active parameters. Decode reads: power
    over bandwidth, times the weights that a step reads; each of b requests uses k of E experts,
    so a step reads the active parameters and 1 - (1 - k/E)^b of the others. Names without facts
    count as equal.
    """
    prefill, decode = np.ones(len(rows)), np.ones(len(rows))
    new, old = facts.hardware.get(pair[1]), facts.hardware.get(kin[1])
    if new is not None and old is not None and new.hardware != old.hardware:
        power = new.power_limit_w / old.power_limit_w
        speed = new.memory_bandwidth_bytes_per_s / old.memory_bandwidth_bytes_per_s
        decode *= power / speed
        names = rows["precision"] if "precision" in rows.columns else ["bf16"] * len(rows)
        prefill *= [power * _peak(old, str(p)) / _peak(new, str(p)) for p in names]
    if kin[0] != pair[0] and kin[0] in facts.models:
        stages = column(rows, "pipeline_parallel", default=1.0)
        replicas = column(rows, "data_parallel", default=1.0)
        batch = np.ceil(column(rows, "batch") / (stages * replicas))
        prefill *= sizes(facts, pair[0], rows)[0] / sizes(facts, kin[0], rows)[0]
        decode *= _read(facts, pair[0], rows, batch) / _read(facts, kin[0], rows, batch)
    return {"prefill": prefill, "decode": decode}


def _peak(facts: HardwareFacts, precision: str) -> float:
    return facts.peak_flops.get(precision) or facts.peak_flops.get("bf16") or 1.0


def _read(
    facts: Facts, model_id: str, rows: pd.DataFrame, batch: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the parameters that a decode step over so many requests reads, shape (rows,)."""
    active, total = sizes(facts, model_id, rows)
    known = facts.models.get(model_id)
    if known is None or not known.experts:
        return np.full(len(rows), total if known is not None else active)
    idle = 1.0 - known.experts_per_token / known.experts
    result: NDArray[np.float64] = active + (total - active) * (1.0 - idle**batch)
    return result
