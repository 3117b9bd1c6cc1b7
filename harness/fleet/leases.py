"""What a work takes of Ray while it runs: tasks pinned to its nodes, locks, GPUs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from harness.fleet.cluster import NODE_LOCK
from harness.fleet.janitor import end_leftovers
from harness.fleet.nodes import NodeFacts
from harness.fleet.schedule import Isolation, Work, shares
from harness.fleet.worker import Order, Outcome, end_process

TIDY_S = 30.0


@dataclass(frozen=True, slots=True)
class Job:
    """What is sent for a work: specs of this attempt, and how long they may take."""

    specs: tuple[str, ...]
    isolated: bool
    deadline_s: float


@dataclass(slots=True)
class Lease:
    """Tasks of one attempt, that of the leading node first, and their placement group."""

    handles: list[Any] = field(default_factory=list)
    group: Any = None


class Leases:
    """Sends works to nodes.

    Parameters
    ----------
    models
        model_id -> text of its config.json.
    mailbox
        Handle of the mailbox actor.
    isolation
        Whether works may share a node.
    run
        What the worker does with its order.
    """

    def __init__(
        self,
        models: Mapping[str, str],
        mailbox: Any,
        isolation: Isolation,
        run: Callable[..., Outcome],
    ) -> None:
        import ray

        self._ray = ray
        self._models = ray.put(dict(models))
        self._mailbox = mailbox
        self._isolation = isolation
        self._pooled = ray.remote(num_cpus=1, max_retries=0)(run)
        self._alone = ray.remote(num_cpus=1, max_retries=0, max_calls=1)(run)
        self._end_process = ray.remote(num_cpus=0, max_retries=0)(end_process)
        self._tidy = ray.remote(num_cpus=0, max_retries=0)(end_leftovers)

    def send(self, work: Work, ticket: str, job: Job, nodes: Sequence[NodeFacts]) -> Lease:
        """Send a task to each node of a work.

        Raises
        ------
        Exception
            Whatever Ray raises; nothing is taken then.
        """
        lease = Lease()
        remote = self._alone if job.isolated else self._pooled
        gang = tuple(facts.address for facts in nodes) if len(nodes) > 1 else ()
        try:
            for rank, (facts, options) in enumerate(
                zip(nodes, self._placement(work, lease, nodes), strict=True)
            ):
                uuids = self._gpus(work, facts)
                order = Order(ticket, job.specs, job.isolated, job.deadline_s, uuids, gang, rank)
                handle = remote.options(**options).remote(order, self._models, self._mailbox)
                lease.handles.append(handle)
        except Exception:
            self.withdraw(lease)
            raise
        return lease

    def withdraw(self, lease: Lease) -> None:
        """Take tasks back that have not begun; those that have go on."""
        for handle in lease.handles:
            self._ray.cancel(handle)
        self.give_back(lease)

    def give_back(self, lease: Lease) -> None:
        """Free what a lease holds beyond its tasks; of a gang that ends its tasks too."""
        if lease.group is not None:
            self._ray.util.remove_placement_group(lease.group)

    def kill(self, node_id: str, pid: int, ticks: int) -> Any:
        """Kill a worker on its node; returns the handle of the task that does it."""
        return self._end_process.options(scheduling_strategy=_there(node_id)).remote(pid, ticks)

    def tidy(self, node_ids: Iterable[str], timeout_s: float = TIDY_S) -> int:
        """End what launches left behind on nodes; returns how many processes that were."""
        asked = [
            self._tidy.options(scheduling_strategy=_there(node_id)).remote() for node_id in node_ids
        ]
        ready, _ = self._ray.wait(asked, num_returns=len(asked), timeout=timeout_s)
        found = 0
        for each in ready:
            with suppress(self._ray.exceptions.RayError):  # a node that died meanwhile
                found += len(self._ray.get(each, timeout=5))
        return found

    def _gpus(self, work: Work, facts: NodeFacts) -> tuple[str, ...]:
        """GPUs of a node that is ours alone; none where Ray chooses them."""
        need = work.need
        if not need.num_gpus or shares(self._isolation, facts, need):
            return ()
        right = [gpu.uuid for gpu in facts.gpus if gpu.hardware == need.hardware and not gpu.mig]
        return tuple(uuid for uuid in right[: need.num_gpus] if not uuid.startswith("declared"))

    def _placement(
        self, work: Work, lease: Lease, nodes: Sequence[NodeFacts]
    ) -> list[dict[str, Any]]:
        """Options of the task on each node: pinned there, with what it takes from Ray."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        taken = [self._taken(work, facts) for facts in nodes]
        if len(nodes) == 1:
            return [{**_options(taken[0]), "scheduling_strategy": _there(nodes[0].node_id)}]
        # All nodes at once or none: two drivers must not hold half a gang each.
        lease.group = self._ray.util.placement_group(
            [{"CPU": 1.0, **one} for one in taken],
            strategy="STRICT_SPREAD",
            bundle_label_selector=[{"ray.io/node-id": facts.node_id} for facts in nodes],
        )
        return [
            {
                **_options(one),
                "scheduling_strategy": PlacementGroupSchedulingStrategy(
                    lease.group, placement_group_bundle_index=rank
                ),
            }
            for rank, one in enumerate(taken)
        ]

    def _taken(self, work: Work, facts: NodeFacts) -> dict[str, float]:
        """Ray resources of a work on a node: the whole of it, or its share of the GPUs."""
        need = work.need
        if not need.hardware:
            return {}
        if shares(self._isolation, facts, need):
            share = facts.locks * need.num_gpus / len(facts.gpus)
            # Ray counts in steps of 0.0001; rounded up, six sixths would be more than the whole.
            return {"GPU": float(need.num_gpus), NODE_LOCK: math.floor(1e4 * share) / 1e4}
        gpus = {"GPU": float(facts.ray_gpus)} if need.num_gpus and facts.ray_gpus else {}
        return {**gpus, NODE_LOCK: facts.locks}


def _there(node_id: str) -> Any:
    """On this node, or fail."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node_id, soft=False)


def _options(taken: Mapping[str, float]) -> dict[str, Any]:
    own = {name: amount for name, amount in taken.items() if name not in ("CPU", "GPU")}
    return {"num_gpus": taken.get("GPU", 0), "resources": own or None}
