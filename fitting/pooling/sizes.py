"""Physical sizes of the work of each row: FLOPs, bytes, seconds and watts from facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fitting.facts import Facts, HardwareFacts, ModelFacts
from fitting.traits import traits_of
from fitting.work import COMPUTE_COST, column

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

IDLE_SHARE = 0.15
"""Idle over limit where a datasheet has no idle power."""

DIRECT_LINK_BYTES_PER_S = 1.0e11
"""Links at least this fast are direct ones (NVLink); slower ones are PCIe behind a bridge."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the terms need of one GPU type: rates in FLOP/s and B/s, powers in W."""

    peak_flops: Mapping[str, float]
    bandwidth: float
    link: float
    power_w: float
    waiting_w: float


NOMINAL = Machine(
    {name: 1.0e15 / cost for name, cost in COMPUTE_COST.items()}, 3.0e12, 4.0e11, 700.0, 105.0
)
"""Stands for every GPU type where no datasheet at all is known: rows then say how far the type
is from it, and only ratios to it are ever fitted."""


def machine_of(facts: HardwareFacts) -> Machine:
    """Return the machine that a datasheet describes."""
    waiting = facts.loaded_idle_power_w or facts.idle_power_w
    return Machine(
        dict(facts.peak_flops),
        facts.memory_bandwidth_bytes_per_s,
        facts.interconnect_bytes_per_s,
        facts.power_limit_w,
        IDLE_SHARE * facts.power_limit_w if waiting is None else waiting,
    )


def typical_machine(facts: Facts) -> Machine:
    """Return the geometric mean of the known datasheets, for a GPU type that has none."""
    known = [machine_of(h) for _, h in sorted(facts.hardware.items())]
    if not known:
        return NOMINAL

    def mean(values: list[float]) -> float:
        return float(np.exp(np.mean(np.log(values))))

    return Machine(
        {
            name: mean([m.peak_flops.get(name) or m.peak_flops["bf16"] / cost for m in known])
            for name, cost in COMPUTE_COST.items()
        },
        mean([m.bandwidth for m in known]),
        mean([m.link for m in known]),
        mean([m.power_w for m in known]),
        mean([m.waiting_w for m in known]),
    )


def estimated_model(model_id: str, rows: pd.DataFrame) -> ModelFacts:
    """Estimate the architecture of a model from the columns of its rows.

    Depth from N = 12 L h^2 with N the active parameters; experts from the share of parameters
    that is active; a quarter of the layers attends in state-space models.
    """
    traits = traits_of(rows)
    total = _first(rows, "params_total", 8.0e9)
    active = _first(rows, "params_active", total)
    total = max(total, active)
    width = traits.hidden_size
    layers = max(round(active / (12.0 * width**2)), 1)
    family = str(rows["family"].dropna().iloc[0]) if _has(rows, "family") else "unknown"
    experts = 0.0 if traits.idle_expert <= 0.0 else (total - active) / traits.idle_expert
    per_token = _first(rows, "experts_per_token", 0.0)
    known_cache = _first(rows, "kv_bytes_per_token", 0.0)
    state = _first(rows, "state_bytes_per_sequence", 0.0)
    attending = max(layers // 4, 1) if family == "ssm" else layers
    return ModelFacts(
        model_id=model_id,
        family=family,
        backbone=model_id,
        layers=layers,
        attention_layers=attending,
        state_layers=layers - attending,
        hidden_size=round(width),
        heads=max(round(width / 128.0), 1),
        kv_heads=8,
        head_dim=128,
        vocab_size=0,
        experts=round(per_token / (1.0 - traits.idle_expert)) if per_token else 0,
        experts_per_token=round(per_token),
        params_total=total,
        params_active=active,
        params_experts=min(experts, total),
        params_lookup=0.0,
        params_vision=0.0,
        kv_bytes_per_token=known_cache or traits.cache_share * 2.0 * total,
        kv_window_tokens=0.0,
        kv_window_share=0.0,
        state_bytes_per_sequence=state,
        state_flops_per_token=state,
    )


def _has(rows: pd.DataFrame, name: str) -> bool:
    return name in rows.columns and bool(rows[name].notna().any())


def _first(rows: pd.DataFrame, name: str, missing: float) -> float:
    """Return the first positive number of a column."""
    values = column(rows, name, default=np.nan)
    values = values[values > 0.0]
    return float(values[0]) if len(values) else missing
