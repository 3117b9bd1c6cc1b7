"""The account of a run: what ended how, written down as it happens, and how it looks now."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from statistics import median

from harness.errors import RunError, StoreError
from harness.fleet.budget import Budget
from harness.fleet.faults import Fault
from harness.fleet.inventory import describe_hardware
from harness.fleet.metrics import FleetMetrics
from harness.fleet.nodes import NodeFacts
from harness.fleet.progress import ProgressSink
from harness.fleet.rescue import rescue
from harness.fleet.schedule import Assignment, Work
from harness.fleet.view import NodeState, NodeView, RunView
from harness.fleet.worker import LaunchReport, Outcome, task_ids_of
from harness.launch import LaunchSpec
from harness.store import RunFolder
from harness.store.packed import in_order

VIEW_S = 1.0
PROGRESS_S = 5.0
RATE_WINDOW_S = 120.0
LOOSE_FILES = 1000
"""Result files after which they are compacted in the midst of a run."""
SLOW_RATIO = 1.3
SLOW_LAUNCHES = 3
REFUSED_AT_FIRST = 3
"""So many launches refused before any went well: the rest would meet the same."""


@dataclass(slots=True)
class _NodeAccount:
    facts: NodeFacts
    state: NodeState = "idle"
    doing: dict[str, str] = field(default_factory=dict)
    since_s: float = 0.0
    done: int = 0
    failed: int = 0
    lost: int = 0
    busy_s: float = 0.0
    note: str = ""
    ratios: list[float] = field(default_factory=list)
    named_slow: bool = False


class Ledger:
    """Listens to the dispatcher; writes events and results; knows how the run looks.

    Parameters
    ----------
    folder, location
        The run folder, locked, and how the user named it.
    sink
        Where progress goes.
    sweep
        Name of the sweep.
    specs
        work_id -> launches of that work, of the first attempt.
    planned, already_done
        Tasks in the plan, and those with a row.
    inventory
        Nodes at the start.
    budget
        Limits of the run.
    prices
        Hardware -> price of a GPU-hour.
    asked_to_stop
        Gives the reason if somebody asked.
    """

    def __init__(
        self,
        folder: RunFolder,
        location: str,
        sink: ProgressSink,
        *,
        sweep: str,
        specs: dict[str, tuple[LaunchSpec, ...]],
        planned: int,
        already_done: int,
        budget: Budget,
        prices: Mapping[str, float],
        asked_to_stop: Callable[[], str] = lambda: "",
        started_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.done = 0
        self.failed = 0
        self.lost_tasks = 0
        self.unreached = 0
        self.retries = 0
        self.energy_j: float | None = None
        self.drawn_j: float | None = None
        self.gpu_s = 0.0
        self.flagged: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.losses: Counter[str] = Counter()
        self.refused: list[str] = []
        self.broken: StoreError | None = None
        self.specs = specs
        self._begun: set[tuple[str, int]] = set()
        self._under_way: dict[str, tuple[float, int, str]] = {}
        self._metrics = FleetMetrics(sweep)
        self._loose = 0
        self._folder = folder
        self._location = location
        self._sink = sink
        self._sweep = sweep
        self._planned = planned
        self._already = already_done
        self._budget = budget
        self._prices = prices
        self._asked = asked_to_stop
        self._clock = clock
        self._started_s = clock() if started_s is None else started_s
        self._cost: float | None = 0.0
        self._launches_ok = 0
        self._waiting = len(specs)
        self._running = 0
        self._nodes: dict[str, _NodeAccount] = {}
        self._recent: deque[tuple[float, int]] = deque()
        self._stopping = ""
        self._viewed_s = self._kept_s = float("-inf")

    def see(self, inventory: Sequence[NodeFacts]) -> None:
        """Write down which nodes there are, and name those that cannot measure."""
        usable = sum(facts.usable for facts in inventory)
        self._event("inventory", nodes=len(inventory), usable=usable)
        for facts in inventory:
            self._know(facts)
            for problem in facts.problems:
                if problem.fatal:
                    self._event(
                        "node_unusable",
                        node=facts.name,
                        code=problem.code,
                        detail=problem.detail,
                        fix=problem.fix,
                    )
                if problem.fatal or problem.code == "clock_off":
                    self._sink.message(f"{facts.name}: {problem.detail}; {problem.fix}")

    def _know(self, facts: NodeFacts) -> _NodeAccount:
        known = self._nodes.setdefault(facts.node_id, _NodeAccount(facts, since_s=self._clock()))
        known.facts = facts
        if not facts.usable:
            known.state = "unusable"
            known.note = "; ".join(p.detail for p in facts.problems if p.fatal)
        return known

    # The dispatcher's listener.

    def sent(self, assignment: Assignment) -> None:
        """A work is on its way to its nodes."""
        self._waiting -= 1
        self._running += 1
        for node_id in assignment.nodes:
            self._node_state(node_id, "starting", assignment.work)

    def started(self, assignment: Assignment) -> None:
        """Its worker has begun."""
        work = assignment.work
        if (work.work_id, work.attempt) in self._begun:
            return
        self._begun.add((work.work_id, work.attempt))
        gpus = work.need.num_gpus * work.need.nodes
        self._under_way[work.work_id] = (self._clock(), gpus, work.need.hardware)
        for node_id in assignment.nodes:
            self._node_state(node_id, "busy", assignment.work)
        for spec in self.specs[assignment.work.work_id]:
            if assignment.work.need.hardware or len(self.specs[assignment.work.work_id]) == 1:
                self._event(
                    "launch_started",
                    launch_id=spec.launch_id,
                    attempt=assignment.work.attempt,
                    node=self._names(assignment.nodes),
                    tasks=len(spec.workloads),
                )

    def ended(self, assignment: Assignment, outcome: Outcome, held_s: float) -> None:
        """A work came back: commit its files, then write down how it went."""
        self._free(assignment, held_s)
        unkept = self._commit(outcome.files)
        names = self._names(assignment.nodes)
        for told in outcome.leftovers:
            self._event("leftover_ended", node=names, process=told)
        work = assignment.work
        by_id = {spec.launch_id: spec for spec in self.specs[work.work_id]}
        for report in outcome.reports:
            if report.ended or (unkept and report.done):
                fault = Fault(report.ended or "result_lost", report.detail or unkept, report.log)
                self._write_lost(work, [by_id[report.launch_id]], assignment.nodes, fault)
            else:
                self._finished(report, work, assignment.nodes)
        if len(outcome.reports) == 1 and not outcome.reports[0].ended and work.planned_s:
            self._compare_speed(assignment, outcome.reports[0])

    def again(self, assignment: Assignment, fault: Fault, held_s: float) -> None:
        """An attempt failed and the work is tried again."""
        self._free(assignment, held_s)
        work = assignment.work
        specs = self.specs[work.work_id]
        self._waiting += len(specs)
        self.retries += 1
        names = self._names(assignment.nodes)
        for spec in specs:
            self._event(
                "launch_retried",
                launch_id=spec.launch_id,
                attempt=work.attempt,
                begun=(work.work_id, work.attempt) in self._begun,
                node=names,
                **{"class": fault.kind},
                detail=fault.detail,
            )
        many = f"{len(specs)} launches are" if len(specs) > 1 else "its launch is"
        self._sink.message(f"{names}: {fault.kind} ({fault.detail}); {many} tried again")

    def lost(self, work: Work, nodes: tuple[str, ...], fault: Fault, held_s: float) -> None:
        """A work is given up."""
        if nodes:
            self._free(Assignment(work, nodes), held_s)
        else:
            self._waiting -= 1
        self._write_lost(work, self.specs[work.work_id], nodes, fault)

    def withdrawn(self, assignment: Assignment) -> None:
        """A work that had not begun waits again, because the run is stopping."""
        self._free(assignment, 0.0)
        self._waiting += 1

    def found(self, facts: NodeFacts) -> None:
        """A node was looked at, for the first time or again."""
        known = self._know(facts)
        if facts.usable and known.state in ("unusable", "lost"):
            known.state, known.note = "idle", ""

    def node(self, node_id: str, what: str, detail: str) -> None:
        """A node was lost, quarantined, joined, unusable or back."""
        known = self._nodes.get(node_id)
        name = known.facts.name if known else node_id[:6]
        if known is not None and what in ("lost", "quarantined", "unusable"):
            known.state = what  # type: ignore[assignment]
            known.note, known.since_s = detail, self._clock()
        if what == "quarantined":
            self._event("node_quarantined", node=name, failures=detail)
        else:
            self._event(f"node_{what}", node=name, reason=detail)
        self._sink.message(f"{name}: {what}{f', {detail}' if detail else ''}")

    def tick(self) -> str:
        """Show and keep how it looks, about once a second; say why the run should stop."""
        now_s = self._clock()
        if now_s - self._viewed_s >= VIEW_S:
            self._viewed_s = now_s
            view = self.view()
            self._sink.view(view)
            if now_s - self._kept_s >= PROGRESS_S:
                self._kept_s = now_s
                self._keep(view)
        if not self._stopping:
            self._stopping = self._why_stop()
            if self._stopping:
                self._event("stopping", reason=self._stopping)
                self._sink.message(f"stopping: {self._stopping}; launches under way finish")
        return self._stopping

    def left_s(self) -> float:
        """Wall time that a launch may take now."""
        return self._budget.left_s(self._clock() - self._started_s)

    def view(self) -> RunView:
        """How the run looks now."""
        now_s = self._clock()
        seconds = now_s - self._started_s
        while self._recent and now_s - self._recent[0][0] > RATE_WINDOW_S:
            self._recent.popleft()
        recent = sum(count for _, count in self._recent)
        span_s = min(RATE_WINDOW_S, seconds)
        rate = recent / span_s if recent and span_s > 0 else None
        left = self._planned - self._already - self.done - self.lost_tasks
        return RunView(
            sweep=self._sweep,
            planned=self._planned,
            already_done=self._already,
            done=self.done,
            failed=self.failed,
            lost=self.lost_tasks,
            launches_waiting=max(0, self._waiting),
            launches_running=self._running,
            retries=self.retries,
            seconds=seconds,
            rate_per_s=rate,
            eta_s=0.0 if left <= 0 else left / rate if rate else None,
            energy_kwh=self.kwh,
            gpu_hours=self.gpu_s / 3600,
            cost=self._cost,
            failures=dict(self.failures),
            losses=dict(self.losses),
            limits={k: v for k, v in asdict(self._budget).items() if v is not None},
            stopping=self._stopping,
            nodes=tuple(self._node_view(each, now_s, seconds) for each in self._nodes.values()),
        )

    @property
    def kwh(self) -> float | None:
        """What GPUs of measured launches drew so far."""
        return None if self.drawn_j is None else self.drawn_j / 3.6e6

    def close(self) -> None:
        """Keep the last look."""
        view = self.view()
        with suppress(StoreError):
            self._keep(view, force=True)
        with suppress(Exception):
            self._sink.view(view)
        self._metrics.close()

    def _keep(self, view: RunView, *, force: bool = False) -> None:
        values = {"time": datetime.now(UTC).isoformat(), "view": view.to_dict()}
        if self.broken is None:
            try:
                self._folder.write_progress(values, force=force)
            except StoreError as error:
                self._fail_to_write(error)
        self._metrics.update(view)

    def _why_stop(self) -> str:
        if self.broken is not None:
            return "the run folder cannot be written"
        asked = self._asked()
        if asked:
            return asked
        if len(self.refused) >= REFUSED_AT_FIRST and not self._launches_ok:
            return "every launch so far was refused"
        now_s = self._clock()
        gpu_s, cost = self.gpu_s, self._cost
        for began_s, gpus, hardware in self._under_way.values():
            held_s = gpus * (now_s - began_s)
            gpu_s += held_s
            cost = _add_cost(cost, held_s, self._prices.get(hardware))
        return self._budget.spent(now_s - self._started_s, gpu_s / 3600, self.kwh, cost)

    def raise_for_problems(self) -> None:
        """Say what went wrong with the whole of this run, if something did.

        Raises
        ------
        RunError
            With the first refusal.
        StoreError
            If the run folder could not be written.
        """
        if self.broken is not None:
            raise self.broken
        if self.refused and not self._launches_ok:
            raise RunError(
                f"no launch could run: {self.refused[0]}",
                where=f"{len(self.refused)} launches of {self._sweep}",
                fix="mend that and run the same command again",
            )

    def _commit(self, files: Mapping[str, bytes]) -> str:
        """Keep the files of a launch; returns why that failed, or nothing."""
        try:
            in_order(files)
        except StoreError as error:
            return error.what
        if files and self.broken is None:
            try:
                self._folder.commit(files)
                self._loose += 1
                if self._loose >= LOOSE_FILES:
                    # Readers open every loose file: they must not become many.
                    self._loose = 0
                    self._folder.compact()
                return ""
            except StoreError as error:
                self._fail_to_write(error)
        if files:
            try:
                kept = rescue(self._location, files)
            except StoreError as error:
                return error.what
            self._sink.message(f"kept in {kept}: the next run of this folder here takes it in")
        return ""

    def _fail_to_write(self, error: StoreError) -> None:
        if self.broken is None:
            self.broken = error
            self._sink.message(f"{error.what} ({error.where})")

    def _event(self, kind: str, **fields: object) -> None:
        try:
            self._folder.append_event(kind, **fields)
        except StoreError as error:
            self._fail_to_write(error)

    def _finished(self, report: LaunchReport, work: Work, nodes: tuple[str, ...]) -> None:
        self.done += report.done
        self.failed += len(report.failures)
        self.unreached += report.unreached
        self._launches_ok += 1
        self._recent.append((self._clock(), report.done))
        if report.energy_j is not None:
            self.energy_j = (self.energy_j or 0.0) + report.energy_j
        if report.drawn_energy_j is not None:
            self.drawn_j = (self.drawn_j or 0.0) + report.drawn_energy_j
        self.flagged.update(report.flagged)
        for node_id in nodes[:1]:
            if node_id in self._nodes:
                self._nodes[node_id].done += report.done - len(report.failures)
                self._nodes[node_id].failed += len(report.failures)
        self._event(
            "launch_finished",
            launch_id=report.launch_id,
            attempt=work.attempt,
            node=self._names(nodes),
            hardware=report.hardware,
            model_id=report.model_id,
            tasks=report.done,
            failed=len(report.failures),
            unreached=report.unreached,
            seconds=round(report.seconds, 3),
            energy_j=report.energy_j,
            drawn_energy_j=report.drawn_energy_j,
        )
        for task_id, kind, detail in report.failures:
            self.failures[kind] += 1
            self._event(
                "task_failed",
                task_id=task_id,
                node=self._names(nodes),
                **{"class": kind},
                detail=detail,
            )
        self._sink.advanced(
            report.done,
            len(report.failures),
            report.energy_j or 0.0,
            f"{report.model_id} on {report.hardware}",
        )

    def _write_lost(
        self, work: Work, specs: Sequence[LaunchSpec], nodes: tuple[str, ...], fault: Fault
    ) -> None:
        """Write lost launches down; their tasks have no row, so the next run tries them again."""
        tasks = sum(len(spec.workloads) for spec in specs)
        self.lost_tasks += tasks
        self.losses[fault.kind] += tasks
        names = self._names(nodes)
        if fault.kind == "refused":
            self.refused.append(fault.detail)
        for node_id in nodes[:1]:
            if node_id in self._nodes:
                self._nodes[node_id].lost += tasks
        self._event(
            "launch_lost",
            launch_ids=[spec.launch_id for spec in specs],
            tasks=tasks,
            task_ids=[task_id for spec in specs for task_id in task_ids_of(spec)],
            attempts=work.attempt,
            begun=(work.work_id, work.attempt) in self._begun,
            node=names,
            **{"class": fault.kind},
            detail=fault.detail,
            log=fault.log,
        )
        where = f" on {names}" if names else ""
        self._sink.message(f"{tasks} tasks lost{where}: {fault.kind}: {fault.detail}")

    def _names(self, nodes: Sequence[str]) -> str:
        known = (self._nodes.get(node_id) for node_id in nodes)
        return ", ".join(each.facts.name for each in known if each is not None)

    def _node_state(self, node_id: str, state: NodeState, work: Work) -> None:
        known = self._nodes.get(node_id)
        if known is None:
            return
        spec = self.specs[work.work_id][0]
        more = len(self.specs[work.work_id]) - 1
        what = f"{spec.model_id} {spec.deployment.summary}"
        known.doing[work.work_id] = what if not more else f"{what} and {more} more"
        known.state, known.since_s = state, self._clock()

    def _free(self, assignment: Assignment, held_s: float) -> None:
        self._running -= 1
        work = assignment.work
        gpu_s = held_s * work.need.num_gpus * work.need.nodes
        self.gpu_s += gpu_s
        self._under_way.pop(work.work_id, None)
        self._cost = _add_cost(self._cost, gpu_s, self._prices.get(work.need.hardware))
        for node_id in assignment.nodes:
            account = self._nodes.get(node_id)
            if account is None:
                continue
            account.busy_s += held_s
            account.doing.pop(work.work_id, None)
            if not account.doing and account.state in ("busy", "starting"):
                account.state, account.since_s = "idle", self._clock()

    def _compare_speed(self, assignment: Assignment, report: LaunchReport) -> None:
        """Name a node that takes longer for its plan than others of its type."""
        account = self._nodes.get(assignment.nodes[0])
        if account is None:
            return
        hardware = assignment.work.need.hardware
        account.ratios.append(report.seconds / assignment.work.planned_s)
        others = [
            ratio
            for each in self._nodes.values()
            if each is not account and hardware in each.facts.hardware
            for ratio in each.ratios
        ]
        enough = min(len(account.ratios), len(others)) >= SLOW_LAUNCHES
        if account.named_slow or not enough:
            return
        ratio = median(account.ratios) / median(others)
        if ratio > SLOW_RATIO:
            account.named_slow = True
            self._event("node_slow", node=account.facts.name, ratio=round(ratio, 3))
            self._sink.message(
                f"{account.facts.name}: slow, launches take {ratio:.2f} times as long as on other "
                f"nodes with {hardware}"
            )

    def _node_view(self, each: _NodeAccount, now_s: float, seconds: float) -> NodeView:
        doing = next(iter(each.doing.values()), "")
        more = len(each.doing) - 1
        return NodeView(
            each.facts.name,
            describe_hardware(each.facts),
            each.state,
            each.note or (f"{doing} (and {more} more)" if more > 0 else doing),
            max(0.0, now_s - each.since_s),
            each.done,
            each.failed,
            each.lost,
            min(1.0, each.busy_s / seconds) if seconds > 0 else 0.0,
        )


def _add_cost(cost: float | None, gpu_s: float, price: float | None) -> float | None:
    """Add GPU time at a price an hour; None once a price is missing."""
    if not gpu_s:
        return cost
    return None if cost is None or price is None else cost + gpu_s / 3600 * price
