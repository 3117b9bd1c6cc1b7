"""Counters and gauges of a run for Prometheus, through Ray's own exporter.

Ray's agent on the driver's node exports them under these names with `ray_` before them, a few
seconds after they were set. Without an agent they go nowhere and cost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from harness.fleet.view import RunView

EXPORTED_PREFIX = "ray_"
"""What Ray's exporter puts before every name."""

Sample = tuple[dict[str, str], float]
"""Tags besides the sweep, and a value."""

_Tags = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric.

    Attributes
    ----------
    name
        Its name, without Ray's prefix; counters end in `_total`, units are in the name.
    kind
        `counter` or `gauge`.
    help
        What it says.
    read
        Its samples in a view: tags and value. What is not known gives no sample.
    tags
        Keys of its tags, besides `sweep`.
    gone
        Value of a gauge's series that has no sample any more, and of all at the end.
    """

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    read: Callable[[RunView], Iterator[Sample]]
    tags: tuple[str, ...] = ()
    gone: float = math.nan


def _one(read: Callable[[RunView], float | None]) -> Callable[[RunView], Iterator[Sample]]:
    def samples(view: RunView) -> Iterator[Sample]:
        value = read(view)
        if value is not None:
            yield {}, float(value)

    return samples


def _classes(
    read: Callable[[RunView], tuple[Mapping[str, int], int]],
) -> Callable[[RunView], Iterator[Sample]]:
    """Samples by class; tasks that no class tells of are `unknown`, so that the sum is right."""

    def samples(view: RunView) -> Iterator[Sample]:
        classes, total = read(view)
        for name, tasks in classes.items():
            yield {"class": name}, float(tasks)
        if total > sum(classes.values()):
            yield {"class": "unknown"}, float(total - sum(classes.values()))

    return samples


def _node_states(view: RunView) -> Iterator[Sample]:
    for node in view.nodes:
        yield {"node": node.name, "state": node.state}, 1.0


def _node_busy(view: RunView) -> Iterator[Sample]:
    for node in view.nodes:
        yield {"node": node.name}, node.busy_share


METRICS: tuple[MetricSpec, ...] = (
    MetricSpec(
        "energylens_tasks_planned", "gauge", "Tasks in the plan.", _one(lambda v: v.planned)
    ),
    MetricSpec(
        "energylens_tasks_remaining",
        "gauge",
        "Tasks of the plan without a row.",
        _one(lambda v: max(0, v.planned - v.already_done - v.done)),
    ),
    MetricSpec(
        "energylens_tasks_done_total",
        "counter",
        "Tasks that ended with a row, failed ones included.",
        _one(lambda v: v.done),
    ),
    MetricSpec(
        "energylens_tasks_failed_total",
        "counter",
        "Tasks that ended with a row without a measurement.",
        _classes(lambda v: (v.failures, v.failed)),
        ("class",),
    ),
    MetricSpec(
        "energylens_tasks_lost_total",
        "counter",
        "Tasks given up without a row; the next run tries them again.",
        _classes(lambda v: (v.losses, v.lost)),
        ("class",),
    ),
    MetricSpec(
        "energylens_tasks_per_second",
        "gauge",
        "Tasks that end per second, lately.",
        _one(lambda v: v.rate_per_s),
    ),
    MetricSpec("energylens_eta_seconds", "gauge", "Seconds left.", _one(lambda v: v.eta_s)),
    MetricSpec(
        "energylens_run_seconds", "gauge", "Wall time of the run.", _one(lambda v: v.seconds)
    ),
    MetricSpec(
        "energylens_run_stopping",
        "gauge",
        "1 once no launches are started any more.",
        _one(lambda v: float(bool(v.stopping))),
    ),
    MetricSpec(
        "energylens_launches_running",
        "gauge",
        "Launches under way.",
        _one(lambda v: v.launches_running),
        gone=0.0,
    ),
    MetricSpec(
        "energylens_launches_waiting",
        "gauge",
        "Launches that wait for a node.",
        _one(lambda v: v.launches_waiting),
        gone=0.0,
    ),
    MetricSpec(
        "energylens_retries_total",
        "counter",
        "Launches that were tried again.",
        _one(lambda v: v.retries),
    ),
    MetricSpec(
        "energylens_energy_kwh_total",
        "counter",
        "What the GPUs of measured launches drew, by their sensors, kWh.",
        _one(lambda v: v.energy_kwh),
    ),
    MetricSpec(
        "energylens_gpu_hours_total",
        "counter",
        "GPU time that launches held, h.",
        _one(lambda v: v.gpu_hours),
    ),
    MetricSpec(
        "energylens_cost_total",
        "counter",
        "Price of the GPU time, in the currency of the sweep.",
        _one(lambda v: v.cost),
    ),
    MetricSpec(
        "energylens_node_state",
        "gauge",
        "1 for the state that a node is in, 0 for the others.",
        _node_states,
        ("node", "state"),
        gone=0.0,
    ),
    MetricSpec(
        "energylens_node_busy_ratio",
        "gauge",
        "Share of the run's time in which a node held launches.",
        _node_busy,
        ("node",),
    ),
)


class FleetMetrics:
    """The metrics of one run.

    Parameters
    ----------
    sweep
        Its name, the tag of every series.
    make
        Makes a metric from its spec; default: those of Ray.

    Notes
    -----
    Every series hangs on the process of the driver: it ends with it.
    """

    def __init__(self, sweep: str, make: Callable[[MetricSpec], Any] | None = None) -> None:
        self._sweep = {"sweep": sweep}
        make = make or _ray_metric
        self._metrics = {spec.name: make(spec) for spec in METRICS}
        self._counted: dict[tuple[str, _Tags], float] = {}
        self._shown: dict[str, set[_Tags]] = {}

    def update(self, view: RunView) -> None:
        """Set every gauge, and add to every counter what is new since the last view."""
        for spec in METRICS:
            samples = {tuple(tags.items()): value for tags, value in spec.read(view)}
            if spec.kind == "counter":
                self._count(spec, samples)
            else:
                self._gauge(spec, samples)

    def close(self) -> None:
        """Take the gauges down: the run is over."""
        for spec in METRICS:
            if spec.kind == "gauge":
                self._gauge(spec, {})

    def _count(self, spec: MetricSpec, samples: Mapping[_Tags, float]) -> None:
        for tags, value in samples.items():
            new = value - self._counted.get((spec.name, tags), 0.0)
            # What was counted stays counted, also where a view takes something back.
            if new > 0:
                self._counted[spec.name, tags] = value
                self._metrics[spec.name].inc(new, {**self._sweep, **dict(tags)})

    def _gauge(self, spec: MetricSpec, samples: Mapping[_Tags, float]) -> None:
        for tags in self._shown.get(spec.name, set()) - samples.keys():
            self._metrics[spec.name].set(spec.gone, {**self._sweep, **dict(tags)})
        for tags, value in samples.items():
            self._metrics[spec.name].set(value, {**self._sweep, **dict(tags)})
        self._shown[spec.name] = set(samples)


def _ray_metric(spec: MetricSpec) -> Any:
    from ray.util.metrics import Counter, Gauge

    kind = Counter if spec.kind == "counter" else Gauge
    return kind(spec.name, description=spec.help, tag_keys=("sweep", *spec.tags))
