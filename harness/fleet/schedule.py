"""Which launch goes to which node next. Pure: no Ray, no clock.

A node that is free takes, of the launches that fit it:

1. a gang, as long as one waits: its nodes are held free until there are enough of them;
2. a launch that failed elsewhere, on a node where it has not failed;
3. of launches that only few nodes can take, one that presses: their work for each such node is
   more than what there is for the others;
4. near the end the longest, so that no long one is left for last (longest processing time
   first, Graham 1969);
5. else the next one of a random order that spreads every model evenly over time, so that time
   of day and heat line up with no variable.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from harness.fleet.inventory import why_not
from harness.fleet.nodes import Need, NodeFacts

Isolation = Literal["node", "gpu"]
PART = "+"
"""Between the id of a work and that of its part, where it was split."""
POOLED_PER_CPU = 2
"""Batches of the twin in flight for each core: one at work, one on its way."""


@dataclass(frozen=True, slots=True)
class Work:
    """What one node, or a gang, does in one go.

    Attributes
    ----------
    work_id
        Unique in a run.
    need
        What it asks of its nodes.
    planned_s
        Planned duration.
    stratum
        Works of one stratum are spread evenly over the run.
    attempt
        Counts from 1.
    avoid
        Nodes where it failed.
    order
        Position in the run; `ordered` draws it.
    """

    work_id: str
    need: Need
    planned_s: float
    stratum: str = ""
    attempt: int = 1
    avoid: frozenset[str] = frozenset()
    order: float = 0.0

    def again(self, *failed_on: str) -> Work:
        """The next attempt, elsewhere."""
        return replace(self, attempt=self.attempt + 1, avoid=self.avoid | set(failed_on))


@dataclass(frozen=True, slots=True)
class Assignment:
    """A work and the nodes that it got, the first of which leads."""

    work: Work
    nodes: tuple[str, ...]


@dataclass(slots=True)
class _Node:
    facts: NodeFacts
    slots: int
    gpus: dict[str, int]
    closed: str = ""
    running: dict[str, int] = field(default_factory=dict)

    @property
    def used_gpus(self) -> int:
        return sum(self.running.values())


def ordered(works: Iterable[Work], seed: int) -> list[Work]:
    """Draw the order of a run: each stratum spread evenly over it, random within.

    The i-th of the n works of a stratum, in random order, gets the position (i + u) / n with
    u uniform in [0, 1).
    """
    draw = np.random.default_rng(seed)
    strata: dict[str, list[Work]] = defaultdict(list)
    for work in works:
        strata[work.stratum].append(work)
    placed = []
    for members in strata.values():
        shuffled = [members[i] for i in draw.permutation(len(members)).tolist()]
        spots = (np.arange(len(members)) + draw.random(len(members))) / len(members)
        placed += [replace(w, order=float(at)) for w, at in zip(shuffled, spots, strict=True)]
    return sorted(placed, key=lambda work: work.order)


class Schedule:
    """Waiting works and free nodes.

    Parameters
    ----------
    works
        What there is to do; taken in the order of their `order`.
    nodes
        What is known of the nodes; those that are not usable take nothing.
    isolation
        `node`: one real launch at a time on a node; `gpu`: as many as its GPUs hold.
    """

    def __init__(
        self, works: Iterable[Work], nodes: Iterable[NodeFacts], isolation: Isolation = "node"
    ) -> None:
        self._isolation = isolation
        self._waiting: dict[Need, dict[str, Work]] = defaultdict(dict)
        for work in sorted(works, key=lambda work: work.order):
            self._waiting[work.need][work.work_id] = work
        self._nodes: dict[str, _Node] = {}
        for facts in nodes:
            self.add(facts)

    @property
    def waiting(self) -> list[Work]:
        """Works that wait, in no order that matters."""
        return [work for works in self._waiting.values() for work in works.values()]

    @property
    def count(self) -> int:
        """Number of works that wait."""
        return sum(len(works) for works in self._waiting.values())

    def add(self, facts: NodeFacts) -> None:
        """Take a node in, or take it back with what is known now."""
        closed = "" if facts.usable else _why(facts)
        known = self._nodes.get(facts.node_id)
        self._nodes[facts.node_id] = _Node(
            facts,
            int(POOLED_PER_CPU * facts.cpus),
            facts.hardware,
            closed,
            known.running if known else {},
        )

    def close(self, node_id: str, why: str) -> None:
        """Send nothing to a node any more."""
        if node_id in self._nodes:
            self._nodes[node_id].closed = why

    def closed(self, node_id: str) -> str:
        """Why a node takes nothing; empty if it does."""
        return self._nodes[node_id].closed if node_id in self._nodes else "not known"

    def put(self, work: Work) -> None:
        """Let a work wait (again)."""
        self._waiting[work.need][work.work_id] = work

    def drop(self, work: Work) -> None:
        """Take a work out."""
        self._waiting[work.need].pop(work.work_id, None)

    def give_back(self, assignment: Assignment) -> None:
        """Free the nodes of a work that ended."""
        for node_id in assignment.nodes:
            if node_id in self._nodes:
                self._nodes[node_id].running.pop(assignment.work.work_id, None)

    def hold(self, node_id: str, key: str) -> None:
        """Keep a node busy until `release` with the same key."""
        if node_id in self._nodes:
            self._nodes[node_id].running[key] = 0

    def release(self, node_id: str, key: str) -> None:
        """End a `hold`."""
        if node_id in self._nodes:
            self._nodes[node_id].running.pop(key, None)

    def pick(self, longest_s: float = float("inf")) -> Assignment | None:
        """Choose a waiting work and take nodes for it; None where nothing can start now.

        Parameters
        ----------
        longest_s
            Leave works alone that are planned to take longer.
        """
        held = self._held_for_gangs(longest_s)
        for need in self._gang_needs():
            chosen = self._pick_gang(need, longest_s)
            if chosen is not None:
                return chosen
        for node_id, node in self._nodes.items():
            if node.closed or node_id in held:
                continue
            work = self._best(node, longest_s)
            if work is not None:
                return self._take(work, (node_id,))
        return None

    def hopeless(self) -> list[Work]:
        """Works that no node which takes launches can ever do."""
        return [
            work
            for need, works in self._waiting.items()
            if len(self._able(need)) < need.nodes
            for work in works.values()
        ]

    def others(self, node_id: str, need: Need) -> bool:
        """Whether a node other than this one can serve a need."""
        return any(other != node_id for other in self._able(need))

    def _take(self, work: Work, node_ids: Sequence[str]) -> Assignment:
        self.drop(work)
        for node_id in node_ids:
            node = self._nodes[node_id]
            # 0 stands for the whole node.
            shared = shares(self._isolation, node.facts, work.need)
            node.running[work.work_id] = work.need.num_gpus if shared else 0
        return Assignment(work, tuple(node_ids))

    def _able(self, need: Need) -> list[str]:
        """Nodes that can serve a need, busy ones included."""
        return [i for i, node in self._nodes.items() if not node.closed and _serves(node, need)]

    def _free(self, node: _Node, need: Need) -> bool:
        """Whether a node can start such a work now."""
        if not need.hardware:
            return len(node.running) < node.slots
        if shares(self._isolation, node.facts, need):
            room = node.gpus[need.hardware] - node.used_gpus
            few = len(node.running) < node.facts.cpus
            return few and need.num_gpus <= room and all(node.running.values())
        return not node.running

    def _gang_needs(self) -> list[Need]:
        return [need for need, works in self._waiting.items() if need.nodes > 1 and works]

    def _held_for_gangs(self, longest_s: float) -> set[str]:
        """Nodes that are free and wait for the rest of a gang."""
        held: set[str] = set()
        for need in self._gang_needs():
            able = self._able(need)
            fits = any(work.planned_s <= longest_s for work in self._waiting[need].values())
            if len(able) < need.nodes or not fits:
                continue
            free = [i for i in able if self._free(self._nodes[i], need) and i not in held]
            held |= set(free[: need.nodes])
        return held

    def _pick_gang(self, need: Need, longest_s: float) -> Assignment | None:
        for work in self._waiting[need].values():
            if work.planned_s > longest_s:
                continue
            able = self._able(need)
            fresh = [i for i in able if i not in work.avoid]
            pool = fresh if len(fresh) >= need.nodes else able
            free = [i for i in pool if self._free(self._nodes[i], need)]
            if len(free) >= need.nodes:
                return self._take(work, free[: need.nodes])
        return None

    def _best(self, node: _Node, longest_s: float) -> Work | None:
        node_id = node.facts.node_id
        open_to = {
            need: works
            for need, works in self._waiting.items()
            if works and need.nodes == 1 and _serves(node, need) and self._free(node, need)
        }
        if not open_to:
            return None
        able = {need: frozenset(self._able(need)) for need in open_to}
        candidates = []
        for need, works in open_to.items():
            for work in works.values():
                elsewhere = able[need] - work.avoid
                if work.planned_s > longest_s or (node_id in work.avoid and elsewhere):
                    continue
                if work.attempt > 1:
                    return work
                candidates.append(work)
                if not need.hardware:
                    return work  # any of them is as good, and there may be thousands
        if not candidates:
            return None
        pressing = _pressing(candidates, able)
        longest = max(pressing, key=lambda work: work.planned_s)
        nodes = len(frozenset.union(*(able[work.need] for work in pressing)))
        share_s = sum(work.planned_s for work in pressing) / max(1, nodes)
        if longest.planned_s >= share_s / 2:
            return longest
        return min(pressing, key=lambda work: work.order)


def _pressing(works: Sequence[Work], able: Mapping[Need, frozenset[str]]) -> Sequence[Work]:
    """Works whose nodes have more to do than the average of all, if there are such; else all."""
    by_nodes: dict[frozenset[str], list[Work]] = defaultdict(list)
    for work in works:
        by_nodes[able[work.need]].append(work)
    if len(by_nodes) == 1:
        return works

    def load_s(nodes: frozenset[str]) -> float:
        inside = [w for other, ws in by_nodes.items() if other <= nodes for w in ws]
        return sum(work.planned_s for work in inside) / len(nodes)

    everywhere = frozenset.union(*by_nodes)
    tightest = max(by_nodes, key=lambda nodes: (load_s(nodes), -len(nodes)))
    if tightest != everywhere and load_s(tightest) > 0.9 * load_s(everywhere):
        return [w for nodes, ws in by_nodes.items() if nodes <= tightest for w in ws]
    return works


def shares(isolation: Isolation, facts: NodeFacts, need: Need) -> bool:
    """Whether a work leaves the other GPUs of its node to others.

    Ray chooses the GPUs of a task by number, so it cannot be where types are mixed.
    """
    types = {(gpu.hardware, gpu.mig) for gpu in facts.gpus}
    alike = types == {(need.hardware, False)} and len(facts.gpus) == facts.ray_gpus
    return isolation == "gpu" and need.num_gpus > 0 and need.nodes == 1 and alike


def _serves(node: _Node, need: Need) -> bool:
    """Whether a node has what a need asks for, when it is free."""
    return why_not(node.facts, need) is None


def _why(facts: NodeFacts) -> str:
    return "; ".join(problem.detail for problem in facts.problems if problem.fatal)
