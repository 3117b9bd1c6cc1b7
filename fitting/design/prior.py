"""What is thought of a law's parameters before any row is measured: datasheet and architecture.

Each coefficient is the energy of its cause at datasheet rates times a typical efficiency. That is
often wrong by a factor of two, and the spread says so: designs need no more than which terms
could matter where.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fitting.forms.energylens12 import REDUCED, SHARD_READ, WAITING
from fitting.work import column

if TYPE_CHECKING:
    import pandas as pd

    from fitting.facts import Facts
    from fitting.forms import Form

Array = NDArray[np.float64]

EFFICIENCY = 0.6
"""Share of the peak rates of a datasheet that kernels reach, typically."""

LAUNCH_S = 1e-5
"""Time of the kernel launches, or of one synchronisation, of a layer, s."""

DIRECT_LINK_BYTES_PER_S = 1e11
"""Links below this share a bridge (PCIe)."""

FACTOR_SPREAD = 1.0
"""Standard deviation of the logarithm of a coefficient: known within a factor of about 3."""

EXPONENT_SPREAD = {WAITING.name: 0.15, SHARD_READ.name: 0.15, REDUCED: 0.5}
"""Standard deviation of the parameters that enter non-linearly; of the logarithm for f."""

_POWER_W, _IDLE_SHARE, _PEAK, _BANDWIDTH, _LINK = 700.0, 0.15, 1e15, 3e12, 4e11


def prior_values(form: Form, rows: pd.DataFrame, facts: Facts) -> Array:
    """Return typical values of the parameters of a law for one (model, hardware).

    Parameters
    ----------
    form
        The law; its coefficients are looked up by name.
    rows
        Candidates of the pair; columns stand in for facts that are not known.
    facts
        Facts of the model and the GPU type.

    Returns
    -------
    ndarray
        Coefficients, then exponents, shape (parameters,).
    """
    sizes = _sizes(rows, facts)
    return np.array([sizes[name] for name in parameter_names(form)])


def prior_spread(form: Form) -> Array:
    """Return the standard deviation of each parameter on the scale of `expected.to_scale`."""
    spread = [FACTOR_SPREAD] * len(form.coefficients)
    return np.array(spread + [EXPONENT_SPREAD[e.name] for e in form.exponents])


def _sizes(rows: pd.DataFrame, facts: Facts) -> dict[str, float]:
    """Return the size of every term, in J per what it counts."""
    gpu = facts.hardware.get(str(rows["hardware"].iloc[0]))
    model = facts.models.get(str(rows["model_id"].iloc[0]))
    power = _POWER_W if gpu is None else gpu.power_limit_w
    idle = None if gpu is None else gpu.loaded_idle_power_w or gpu.idle_power_w
    waiting = _IDLE_SHARE if idle is None else idle / power
    peak = EFFICIENCY * (_PEAK if gpu is None else gpu.peak_flops.get("bf16", _PEAK))
    bandwidth = EFFICIENCY * (_BANDWIDTH if gpu is None else gpu.memory_bandwidth_bytes_per_s)
    link = EFFICIENCY * (_LINK if gpu is None else gpu.interconnect_bytes_per_s)
    total = _first(rows, "params_total", 8e9) if model is None else model.params_total
    active = _first(rows, "params_active", total) if model is None else model.params_active
    width = _first(rows, "hidden_size", 4096.0) if model is None else float(model.hidden_size)
    layers = max(active / (12.0 * width**2), 1.0) if model is None else float(model.layers)
    vision = 5e8 if model is None else max(model.params_vision, 1e8)
    compute = power * 2.0 * active / peak
    launch = layers * LAUNCH_S * 0.5 * power
    message = 0.5 * power * 8.0 * layers * width / link
    shared = link < EFFICIENCY * DIRECT_LINK_BYTES_PER_S
    return {
        "prefill_compute": compute,
        "prefill_sharding": 0.1 * compute + (0.0 if shared else message),
        "prefill_launch": launch,
        "prefill_encoder": power * 8.0 * vision / peak,
        "decode_weights": power * 2.0 * total / bandwidth,
        "decode_tokens": 0.05 * power * 2.0 * total / bandwidth,
        "decode_sync": launch,
        "decode_launch": launch,
        "decode_launch_extra": 0.3 * launch,
        "shared_bridge": 0.5 * message if shared else 0.02 * compute,
        "waiting_power_ratio": float(np.clip(waiting, 0.05, 0.6)),
        "weight_shard_exponent": 0.05,
        "reduced_precision_cost": 1.2,
    }


def _first(rows: pd.DataFrame, name: str, missing: float) -> float:
    """Return the first positive number of a column."""
    values = column(rows, name, default=np.nan)
    values = values[values > 0.0]
    return float(values[0]) if len(values) else missing


def parameter_names(form: Form) -> list[str]:
    """Return the names of the parameters of a law, coefficients first."""
    return [c.name for c in form.coefficients] + [e.name for e in form.exponents]
