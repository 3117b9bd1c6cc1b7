"""The loop of a run: send, hear, watch, collect, try again or give up.

    schedule --pick--> node --Ray task--> worker --outcome--> told to whoever listens
        ^                                    |
        '--- another attempt <--- fault <----'  died, silent, late, node lost

Ray's own knowledge of a fault can take many minutes or never come (a frozen node), so the loop
has three more eyes: the list of living nodes, beats of the workers, and its own clock. A worker
that is given up is killed on its node before that node is used again. Every work ends exactly
once: with an outcome, or with a fault. What comes late from an attempt that was given up is not
looked at.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.fleet.faults import CRASHED, NEVER_BEGAN, Fault, fault_of
from harness.fleet.leases import Job, Lease, Leases
from harness.fleet.listener import Listener
from harness.fleet.mailbox import News
from harness.fleet.nodes import NodeFacts
from harness.fleet.patience import Patience
from harness.fleet.schedule import PART, Assignment, Isolation, Schedule, Work
from harness.fleet.watch import Scouts, Watch
from harness.fleet.worker import Outcome, run_order

POLL_S = 0.25
DEAF_S = 5.0
"""A round of the loop that took longer heard nobody: silence of that time says nothing."""


@dataclass(slots=True)
class _Flight:
    assignment: Assignment
    ticket: str
    sent_s: float
    deadline_s: float
    lease: Lease = field(default_factory=Lease)
    started_s: float | None = None
    heard_s: float = 0.0
    worker: tuple[int, int] | None = None
    ending: bool = False


class Dispatcher:
    """Runs all works of a schedule.

    Parameters
    ----------
    schedule
        What goes where.
    nodes
        node_id -> facts, kept up to date here.
    job
        Makes what is sent for an attempt of a work.
    split
        Parts of a work whose worker died, each a work of its own: only the launch that kills
        it must be given up.
    models
        model_id -> text of its config.json.
    listener
        Hears what happens.
    mailbox
        Handle of the mailbox actor.
    watch, scouts
        Eyes on the cluster.
    patience
        How long for what.
    run
        What the worker does; tests give another.
    """

    def __init__(
        self,
        schedule: Schedule,
        nodes: dict[str, NodeFacts],
        *,
        job: Callable[[Work], Job],
        split: Callable[[Work], list[Work]],
        models: Mapping[str, str],
        listener: Listener,
        mailbox: Any,
        watch: Watch,
        scouts: Scouts,
        isolation: Isolation = "node",
        patience: Patience | None = None,
        run: Callable[..., Outcome] = run_order,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        import ray

        self._ray = ray
        self._schedule = schedule
        self._nodes = nodes
        self._job = job
        self._split = split
        self._listener = listener
        self._mailbox = mailbox
        self._watch = watch
        self._scouts = scouts
        self._patience = patience or Patience()
        self._clock = clock
        self._leases = Leases(models, mailbox, isolation, run)
        self._flights: dict[str, _Flight] = {}
        self._by_handle: dict[Any, str] = {}
        self._zombies: dict[Any, tuple[Any, Assignment, float]] = {}
        self._records: dict[str, list[str]] = {}
        self._drain: Any = None
        self._stopping = ""
        self._hopeless_s: float | None = None
        self._probed_s = self._listened_s = clock()
        self._sent = 0

    def run(self) -> str:
        """Run until nothing is left, or until told to stop and nothing is under way.

        Returns
        -------
        str
            Why it stopped early; empty if it did not.

        Raises
        ------
        HeadLostError
            If the head of the cluster is gone.
        """
        while True:
            why = self._listener.tick()
            if why and not self._stopping:
                self._stopping = why
                self._mailbox.stop.remote()
            if not self._stopping:
                self._send()
            if self._flights:
                self._hopeless_s = None
            else:
                if self._stopping or not self._schedule.count:
                    return self._stopping
                if not self._nothing_under_way():
                    continue
            self._collect()
            self._hear()
            self._look_at_nodes()
            self._look_at_clock()
            self._bury()

    def tidy(self) -> int:
        """End what launches left behind on the nodes; returns how many processes that were."""
        return self._leases.tidy(i for i, facts in self._nodes.items() if facts.usable)

    def _send(self) -> None:
        while True:
            assignment = self._schedule.pick(self._listener.left_s())
            if assignment is None:
                return
            self._sent += 1
            work = assignment.work
            job = self._job(work)
            ticket = f"{work.work_id}-{work.attempt}"
            flight = _Flight(assignment, ticket, self._clock(), job.deadline_s)
            flight.heard_s = flight.sent_s
            self._listener.sent(assignment)
            try:
                nodes = [self._nodes[node_id] for node_id in assignment.nodes]
                flight.lease = self._leases.send(work, ticket, job, nodes)
            except Exception as error:
                # Ray refuses in many ways; whatever it is, this attempt has ended.
                self._close(flight, fault_of(error))
                continue
            self._flights[ticket] = flight
            for handle in flight.lease.handles:
                self._by_handle[handle] = ticket

    def _collect(self) -> None:
        """Take the results that are there; wait a little for the first."""
        handles = list(self._by_handle)
        if not handles:
            time.sleep(POLL_S)
            return
        ready, rest = self._ray.wait(handles, num_returns=1, timeout=POLL_S)
        if ready and rest:
            more, _ = self._ray.wait(rest, num_returns=len(rest), timeout=0)
            ready = [*ready, *more]
        for handle in ready:
            flight = self._flights.get(self._by_handle.pop(handle, ""))
            if flight is None:
                continue  # of a gang that was closed in this very round
            try:
                outcome: Outcome = self._ray.get(handle, timeout=30)
            except Exception as error:
                self._close(flight, fault_of(error))
            else:
                if handle == flight.lease.handles[0]:
                    self._came_back(flight, outcome)

    def _came_back(self, flight: _Flight, outcome: Outcome) -> None:
        self._listener.started(flight.assignment)  # its first word may still be on the way
        faults = [Fault(r.ended, r.detail, r.log) for r in outcome.reports if r.ended]
        if faults and len(faults) == len(outcome.reports) and all(f.again for f in faults):
            self._close(flight, faults[0])
            return
        held_s = self._land(flight)
        for node_id in flight.assignment.nodes:
            if len(faults) < len(outcome.reports):
                self._records.pop(node_id, None)
            elif any(fault.kind == CRASHED for fault in faults):
                self._suspect(node_id, flight.assignment.work)
        self._listener.ended(flight.assignment, outcome, held_s)

    def _land(self, flight: _Flight) -> float:
        """Forget a flight; its nodes are free. Returns how long they were held."""
        self._flights.pop(flight.ticket, None)
        for handle in flight.lease.handles:
            self._by_handle.pop(handle, None)
        if len(flight.lease.handles) > 1:
            self._mailbox.end.remote(flight.ticket)
        self._schedule.give_back(flight.assignment)
        self._leases.give_back(flight.lease)
        began_s = flight.sent_s if flight.started_s is None else flight.started_s
        return max(0.0, self._clock() - began_s)

    def _close(self, flight: _Flight, fault: Fault) -> None:
        held_s = self._land(flight)
        if flight.started_s is None and fault.kind in NEVER_BEGAN:
            held_s = 0.0
        self._fail(flight.assignment, fault, held_s)

    def _fail(self, assignment: Assignment, fault: Fault, held_s: float) -> None:
        """An attempt gave nothing: blame its nodes, and try elsewhere or give up."""
        work = assignment.work
        if fault.again:
            for node_id in assignment.nodes:
                self._blame(node_id, work)
        elif fault.kind == CRASHED:
            for node_id in assignment.nodes:
                self._suspect(node_id, work)
        if fault.again and work.attempt < self._patience.attempts:
            self._listener.again(assignment, fault, held_s)
            for part in self._split(work):
                self._schedule.put(part.again(*assignment.nodes))
            return
        if fault.again and len(work.avoid | set(assignment.nodes)) > 1:
            # It failed on several nodes: more likely it than they.
            mine = work.work_id.partition(PART)[0]
            for record in self._records.values():
                record[:] = [each for each in record if each != mine]
        self._listener.lost(work, assignment.nodes, fault, held_s)

    def _suspect(self, node_id: str, work: Work) -> None:
        """Blame a node for crashes of launches, where another one could do them instead."""
        if self._schedule.others(node_id, work.need):
            self._blame(node_id, work)

    def _blame(self, node_id: str, work: Work) -> None:
        """Count a fault of a node; too many in a row, by more than one launch, close it."""
        record = self._records.setdefault(node_id, [])
        record.append(work.work_id.partition(PART)[0])
        many = len(record) >= self._patience.quarantine and len(set(record)) > 1
        if many and not self._schedule.closed(node_id):
            why = f"{len(record)} faults in a row"
            self._schedule.close(node_id, why)
            self._listener.node(node_id, "quarantined", why)

    def _hear(self) -> None:
        """Take the news from the mailbox, without waiting for them."""
        now_s = self._clock()
        deaf_s, self._listened_s = now_s - self._listened_s, now_s
        if deaf_s > DEAF_S:
            for waiting in self._flights.values():
                waiting.heard_s = min(now_s, waiting.heard_s + deaf_s)
        if self._drain is None:
            self._drain = self._mailbox.drain.remote()
            return
        ready, _ = self._ray.wait([self._drain], timeout=0)
        if not ready:
            return
        drained, self._drain = self._drain, None
        try:
            news: list[News] = self._ray.get(drained, timeout=5)
        except Exception as error:
            raise self._watch.lost(fault_of(error).detail) from error
        for each in news:
            flight = self._flights.get(each.ticket)
            if flight is None or each.rank:
                continue
            flight.heard_s = now_s
            flight.worker = (each.pid, each.ticks)
            if flight.started_s is None:
                flight.started_s = now_s
                self._listener.started(flight.assignment)

    def _look_at_nodes(self) -> None:
        """Give up what runs on nodes that are gone; take in nodes that came."""
        alive = self._watch.alive()
        if alive is None:
            return
        for node_id in [i for i in self._nodes if i not in alive]:
            self._schedule.close(node_id, "lost")
            self._listener.node(node_id, "lost", "it is not among the living nodes any more")
            del self._nodes[node_id]
            for flight in [f for f in self._flights.values() if node_id in f.assignment.nodes]:
                self._close(flight, Fault("node_lost", f"node {node_id[:6]} is gone"))
        now_s = self._clock()
        again = now_s - self._probed_s > self._patience.probe_s
        if again:
            self._probed_s = now_s
        for node_id in alive:
            known = self._nodes.get(node_id)
            if known is None or (again and not known.usable):
                self._scouts.send(node_id)
        for facts in self._scouts.back():
            self._take_in(facts)

    def _take_in(self, facts: NodeFacts) -> None:
        known = self._nodes.get(facts.node_id)
        closed = self._schedule.closed(facts.node_id)
        self._nodes[facts.node_id] = facts
        if known is not None and known.usable and closed:
            return  # in quarantine: that it answers proves little
        self._schedule.add(facts)
        self._listener.found(facts)
        if known is None:
            self._listener.node(facts.node_id, "joined", "")
        if not facts.usable and (known is None or known.problems != facts.problems):
            self._listener.node(facts.node_id, "unusable", self._schedule.closed(facts.node_id))
        elif known is not None and facts.usable and not known.usable:
            self._listener.node(facts.node_id, "back", "")

    def _look_at_clock(self) -> None:
        """Give up launches that never began, fell silent, or are over their time."""
        now_s = self._clock()
        patience = self._patience
        for flight in list(self._flights.values()):
            if flight.started_s is None:
                waited_s = now_s - flight.sent_s
                if self._stopping and waited_s > patience.stop_s:
                    self._withdraw(flight)
                elif waited_s > patience.start_s:
                    self._leases.withdraw(flight.lease)
                    waited = f"no word of it in {patience.start_s:.0f} s"
                    self._close(flight, Fault("not_started", waited))
                continue
            if now_s - flight.heard_s > patience.silence_s:
                what = f"no word of it in {patience.silence_s:.0f} s"
                self._abandon(flight, Fault("no_contact", what))
                continue
            over_s = now_s - flight.started_s - flight.deadline_s
            if over_s > patience.grace_s:
                what = f"no result after {now_s - flight.started_s:.0f} s"
                self._abandon(flight, Fault("deadline", what))
            elif over_s > 0 and not flight.ending:
                flight.ending = True
                self._mailbox.end.remote(flight.ticket)

    def _withdraw(self, flight: _Flight) -> None:
        """Take back a launch that has not begun: the run is stopping."""
        self._leases.withdraw(flight.lease)
        self._land(flight)
        self._schedule.put(flight.assignment.work)
        self._listener.withdrawn(flight.assignment)

    def _abandon(self, flight: _Flight, fault: Fault) -> None:
        """Give a launch up and kill its worker; its node is not used until that is done."""
        assignment = flight.assignment
        lead = assignment.nodes[0]
        self._close(flight, fault)
        if flight.worker is None or lead not in self._nodes:
            return
        killing = self._leases.kill(lead, *flight.worker)
        self._schedule.hold(lead, flight.ticket)
        self._zombies[killing] = (flight.lease.handles[0], assignment, self._clock())

    def _bury(self) -> None:
        """Free the nodes of abandoned launches once their workers are gone."""
        for killing, (handle, assignment, since_s) in list(self._zombies.items()):
            ready, _ = self._ray.wait([killing], timeout=0)
            gone, _ = self._ray.wait([handle], timeout=0, fetch_local=False)
            lead = assignment.nodes[0]
            if lead not in self._nodes or (ready and gone):
                del self._zombies[killing]
                work = assignment.work
                self._schedule.release(lead, f"{work.work_id}-{work.attempt}")
            elif self._clock() - since_s > self._patience.kill_s:
                del self._zombies[killing]
                why = "a worker there cannot be ended"
                self._schedule.close(lead, why)
                self._listener.node(lead, "quarantined", why)

    def _nothing_under_way(self) -> bool:
        """Whether to look again although nothing is under way; settles what can never start."""
        hopeless = self._schedule.hopeless()
        if self._zombies:
            return True
        now_s = self._clock()
        self._hopeless_s = now_s if self._hopeless_s is None else self._hopeless_s
        waited_s = now_s - self._hopeless_s
        patience = self._patience
        if self._scouts.busy and waited_s < patience.return_s + 2 * patience.probe_s:
            return True
        if len(hopeless) < self._schedule.count:
            # All nodes are free, so that only the time can be what is short.
            self._stopping = "no launch that is left fits into the time that is left"
            return True
        may_return = any(not facts.usable for facts in self._nodes.values()) or self._sent
        if may_return and waited_s < patience.return_s:
            return True
        for work in hopeless:
            self._schedule.drop(work)
            self._listener.lost(work, (), Fault("no_node", f"no node with {work.need.text}"), 0.0)
        return bool(self._schedule.count)
