"""The shared law: what a decode step of a full batch costs, by cause, from 14 parameters.

A step makes one token for every running request, so J per output token is the energy of a step
over the requests that run. Parameters have priors, as a table of one GPU type, or without data
parallel rows, cannot say all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fitting.serving.shapes import Shapes

Array = NDArray[np.float64]


class Parameter(NamedTuple):
    """A shared parameter: name, unit, prior centre and deviation, whether of its log, meaning."""

    name: str
    unit: str
    centre: float
    deviation: float
    logarithmic: bool
    meaning: str


PARAMETERS: tuple[Parameter, ...] = (
    Parameter("read", "J/GB", 0.23, 0.5, True, "reading weights, KV cache and states"),
    Parameter("compute", "1", 1.5, 0.5, True, "arithmetic, of power limit over peak arithmetic"),
    Parameter("layer", "s", 1e-5, 1.0, True, "fixed time of a layer and step, on every GPU"),
    Parameter("experts", "s", 1e-5, 1.0, True, "the same, for routing and experts"),
    Parameter("grouped", "1", 1.2, 0.15, True, "cost of an expert's bytes over that of others"),
    Parameter("quantised", "s", 3e-6, 1.0, True, "fixed time of an expert with 8-bit weights"),
    Parameter("synchronise", "s", 1e-5, 1.0, True, "joining a layer over tensor ranks"),
    Parameter("exchange", "s", 1e-4, 1.0, True, "joining a layer over data parallel ranks"),
    Parameter("request", "s", 2e-5, 1.0, True, "host time of a request and step; GPUs wait"),
    Parameter("visual", "1", 1.0, 0.7, True, "images of a request, in tokens per output token"),
    Parameter("routing", "1", 0.85, 0.15, False, "power of the batch that picks experts afresh"),
    Parameter("lockstep", "1", 1.0, 0.4, False, "power of data parallel ranks in prefill"),
    Parameter("context", "tokens", 1000.0, 0.3, True, "typical length of a request in decoding"),
    Parameter("prefill", "1", 1.0, 0.3, True, "input tokens per output token"),
)
"""Shared parameters. The centres of seconds are the order of a kernel launch or an all-reduce;
experts are many small matrices, which are slower to read; context and prefill are those of a task
of which nothing is known."""

TASK_SPREAD: tuple[float, float] = (1.0, 0.9)
"""Deviation of the logs of context and prefill between tasks."""

MEMORY_USED = 0.9
"""Share of the memory that weights and cache may fill (vLLM, gpu_memory_utilization)."""

FILL_SHARPNESS = 4.0
"""How sharply the running requests stop growing where memory is full."""


@dataclass(frozen=True, slots=True)
class Tasks:
    """Tasks that were fitted, each with a context and a prefill of its own."""

    names: tuple[str, ...]

    @property
    def size(self) -> int:
        """Numbers in a vector of parameters: shared ones, then context and prefill by task."""
        return len(PARAMETERS) + 2 * len(self.names)

    def indices(self, task: list[str]) -> NDArray[np.intp]:
        """Return the position of each row's task, -1 where it was not fitted."""
        known = {name: i for i, name in enumerate(self.names)}
        return np.array([known.get(name, -1) for name in task], dtype=np.intp)


def priors(tasks: Tasks) -> tuple[Array, Array]:
    """Return centre and deviation of each number of a vector of parameters."""
    centre = [np.log(p.centre) if p.logarithmic else p.centre for p in PARAMETERS]
    deviation = [p.deviation for p in PARAMETERS]
    n = 2 * len(tasks.names)
    return np.array(centre + [0.0] * n), np.array(deviation + [1.0] * n)


def values(vector: Array) -> dict[str, float]:
    """Return the shared parameters of a vector by name, in their units."""
    return {
        p.name: float(np.exp(v) if p.logarithmic else v)
        for p, v in zip(PARAMETERS, vector, strict=False)
    }


