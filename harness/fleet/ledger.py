"""The account of a run: what ended how, written down as it happens, and how it looks now."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import cast

from harness.errors import RunError
from harness.fleet.accounts import NodeAccounts
from harness.fleet.budget import Budget
from harness.fleet.faults import Fault
from harness.fleet.keeper import Keeper
from harness.fleet.metrics import FleetMetrics
from harness.fleet.nodes import NodeFacts
from harness.fleet.progress import ProgressSink
from harness.fleet.schedule import Assignment, Work
from harness.fleet.view import NodeState, RunView
from harness.fleet.worker import LaunchReport, Outcome, task_ids_of
from harness.launch import LaunchSpec

VIEW_S = 1.0
PROGRESS_S = 5.0
RATE_WINDOW_S = 120.0
REFUSED_AT_FIRST = 3
"""So many launches refused before any went well: the rest would meet the same."""


class Ledger:
    """Listens to the dispatcher; has events and results written; knows how the run looks.

    Parameters
    ----------
    keeper
        Writes into the run folder.
    sink
        Where progress goes.
    sweep
        Name of the sweep.
    specs
        work_id -> launches of that work, of the first attempt.
    planned, already_done
        Tasks in the plan, and those with a row.
    budget
        Limits of the run.
    prices
        Hardware -> price of a GPU-hour.
    asked_to_stop
        Gives the reason if somebody asked.
    """

    def __init__(
        self,
        keeper: Keeper,
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
        self.specs = specs
        self._begun: set[tuple[str, int]] = set()
        self._under_way: dict[str, tuple[float, int, str]] = {}
        self._metrics = FleetMetrics(sweep)
        self._keeper = keeper
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
        self._nodes = NodeAccounts(clock)
        self._recent: deque[tuple[float, int]] = deque()
        self._stopping = ""
        self._viewed_s = self._kept_s = float("-inf")

    def see(self, inventory: Sequence[NodeFacts]) -> None:
        """Write down which nodes there are, and name those that cannot measure."""
        usable = sum(facts.usable for facts in inventory)
        self._keeper.event("inventory", nodes=len(inventory), usable=usable)
        for facts in inventory:
            self._nodes.know(facts)
            for problem in facts.problems:
                if problem.fatal:
                    self._keeper.event(
                        "node_unusable",
                        node=facts.name,
                        code=problem.code,
                        detail=problem.detail,
                        fix=problem.fix,
                    )
                if problem.fatal or problem.code == "clock_off":
                    self._sink.message(f"{facts.name}: {problem.detail}; {problem.fix}")

    # The dispatcher's listener.

    def sent(self, assignment: Assignment) -> None:
        """A work is on its way to its nodes."""
        self._waiting -= 1
        self._running += 1
        self._hold(assignment, "starting")

    def started(self, assignment: Assignment) -> None:
        """Its worker has begun."""
        work = assignment.work
        if (work.work_id, work.attempt) in self._begun:
            return
        self._begun.add((work.work_id, work.attempt))
        gpus = work.need.num_gpus * work.need.nodes
        self._under_way[work.work_id] = (self._clock(), gpus, work.need.hardware)
        self._hold(assignment, "busy")
        specs = self.specs[work.work_id]
        # Batches of projections end within seconds, and there may be many.
        for spec in specs if work.need.hardware or len(specs) == 1 else ():
            self._keeper.event(
                "launch_started",
                launch_id=spec.launch_id,
                attempt=work.attempt,
                node=self._nodes.names(assignment.nodes),
                tasks=len(spec.workloads),
            )

    def ended(self, assignment: Assignment, outcome: Outcome, held_s: float) -> None:
        """A work came back: commit its files, then write down how it went."""
        self._free(assignment, held_s)
        unkept = self._keeper.commit(outcome.files)
        names = self._nodes.names(assignment.nodes)
        for told in outcome.leftovers:
            self._keeper.event("leftover_ended", node=names, process=told)
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
        names = self._nodes.names(assignment.nodes)
        for spec in specs:
            self._keeper.event(
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
        self._nodes.know(facts)

    def node(self, node_id: str, what: str, detail: str) -> None:
        """A node was lost, quarantined, joined, unusable or back."""
        name = self._nodes.name(node_id)
        if what in ("lost", "quarantined", "unusable"):
            self._nodes.mark(node_id, cast("NodeState", what), detail)
        if what == "quarantined":
            self._keeper.event("node_quarantined", node=name, failures=detail)
        else:
            self._keeper.event(f"node_{what}", node=name, reason=detail)
        self._sink.message(f"{name}: {what}{f', {detail}' if detail else ''}")

    def tick(self) -> str:
        """Show and keep how it looks, about once a second; say why the run should stop."""
        now_s = self._clock()
        if now_s - self._viewed_s >= VIEW_S:
            self._viewed_s = now_s
            view = self.view()
            self._show(view)
            if now_s - self._kept_s >= PROGRESS_S:
                self._kept_s = now_s
                self._keeper.progress(view)
        if not self._stopping:
            self._stopping = self._why_stop()
            if self._stopping:
                self._keeper.event("stopping", reason=self._stopping)
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
            nodes=self._nodes.views(seconds),
        )

    @property
    def kwh(self) -> float | None:
        """What GPUs of measured launches drew so far."""
        return None if self.drawn_j is None else self.drawn_j / 3.6e6

    def close(self) -> None:
        """Keep the last look."""
        view = self.view()
        self._show(view)
        self._keeper.progress(view, force=True)
        self._metrics.close()

    def _show(self, view: RunView) -> None:
        self._sink.view(view)
        self._metrics.update(view)

    def _why_stop(self) -> str:
        if self._keeper.broken is not None:
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
        if self._keeper.broken is not None:
            raise self._keeper.broken
        if self.refused and not self._launches_ok:
            raise RunError(
                f"no launch could run: {self.refused[0]}",
                where=f"{len(self.refused)} launches of {self._sweep}",
                fix="mend that and run the same command again",
            )

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
        failed = len(report.failures)
        self._nodes.tally(nodes, done=report.done - failed, failed=failed)
        self._keeper.event(
            "launch_finished",
            launch_id=report.launch_id,
            attempt=work.attempt,
            node=self._nodes.names(nodes),
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
            self._keeper.event(
                "task_failed",
                task_id=task_id,
                node=self._nodes.names(nodes),
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
        names = self._nodes.names(nodes)
        if fault.kind == "refused":
            self.refused.append(fault.detail)
        self._nodes.tally(nodes, lost=tasks)
        self._keeper.event(
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

    def _hold(self, assignment: Assignment, state: NodeState) -> None:
        first, *more = self.specs[assignment.work.work_id]
        what = f"{first.model_id} {first.deployment.summary}"
        what += f" and {len(more)} more" if more else ""
        self._nodes.holds(assignment.nodes, assignment.work.work_id, what, state)

    def _free(self, assignment: Assignment, held_s: float) -> None:
        self._running -= 1
        work = assignment.work
        gpu_s = held_s * work.need.num_gpus * work.need.nodes
        self.gpu_s += gpu_s
        self._under_way.pop(work.work_id, None)
        self._cost = _add_cost(self._cost, gpu_s, self._prices.get(work.need.hardware))
        self._nodes.free(assignment.nodes, work.work_id)

    def _compare_speed(self, assignment: Assignment, report: LaunchReport) -> None:
        """Name a node that takes longer for its plan than others of its type."""
        work, lead = assignment.work, assignment.nodes[0]
        ratio = self._nodes.slow(lead, work.need.hardware, report.seconds / work.planned_s)
        if ratio is not None:
            name = self._nodes.name(lead)
            self._keeper.event("node_slow", node=name, ratio=round(ratio, 3))
            self._sink.message(
                f"{name}: slow, launches take {ratio:.2f} times as long as on other nodes with "
                f"{work.need.hardware}"
            )


def _add_cost(cost: float | None, gpu_s: float, price: float | None) -> float | None:
    """Add GPU time at a price an hour; None once a price is missing."""
    if not gpu_s:
        return cost
    return None if cost is None or price is None else cost + gpu_s / 3600 * price
