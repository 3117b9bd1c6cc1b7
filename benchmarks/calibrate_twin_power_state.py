"""Fit the law of state kernels (harness/engines/twin/power_state.py) on measured power.

One `StateFit` is one kernel: its `shared` coefficients are equal on all GPUs and frameworks that
measured it, its `own` ones are fitted for each. What is in neither stays at its neutral value.
Which are which was chosen on the validation part (docs/twin.md says what was tried).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from calibrate_twin_power_rows import Floats, Rows, predict

from harness.engines.twin.power import StateKernel, StateLaw

_EACH = ("ceiling", "empty", "drive")


@dataclass(frozen=True)
class StateFit:
    """Which rows make one kernel, and which coefficients it has."""

    law: str
    kind: str
    frameworks: tuple[str, ...]
    shared: tuple[str, ...]
    own: tuple[str, ...] = _EACH
    fill_sharpness: float = 1.0

    def of(self, rows: Rows) -> npt.NDArray[np.bool_]:
        """Mask of this kernel's rows."""
        parts = [key.split("|") for key in rows.key.tolist()]
        return np.array([p[3] == self.kind and p[1] in self.frameworks for p in parts], dtype=bool)


STATE_FITS: tuple[StateFit, ...] = (
    StateFit(
        "conv1d",
        "gdn",
        ("vllm",),
        ("batch", "length", "full", "ceiling_latency", "ceiling_heads", "carry_2"),
        (*_EACH, "padding_tokens", "heads", "carry_1"),
        fill_sharpness=2.0,
    ),
    StateFit(
        "conv1d",
        "gdn",
        ("trtllm",),
        ("batch", "length", "heads", "latency", "padding_tokens", "full", "ceiling_latency"),
    ),
    StateFit(
        "conv1d",
        "mamba2",
        ("trtllm",),
        ("batch", "length", "padding_tokens", "full", "ceiling_latency", "carry_1", "carry_2"),
        (*_EACH, "gap_s"),
        fill_sharpness=2.0,
    ),
    StateFit(
        "scan",
        "gdn",
        ("vllm", "trtllm"),
        ("batch", "length", "ceiling_heads", "carry_2"),
        (*_EACH, "padding_tokens", "heads", "ceiling_latency", "carry_1"),
    ),
    StateFit(
        "scan",
        "mamba2",
        ("trtllm",),
        ("batch", "length", "heads", "padding_tokens", "full", "carry_1", "carry_2"),
        (*_EACH, "gap_s"),
        fill_sharpness=2.0,
    ),
    StateFit("state_update", "gdn", ("trtllm",), ("batch", "heads", "ceiling_heads")),
)

CLOSENESS: dict[str, tuple[int, int, int, int]] = {
    # GPU, framework, format, kind: a convolution is the same code for both kinds, a scan is not.
    "conv1d": (1, 4, 8, 2),
    "scan": (1, 2, 4, 8),
    "state_update": (1, 2, 4, 8),
}

_START = {
    "ceiling": -0.6,
    "empty": -3.5,
    "drive": 0.0,
    "batch": 0.4,
    "length": 0.0,
    "heads": 0.6,
    "latency": 0.0,
    "padding_tokens": 3.5,
    "full": 2.5,
    "ceiling_latency": 0.0,
    "ceiling_heads": 0.0,
    "gap_s": -3.0,
    "carry_1": -1.0,
    "carry_2": -2.0,
}
"""Where the search starts: logarithms, but ceiling_latency and ceiling_heads as they are, and
the exponents of length, heads and latency relative to that of batch. Also the values of what a
fit leaves out, save for gap_s and carry, which are then zero."""


