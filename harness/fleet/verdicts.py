"""Judges what a probe found: facts of a node, and what is wrong with it. No Ray, no clock."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from harness.errors import CatalogError
from harness.fleet.cluster import NODE_LOCK
from harness.fleet.nodes import GpuFacts, NodeFacts, Problem

HARDWARE_LABEL = "energylens.io/hardware"
MIN_FREE_BYTES = 2**30
MAX_CLOCK_OFFSET_S = 1.0

Ping = tuple[float, float, float]
"""Wall clocks, s: the driver's when it asked, the node's, the driver's when it heard."""

_FIX_INSTALL = "install the same EnergyLens in the Python that `ray start` uses on the node"


def facts_of(
    node: Mapping[str, Any],
    answer: Mapping[str, Any] | BaseException | None,
    *,
    pings: Sequence[Ping] = (),
    ours: Mapping[str, str],
    waited_s: float = 0.0,
) -> NodeFacts:
    """Everything known of one node.

    Parameters
    ----------
    node
        As `ray.nodes()` describes it.
    answer
        What `probe_node` gave there, the error that came instead, or None if nothing came.
    pings
        Exchanges of clocks with it.
    ours
        Versions of the driver: python, ray, energylens, commit.
    waited_s
        How long the answer was waited for.
    """
    resources = node.get("Resources") or {}
    labels = dict(node.get("Labels") or {})
    known: dict[str, Any] = {
        "node_id": str(node["NodeID"]),
        "address": str(node.get("NodeManagerAddress") or ""),
        "host": str(node.get("NodeManagerHostname") or node.get("NodeManagerAddress") or ""),
        "cpus": float(resources.get("CPU", 0.0)),
        "memory_bytes": int(resources.get("memory", 0)),
        "ray_gpus": float(resources.get("GPU", 0.0)),
        "locks": float(resources.get(NODE_LOCK, 0.0)),
        "labels": labels,
    }
    if not isinstance(answer, Mapping):
        return NodeFacts(**known, problems=(_silence(answer, waited_s),))
    problems = [Problem(**each) for each in answer["problems"]]
    gpus = tuple(
        GpuFacts(**{**gpu, "foreign_pids": tuple(gpu["foreign_pids"])}) for gpu in answer["gpus"]
    )
    if not gpus:
        gpus = _declared(known["ray_gpus"], labels.get(HARDWARE_LABEL), problems)
    else:
        problems += _compare_label(gpus, labels.get(HARDWARE_LABEL))
    offset_s, error_s = clock_offset(pings)
    problems += _compare_counts(gpus, known["ray_gpus"], known["locks"])
    problems += _compare_versions(answer["versions"], ours)
    problems += _judge_disk(answer["free_disk_bytes"], answer["staging"])
    problems += _judge_clock(offset_s, error_s)
    return NodeFacts(
        **known,
        gpus=gpus,
        driver=answer["driver"],
        meter=answer["meter"],
        cpu_hardware=answer["cpu_hardware"],
        engines=dict(answer["engines"]),
        versions=dict(answer["versions"]),
        free_disk_bytes=answer["free_disk_bytes"],
        clock_offset_s=offset_s,
        leftovers=tuple(answer["leftovers"]),
        problems=tuple(sorted(problems, key=lambda problem: not problem.fatal)),
    )


def clock_offset(pings: Sequence[Ping]) -> tuple[float | None, float]:
    """How far a node's clock is ahead of the driver's, s, and the largest error of that.

    The quickest exchange is the surest: its node read the clock within the round trip, so the
    middle is wrong by half of it at most (Cristian 1989).
    """
    if not pings:
        return None, 0.0
    sent, theirs, received = min(pings, key=lambda ping: ping[2] - ping[0])
    return theirs - (sent + received) / 2, (received - sent) / 2


def _silence(answer: BaseException | None, waited_s: float) -> Problem:
    """Why a node gave no answer."""
    if answer is None:
        return Problem(
            "no_answer",
            f"alive for Ray, but it did not answer within {waited_s:.0f} s",
            "look at the load and at Ray's logs on the node (raylet.out); start it again",
        )
    text = str(answer)
    missing = re.search(r"No module named '([\w.]+)'", text)
    if missing and missing[1].startswith("harness."):
        return Problem(
            "version_mismatch",
            f"its EnergyLens is another version: it has no {missing[1]}",
            _FIX_INSTALL,
        )
    if missing:
        return Problem("not_installed", f"its Python has no module {missing[1]!r}", _FIX_INSTALL)
    if "ImportError" in text:
        return Problem("version_mismatch", f"{_last_line(text)}", _FIX_INSTALL)
    if _is_of_the_task(answer):
        return Problem("probe_failed", _last_line(text), "run energylens doctor on the node")
    return Problem(
        "no_answer", f"lost while it was looked at: {_last_line(text)}", "start the node again"
    )


