"""Level of the sentinels from night to night: an early sign that a GPU or a host drifts.

Every real launch measures one of its workloads again in every trial. Its mean over the launch is
better known than any single row, and where the same GPUs did the same launch on both nights it is
held against itself: gain of the sensor, silicon and model cancel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from energylens.comparison.launches import Summary, launch_sd
from energylens.comparison.ratios import FLOOR, Ints
from energylens.comparison.texts import texts
from harness.measuring.reasons import REASONS
from harness.meters.phases import PRIOR_WEIGHT

if TYPE_CHECKING:
    import pandas as pd

HARMLESS = {"drift", "no_power_meter"}
"""Reasons of rows whose sentinel still says how a night was."""


@dataclass(frozen=True, slots=True)
class Level:
    """Sentinel of one launch.

    Attributes
    ----------
    task_id, model_id, hardware
        Its configuration.
    metric
        total: its values are energies, J; latency: times, s.
    host, gpus
        Where it ran; no GPUs where the rows do not say.
    launch
        Id of the launch.
    values
        One value a trial, in order.
    """

    task_id: str
    model_id: str
    hardware: str
    metric: str
    host: str
    gpus: tuple[str, ...]
    launch: str
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Shift:
    """Change of one sentinel on the same host and GPUs.

    Attributes
    ----------
    level
        The sentinel of tonight.
    log_change, variance, degrees
        ln(tonight / last night), its variance with the scatter of launches, and degrees of
        freedom of the part that comes from repeats.
    """

    level: Level
    log_change: float
    variance: float
    degrees: float


def levels(records: Mapping[str, Any], frame: pd.DataFrame) -> list[Level]:
    """Read the sentinels of one night.

    Parameters
    ----------
    records
        Launch records by name.
    frame
        Measurement table of the night: it says where a launch ran, and whether the row of the
        sentinel can be trusted.
    """
    keys = zip(frame["task_id"], frame["launch_id"], strict=True)
    place = {key: row for row, key in enumerate(keys)}
    found = []
    for record in records.values():
        launch = _of(_of(record, "spec"), "launch_id", str)
        sentinel = _of(_of(record, "measuring"), "sentinel")
        task_id, values = _of(sentinel, "task_id", str), _of(sentinel, "values", list)
        row = place.get((task_id, launch))
        if row is None or len(values) < 2 or not all(_positive(v) for v in values):
            continue
        line = frame.iloc[row]
        hard = {c for c in texts(line["reasons"]) if c not in REASONS or REASONS[c].hard}
        if hard - HARMLESS:
            continue
        found.append(
            Level(
                task_id=task_id,
                model_id=str(line["model_id"]),
                hardware=str(line["hardware"]),
                metric="total" if _positive(line["total_energy_j"]) else "latency",
                host=str(line["host"]) if isinstance(line["host"], str) else "",
                gpus=tuple(sorted(texts(line["gpu_uuids"]))),
                launch=launch,
                values=tuple(float(v) for v in values),
            )
        )
    return found


def shifts(old: Sequence[Level], new: Sequence[Level]) -> list[Shift]:
    """Pair the sentinels that ran on the same host and GPUs on both nights.

    The scatter within a launch is shrunk towards that of all launches, as for rows; launches
    scatter beyond that by what pairs of the same model show, and 0.5 % at least.
    """
    every = [*old, *new]
    spread = _spread(every)
    before = _together(old, spread)
    after = _together(new, spread)
    common = [key for key in after if key in before]
    if not common:
        return []
    change = np.array([after[key][1] - before[key][1] for key in common])
    variance = np.array([max(after[k][2] + before[k][2], FLOOR**2) for k in common])
    degrees = [
        (after[k][2] + before[k][2]) ** 2
        / (after[k][2] ** 2 / after[k][3] + before[k][2] ** 2 / before[k][3])
        for k in common
    ]
    numbers: dict[tuple[str, str], int] = {}
    for key in common:
        level = after[key][0]
        numbers.setdefault((level.model_id, level.hardware), len(numbers))
    kinds: Ints = np.array([numbers[after[k][0].model_id, after[k][0].hardware] for k in common])
    extra = launch_sd(Summary(np.arange(len(common)), change, variance), kinds) ** 2
    return [
        Shift(after[key][0], float(d), float(v + extra), float(n))
        for key, d, v, n in zip(common, change, variance, degrees, strict=True)
    ]


Key = tuple[str, str, str, tuple[str, ...]]
Mean = tuple[Level, float, float, float]


def _spread(every: Sequence[Level]) -> tuple[float, float]:
    """Relative variance of single values over all launches, and its degrees of freedom."""
    free = sum(len(level.values) - 1 for level in every)
    if not free:
        return 0.0, 0.0
    return sum(_squares(level) for level in every) / free, float(free)


def _squares(level: Level) -> float:
    logs = np.log(level.values)
    return float(((logs - logs.mean()) ** 2).sum())


def _together(night: Sequence[Level], spread: tuple[float, float]) -> dict[Key, Mean]:
    """Mean log, its variance and degrees; launches of one night at one place are averaged."""
    variance, free = spread
    prior = min(PRIOR_WEIGHT, free)
    groups: dict[Key, list[Level]] = {}
    for level in night:
        groups.setdefault((level.task_id, level.metric, level.host, level.gpus), []).append(level)
    out = {}
    for key, own in groups.items():
        logs = np.log([v for level in own for v in level.values])
        degrees = logs.size - len(own) + prior
        single = (sum(_squares(level) for level in own) + prior * variance) / degrees
        out[key] = (own[-1], float(logs.mean()), single / logs.size, float(degrees))
    return out


def _of(value: Any, key: str, kind: type = dict) -> Any:
    """Return a part of a record; an empty one where there is none of that kind."""
    part = value.get(key) if isinstance(value, Mapping) else None
    return part if isinstance(part, kind) else kind()


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0
