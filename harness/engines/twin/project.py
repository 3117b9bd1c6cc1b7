"""From kernel times to joules: what each phase of a workload takes on a deployment.

    shapes of micro-batches --tables--> seconds an operator --power law--> joules of one pass
    passes --pipeline schedule--> wall time, busy GPU-seconds; the rest of the GPU-seconds waits

Everything here is projected: no sensor took part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.catalog import Hardware, ModelFacts
from harness.engines.twin.pipeline import schedule, transfer_s
from harness.engines.twin.power import PowerLaw, load_power_law
from harness.engines.twin.tables import (
    KernelTables,
    NoKernelDataError,
    PassShape,
    PassTimes,
    VisualInput,
)
from harness.engines.twin.work import OperatorWork, work_of_operator
from harness.spec import Deployment, Workload

Floats = npt.NDArray[np.float64]

INTER_NODE_BYTES_PER_S = 50e9
"""Bytes a second a GPU between nodes: one 400 Gb/s port each, as in aiconfigurator-core's
system files for HGX nodes."""


@dataclass(frozen=True, slots=True)
class Projection:
    """Projected phases of one run of a workload.

    Attributes
    ----------
    prefill_s, decode_s
        Wall times; decode is from the first token to the last.
    prefill_j, decode_j
        Gross energy of all GPUs of the deployment, waiting ones included.
    memory_bytes
        Largest use of one GPU.
    """

    prefill_s: float
    decode_s: float
    prefill_j: float
    decode_j: float
    memory_bytes: float


@dataclass(frozen=True, slots=True)
class _Pass:
    """One micro-batch through all layers: time on the wall, joules of the whole TP group."""

    prefill_s: float
    decode_s: float
    prefill_j: float
    decode_j: float
    weight_bytes: float
    cache_bytes: float
    other_bytes: float


def project(
    model: ModelFacts,
    hardware: Hardware,
    deployment: Deployment,
    workloads: Sequence[Workload],
) -> list[Projection | NoKernelDataError]:
    """Project every workload of one deployment.

    Returns
    -------
    list
        In the order of `workloads`; where the tables lack an operator, the error that says so.
    """
    try:
        tables = kernel_tables(
            model,
            hardware,
            deployment.tensor_parallel,
            deployment.expert_parallel,
            deployment.precision,
        )
    except NoKernelDataError as error:
        return [error for _ in workloads]
    replicas, stages = deployment.data_parallel, deployment.pipeline_parallel
    plans = [schedule(-(-w.batch // replicas), stages) for w in workloads]
    wanted = {
        _shape(w, requests)
        for w, plan in zip(workloads, plans, strict=True)
        for requests in (plan.full, plan.rest)
        if requests
    }
    passes = _passes(tables, model, hardware, deployment, wanted)
    out: list[Projection | NoKernelDataError] = []
    for workload, plan in zip(workloads, plans, strict=True):
        full = passes[_shape(workload, plan.full)]
        rest = passes[_shape(workload, plan.rest)] if plan.rest else None
        if isinstance(full, NoKernelDataError):
            out.append(full)
        elif isinstance(rest, NoKernelDataError):
            out.append(rest)
        else:
            out.append(_compose(model, hardware, deployment, workload, plan.full, full, rest))
    return out


_TABLES: dict[tuple[object, ...], KernelTables] = {}


def kernel_tables(
    model: ModelFacts,
    hardware: Hardware,
    tensor_parallel: int,
    expert_parallel: int,
    precision: str,
) -> KernelTables:
    """Tables of one tensor-parallel group, kept for the next launch that needs them.

    Raises
    ------
    NoKernelDataError
        As `KernelTables` does; refusals are not kept.
    """
    key = (model.config_path, hardware.hardware, tensor_parallel, expert_parallel, precision)
    if key not in _TABLES:
        _TABLES[key] = KernelTables(model, hardware, tensor_parallel, expert_parallel, precision)
    return _TABLES[key]


def _shape(workload: Workload, requests: int) -> PassShape:
    pictures = workload.images or -(-workload.frames // 2)
    visual = (
        VisualInput(pictures, workload.image_height, workload.image_width)
        if pictures
        else VisualInput()
    )
    return PassShape(requests, workload.text_tokens, workload.output_tokens, visual)


def _compose(
    model: ModelFacts,
    hardware: Hardware,
    deployment: Deployment,
    workload: Workload,
    requests: int,
    full: _Pass,
    rest: _Pass | None,
) -> Projection:
    """Put micro-batches onto pipeline stages and replicas, and add what waits."""
    ranks, stages = deployment.tensor_parallel, deployment.pipeline_parallel
    plan = schedule(-(-workload.batch // deployment.data_parallel), stages)
    between = (
        hardware.interconnect_bytes_per_s
        if ranks * stages <= hardware.gpus_per_node
        else INTER_NODE_BYTES_PER_S
    )
    hops = stages - 1
    prefill_hop_s = transfer_s(requests * workload.input_tokens, model.hidden_size, between)
    decode_hop_s = transfer_s(requests, model.hidden_size, between)
    steps = max(workload.output_tokens - 1, 0)
    prefill_s = plan.prefill_wall_s(full.prefill_s + hops * prefill_hop_s)
    decode_s = plan.decode_wall_s(full.decode_s + steps * hops * decode_hop_s)
    passes = [full] * plan.full_count + ([rest] if rest else [])
    waiting_w = waiting_power_w(hardware)
    gpu_seconds = ranks * stages
    prefill_wait_s = gpu_seconds * prefill_s - ranks * sum(p.prefill_s for p in passes)
    decode_wait_s = gpu_seconds * decode_s - ranks * sum(p.decode_s for p in passes)
    prefill_j = sum(p.prefill_j for p in passes) + waiting_w * max(prefill_wait_s, 0.0)
    decode_j = sum(p.decode_j for p in passes) + waiting_w * max(decode_wait_s, 0.0)
    memory = (full.weight_bytes + full.cache_bytes * plan.count) / stages + full.other_bytes
    replicas = deployment.data_parallel
    return Projection(prefill_s, decode_s, prefill_j * replicas, decode_j * replicas, memory)


def waiting_power_w(hardware: Hardware) -> float:
    """Power of a GPU that holds weights and waits; the bare idle where no more is known."""
    for value in (hardware.loaded_idle_power_w, hardware.idle_power_w):
        if value is not None:
            return float(value)
    return 0.15 * hardware.power_limit_w


_PASSES: dict[KernelTables, dict[PassShape, _Pass | NoKernelDataError]] = {}


def _passes(
    tables: KernelTables,
    model: ModelFacts,
    hardware: Hardware,
    deployment: Deployment,
    shapes: Iterable[PassShape],
) -> dict[PassShape, _Pass | NoKernelDataError]:
    """Time and energy of distinct micro-batches, those of the tables asked last remembered.

    Plans ask about one tensor-parallel group after the other, each with several pipeline depths,
    whose micro-batches are largely the same.
    """
    if tables not in _PASSES:
        _PASSES.clear()
        _PASSES[tables] = {}
    known = _PASSES[tables]
    new = [shape for shape in shapes if shape not in known]
    known.update(_new_passes(tables, model, hardware, deployment.tensor_parallel, new))
    return known


def _new_passes(
    tables: KernelTables,
    model: ModelFacts,
    hardware: Hardware,
    ranks: int,
    shapes: Iterable[PassShape],
) -> dict[PassShape, _Pass | NoKernelDataError]:
    """Time and energy of every micro-batch, the power law evaluated on all at once."""
    out: dict[PassShape, _Pass | NoKernelDataError] = {}
    known: list[tuple[PassShape, PassTimes]] = []
    for shape in shapes:
        try:
            known.append((shape, tables.times(shape)))
        except NoKernelDataError as error:
            out[shape] = error
    if not known:
        return out
    law = _law()
    energy = _Energy(law, hardware, [s for s, _ in known])
    texts = np.array([s.text_tokens for s, _ in known], dtype=np.float64)
    batch = np.array([s.batch for s, _ in known], dtype=np.float64)
    outputs = np.array([s.output_tokens for s, _ in known], dtype=np.float64)
    visual = np.array([_visual_tokens(model, s) for s, _ in known], dtype=np.float64)
    length = texts + visual
    prefill_j = energy.of(
        tables.prefill_operators, "context", [t.prefill_s for _, t in known], batch, length
    )
    steps = np.maximum(outputs - 1, 1)
    decode_j = energy.of(
        tables.decode_operators,
        "generation",
        [t.decode_s for _, t in known],
        batch,
        length + outputs / 2,
        repeats=steps,
    )
    encoder_s = np.array([sum(t.encoder_s.values()) for _, t in known])
    encoder_j = np.zeros(len(known))
    if encoder_s.any():
        encoder_j = _encoder_energy(energy, tables, model, hardware, known, ranks)
    for i, (shape, times) in enumerate(known):
        out[shape] = _Pass(
            prefill_s=float(encoder_s[i]) + sum(times.prefill_s.values()),
            decode_s=sum(times.decode_s.values()),
            prefill_j=float(encoder_j[i] + ranks * prefill_j[i]),
            decode_j=float(ranks * decode_j[i]),
            weight_bytes=times.weight_bytes,
            cache_bytes=times.cache_bytes,
            other_bytes=times.other_bytes,
        )
    return out


def _encoder_energy(
    energy: _Energy,
    tables: KernelTables,
    model: ModelFacts,
    hardware: Hardware,
    known: Sequence[tuple[PassShape, PassTimes]],
    ranks: int,
) -> Floats:
    """Energy of the vision tower: whole pictures are dealt to the ranks, the rest waits.

    The deal follows aiconfigurator-core: the busiest rank's share sets the time.
    """
    pictures = np.array([s.batch * s.visual.pictures for s, _ in known], dtype=np.float64)
    share = np.maximum(np.ceil(pictures / ranks), 1.0)
    merged = np.array([_picture_tokens(model, s) for s, _ in known], dtype=np.float64)
    merge = float(model.vision.spatial_merge_size) if model.vision else 1.0
    patches = merged * merge**2
    times = [t.encoder_s for _, t in known]
    busy_j = np.zeros(len(known))
    for operator in tables.encoder_operators:
        name = str(operator._name)
        after_merge = "encoder_projector" in name or "all_gather" in name
        length = merged if after_merge else patches
        busy_j += energy.of([operator], "context", times, share, length)
    seconds = np.array([sum(t.values()) for t in times])
    working = pictures / share
    return busy_j * working + waiting_power_w(hardware) * seconds * (ranks - working)


def _picture_tokens(model: ModelFacts, shape: PassShape) -> float:
    if not shape.visual.pictures:
        return 0.0
    return float(model.visual_tokens(shape.visual.height, shape.visual.width))


def _visual_tokens(model: ModelFacts, shape: PassShape) -> float:
    return shape.visual.pictures * _picture_tokens(model, shape)


@lru_cache(maxsize=1)
def _law() -> PowerLaw:
    return load_power_law()


@dataclass(frozen=True, slots=True)
class _Energy:
    """Energy of lists of operators over many shapes at once, on one GPU."""

    law: PowerLaw
    hardware: Hardware
    shapes: Sequence[PassShape]

    def of(
        self,
        operators: Sequence[Any],
        phase: str,
        seconds: Sequence[dict[str, float]],
        batch: Floats,
        length: Floats,
        repeats: Floats | None = None,
    ) -> Floats:
        """Joules a shape: sum over operators of power times time.

        Parameters
        ----------
        operators
            Operator objects of the tables.
        phase
            "context" or "generation".
        seconds
            One dict a shape, operator name to seconds, all calls and steps together.
        batch, length
            (n,) sequences, and new tokens (context) or cached tokens (generation) each.
        repeats
            (n,) how often the whole list runs: the decode steps.
        """
        total = np.zeros(len(self.shapes))
        named: dict[str, list[Any]] = {}
        for operator in operators:
            named.setdefault(str(operator._name), []).append(operator)
        for name, group in named.items():
            spent_s = np.array([s.get(name, 0.0) for s in seconds])
            if not spent_s.any():
                continue
            work = _work_of_group(group, phase, batch, length)
            calls = work.calls * (1.0 if repeats is None else repeats)
            # Where an operator does not run, any latency will do: it is weighed by zero.
            latency_s = np.where(spent_s > 0, spent_s / calls, 1e-6)
            total += self.law.power_of_work(work, latency_s, self.hardware) * spent_s
        return total


def _work_of_group(group: Sequence[Any], phase: str, batch: Floats, length: Floats) -> OperatorWork:
    """Mean work of a call over operators that share a name, such as two kinds of attention."""
    works = [work_of_operator(operator, phase, batch, length) for operator in group]
    if len(works) == 1:
        return works[0]
    calls = sum(w.calls for w in works)
    return replace(
        works[0],
        flops=sum(w.calls * w.flops for w in works) / calls,
        bytes=sum(w.calls * w.bytes for w in works) / calls,
        calls=calls,
    )
