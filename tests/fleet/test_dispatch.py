"""The dispatch loop on a real local Ray, with workers that die, hang, fall silent or refuse."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from harness.fleet.cluster import ray_cluster
from harness.fleet.dispatch import Dispatcher
from harness.fleet.faults import Fault
from harness.fleet.inventory import probe_again, take_inventory
from harness.fleet.leases import Job
from harness.fleet.mailbox import open_mailbox
from harness.fleet.nodes import Need, NodeFacts
from harness.fleet.patience import Patience
from harness.fleet.schedule import Assignment, Schedule, Work
from harness.fleet.watch import Scouts, Watch
from harness.fleet.worker import LaunchReport, Order, Outcome, Pulse

pytestmark = pytest.mark.ray

ANYWHERE = Need("", 0)
QUICK = Patience(silence_s=8.0, start_s=300.0, grace_s=1.0, return_s=0.5, probe_s=60.0)


def act(order: Order, models: dict[str, str], mailbox: Any) -> Outcome:
    """Stand in for `run_order`: do what the specs say."""
    reports = []
    with Pulse(order.ticket, mailbox) as pulse:
        for spec in order.specs:
            action, _, place = spec.partition(":")
            marker = Path(place)
            if action == "die-once" and not marker.exists():
                marker.touch()
                time.sleep(0.5)
                os.kill(os.getpid(), signal.SIGKILL)
            if action == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if action == "freeze":
                marker.write_text(str(os.getpid()))
                time.sleep(0.5)
                os.kill(os.getpid(), signal.SIGSTOP)
            if action == "sleep":
                time.sleep(float(place))
            if action == "hang":
                time.sleep(600)
            if action == "listen":
                while pulse.answer == "go":
                    time.sleep(0.05)
            if action == "crash":
                raise ZeroDivisionError("the launch itself is wrong")
            ended = "staging_failed" if action == "no-room" else ""
            reports.append(LaunchReport(spec, "m", "h", 0 if ended else 1, 0.0, 1.0, ended=ended))
    return Outcome(tuple(reports), {"measurements/x": models["m"].encode()})


@dataclass
class Heard:
    """A listener that remembers."""

    done: list[str] = field(default_factory=list)
    retried: list[tuple[str, int, str]] = field(default_factory=list)
    given_up: list[tuple[str, str]] = field(default_factory=list)
    nodes: list[tuple[str, str]] = field(default_factory=list)
    details: list[str] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)
    held_s: float = 0.0
    stop_after: int = 10**9
    stall_s: float = 0.0

    def sent(self, assignment: Assignment) -> None:
        pass

    def started(self, assignment: Assignment) -> None:
        self.begun.append(assignment.work.work_id)

    def ended(self, assignment: Assignment, outcome: Outcome, held_s: float) -> None:
        assert outcome.files == {"measurements/x": b"{}"}
        self.done += [report.launch_id for report in outcome.reports]
        self.held_s += held_s

    def again(self, assignment: Assignment, fault: Fault, held_s: float) -> None:
        self.retried.append((assignment.work.work_id, assignment.work.attempt, fault.kind))

    def lost(self, work: Work, nodes: tuple[str, ...], fault: Fault, held_s: float) -> None:
        self.given_up.append((work.work_id, fault.kind))
        self.details.append(fault.detail)

    def found(self, facts: NodeFacts) -> None:
        pass

    def withdrawn(self, assignment: Assignment) -> None:
        pass

    def node(self, node_id: str, what: str, detail: str) -> None:
        self.nodes.append((node_id, what))

    def tick(self) -> str:
        if self.begun and self.stall_s:
            time.sleep(self.stall_s)
            self.stall_s = 0.0
        return "that is enough" if len(self.begun) >= self.stop_after else ""

    def left_s(self) -> float:
        return float("inf")


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[NodeFacts, ...]]:
    os.environ["ENERGYLENS_BEAT_S"] = "0.5"
    try:
        with ray_cluster(2):
            # The function is pickled by value, so that workers need not import this test.
            from ray import cloudpickle

            cloudpickle.register_pickle_by_value(sys.modules[__name__])
            yield take_inventory()
    finally:
        del os.environ["ENERGYLENS_BEAT_S"]


def run(
    nodes: tuple[NodeFacts, ...],
    *groups: tuple[str, ...],
    deadline_s: float = 60.0,
    stop_after: int = 10**9,
    need: Need = ANYWHERE,
    stall_s: float = 0.0,
) -> tuple[Heard, str]:
    """Dispatch one work for each group of actions."""
    import ray

    specs = {f"w{i}": group for i, group in enumerate(groups)}
    heard = Heard(stop_after=stop_after, stall_s=stall_s)

    def split(work: Work) -> list[Work]:
        if len(specs[work.work_id]) == 1:
            return [work]
        parts = []
        for i, spec in enumerate(specs[work.work_id]):
            specs[f"{work.work_id}+{i}"] = (spec,)
            parts.append(replace(work, work_id=f"{work.work_id}+{i}"))
        return parts

    scouts = Scouts(probe_again)
    with Watch(ray.nodes) as watch:
        dispatcher = Dispatcher(
            Schedule([Work(name, need, 0.0) for name in specs], nodes),
            {facts.node_id: facts for facts in nodes},
            job=lambda work: Job(specs[work.work_id], False, deadline_s),
            split=split,
            models={"m": "{}"},
            listener=heard,
            mailbox=open_mailbox(),
            watch=watch,
            scouts=scouts,
            patience=QUICK,
            run=act,
        )
        why = dispatcher.run()
    scouts.close()
    return heard, why


def test_every_work_is_done_once(nodes) -> None:
    names = [(f"ok:{i}",) for i in range(20)]
    heard, why = run(nodes, *names)
    assert sorted(heard.done) == sorted(name for (name,) in names)
    assert (heard.retried, heard.given_up, why) == ([], [], "")


def test_a_worker_that_dies_once_is_tried_again(nodes, tmp_path: Path) -> None:
    heard, _ = run(nodes, (f"die-once:{tmp_path / 'a'}",), ("ok:b",))
    assert sorted(heard.done) == sorted([f"die-once:{tmp_path / 'a'}", "ok:b"])
    assert heard.retried == [("w0", 1, "worker_died")]


def test_a_launch_that_kills_its_worker_does_not_take_its_batch_with_it(nodes) -> None:
    heard, _ = run(nodes, ("ok:a", "die:b", "ok:c"))
    assert sorted(heard.done) == ["ok:a", "ok:c"]
    assert heard.given_up == [("w0+1", "worker_died")]
    assert heard.retried == [("w0", 1, "worker_died"), ("w0+1", 2, "worker_died")]
    assert not heard.nodes


def test_one_launch_that_always_dies_does_not_close_its_node(nodes) -> None:
    heard, _ = run(nodes, ("die:a",), *[(f"ok:{i}",) for i in range(4)])
    assert heard.given_up == [("w0", "worker_died")]
    assert len(heard.done) == 4
    assert not heard.nodes


def test_a_node_on_which_every_launch_dies_is_put_into_quarantine(nodes) -> None:
    heard, _ = run(nodes, *[(f"die:{i}",) for i in range(5)])
    assert heard.nodes == [(nodes[0].node_id, "quarantined")]
    assert not heard.done
    assert {kind for _, kind in heard.given_up} <= {"worker_died", "no_node"}
    assert sorted(name for name, _ in heard.given_up) == [f"w{i}" for i in range(5)]


def test_a_hang_ends_at_its_deadline_and_the_rest_goes_on(nodes) -> None:
    heard, _ = run(nodes, ("hang:a",), ("ok:b",), deadline_s=3.0)
    assert heard.done == ["ok:b"]
    assert heard.given_up == [("w0", "deadline")]
    assert not heard.retried


def test_a_launch_that_listens_ends_itself_at_its_deadline(nodes) -> None:
    heard, _ = run(nodes, ("listen:a",), deadline_s=2.0)
    assert heard.done == ["listen:a"]


def test_a_frozen_worker_is_given_up_and_killed(nodes, tmp_path: Path) -> None:
    place = tmp_path / "pid"
    heard, _ = run(nodes, (f"freeze:{place}",), ("ok:b",))
    assert heard.given_up == [("w0", "no_contact")]
    assert [kind for _, _, kind in heard.retried] == ["no_contact"] * 2
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{place.read_text()}") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not os.path.exists(f"/proc/{place.read_text()}")


def test_a_node_without_room_is_a_fault_of_the_node(nodes) -> None:
    heard, _ = run(nodes, ("no-room:a",))
    assert heard.given_up == [("w0", "staging_failed")]
    assert len(heard.retried) == 2


def test_a_launch_that_raises_is_a_result_and_not_retried(nodes) -> None:
    heard, _ = run(nodes, ("crash:a",), ("ok:b",))
    assert heard.done == ["ok:b"]
    assert heard.given_up == [("w0", "launch_crashed")]
    assert "the launch itself is wrong" in heard.details[0]
    assert not heard.retried


def test_a_stop_lets_launches_under_way_finish_and_starts_no_more(nodes) -> None:
    heard, why = run(nodes, *[(f"listen:{i}",) for i in range(20)], stop_after=1)
    assert why == "that is enough"
    assert 1 <= len(heard.done) < 20
    assert not heard.given_up


def test_what_no_node_can_do_is_given_up_and_the_rest_goes_on(nodes) -> None:
    heard, _ = run(nodes, ("ok:a",), need=Need("H100-SXM5-80GB", 8, engine="transformers"))
    assert heard.given_up == [("w0", "no_node")]
    assert "8 x H100" in heard.details[0]


def test_a_driver_that_did_not_listen_takes_no_silence_for_a_fault(nodes) -> None:
    heard, _ = run(nodes, ("sleep:14",), stall_s=QUICK.silence_s + 3)
    assert heard.done == ["sleep:14"]
    assert not heard.retried
