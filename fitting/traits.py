"""Facts of a model that a law needs and a fit keeps: experts, width, sizes of cache and state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fitting.work import Work, work_of

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class ModelTraits:
    """Facts of a model that a fit keeps, so that it predicts without their columns.

    Attributes
    ----------
    idle_expert
        1 - k/E, 0 for a model without experts.
    hidden_size
        Width of the model, exact or estimated.
    cache_share
        Bytes of the KV cache of one token over those of all weights in 16 bit, exact or
        estimated.
    state_share
        Bytes of the recurrent state of one sequence over those of all weights in 16 bit; 0 where
        the rows do not tell.
    """

    idle_expert: float = 0.0
    hidden_size: float = 4096.0
    cache_share: float = 1e-5
    state_share: float = 0.0

    def work_of(self, frame: pd.DataFrame) -> Work:
        """Read the work of rows of this model; see `work_of`."""
        n = len(frame)
        return work_of(
            frame,
            np.full(n, self.idle_expert),
            np.full(n, self.hidden_size),
            np.full(n, self.cache_share),
            np.full(n, self.state_share),
        )


def traits_of(frame: pd.DataFrame) -> ModelTraits:
    """Return the traits of the one model that all rows of a frame are of.

    Experts come from `num_experts` and `experts_per_token`; without them from the share of the
    parameters that is active, for the family `moe`. The width comes from `hidden_size`; without
    it from the active parameters: N = 12 L h^2 with L in proportion to h.
    """
    experts, used = _first(frame, "num_experts"), _first(frame, "experts_per_token")
    total, active = _first(frame, "params_total"), _first(frame, "params_active")
    idle = 0.0
    if experts is not None and used is not None and experts > used > 0:
        idle = 1.0 - used / experts
    elif (
        experts is None
        and total is not None
        and active is not None
        and "family" in frame.columns
        and (frame["family"] == "moe").any()
        and 0 < active < total
    ):
        share = active / total
        always = min(0.05, 0.45 * share)
        idle = 1.0 - (share - always) / (1.0 - always)
    width = _first(frame, "hidden_size")
    if width is None:
        known = active or total
        width = 4096.0 if known is None else 4096.0 * (known / 8.0e9) ** (1.0 / 3.0) * 1.03
    state = _first(frame, "state_bytes_per_sequence")
    return ModelTraits(
        float(idle),
        float(width),
        _cache_share(frame, total, active, float(width)),
        state / (2.0 * total) if state and total else 0.0,
    )


def _cache_share(
    frame: pd.DataFrame, total: float | None, active: float | None, width: float
) -> float:
    """Return bytes of a cached token over those of all weights, both in 16 bit.

    Without `kv_bytes_per_token`: L layers with 8 KV heads of 128, L from N = 12 L h^2, of which
    a quarter attends in state-space models.
    """
    known = _first(frame, "kv_bytes_per_token")
    if known is not None and total:
        return known / (2.0 * total)
    share = 2048.0 / (12.0 * width**2)
    if total and active:
        share *= active / total
    if "family" in frame.columns and (frame["family"] == "ssm").any():
        share *= 0.25
    return share


def _first(frame: pd.DataFrame, name: str) -> float | None:
    """Return the first value of a column that is not null, or None."""
    if name not in frame.columns:
        return None
    values = frame[name].to_numpy(dtype=np.float64, na_value=np.nan)
    values = values[~np.isnan(values)]
    return float(values[0]) if len(values) else None
