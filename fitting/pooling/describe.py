"""The pooled law as text, and the parameters of a pair as numbers with units and intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from fitting.pooling.columns import columns_of
from fitting.pooling.errors import NORMAL_95
from fitting.pooling.parameters import KIND_FACTOR, KIND_STEP, PARAMETERS, TERMS
from fitting.pooling.terms import ROUTING
from harness.store import FitError

if TYPE_CHECKING:
    from fitting.facts import ModelFacts
    from fitting.pooling.law import PooledLaw
    from fitting.pooling.sizes import Machine

_LENGTH = 1024.0

_SIZES = {
    "prefill_compute": (1, "prefill_compute", _LENGTH, "J/token"),
    "prefill_attention": (1, "prefill_attention", _LENGTH, "J/token, 1024-token prompt"),
    "prefill_state": (1, "prefill_state", _LENGTH, "J/token"),
    "prefill_reading": (1, "weights", 1.0, "J, all weights in 16 bit"),
    "prefill_reduce": (2, "prefill_reduce", _LENGTH, "J/token, t = 2"),
    "shared_bridge": (4, "prefill_bridge", _LENGTH, "J/token, t = 4"),
    "prefill_launch": (1, "prefill_launch", 1.0, "J"),
    "prefill_encoder": (1, "prefill_encoder", _LENGTH, "J/token"),
    "decode_weights": (1, "weights", 1.0, "J, all weights in 16 bit"),
    "decode_cache": (1, "decode_cache", _LENGTH + 1.0, "J/token"),
    "decode_state": (1, "decode_state", 1.0, "J/sequence"),
    "decode_sync": (2, "decode_sync", 1.0, "J, t = 2"),
    "decode_reduce": (2, "decode_reduce", 1.0, "J/token, t = 2"),
    "decode_launch": (1, "decode_launch", 1.0, "J"),
    "decode_launch_extra": (1, "decode_launch", 1.0, "J"),
}
"""Term -> t of the row that shows it, its column, what divides that, and the unit."""


@dataclass(frozen=True, slots=True)
class PairParameter:
    """One parameter of a pair.

    Attributes
    ----------
    name, unit, meaning
        What it is; without unit it is a ratio or an exponent.
    value
        Estimate.
    lo, hi
        95 % interval.
    shared
        Whether the pair has no rows, so that it only has what others share.
    """

    name: str
    value: float
    unit: str
    lo: float
    hi: float
    shared: bool
    meaning: str


def pair_parameters(law: PooledLaw, model_id: str, hardware: str) -> list[PairParameter]:
    """Return the parameters of a pair; see `PooledLaw.pair_parameters`."""
    model, machine = law.known.model(model_id), law.known.machine(hardware)
    values = law.parameters_of(model, hardware)
    errors = np.sqrt(np.maximum(np.diag(law.covariance_of(model, hardware)), 0.0))
    sizes = _sizes(model, machine)
    shared = (model_id, hardware) not in law.pairs
    out = []
    for i, parameter in enumerate(PARAMETERS):
        size, unit = sizes.get(parameter.name, (1.0, ""))
        reach = NORMAL_95 * errors[i]
        ends = [_shown(parameter.name, w, size, machine) for w in (-reach, 0.0, reach) + values[i]]
        out.append(
            PairParameter(
                parameter.name, ends[1], unit, ends[0], ends[2], shared, parameter.meaning
            )
        )
    return out


def _sizes(model: ModelFacts, machine: Machine) -> dict[str, tuple[float, str]]:
    """Return the physical size of each term at datasheet rates, with its unit."""
    rows = pd.DataFrame(
        {
            "batch": 1,
            "input_tokens": _LENGTH,
            "output_tokens": 2,
            "visual_tokens": _LENGTH,
            "tensor_parallel": [1, 2, 4],
        }
    )
    nothing = np.zeros(len(rows), dtype=np.intp)
    columns = columns_of(rows, [model], [machine], nothing, nothing)
    place = {1: 0, 2: 1, 4: 2}
    out = {}
    for name, (t, column, divisor, unit) in _SIZES.items():
        both = columns.dense + columns.experts
        values = both if column == "weights" else getattr(columns, column)
        out[name] = (float(values[place[t]]) / divisor, unit)
    return out


def _shown(name: str, value: float, size: float, machine: Machine) -> float:
    """Return a parameter as people read it: a size, a ratio or an exponent."""
    if name == "waiting_power_ratio":
        ratio = min(max(machine.waiting_w / machine.power_w, 1e-3), 0.9)
        return float(1.0 / (1.0 + (1.0 / ratio - 1.0) * np.exp(-value)))
    if name == "routing":
        return float(ROUTING * np.exp(value))
    if name.endswith("exponent"):
        return float(value)
    return float(size * np.exp(value))


def formula(law: PooledLaw) -> str:
    """Return the law as text: its structure and the factors that all pairs share.

    At most 80 columns and about 25 lines; `shared_parameters` has what it leaves out.
    """
    if not law.pairs:
        raise FitError("This pooled law has no pairs.", where="pooled law")
    kinds = ", ".join(f"{n} {kind}" for kind, n in law.provenance.items()) or f"{sum(law.rows)}"
    kinds_of_gpu = len({hardware for _, hardware in law.pairs})
    models = len({model for model, _ in law.pairs})
    cells = [
        f"{p.name:<22}{p.value:>6.3g} {_interval(p):<11}"
        for p in shared_parameters(law)
        if p.kind != KIND_STEP
    ]
    half = (len(cells) + 1) // 2
    columns = zip(cells[:half], [*cells[half:], ""], strict=False)
    lines = [
        f"{law.name}: {kinds} rows, {models} models, {kinds_of_gpu} GPU types, "
        f"{len(law.pairs)} pairs",
        *_STRUCTURE,
        "What all pairs share, times the datasheet, with its 95 % interval:",
        *("  ".join(row).rstrip() for row in columns),
    ]
    return "\n".join(line[:80] for line in lines)


def _interval(value: SharedValue) -> str:
    """Return the interval of a factor, or the error of an exponent."""
    if value.name.endswith("exponent"):
        return f"+-{(value.hi - value.lo) / 2.0:.2f}"
    return f"{value.lo:.2g}..{value.hi:.2g}"


@dataclass(frozen=True, slots=True)
class SharedValue:
    """What all pairs share of one parameter.

    Attributes
    ----------
    name, kind
        As in `PARAMETERS`.
    value, lo, hi
        Factor on the energy at datasheet rates, or change of an exponent, with 95 % interval.
    apart
        Level of the hierarchy -> standard deviation between its groups: of the logarithm of a
        factor, of an exponent itself; `pair` for the pairs.
    """

    name: str
    kind: str
    value: float
    lo: float
    hi: float
    apart: dict[str, float]


def shared_parameters(law: PooledLaw) -> list[SharedValue]:
    """Return what all pairs share of each parameter that any row shows."""
    covariance = law.unsure.covariance
    assert covariance is not None
    errors = np.sqrt(np.maximum(np.diagonal(covariance[0, :, 0, :]), 0.0))
    shared = law.found.effects[0]
    shown = (np.einsum("pii->pi", law.information) > 1.0).any(axis=0)
    out = []
    for i in np.flatnonzero(shown):
        parameter = PARAMETERS[i]
        ends = shared[i] + NORMAL_95 * errors[i] * np.array([-1.0, 0.0, 1.0])
        if not parameter.name.endswith("exponent"):
            ends = np.exp(ends)
        lo, value, hi = (float(end) for end in ends)
        levels = [*law.levels.names[1:], "pair"]
        apart = {name: float(w) for name, w in zip(levels, law.spread[1:, i], strict=True)}
        out.append(SharedValue(parameter.name, parameter.kind, value, lo, hi, apart))
    return out


_STRUCTURE = (
    "prefill energy [J] = (k + rho (p - 1)) x steps(T) steps(t) x (",
    "    t^e1 hypot(compute + attention + state, reading)",
    "  + reduce (t - 1) + bridge t (t-1)/2 [t>2] + launch t + encoder v )",
    "decode energy [J] = (m - 1) (k + rho (p - k)) x steps(t) x (",
    "    weights (dense + experts C(b)) t^e2 steps(b) + cache b (n + m/2) + state b",
    "  + sync t [t>1] (1+s) + reduce b (t-1) + bridge b t (t-1)/2 [t>2]",
    "  + launch t (1 + extra [q]) )",
    "Each term: FLOPs or bytes over the rate of the datasheet, times power, times",
    "factors that all share, or a family, GPU type, model, family on GPU type, pair.",
)

assert set(_SIZES) == {term.name for term in TERMS if term.kind == KIND_FACTOR}
