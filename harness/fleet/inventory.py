"""Which nodes a cluster has and what each can do: all are probed at once, none is waited for long.

ray.nodes() --> probe_node on each (hard affinity, no CPU) --> clocks --> NodeFacts
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from harness.catalog.cpu import is_cpu
from harness.fleet.nodes import Need, NodeFacts
from harness.fleet.probe import probe_node, read_clock
from harness.fleet.verdicts import Ping, facts_of

TIMEOUT_S = 60.0
PINGS = 3
PING_TIMEOUT_S = 5.0
PRECISION_PACKAGES = {("transformers", "int8"): "torchao", ("transformers", "int4"): "torchao"}
"""(engine, precision) -> package that a node must have for it."""
NAMED = 2
"""Nodes that a sentence names for one and the same reason."""


def take_inventory(
    timeout_s: float = TIMEOUT_S,
    *,
    clock: Callable[[], float] = time.monotonic,
    wall: Callable[[], float] = time.time,
) -> tuple[NodeFacts, ...]:
    """Probe every node that Ray holds for alive, by host name.

    Parameters
    ----------
    timeout_s
        Longest wait for the answers; a node that gives none is named all the same.
    clock, wall
        Monotonic and wall-clock seconds of this machine.

    Notes
    -----
    Needs a connection to Ray (`harness.fleet.cluster.ray_cluster`).
    """
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    found = _look(nodes, timeout_s, clock, wall)
    return tuple(sorted(found, key=lambda facts: (facts.host, facts.address, facts.node_id)))


def probe_again(
    node_id: str,
    timeout_s: float = TIMEOUT_S,
    *,
    clock: Callable[[], float] = time.monotonic,
    wall: Callable[[], float] = time.time,
) -> NodeFacts:
    """Probe one node; one that is not alive any more has the problem `no_answer`.

    Parameters
    ----------
    node_id
        Ray's id, hexadecimal.
    timeout_s, clock, wall
        As in `take_inventory`.
    """
    import ray

    nodes = [node for node in ray.nodes() if node["NodeID"] == node_id]
    if not nodes or not nodes[0]["Alive"]:
        gone = ConnectionError("Ray does not count it among the living nodes")
        return facts_of(nodes[0] if nodes else {"NodeID": node_id}, gone, ours={})
    return _look(nodes, timeout_s, clock, wall)[0]


def _look(
    nodes: Sequence[Mapping[str, Any]],
    timeout_s: float,
    clock: Callable[[], float],
    wall: Callable[[], float],
) -> list[NodeFacts]:
    deadline = clock() + timeout_s
    ids = [str(node["NodeID"]) for node in nodes]
    answers = _ask(probe_node, ids, deadline, clock)
    well = [node_id for node_id in ids if isinstance(answers.get(node_id), Mapping)]
    pings = _exchange_clocks(well, clock, wall)
    ours = _our_versions()
    return [
        facts_of(
            node,
            answers.get(node_id),
            pings=pings.get(node_id, []),
            ours=ours,
            waited_s=timeout_s,
        )
        for node_id, node in zip(ids, nodes, strict=True)
    ]


def _exchange_clocks(
    node_ids: Sequence[str], clock: Callable[[], float], wall: Callable[[], float]
) -> dict[str, list[Ping]]:
    """Ask nodes for their clocks a few times; the first exchange also warms the way up."""
    pings: dict[str, list[Ping]] = {node_id: [] for node_id in node_ids}
    for _ in range(PINGS):
        sent_s = wall()
        heard_s: dict[str, float] = {}

        def heard(node_id: str, at: dict[str, float] = heard_s) -> None:
            at[node_id] = wall()

        told = _ask(read_clock, node_ids, clock() + PING_TIMEOUT_S, clock, heard)
        for node_id, theirs_s in told.items():
            if isinstance(theirs_s, float):
                pings[node_id].append((sent_s, theirs_s, heard_s[node_id]))
    return pings


def _ask(
    function: Callable[[], Any],
    node_ids: Sequence[str],
    deadline: float,
    clock: Callable[[], float],
    heard: Callable[[str], None] = lambda node_id: None,
) -> dict[str, Any]:
    """Call a function on nodes at the same time; node id -> what it gave, or its error.

    Nodes that did not answer by the deadline are left out. Their calls stay pending: a frozen
    node does not hear that a task was cancelled.
    """
    import ray
    from ray.exceptions import GetTimeoutError, RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote = ray.remote(num_cpus=0, max_retries=0)(function)
    waiting = {}
    for node_id in node_ids:
        there = NodeAffinitySchedulingStrategy(node_id, soft=False)
        waiting[remote.options(scheduling_strategy=there).remote()] = node_id
    answers: dict[str, Any] = {}
    while waiting:
        ready, _ = ray.wait(list(waiting), num_returns=1, timeout=max(0.0, deadline - clock()))
        if not ready:
            break
        node_id = waiting.pop(ready[0])
        heard(node_id)
        try:
            answers[node_id] = ray.get(ready[0], timeout=max(1.0, deadline - clock()))
        except GetTimeoutError:
            continue
        except RayError as error:
            answers[node_id] = error
    return answers


def _our_versions() -> dict[str, str]:
    import ray

    from harness.store import code_version

    energylens, commit = code_version()
    ours = {
        "python": platform.python_version(),
        "ray": str(ray.__version__),
        "energylens": energylens,
    }
    return ours | ({"commit": commit} if commit else {})


def can_measure(facts: NodeFacts) -> bool:
    """Whether a node takes launches and reads their power."""
    return facts.usable and facts.locks >= 1 and facts.meter is not None and bool(facts.hardware)


def why_not(facts: NodeFacts, need: Need, *, power: bool = False) -> str | None:
    """Why a node cannot take a launch, as words that follow its name; None if it can.

    Parameters
    ----------
    facts
        The node.
    need
        What the launch asks of each of its nodes.
    power
        Whether it is of no use without a power meter.
    """
    fatal = [problem for problem in facts.problems if problem.fatal]
    if fatal:
        return f"takes no launches: {fatal[0].detail} ({fatal[0].code})"
    if facts.cpus < 1:
        return "offers Ray no CPU"
    hardware = facts.hardware
    on_cpu = is_cpu(need.hardware)
    if need.hardware and need.hardware not in hardware:
        return f"has {describe_hardware(facts, cpu=on_cpu)}"
    if not on_cpu and need.num_gpus > 0:
        there = hardware.get(need.hardware, 0) if need.hardware else len(facts.gpus)
        offered = min(there, int(facts.ray_gpus))
        if offered < need.num_gpus:
            counted = f" and offers {offered}" if offered < there else ""
            return f"has {describe_hardware(facts)}{counted}"
    if need.engine not in facts.engines and ":" not in need.engine:
        return f"lacks {need.engine}"
    package = PRECISION_PACKAGES.get((need.engine, need.precision))
    if package and package not in facts.versions:
        return f"lacks {package}, which {need.engine} needs for {need.precision}"
    if need.hardware and facts.locks < 1:
        return "offers no lock for measuring (no_lock)"
    if power and facts.meter is None:
        return "has no power meter that may be read"
    return None


def unplaceable(needs: Iterable[Need], inventory: Sequence[NodeFacts]) -> dict[Need, str]:
    """Needs that no node, or too few nodes for a gang, can ever serve, each with a sentence.

    Parameters
    ----------
    needs
        What launches ask for.
    inventory
        All nodes.
    """
    out = {}
    for need in dict.fromkeys(needs):
        reasons = [(facts, why_not(facts, need)) for facts in inventory]
        able = sum(reason is None for _, reason in reasons)
        if able >= need.nodes:
            continue
        count = f" (only {able} can)" if able else ""
        grouped: dict[str, list[str]] = {}
        for facts, reason in reasons:
            if reason is not None:
                grouped.setdefault(reason, []).append(facts.name)
        told = ", ".join(f"{_names(names)} {reason}" for reason, names in grouped.items())
        out[need] = f"needs {need.text}{count}; {told or 'there are no nodes'}"
    return out


def describe_hardware(facts: NodeFacts, *, cpu: bool = False) -> str:
    """A node's GPUs in words, such as `8 x H100-SXM5-80GB`; its processor where it has none.

    Parameters
    ----------
    facts
        The node.
    cpu
        Name the processor even if there are GPUs.
    """
    counts: dict[str, int] = {}
    for gpu in facts.gpus:
        name = f"{gpu.hardware or gpu.name}{' (MIG)' if gpu.mig else ''}"
        counts[name] = counts.get(name, 0) + 1
    if counts and not cpu:
        return ", ".join(f"{count} x {name}" for name, count in counts.items())
    return facts.cpu_hardware or "nothing that is known"


def _names(names: Sequence[str]) -> str:
    """Nodes with one reason; few are named."""
    named = ", ".join(names[:NAMED])
    return named if len(names) <= NAMED else f"{named} and {len(names) - NAMED} more (each)"
