"""Metrics of a run: what is counted, and that a real Ray exports it."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.fleet.metrics import EXPORTED_PREFIX, METRICS, FleetMetrics, MetricSpec
from harness.fleet.view import NodeView, RunView

DASHBOARD = Path(__file__).parents[2] / "docs" / "grafana" / "energylens.json"
NODES = (
    NodeView("gpu01/aaaaaa", "8 x H100-SXM5-80GB", "busy", "Llama tp 8", busy_share=0.5),
    NodeView("gpu02/bbbbbb", "8 x H100-SXM5-80GB", "idle"),
)
VIEW = RunView(
    sweep="nightly",
    planned=100,
    already_done=10,
    done=40,
    failed=3,
    lost=2,
    launches_waiting=5,
    launches_running=1,
    retries=1,
    seconds=60.0,
    rate_per_s=0.7,
    eta_s=70.0,
    energy_kwh=1.5,
    gpu_hours=0.25,
    cost=None,
    failures={"out_of_memory": 3},
    losses={"node_died": 2},
    nodes=NODES,
)


class Recorded:
    """A metric that keeps its series, as the exporter would show them."""

    def __init__(self, spec: MetricSpec, series: dict[tuple[str, ...], float]) -> None:
        self.spec = spec
        self.series = series

    def _key(self, tags: dict[str, str]) -> tuple[str, ...]:
        assert set(tags) == {"sweep", *self.spec.tags}
        return (self.spec.name, *(tags[key] for key in self.spec.tags))

    def inc(self, value: float, tags: dict[str, str]) -> None:
        assert self.spec.kind == "counter"
        assert value > 0
        self.series[self._key(tags)] = self.series.get(self._key(tags), 0.0) + value

    def set(self, value: float, tags: dict[str, str]) -> None:
        assert self.spec.kind == "gauge"
        self.series[self._key(tags)] = value


@pytest.fixture
def series() -> dict[tuple[str, ...], float]:
    return {}


@pytest.fixture
def metrics(series: dict[tuple[str, ...], float]) -> FleetMetrics:
    return FleetMetrics("nightly", lambda spec: Recorded(spec, series))


def test_counters_add_up_to_the_last_view(metrics, series) -> None:
    for done in (0, 40, 40, 55):
        metrics.update(replace(VIEW, done=done))
    assert series["energylens_tasks_done_total",] == 55
    assert series["energylens_tasks_failed_total", "out_of_memory"] == 3
    assert series["energylens_tasks_lost_total", "node_died"] == 2
    assert series["energylens_energy_kwh_total",] == 1.5
    assert series["energylens_tasks_remaining",] == 100 - 10 - 55


def test_a_counter_never_goes_back(metrics, series) -> None:
    for done in (40, 30, 41):
        metrics.update(replace(VIEW, done=done))
    assert series["energylens_tasks_done_total",] == 41


def test_tasks_that_no_class_tells_of_are_counted_too(metrics, series) -> None:
    metrics.update(replace(VIEW, lost=7))
    assert series["energylens_tasks_lost_total", "node_died"] == 2
    assert series["energylens_tasks_lost_total", "unknown"] == 5


def test_a_node_is_in_one_state(metrics, series) -> None:
    metrics.update(VIEW)
    metrics.update(replace(VIEW, nodes=(replace(NODES[0], state="lost"), NODES[1])))
    states = {key[1:]: value for key, value in series.items() if "node_state" in key[0]}
    assert states == {
        ("gpu01/aaaaaa", "busy"): 0,
        ("gpu01/aaaaaa", "lost"): 1,
        ("gpu02/bbbbbb", "idle"): 1,
    }


def test_what_is_not_known_is_no_number(metrics, series) -> None:
    metrics.update(replace(VIEW, eta_s=None))
    assert ("energylens_eta_seconds",) not in series
    metrics.update(VIEW)
    metrics.update(replace(VIEW, eta_s=None))
    assert math.isnan(series["energylens_eta_seconds",])
    assert ("energylens_cost_total",) not in series


def test_the_end_leaves_no_node_and_no_launch(metrics, series) -> None:
    metrics.update(VIEW)
    metrics.close()
    assert series["energylens_launches_running",] == 0
    assert not any(v for key, v in series.items() if "node_state" in key[0])
    assert series["energylens_tasks_done_total",] == 40


def test_names_follow_the_conventions_of_prometheus() -> None:
    for spec in METRICS:
        assert re.fullmatch(r"energylens_[a-z]+(_[a-z]+)*", spec.name)
        assert spec.name.endswith("_total") == (spec.kind == "counter")
        assert spec.help.endswith(".")
    assert len({spec.name for spec in METRICS}) == len(METRICS)


def _expressions(panel: dict[str, Any]) -> list[str]:
    return [target["expr"] for target in panel.get("targets", ())]


def test_the_dashboard_asks_only_for_metrics_that_exist() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    expressions = [e for panel in dashboard["panels"] for e in _expressions(panel)]
    expressions += [str(v.get("query", "")) for v in dashboard["templating"]["list"]]
    named = set(re.findall(r"\b\w*energylens_\w+", " ".join(expressions)))
    known = {EXPORTED_PREFIX + spec.name for spec in METRICS}
    assert named
    assert named <= known
    tags = set(re.findall(r"\bby \((\w+)\)", " ".join(expressions)))
    assert tags <= {tag for spec in METRICS for tag in spec.tags} | {"sweep"}


def test_the_panels_of_the_dashboard_lie_side_by_side() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: dict[tuple[int, int], str] = {}
    for panel in panels:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]


@pytest.fixture(scope="module")
def exporter() -> Iterator[str]:
    """Ray on this machine; yields the address where its agent exports metrics."""
    import ray

    settings = {
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_metrics_report_interval_ms": "500",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        ray.init(
            address="local",
            include_dashboard=False,
            num_cpus=1,
            object_store_memory=128 * 2**20,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
        yield f"http://127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}/metrics"
    finally:
        ray.shutdown()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def _exported(address: str) -> dict[str, float]:
    """Our series: name and the tags that are ours -> value."""
    try:
        text = urllib.request.urlopen(address, timeout=5).read().decode()
    except OSError:
        return {}
    out = {}
    for line in text.splitlines():
        found = re.fullmatch(r"ray_(energylens_\w+)\{(.*)\} (\S+)", line)
        if found:
            tags = dict(re.findall(r'(\w+)="([^"]*)"', found[2]))
            ours = [tags[key] for key in ("sweep", "class", "node", "state") if key in tags]
            out[" ".join([found[1], *ours])] = float(found[3])
    return out


def _wait(address: str, name: str, value: float, seconds: float = 40.0) -> dict[str, float]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        series = _exported(address)
        if series.get(name) == value:
            return series
        time.sleep(0.5)
    return _exported(address)


@pytest.mark.ray
def test_ray_exports_them(exporter: str) -> None:
    metrics = FleetMetrics("nightly")
    metrics.update(replace(VIEW, done=20))
    # The agent starts after Ray says it is up; what was set before reaches it all the same.
    first = _wait(exporter, "energylens_tasks_done_total nightly", 20)
    if not first:
        pytest.skip("Ray's metrics agent does not answer on this machine")
    assert first["energylens_eta_seconds nightly"] == 70
    metrics.update(replace(VIEW, eta_s=None, nodes=(replace(NODES[0], state="lost"), NODES[1])))
    series = _wait(exporter, "energylens_tasks_done_total nightly", 40)
    assert series["energylens_tasks_done_total nightly"] == 40
    assert series["energylens_tasks_failed_total nightly out_of_memory"] == 3
    assert series["energylens_energy_kwh_total nightly"] == 1.5
    assert series["energylens_launches_waiting nightly"] == 5
    assert series["energylens_node_state nightly gpu01/aaaaaa lost"] == 1
    assert series["energylens_node_state nightly gpu01/aaaaaa busy"] == 0
    assert series["energylens_node_busy_ratio nightly gpu01/aaaaaa"] == 0.5
    # Ray's exporter leaves NaN out: what is not known any more is not exported any more.
    assert math.isnan(series.get("energylens_eta_seconds nightly", math.nan))
    assert {name.split()[0] for name in series} <= {spec.name for spec in METRICS}


@pytest.mark.ray
def test_an_update_costs_milliseconds(exporter: str) -> None:
    nodes = tuple(NodeView(f"gpu{i:03d}/aaaaaa", "8 x H100", "busy") for i in range(200))
    metrics = FleetMetrics("large")
    started = time.process_time()
    for done in range(20):
        metrics.update(replace(VIEW, done=done, nodes=nodes))
    assert (time.process_time() - started) / 20 < 0.1


def test_the_page_about_watching_names_every_metric() -> None:
    page = (DASHBOARD.parents[1] / "watching.md").read_text()
    named = set(re.findall(r"`(energylens_\w+)`", page))
    assert named == {spec.name for spec in METRICS}
