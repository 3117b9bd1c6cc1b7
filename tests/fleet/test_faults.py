"""Classes of what Ray raises, and what the watch takes for a lost head."""

from __future__ import annotations

import time

import pytest
from ray import exceptions

from harness.fleet.faults import FINAL, INFRASTRUCTURE, fault_of
from harness.fleet.watch import HEAD_SILENCE_S, HeadLostError, Watch


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (exceptions.OutOfMemoryError("full"), "host_out_of_memory"),
        (exceptions.WorkerCrashedError(), "worker_died"),
        (exceptions.NodeDiedError("gone"), "node_lost"),
        (exceptions.OutOfDiskError("full"), "staging_failed"),
        (exceptions.ObjectStoreFullError("full"), "staging_failed"),
        (exceptions.TaskPlacementGroupRemoved(), "not_placed"),
        (exceptions.TaskUnschedulableError("never"), "not_placed"),
        (exceptions.RaySystemError("odd"), "result_lost"),
        (ZeroDivisionError("by nothing"), "launch_crashed"),
    ],
)
def test_only_what_the_launch_did_itself_is_final(error: Exception, kind: str) -> None:
    fault = fault_of(error)
    assert fault.kind == kind
    assert fault.kind in INFRASTRUCTURE or fault.kind in FINAL
    assert fault.again == (kind != "launch_crashed")


def test_a_head_that_does_not_answer_is_lost_and_a_driver_that_slept_is_not() -> None:
    now_s = 0.0
    answering = True

    def list_nodes() -> list[dict[str, object]]:
        while not answering:
            time.sleep(0.01)
        return [{"NodeID": "a", "Alive": True}, {"NodeID": "b", "Alive": False}]

    with Watch(list_nodes, clock=lambda: now_s) as watch:
        deadline = time.monotonic() + 5
        while watch.alive() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert watch.alive() == {"a"}
        now_s += 10 * HEAD_SILENCE_S  # stopped by hand, and gone on
        assert watch.alive() == {"a"}
        answering = False
        while watch._asked_s is None and time.monotonic() < deadline:
            time.sleep(0.01)
        now_s += HEAD_SILENCE_S + 1
        with pytest.raises(HeadLostError, match="has not answered"):
            watch.alive()
        answering = True