def _is_of_the_task(error: BaseException) -> bool:
    """Whether the probe itself raised: Ray then gives the error both classes."""
    return any(kind.__name__ == "RayTaskError" for kind in type(error).__mro__)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no message"


def _declared(ray_gpus: float, label: str | None, problems: list[Problem]) -> tuple[GpuFacts, ...]:
    """GPUs of a node on which no driver shows any, taken from its label."""
    if not label or ray_gpus < 1:
        return ()
    from harness.catalog import load_hardware

    try:
        hardware = load_hardware(label)
    except CatalogError as error:
        problems.append(
            Problem(
                "label_mismatch",
                f"label {HARDWARE_LABEL}={label}: {error.what}",
                error.fix or "",
                fatal=False,
            )
        )
        return ()
    problems.append(
        Problem(
            "declared",
            f"no driver shows GPUs here: {ray_gpus:.0f} x {hardware.hardware} as its label says",
            "install the driver, or take the label off if there are none",
            fatal=False,
        )
    )
    return tuple(
        GpuFacts(f"declared-{i}", hardware.hardware, hardware.hardware, int(hardware.memory_bytes))
        for i in range(int(ray_gpus))
    )


def _compare_label(gpus: Sequence[GpuFacts], label: str | None) -> list[Problem]:
    if not label:
        return []
    from harness.catalog import load_hardware

    try:
        wanted = load_hardware(label).hardware
    except CatalogError:
        wanted = label
    found = sorted({gpu.hardware or gpu.name for gpu in gpus})
    if found == [wanted]:
        return []
    return [
        Problem(
            "label_mismatch",
            f"label {HARDWARE_LABEL}={label}, but the driver shows {', '.join(found)}, "
            "which is what counts",
            f"start the node with --labels {HARDWARE_LABEL}={found[0]}",
            fatal=False,
        )
    ]


def _compare_counts(gpus: Sequence[GpuFacts], ray_gpus: float, locks: float) -> list[Problem]:
    problems = []
    if ray_gpus > len(gpus):
        problems.append(
            Problem(
                "gpu_count",
                f"Ray counts {ray_gpus:.0f} GPUs, the driver shows {len(gpus)}",
                f"start the node with --num-gpus={len(gpus)}, or mend the driver (nvidia-smi); "
                f"where the driver cannot be asked, label the node {HARDWARE_LABEL}=TYPE",
            )
        )
    elif ray_gpus < len(gpus):
        problems.append(
            Problem(
                "gpu_count",
                f"the driver shows {len(gpus)} GPUs, Ray counts {ray_gpus:.0f}: "
                "the others are not used",
                f"start the node with --num-gpus={len(gpus)} to use all",
                fatal=False,
            )
        )
    if locks < 1:
        problems.append(
            Problem(
                "no_lock",
                "it offers no lock that keeps measurements apart: nothing is measured there",
                f"start it with --resources='{{\"{NODE_LOCK}\": 1}}'",
                fatal=False,
            )
        )
    return problems


def _compare_versions(theirs: Mapping[str, str], ours: Mapping[str, str]) -> list[Problem]:
    """Differences that could change results, or keep driver and worker from understanding."""
    different = [
        f"{name} {theirs[name]} (here {ours[name]})"
        for name in ("python", "ray", "energylens", "commit")
        if name in theirs and name in ours and _same(name, theirs) != _same(name, ours)
    ]
    if not different:
        return []
    return [Problem("version_mismatch", f"it runs {', '.join(different)}", _FIX_INSTALL)]


def _same(name: str, versions: Mapping[str, str]) -> str:
    """The part of a version that must agree: patch releases of Python are alike."""
    text = versions[name]
    return text.rpartition(".")[0] if name == "python" else text.removesuffix("-dirty")


def _judge_disk(free_bytes: int | None, staging: str) -> list[Problem]:
    if free_bytes is None or free_bytes >= MIN_FREE_BYTES:
        return []
    return [
        Problem(
            "disk_full",
            f"{free_bytes / 2**20:.0f} MiB free in {staging}, where launches put their files",
            "free at least 1 GiB there, or start the node with TMPDIR on another disk",
        )
    ]


def _judge_clock(offset_s: float | None, error_s: float) -> list[Problem]:
    """A clock that is surely off. Not fatal: windows and deadlines go by monotonic clocks."""
    if offset_s is None or abs(offset_s) - error_s <= MAX_CLOCK_OFFSET_S:
        return []
    way = "ahead of" if offset_s > 0 else "behind"
    return [
        Problem(
            "clock_off",
            f"its clock is {abs(offset_s):.1f} s {way} the driver's: measured_at of its rows is "
            "off by that, energies and durations are not",
            "turn on time synchronisation on the node (chrony or systemd-timesyncd)",
            fatal=False,
        )
    ]