def task_values(vector: Array, tasks: Tasks) -> dict[str, tuple[float, float]]:
    """Return context in tokens and input tokens per output token of each fitted task."""
    p = values(vector)
    n, k = len(PARAMETERS), len(tasks.names)
    return {
        name: (
            p["context"] * float(np.exp(TASK_SPREAD[0] * vector[n + i])),
            p["prefill"] * float(np.exp(TASK_SPREAD[1] * vector[n + k + i])),
        )
        for i, name in enumerate(tasks.names)
    }


def shifts(
    vector: Array, tasks: Tasks, index: NDArray[np.intp], new: tuple[float, float] = (0.0, 0.0)
) -> tuple[Array, Array]:
    """Return the logs by which a row's task moves context and prefill, each shape (rows,).

    `new` holds the numbers of tasks that were not fitted, in deviations.
    """
    n, k = len(PARAMETERS), len(tasks.names)
    context = np.append(vector[n : n + k], new[0])
    prefill = np.append(vector[n + k :], new[1])
    return TASK_SPREAD[0] * context[index], TASK_SPREAD[1] * prefill[index]


def step_energy(
    shapes: Shapes, vector: Array, context_shift: Array, prefill_shift: Array
) -> tuple[dict[str, Array], Array]:
    """Return what a decode step costs by cause, J, and the requests that run, each (rows,)."""
    s, p = shapes, values(vector)
    context = p["context"] * np.exp(context_shift)
    kept = np.where(s.window_share > 0.0, np.minimum(context, np.maximum(s.window, 1.0)), 0.0)
    cache = s.kv_bytes * ((1.0 - s.window_share) * context + s.window_share * kept)
    # A head cannot be cut: more ranks than heads each hold a copy.
    cache = cache * np.maximum(1.0, s.tensor / s.kv_heads)
    weights = s.weight_bytes * (s.expert + s.replicas * s.dense)
    room = np.maximum(MEMORY_USED * s.memory_bytes - weights, 0.05 * s.memory_bytes)
    fit = room / np.maximum(cache + s.state_bytes, 1.0)
    full = (s.batch / fit) ** FILL_SHARPNESS
    running = np.maximum(s.batch * (1.0 + full) ** (-1.0 / FILL_SHARPNESS), 1.0)
    touched = 1.0 - s.idle_expert ** (running ** p["routing"])
    read = s.weight_bytes * (s.replicas * s.dense + p["grouped"] * s.expert * touched)
    wait = s.waiting_power * s.gpus
    work = p["compute"] * s.flop_energy * 2.0 * running * s.active
    fixed = (
        p["layer"]
        + p["experts"] * s.moe
        + p["synchronise"] * (s.tensor > 1.0)
        + p["exchange"] * (s.replicas > 1.0)
    )
    parts = {
        "weights": p["read"] * 1e-9 * read,
        # A state is read and written again; a cache only grows.
        "cache": p["read"] * 1e-9 * running * (cache + 2.0 * s.state_bytes),
        "decode": work,
        "prefill": work * (p["prefill"] * np.exp(prefill_shift)) * s.replicas ** p["lockstep"],
        "visual": p["visual"] * s.flop_energy * 2.0 * running * s.active * s.image,
        "layers": wait * s.layers * fixed,
        "quantised": p["quantised"] * s.waiting_power * s.layers * s.experts * s.quantised,
        "requests": p["request"] * wait * running,
    }
    return parts, running


def log_energy(
    shapes: Shapes,
    vector: Array,
    tasks: Tasks,
    index: NDArray[np.intp],
    new: tuple[float, float] = (0.0, 0.0),
) -> Array:
    """Return the log of J per output token of the shared law, shape (rows,)."""
    parts, running = step_energy(shapes, vector, *shifts(vector, tasks, index, new))
    result: Array = np.log(np.add.reduce(list(parts.values())) / running)
    return result