def _kernel(values: Mapping[str, float], fill_sharpness: float, used: Sequence[str]) -> StateKernel:
    """Turn the search's values into coefficients."""
    exponent = float(np.exp(values["batch"]))

    def positive(name: str, unit: float = 1.0) -> float:
        return float(unit * np.exp(values[name]))

    def carried(name: str) -> float:
        return min(positive(name), 1.0) if name in used else 0.0

    return StateKernel(
        empty=positive("empty"),
        ceiling=positive("ceiling"),
        drive=positive("drive"),
        batch=exponent,
        length=exponent * (1.0 + values["length"]),
        heads=exponent * values["heads"],
        latency=exponent * values["latency"],
        padding_tokens=positive("padding_tokens"),
        full=positive("full"),
        fill_sharpness=fill_sharpness,
        ceiling_latency=values["ceiling_latency"],
        ceiling_heads=values["ceiling_heads"],
        gap_s=positive("gap_s", 1e-3) if "gap_s" in used else 0.0,
        carry_1=carried("carry_1"),
        carry_2=carried("carry_2"),
    )


def fit_kernels(rows: Rows, plan: StateFit) -> dict[str, StateKernel]:
    """Fit one `StateFit` by least squares on log power; coefficients by key.

    Loss: Cauchy beyond 2 %, because some of the rows of one shape grid were measured on other
    boards, 15 % apart. The weak pull towards the start is that of `fit_law`.
    """
    from scipy.optimize import least_squares

    keys = sorted(set(rows.key.tolist()))
    masks = [rows.key == key for key in keys]
    parts = [rows.take(mask) for mask in masks]
    names = [(name, None) for name in plan.shared]
    names += [(name, i) for name in plan.own for i in range(len(keys))]
    start = np.array([_START[name] for name, _ in names])
    used = (*plan.shared, *plan.own)

    def kernels(theta: Floats) -> list[StateKernel]:
        return [
            _kernel(
                _START
                | {
                    name: float(value)
                    for (name, owner), value in zip(names, theta, strict=True)
                    if owner in (None, i)
                },
                plan.fill_sharpness,
                used,
            )
            for i in range(len(keys))
        ]

    def residuals(theta: Floats) -> Floats:
        errors = [
            np.log(_power(kernel, part) / part.power_w)
            for kernel, part in zip(kernels(theta), parts, strict=True)
        ]
        return np.concatenate([*errors, 1e-2 * (theta - start)])

    with np.errstate(over="ignore"):
        found = least_squares(residuals, start, loss="cauchy", f_scale=0.02, max_nfev=300)
    return dict(zip(keys, kernels(found.x), strict=True))


def _power(kernel: StateKernel, rows: Rows) -> Floats:
    use = rows.use
    length = use.rows / use.sequences
    share = kernel.share(use.sequences, length, use.heads, use.latency_s, settled=False)
    return rows.floor_w + (rows.limit_w - rows.floor_w) * share


def fit_state_law(rows: Rows, name: str) -> StateLaw:
    """Fit every kernel of one law that has rows."""
    kernels: dict[str, StateKernel] = {}
    for plan in STATE_FITS:
        mask = plan.of(rows)
        if plan.law == name and mask.any():
            kernels |= fit_kernels(rows.take(mask), plan)
    use = rows.use
    drivers = {
        "batch": use.sequences,
        "length": use.rows / use.sequences,
        "heads": use.heads,
        "latency_s": use.latency_s,
    }
    return StateLaw(
        kernels=kernels,
        closeness=CLOSENESS[name],
        domain={key: (float(v.min()), float(v.max())) for key, v in drivers.items()},
        errors={},
        transfer_error=None,
    )


def state_transfer_error(rows: Rows, name: str) -> float | None:
    """Median error on one GPU type of a law fitted on the other, the worse of both directions.

    Counts kernels (framework and kind) that more than one GPU type measured.
    """
    kernel = np.array(["|".join(np.array(key.split("|"))[[1, 3]]) for key in rows.key.tolist()])
    gpus = {k: set(rows.hardware[kernel == k].tolist()) for k in set(kernel.tolist())}
    rows = rows.take(np.array([len(gpus[k]) > 1 for k in kernel.tolist()], dtype=bool))
    worst = None
    for hardware in sorted(set(rows.hardware.tolist())):
        asked = rows.take(rows.hardware == hardware)
        law = fit_state_law(rows.take(rows.hardware != hardware), name)
        error = float(np.median(np.abs(predict(law, asked) / asked.power_w - 1.0)))
        worst = max(worst or 0.0, error)
    return worst
