"""How much power a GPU draws while it runs one operator: the twin's operator power law.

    P = P_floor + (P_limit - P_floor) * D * s(x)
    x = S * (k0 + kc * u_compute^a + km * u_memory^b) * prod_j z_j^g_j
    s(x) = x / (1 + x^q)^(1/q),   D = latency / (latency + G)

u_compute is achieved FLOP/s over the datasheet peak of the number format, u_memory achieved
bytes/s over the datasheet bandwidth, z_j the readable drivers of `DRIVERS` (rows, tiles, ...).
s bends smoothly into the power limit. k, a, b, q and g belong to the operator kind and are shared
by all GPUs; S and G are one number each per GPU, framework and number format. P_floor and P_limit
are facts of the GPU. D is the share of the measuring loop in which the kernel ran: the tables
repeat one kernel, and short ones read too low. In a settled stream of kernels D is 1, and that
is what the twin asks for. The coefficients are in power_law.json, written by
`python benchmarks/calibrate_twin_power.py`; docs/twin.md prints them with their errors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from harness.engines.twin.work import OperatorWork
from harness.errors import EngineError

Floats = npt.NDArray[np.float64]


class HardwareFacts(Protocol):
    """The facts of a GPU that the law needs; `harness.catalog.Hardware` has them."""

    @property
    def hardware(self) -> str:
        """Canonical name."""

    @property
    def peak_flops(self) -> Mapping[str, float]:
        """Dense peak FLOP/s by number format."""

    @property
    def memory_bandwidth_bytes_per_s(self) -> float:
        """Memory bandwidth."""

    @property
    def power_limit_w(self) -> float:
        """Default power limit, W."""

    @property
    def idle_power_w(self) -> float | None:
        """Power with nothing loaded, W; None if unknown."""

    @property
    def loaded_idle_power_w(self) -> float | None:
        """Power with weights loaded and nothing running, W; None if unknown."""


@dataclass(frozen=True, slots=True)
class Use:
    """What the drivers may look at: one entry an operator call, all arrays of shape (n,)."""

    latency_s: Floats
    rows: Floats
    blocks: Floats
    bytes: Floats
    flops: Floats
    head_dim: Floats
    window: Floats
    skew: Floats
    sequences: Floats


def _log_ratio(value: Floats, reference: float) -> Floats:
    """ln(value / reference), 0 where the value is missing or zero."""
    known = np.isfinite(value) & (value > 0)
    return np.where(known, np.log(np.where(known, value, reference) / reference), 0.0)


_BLOCKS_A_WAVE = 132.0  # compute units of an H200; a B200 has 148

DRIVERS: dict[str, Callable[[Use], Floats]] = {
    "latency": lambda use: _log_ratio(use.latency_s, 1e-3),
    "rows": lambda use: _log_ratio(use.rows, 1024.0),
    "blocks": lambda use: _log_ratio(use.blocks, _BLOCKS_A_WAVE),
    "fill": lambda use: _log_ratio(use.blocks / (use.blocks + _BLOCKS_A_WAVE), 0.5),
    "bytes": lambda use: _log_ratio(use.bytes, 64e6),
    "intensity": lambda use: _log_ratio(use.flops / use.bytes, 200.0),
    "head_dim": lambda use: _log_ratio(use.head_dim, 128.0),
    "window": lambda use: np.where(use.window > 0, 1.0, 0.0),
    "sequences": lambda use: _log_ratio(use.sequences, 16.0),
    "length": lambda use: _log_ratio(use.rows / use.sequences, 1024.0),
    "skew": lambda use: np.where(np.isfinite(use.skew), use.skew, 0.0),
}
"""Each z_j as its logarithm, zero at the reference: 1 ms, 1,024 rows, 132 tiles, 64 MB, ..."""


@dataclass(frozen=True, slots=True)
class KindLaw:
    """Coefficients of one operator kind.

    Attributes
    ----------
    sharpness
        q, how sharply the power bends into the limit.
    base, compute, memory
        k0, kc, km.
    compute_exponent, memory_exponent
        a, b.
    drivers
        g_j by driver name.
    domain
        Range of each driver (as its logarithm) in the calibration data; values are held there.
    scales, gaps_s
        S, and G in seconds, by "hardware|framework|number format|variant".
    errors
        By hardware: {"median": ..., "p68": ...} relative errors on shapes held out of the fit.
    transfer_error
        Median relative error on one GPU type of the law fitted on the other one only; None
        where only one GPU type was measured.
    """

    sharpness: float
    base: float
    compute: float
    compute_exponent: float
    memory: float
    memory_exponent: float
    drivers: Mapping[str, float]
    domain: Mapping[str, tuple[float, float]]
    scales: Mapping[str, float]
    gaps_s: Mapping[str, float]
    errors: Mapping[str, Mapping[str, float]]
    transfer_error: float | None

    def scale_and_gap(self, key: str) -> tuple[float, float]:
        """Find S and G for a key; the geometric means of the closest known keys otherwise.

        Closest means: most of GPU, framework, number format and variant in common, the kernel
        variant counting first, then format, framework, GPU.
        """
        if key in self.scales:
            return self.scales[key], self.gaps_s[key]
        wanted = key.split("|")

        def closeness(other: str) -> int:
            pairs = zip(wanted, other.split("|"), (1, 2, 4, 8), strict=True)
            return sum(weight for mine, theirs, weight in pairs if mine == theirs)

        best = max(closeness(other) for other in self.scales)
        near = [other for other in self.scales if closeness(other) == best]
        logs = np.log([[self.scales[other], self.gaps_s[other]] for other in near])
        scale, gap = np.exp(logs.mean(axis=0))
        return float(scale), float(gap)

    def share(self, u_compute: Floats, u_memory: Floats, use: Use, scale: Floats) -> Floats:
        """Share of the range between floor and limit that a settled kernel draws, 0 to 1."""
        drive = (
            self.base
            + self.compute * u_compute**self.compute_exponent
            + self.memory * u_memory**self.memory_exponent
        )
        exponent = np.zeros_like(u_compute)
        for name, power in self.drivers.items():
            low, high = self.domain[name]
            exponent = exponent + power * np.clip(DRIVERS[name](use), low, high)
        return saturate(scale * drive * np.exp(exponent), self.sharpness)


def saturate(x: Floats, sharpness: float) -> Floats:
    """Bend x smoothly into 1: x / (1 + x^q)^(1/q)."""
    x = np.clip(x, 1e-12, 1e6)
    with np.errstate(invalid="ignore"):  # nan in, nan out
        return np.exp(-np.logaddexp(0.0, -sharpness * np.log(x)) / sharpness)


_STATE_KINDS = {"mamba2", "gdn"}
_STREAMING_KINDS = {"elementwise", "embedding"}
COMMUNICATION_KIND = "communication"


def law_name(kind: str, variant: str = "") -> str:
    """Name of the coefficient set that serves a kind (and kernel variant).

    Streaming kernels (element-wise, embedding), which nobody measured alone, take the GEMM law
    as a GEMM of few rows would: it too does nothing but stream its weights.
    """
    if kind in _STREAMING_KINDS:
        return "gemm"
    if kind in _STATE_KINDS:
        return "conv1d" if variant.startswith("causal_conv1d") else "scan"
    return kind


_STREAMING_ROWS = 16.0
"""Rows that a streaming kernel stands for in the GEMM law: a decode GEMM, bound by memory."""


def _floats(value: Any, size: int) -> Floats:
    return np.broadcast_to(np.asarray(value, dtype=np.float64), (size,))


def _texts(value: Any, size: int) -> list[str]:
    return [value] * size if isinstance(value, str) else [str(item) for item in value]


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """The calibrated law of every operator kind.

    Attributes
    ----------
    laws
        Coefficients by law name (`law_name`).
    floors_w
        Lowest board power seen under a running kernel, W, by calibrated GPU.
    communication_share
        Share of the range between loaded idle and limit drawn while GPUs exchange data. An
        estimate: nobody measured it per operator (docs/twin.md).
    communication_error
        Relative uncertainty of the power under that estimate.
    other_share
        The same share for operators that no formula covers: the median of all measured kernels.
    provenance
        Where the coefficients come from: data, rows, command.
    """

    laws: Mapping[str, KindLaw]
    floors_w: Mapping[str, float]
    communication_share: float
    communication_error: float
    other_share: float
    provenance: Mapping[str, Any]

    def floor_w(self, hardware: HardwareFacts) -> float:
        """P_floor: measured for calibrated GPUs, else the power of a waiting GPU."""
        return float(self.floors_w.get(hardware.hardware, self.waiting_w(hardware)))

    def power_w(
        self,
        kind: Any,
        flops: Any,
        bytes: Any,
        latency_s: Any,
        hardware: HardwareFacts,
        precision: Any = "bf16",
        *,
        number_format: Any = None,
        variant: Any = "",
        rows: Any = np.nan,
        blocks: Any = np.nan,
        head_dim: Any = 0.0,
        window: Any = 0.0,
        skew: Any = 0.0,
        sequences: Any = np.nan,
        framework: str = "vllm",
        power_limit_w: float | None = None,
        settled: bool = True,
    ) -> Floats:
        """Mean board power of one GPU while it runs each operator call.

        Parameters
        ----------
        kind
            Operator kind (`work.KINDS`), one string or one an entry.
        flops, bytes, latency_s
            Work and duration of one call; arrays of shape (n,) or numbers.
        hardware
            Facts of the GPU.
        precision, number_format, variant, rows, blocks, head_dim, window, skew, sequences
            As in `work.OperatorWork`; one value or one an entry. A missing driver (nan) stands
            at its reference value. number_format defaults to the precision's own.
        framework
            Whose kernels: vllm or trtllm.
        power_limit_w
            Limit in force, W; default the datasheet's.
        settled
            True: in a settled stream of kernels (D = 1). False: as the calibration tables read,
            one kernel repeated with the gaps of the measuring loop.

        Returns
        -------
        numpy.ndarray
            Power, W, shape (n,), float64, between floor and limit. nan where FLOPs, bytes or a
            positive latency are missing, except for communication and other, which need none.

        Raises
        ------
        EngineError
            Unknown kind.
        """
        size = max(np.size(flops), np.size(bytes), np.size(latency_s))
        latency = _floats(latency_s, size)
        use = Use(
            latency,
            *(
                _floats(v, size)
                for v in (rows, blocks, bytes, flops, head_dim, window, skew, sequences)
            ),
        )
        kinds, variants = _texts(kind, size), _texts(variant, size)
        precisions = _texts(precision, size)
        formats = (
            [_FORMAT_OF_PRECISION.get(p, p) for p in precisions]
            if number_format is None
            else _texts(number_format, size)
        )
        peaks = np.array([peak_flops(hardware, p) for p in precisions])
        with np.errstate(divide="ignore", invalid="ignore"):
            positive = np.where(latency > 0, latency, np.nan)
            u_compute = use.flops / positive / peaks
            u_memory = use.bytes / positive / hardware.memory_bandwidth_bytes_per_s
        limit = float(hardware.power_limit_w if power_limit_w is None else power_limit_w)
        floor = min(self.floor_w(hardware), limit)
        share = np.full(size, np.nan)
        names = np.array([law_name(k, v) for k, v in zip(kinds, variants, strict=True)])
        for name in np.unique(names):
            at = names == name
            if name == "other":
                share[at] = self.other_share
                continue
            if name == COMMUNICATION_KIND:
                idle = min(self.waiting_w(hardware), limit)
                drawn = idle + self.communication_share * (limit - idle)
                share[at] = max(drawn - floor, 0.0) / max(limit - floor, 1e-9)
                continue
            law = self._law(str(name))
            keys = [
                f"{hardware.hardware}|{framework}|{formats[i]}|{variants[i]}"
                for i in np.flatnonzero(at)
            ]
            found = {key: law.scale_and_gap(key) for key in set(keys)}
            scale, gap = np.array([found[key] for key in keys]).T
            part = Use(*(getattr(use, field)[at] for field in Use.__slots__))
            share[at] = law.share(u_compute[at], u_memory[at], part, scale)
            if not settled:
                share[at] *= latency[at] / (latency[at] + gap)
        return np.asarray(floor + (limit - floor) * share, dtype=np.float64)

    def power_of_work(
        self,
        work: OperatorWork,
        latency_s: Any,
        hardware: HardwareFacts,
        *,
        framework: str = "vllm",
        power_limit_w: float | None = None,
        settled: bool = True,
    ) -> Floats:
        """`power_w` of an `OperatorWork` (scalars or arrays); latency_s is of one call."""
        return self.power_w(
            work.kind,
            work.flops,
            work.bytes,
            latency_s,
            hardware,
            work.precision,
            number_format=work.number_format,
            variant=work.variant,
            rows=work.rows,
            blocks=work.blocks,
            head_dim=work.head_dim,
            window=work.window,
            skew=work.skew,
            sequences=work.sequences,
            framework=framework,
            power_limit_w=power_limit_w,
            settled=settled,
        )

    @staticmethod
    def waiting_w(hardware: HardwareFacts) -> float:
        """Power of a GPU that waits with its weights loaded (a pipeline bubble), W.

        Loaded idle; bare idle where that is unknown; where both are, `_IDLE_SHARE` of the limit.
        """
        for value in (hardware.loaded_idle_power_w, hardware.idle_power_w):
            if value is not None:
                return float(value)
        return _IDLE_SHARE * float(hardware.power_limit_w)

    def uncertainty(self, kind: str, hardware: str, variant: str = "") -> float:
        """Relative error to expect of `power_w` for one operator call (68th percentile).

        From shapes held out of the fit on a calibrated GPU. On other GPUs the larger of the
        measured GPUs' figures and the error of carrying the law from one GPU to the other.
        """
        name = law_name(kind, variant)
        if name in (COMMUNICATION_KIND, "other"):
            return self.communication_error
        law = self._law(name)
        if hardware in law.errors:
            return float(law.errors[hardware]["p68"])
        known = [float(entry["p68"]) for entry in law.errors.values()]
        return max([*known, law.transfer_error or 0.0])

    def _law(self, name: str) -> KindLaw:
        try:
            return self.laws[name]
        except KeyError:
            raise EngineError(
                f"no power law for operator kind {name!r}",
                fix=f"known laws: {', '.join(sorted(self.laws))}",
            ) from None


_IDLE_SHARE = 0.15
"""Idle over limit where no idle figure is known: H200 and B200 lie at 0.11 and 0.14 bare, 0.17
and 0.21 loaded (harness/catalog/hardware.json)."""

_FORMAT_OF_PRECISION = {"bf16": "bfloat16", "fp16": "bfloat16"}
_WIDER = {
    "nvfp4": ("fp8", "int8", "bf16", "fp16"),
    "mxfp4": ("fp8", "int8", "bf16", "fp16"),
    "int4": ("int8", "bf16", "fp16"),
    "int8": ("fp8", "bf16", "fp16"),
    "fp8": ("bf16", "fp16"),
    "bf16": ("fp16",),
    "fp16": ("bf16",),
}


def peak_flops(hardware: HardwareFacts, precision: str) -> float:
    """Datasheet peak for a number format; the next wider one the GPU has where it lacks it.

    A GPU without FP8 or FP4 arithmetic computes on widened values.
    """
    for name in (precision, *_WIDER.get(precision, ())):
        if name in hardware.peak_flops:
            return float(hardware.peak_flops[name])
    raise EngineError(
        f"no peak FLOP/s for {precision!r} on {hardware.hardware}",
        fix=f"known: {', '.join(hardware.peak_flops)}",
    )


LAW_FILE = Path(__file__).with_name("power_law.json")


@lru_cache(maxsize=4)
def load_power_law(path: Path = LAW_FILE) -> PowerLaw:
    """Read the calibrated coefficients (the committed file by default)."""
    return law_from_dict(json.loads(path.read_text(encoding="utf-8")))


def law_from_dict(document: Mapping[str, Any]) -> PowerLaw:
    """Build the law from the document that the calibration writes."""
    laws = {
        name: KindLaw(
            **{k: v for k, v in entry.items() if k != "domain"},
            domain={k: (float(v[0]), float(v[1])) for k, v in entry["domain"].items()},
        )
        for name, entry in document["laws"].items()
    }
    communication = document["communication"]
    return PowerLaw(
        laws=laws,
        floors_w=document["floors_w"],
        communication_share=float(communication["share"]),
        communication_error=float(communication["relative_error"]),
        other_share=float(document["other_share"]),
        provenance=document["provenance"],
    )
