"""Doctor of a cluster: every node probed, what it can do, and what is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.fleet.nodes import NodeFacts, Problem

NAMED = 4


@dataclass(frozen=True, slots=True)
class ClusterReport:
    """What an inventory found.

    Attributes
    ----------
    address
        Of the cluster; None for a Ray on this machine alone.
    nodes
        Every living node.
    """

    address: str | None
    nodes: tuple[NodeFacts, ...]

    @property
    def measuring(self) -> int:
        """Nodes that can measure."""
        from harness.fleet.inventory import can_measure

        return sum(map(can_measure, self.nodes))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        from harness.fleet.inventory import can_measure

        return {
            "address": self.address,
            "measuring": self.measuring,
            "nodes": [
                {**node.to_dict(), "name": node.name, "can_measure": can_measure(node)}
                for node in self.nodes
            ],
        }


def inspect_cluster() -> ClusterReport:
    """Probe every node of the cluster of RAY_ADDRESS, or of a Ray started here for it.

    Raises
    ------
    RunError
        If the cluster cannot be reached, or Ray cannot start.
    """
    from harness.fleet.cluster import ray_cluster
    from harness.fleet.inventory import take_inventory

    with ray_cluster():
        return ClusterReport(os.environ.get("RAY_ADDRESS"), take_inventory())


def node_row(facts: NodeFacts) -> tuple[str, str, str, str]:
    """Cells of one node: name, hardware, engines, verdict."""
    from harness.fleet.inventory import can_measure, describe_hardware

    if can_measure(facts):
        verdict = f"measures ({facts.meter})"
    elif facts.usable:
        verdict = "projects only"
    else:
        verdict = "takes nothing"
    engines = ", ".join(facts.engines)
    hardware = describe_hardware(facts) if facts.engines else "not known"
    return facts.name, hardware, engines or "not known", verdict


def gathered_problems(nodes: Sequence[NodeFacts]) -> list[tuple[Problem, str]]:
    """Every problem once, the fatal ones first, with the names of the nodes that have it."""
    found: dict[Problem, list[str]] = {}
    for facts in nodes:
        for problem in facts.problems:
            found.setdefault(problem, []).append(facts.name)
    ordered = sorted(found.items(), key=lambda item: not item[0].fatal)
    return [(problem, _names(names)) for problem, names in ordered]


def _names(names: Sequence[str]) -> str:
    named = ", ".join(names[:NAMED])
    return named if len(names) <= NAMED else f"{named} and {len(names) - NAMED} more"
