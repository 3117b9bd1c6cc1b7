"""The account of a run: what it writes down, what it counts, when it says stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.catalog import load_model
from harness.errors import RunError, StoreError
from harness.fleet import rescue
from harness.fleet.budget import Budget
from harness.fleet.faults import Fault
from harness.fleet.keeper import Keeper
from harness.fleet.ledger import Ledger
from harness.fleet.nodes import Need, NodeFacts
from harness.fleet.progress import Quiet
from harness.fleet.schedule import Assignment, Work
from harness.fleet.worker import LaunchReport, Outcome, task_ids_of
from harness.launch import LaunchSpec
from harness.spec import Deployment, Workload
from harness.store import RunFolder

H100 = "H100-SXM5-80GB"
LLAMA = "meta-llama/Meta-Llama-3.1-8B"


def spec(name: str) -> LaunchSpec:
    return LaunchSpec(
        launch_id=name,
        model_id=LLAMA,
        config_path=load_model(LLAMA).config_path,
        deployment=Deployment(hardware=H100, engine="transformers", tensor_parallel=4),
        workloads=tuple(Workload(batch=b, input_tokens=64, output_tokens=8) for b in (1, 2)),
    )


class Account:
    """A ledger of four launches on two nodes, with a clock that is set by hand."""

    def __init__(self, folder: Path, **limits: float) -> None:
        self.now_s = 0.0
        self.run = RunFolder.create(folder, {})
        self.specs = {name: (spec(name),) for name in "abcd"}
        self.keeper = Keeper(self.run, rescue.address_of(self.run), Quiet())
        self.ledger = Ledger(
            self.keeper,
            Quiet(),
            sweep="s",
            specs=self.specs,
            planned=8,
            already_done=0,
            budget=Budget(**limits),
            prices={H100: 2.0},
            clock=lambda: self.now_s,
        )
        self.ledger.see(
            [NodeFacts(n * 6, "10.0.0.1", n, locks=1.0, ray_gpus=8.0) for n in ("n", "m")]
        )

    def send(self, name: str, attempt: int = 1, node: str = "n") -> Assignment:
        work = Work(name, Need(H100, 4, engine="transformers"), 60.0, attempt=attempt)
        assignment = Assignment(work, (node * 6,))
        self.ledger.sent(assignment)
        return assignment

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        return [event for event in self.run.events() if event["kind"] in kinds]


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rescue.tempfile, "tempdir", str(tmp_path))


def report(name: str, **changes: Any) -> LaunchReport:
    return LaunchReport(**{"launch_id": name, "model_id": LLAMA, "hardware": H100, "done": 2,
                           "seconds": 60.0, "energy_j": 5.0, **changes})  # fmt: skip


def test_gpu_hours_and_cost_hold_launches_under_way(tmp_path: Path) -> None:
    account = Account(tmp_path / "run", max_gpu_hours=4.0)
    running = account.send("a")
    assert account.ledger.tick() == ""
    account.ledger.started(running)
    account.now_s = 3599.0
    assert account.ledger.tick() == ""
    account.now_s = 3601.0
    assert account.ledger.tick() == "the budget of 4 GPU-hours is spent"
    account.ledger.ended(running, Outcome((report("a"),)), 3601.0)
    view = account.ledger.view()
    assert view.gpu_hours == pytest.approx(4 * 3601 / 3600)
    assert view.cost == pytest.approx(2 * view.gpu_hours)


def test_a_cost_without_a_price_is_not_known(tmp_path: Path) -> None:
    account = Account(tmp_path / "run", max_cost=1.0)
    account.ledger._prices = {}
    running = account.send("a")
    account.ledger.started(running)
    account.ledger.ended(running, Outcome((report("a"),)), 36000.0)
    assert account.ledger.view().cost is None
    assert account.ledger.tick() == ""


def test_attempts_are_written_with_their_ends_and_add_up(tmp_path: Path) -> None:
    account = Account(tmp_path / "run")
    first = account.send("a")
    account.ledger.again(first, Fault("not_placed", "no worker"), 0.0)
    second = account.send("a", 2, "m")
    account.ledger.started(second)
    account.ledger.again(second, Fault("worker_died", "killed"), 5.0)
    third = account.send("a", 3)
    account.ledger.started(third)
    account.ledger.started(third)
    account.ledger.lost(third.work, third.nodes, Fault("no_contact", "silent", "last words"), 9.0)
    account.ledger.lost(Work("b", third.work.need, 1.0), (), Fault("no_node", "none"), 0.0)
    began = [event["attempt"] for event in account.events("launch_started")]
    assert began == [2, 3]
    retried = account.events("launch_retried")
    assert [(e["attempt"], e["begun"], e["class"]) for e in retried] == [
        (1, False, "not_placed"),
        (2, True, "worker_died"),
    ]
    lost = account.events("launch_lost")
    assert [(e["attempts"], e["begun"], e["log"]) for e in lost] == [
        (3, True, "last words"),
        (1, False, ""),
    ]
    assert lost[0]["task_ids"] == task_ids_of(account.specs["a"][0])
    view = account.ledger.view()
    assert (view.lost, view.retries, view.launches_running) == (4, 2, 0)
    assert view.losses == {"no_contact": 2, "no_node": 2}


def test_what_a_launch_did_not_reach_is_counted_apart(tmp_path: Path) -> None:
    account = Account(tmp_path / "run")
    running = account.send("a")
    account.ledger.started(running)
    account.ledger.ended(running, Outcome((report("a", done=1, unreached=1),)), 1.0)
    assert (account.ledger.done, account.ledger.failed, account.ledger.unreached) == (1, 0, 1)
    assert account.events("launch_finished")[0]["unreached"] == 1


def test_files_that_arrive_torn_cost_their_launch_and_not_the_run(tmp_path: Path) -> None:
    account = Account(tmp_path / "run")
    running = account.send("a")
    account.ledger.started(running)
    files = {f"measurements/hardware={H100}/loose-a-1.parquet": b"PAR1 and no more"}
    account.ledger.ended(running, Outcome((report("a"),), files), 1.0)
    assert account.keeper.broken is None
    assert account.ledger.done == 0
    (lost,) = account.events("launch_lost")
    assert lost["class"] == "result_lost"
    assert "torn" in lost["detail"]


def test_a_folder_and_a_rescue_that_both_refuse_lose_one_launch_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = Account(tmp_path / "run")
    running = account.send("a")
    account.ledger.started(running)

    def full(*_: object, **__: object) -> None:
        raise StoreError("The disk is full.", where="everywhere")

    monkeypatch.setattr(RunFolder, "commit", full)
    monkeypatch.setattr("harness.fleet.keeper.rescue", full)
    account.ledger.ended(running, Outcome((report("a"),), {"launches/a-1.json": b"{}"}), 1.0)
    assert account.ledger.tick() == "the run folder cannot be written"
    assert account.ledger.lost_tasks == 2
    with pytest.raises(StoreError, match="disk is full"):
        account.ledger.raise_for_problems()


def test_when_everything_is_refused_the_run_stops_and_says_what(tmp_path: Path) -> None:
    account = Account(tmp_path / "run")
    for name in "abc":
        running = account.send(name)
        account.ledger.started(running)
        refused = report(name, done=0, ended="refused", detail="no such model")
        account.ledger.ended(running, Outcome((refused,)), 1.0)
    assert account.ledger.tick() == "every launch so far was refused"
    with pytest.raises(RunError, match="no such model"):
        account.ledger.raise_for_problems()


def test_a_node_that_is_slower_than_its_like_is_named_once(tmp_path: Path) -> None:
    account = Account(tmp_path / "run")
    for name in ("n", "m"):
        account.ledger.found(NodeFacts(name * 6, "10.0.0.1", name, cpu_hardware=H100))
    for number in range(8):
        node = "nm"[number % 2]
        name = f"x{number}"
        account.specs[name] = (spec(name),)
        running = account.send(name, node=node)
        account.ledger.started(running)
        seconds = 90.0 if node == "m" else 60.0
        account.ledger.ended(running, Outcome((report(name, seconds=seconds),)), seconds)
    (slow,) = account.events("node_slow")
    assert slow["node"].startswith("m/")
    assert slow["ratio"] == pytest.approx(1.5)


def test_a_node_is_busy_while_it_holds_anything(tmp_path: Path) -> None:
    account = Account(tmp_path / "run")
    one, two = account.send("a"), account.send("b")
    account.now_s = 10.0
    account.ledger.ended(one, Outcome((report("a"),)), 10.0)
    account.now_s = 20.0
    assert account.ledger.view().nodes[0].busy_share == 1.0
    account.ledger.ended(two, Outcome((report("b"),)), 20.0)
    account.now_s = 40.0
    first, second = account.ledger.view().nodes
    assert (first.busy_share, first.state, first.done) == (0.5, "idle", 4)
    assert (second.busy_share, second.state) == (0.0, "idle")
