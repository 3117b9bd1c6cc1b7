"""The dispatch loop on a real local Ray, with workers that die, hang or refuse."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.errors import StoreError
from harness.fleet import dispatch as module
from harness.fleet.cluster import ray_cluster
from harness.fleet.dispatch import Batch, BatchFailure, dispatch
from harness.fleet.worker import LaunchReport

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]


def act(specs: tuple[str, ...], out: str, isolated: bool) -> list[LaunchReport]:
    """Stand in for `run_batch`: do what the spec says."""
    reports = []
    for spec in specs:
        action, _, name = spec.partition(":")
        marker = Path(out) / name
        if action == "die-once" and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if action == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if action == "hang":
            time.sleep(600)
        if action == "full-disk":
            raise StoreError("no space left", where=out, fix="free some")
        if action == "crash":
            raise ZeroDivisionError("the launch itself is wrong")
        reports.append(LaunchReport(spec, "m", "h", 1, 0.0, 1.0))
    return reports


@pytest.fixture(scope="module")
def ray() -> Iterator[int]:
    with ray_cluster(2) as cpus:
        yield cpus


@pytest.fixture(autouse=True)
def acting(monkeypatch: pytest.MonkeyPatch) -> None:
    # The remote function is pickled by value, so that workers need not import this test.
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(module, "run_batch", act)


def run(specs: list[str], out: Path, deadline_s: float = 60.0) -> tuple[list[Any], list[str]]:
    retries: list[str] = []
    batches = [Batch((s,), (s,), deadline_s) for s in specs]
    outcomes = list(
        dispatch(
            batches,
            str(out),
            slots=4,
            isolated=False,
            on_retry=lambda batch, why: retries.append(why),
        )
    )
    return outcomes, retries


def test_every_batch_is_run_once(ray: int, tmp_path: Path) -> None:
    names = [f"ok:{i}" for i in range(20)]
    outcomes, retries = run(names, tmp_path)
    assert sorted(r.launch_id for reports in outcomes for r in reports) == sorted(names)
    assert retries == []


def test_a_worker_that_dies_once_is_tried_again(ray: int, tmp_path: Path) -> None:
    outcomes, retries = run(["die-once:a", "ok:b"], tmp_path)
    assert sorted(r.launch_id for reports in outcomes for r in reports) == ["die-once:a", "ok:b"]
    assert retries == ["WorkerCrashedError"]


def test_a_launch_that_kills_its_worker_does_not_take_its_batch_with_it(
    ray: int, tmp_path: Path
) -> None:
    names = ("ok:a", "die:b", "ok:c")
    outcomes = list(
        dispatch(
            [Batch(names, names, 60.0)],
            str(tmp_path),
            slots=4,
            isolated=False,
            on_retry=lambda batch, why: None,
        )
    )
    lost = [o for o in outcomes if isinstance(o, BatchFailure)]
    assert [failure.batch.launch_ids for failure in lost] == [("die:b",)]
    done = [r.launch_id for o in outcomes if not isinstance(o, BatchFailure) for r in o]
    assert sorted(done) == ["ok:a", "ok:c"]


def test_a_worker_that_always_dies_is_given_up(ray: int, tmp_path: Path) -> None:
    outcomes, retries = run(["die:a"], tmp_path)
    assert isinstance(outcomes[0], BatchFailure)
    assert outcomes[0].kind == "WorkerCrashedError"
    assert len(retries) == module.MAX_ATTEMPTS - 1


def test_a_hang_ends_at_its_deadline_and_the_rest_goes_on(ray: int, tmp_path: Path) -> None:
    outcomes, _ = run(["hang:a", "ok:b"], tmp_path, deadline_s=4.0)
    kinds = [o.kind if isinstance(o, BatchFailure) else "ok" for o in outcomes]
    assert sorted(kinds) == ["deadline", "ok"]


def test_a_launch_that_raises_is_a_result_and_not_retried(ray: int, tmp_path: Path) -> None:
    outcomes, retries = run(["crash:a", "ok:b"], tmp_path)
    crashed = next(o for o in outcomes if isinstance(o, BatchFailure))
    assert crashed.kind == "launch_crashed"
    assert "the launch itself is wrong" in crashed.detail
    assert retries == []


def test_an_error_for_the_user_stops_the_run(ray: int, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no space left") as caught:
        run(["full-disk:a", "ok:b"], tmp_path)
    assert caught.value.fix == "free some"
