"""How much power a GPU draws while it runs one operator: the twin's operator power law.

    P = P_floor + (P_limit - P_floor) * share

The share is a closed form of what the kernel does: `power_kind` for kernels that arithmetic or
memory drives (GEMM, experts, attention), `power_state` for state kernels (Mamba2, gated delta
net). P_floor and P_limit are facts of the GPU. The share contains D, the part of the measuring
loop in which the kernel ran: the tables repeat one kernel, and short ones read too low. In a
settled stream of kernels D is 1, and that is what the twin asks for. The coefficients are in
power_law.json, written by `python benchmarks/calibrate_twin_power.py`; docs/twin.md prints them
with their errors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from harness.engines.twin.power_keys import (
    ALL_CALLS,
    STREAMING_KINDS,
    alike,
    default_formats,
    key_of,
    law_name,
    peaks,
)
from harness.engines.twin.power_kind import DRIVERS, KindLaw, saturate
from harness.engines.twin.power_state import StateKernel, StateLaw
from harness.engines.twin.power_use import Floats, HardwareFacts, Use, peak_flops
from harness.engines.twin.work_types import OperatorWork
from harness.errors import EngineError

__all__ = [
    "COMMUNICATION_KIND",
    "DRIVERS",
    "LAW_FILE",
    "HardwareFacts",
    "KindLaw",
    "PowerLaw",
    "StateKernel",
    "StateLaw",
    "Use",
    "key_of",
    "law_from_dict",
    "law_name",
    "load_power_law",
    "peak_flops",
    "saturate",
]

COMMUNICATION_KIND = "communication"
_STREAMING_ROWS = 16.0
"""Rows that a streaming kernel stands for in the GEMM law: a decode GEMM, bound by memory."""


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

    laws: Mapping[str, KindLaw | StateLaw]
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
        sequences: Any = np.nan,
        heads: Any = np.nan,
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
        precision, number_format, variant, rows, blocks, head_dim, window, sequences, heads
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
        latency = np.asarray(latency_s, dtype=np.float64)
        latency = np.where(latency > 0, latency, np.nan)
        done, moved = np.asarray(flops, dtype=np.float64), np.asarray(bytes, dtype=np.float64)
        rest = (rows, blocks, moved, done, head_dim, window, sequences, heads)
        use = Use(
            latency,
            done / latency / peaks(hardware, precision),
            moved / latency / hardware.memory_bandwidth_bytes_per_s,
            *(np.asarray(value, dtype=np.float64) for value in rest),
        )
        if number_format is None:
            number_format = default_formats(precision)
        limit = float(hardware.power_limit_w if power_limit_w is None else power_limit_w)
        floor = min(self.floor_w(hardware), limit)
        share = np.empty(size)
        for at, kernel in alike(kind, variant, number_format, size):
            if kernel.kind == COMMUNICATION_KIND:
                share[at] = self._communication(hardware, floor, limit)
            elif kernel.kind == "other":
                share[at] = self.other_share
            else:
                law = self._law(law_name(kernel.kind, kernel.variant))
                key = key_of(hardware.hardware, framework, kernel.number_format, kernel.kind)
                part = use if at is ALL_CALLS else use.take(at)
                if kernel.kind in STREAMING_KINDS:
                    part = part.with_rows(_STREAMING_ROWS)
                share[at] = law.share(part, key, settled=settled)
        return np.asarray(floor + (limit - floor) * share)

    def _communication(self, hardware: HardwareFacts, floor_w: float, limit_w: float) -> float:
        """Share of floor to limit that gives the assumed share of loaded idle to limit."""
        idle = min(self.waiting_w(hardware), limit_w)
        drawn = idle + self.communication_share * (limit_w - idle)
        return max(drawn - floor_w, 0.0) / max(limit_w - floor_w, 1e-9)

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
            sequences=work.sequences,
            heads=work.heads,
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

    def _law(self, name: str) -> KindLaw | StateLaw:
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

LAW_FILE = Path(__file__).with_name("power_law.json")


@lru_cache(maxsize=4)
def load_power_law(path: Path = LAW_FILE) -> PowerLaw:
    """Read the calibrated coefficients (the committed file by default)."""
    return law_from_dict(json.loads(path.read_text(encoding="utf-8")))


def law_from_dict(document: Mapping[str, Any]) -> PowerLaw:
    """Build the law from the document that the calibration writes."""
    communication = document["communication"]
    return PowerLaw(
        laws={name: _law_from_dict(entry) for name, entry in document["laws"].items()},
        floors_w=document["floors_w"],
        communication_share=float(communication["share"]),
        communication_error=float(communication["relative_error"]),
        other_share=float(document["other_share"]),
        provenance=document["provenance"],
    )


def _law_from_dict(entry: Mapping[str, Any]) -> KindLaw | StateLaw:
    fields = dict(entry)
    fields["domain"] = {k: (float(low), float(high)) for k, (low, high) in entry["domain"].items()}
    if "kernels" not in fields:
        return KindLaw(**fields)
    fields["kernels"] = {key: StateKernel(**kernel) for key, kernel in entry["kernels"].items()}
    fields["closeness"] = tuple(entry["closeness"])
    return StateLaw(**fields)
