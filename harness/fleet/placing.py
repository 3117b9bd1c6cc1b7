"""What a cluster makes of a plan before it runs: what cannot be placed, how long it takes."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.fleet.cluster import ray_cluster
from harness.fleet.inventory import take_inventory, unplaceable
from harness.fleet.nodes import NodeFacts
from harness.fleet.schedule import Assignment, Isolation, Schedule, Work, ordered
from harness.fleet.works import Works, missing_launches
from harness.plan import Plan


@dataclass(frozen=True, slots=True)
class Unplaced:
    """Launches that no node can do.

    Attributes
    ----------
    need
        What they ask for, in words.
    launches, tasks
        How many.
    why
        A sentence that names the nodes and what each lacks.
    """

    need: str
    launches: int
    tasks: int
    why: str


@dataclass(frozen=True, slots=True)
class Placement:
    """What a cluster makes of a plan.

    Attributes
    ----------
    inventory
        Its nodes.
    unplaced
        What none of them can do.
    makespan_s
        Projected time until the last launch of the others ends, all nodes at work; None for
        projections, which take as long as this takes to compute.
    """

    inventory: tuple[NodeFacts, ...]
    unplaced: tuple[Unplaced, ...]
    makespan_s: float | None


def place(plan: Plan, workers: int | None = None) -> Placement:
    """Look at the cluster of RAY_ADDRESS, or at this machine, and place a plan on it.

    Raises
    ------
    RunError
        If the cluster cannot be reached.
    """
    with ray_cluster(workers):
        inventory = take_inventory()
    works = Works(plan.sweep, plan, missing_launches(plan.sweep, plan, set()), inventory)
    missing = unplaced(works, inventory)
    if not works.real:
        return Placement(inventory, missing, None)
    order = ordered(works.all, plan.sweep.measuring.seed)
    started = play(order, inventory, plan.sweep.fleet.isolation)
    ends = (at + assignment.work.planned_s for at, assignment in started)
    return Placement(inventory, missing, max(ends, default=0.0))


def unplaced(works: Works, inventory: Sequence[NodeFacts]) -> tuple[Unplaced, ...]:
    """What no node can do, one entry for each need."""
    found = unplaceable((work.need for work in works.all), inventory)
    out = []
    for need, why in found.items():
        mine = [spec for w in works.all if w.need == need for spec in works.specs[w.work_id]]
        tasks = sum(len(spec.workloads) for spec in mine)
        out.append(Unplaced(need.text, len(mine), tasks, why))
    return tuple(out)


def play(
    works: Iterable[Work], nodes: Iterable[NodeFacts], isolation: Isolation = "node"
) -> list[tuple[float, Assignment]]:
    """Run a schedule in virtual time, each work as long as it is planned.

    Returns
    -------
    list
        (start in seconds, assignment) in the order of the starts; what cannot be placed is not
        among them.
    """
    schedule = Schedule(works, nodes, isolation)
    now_s = 0.0
    running: list[tuple[float, int]] = []
    started: list[tuple[float, Assignment]] = []
    while True:
        while (assignment := schedule.pick()) is not None:
            heapq.heappush(running, (now_s + assignment.work.planned_s, len(started)))
            started.append((now_s, assignment))
        if not running:
            return started
        now_s, index = heapq.heappop(running)
        schedule.give_back(started[index][1])
