"""How well a fleet is used: makespan of a run against its lower bound, on a simulated lab.

    python benchmarks/fleet_utilisation.py               # three mixes, about five minutes each
    python benchmarks/fleet_utilisation.py --seconds 30  # shorter launches, more overhead

Seven Ray nodes with GPUs of four types live on this machine; launches sleep in proportion to
their planned duration. No run can end before the nodes of one type have done all work of that
type, or before its longest launch has ended: that is the lower bound. It is stated twice: of the
sleeps alone, and of the launches as they were, with the start of their processes (which is long
here, where 2 cores start those of 7 nodes). Goal: makespan within 15 % of the second. It counts
from the first launch sent to the last one back.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "fleet"))

from lab import NODES, Driver, Lab, events

from harness.catalog.identify import identify
from harness.plan import Plan, make_plan

HEAD = """\
name: {name}
engine: lab_engine:LabEngine
models: [Qwen/Qwen3-0.6B, Qwen/Qwen3-1.7B, Qwen/Qwen3-8B]
repeats: 1
window_s: 1
launch_s: {launch_s}
keep_traces: 0
measuring: {{sentinel: false, warm_up_s: 6, run_timeout_s: 60}}
"""
BLOCK = (
    "  - {{modality: text, batch: [1, 4], input_tokens: [128], output_tokens: [{tokens}]{more}}}\n"
)
ALL = "[H100-SXM5-80GB, A100-SXM4-80GB, L40S-48GB, B200-SXM6-180GB]"
MIXES = {
    # As much of every type.
    "uniform": HEAD.format(name="uniform", launch_s=10)
    + f"hardware: {ALL}\ntensor_parallel: [1, 2, 4]\nblocks:\n"
    + BLOCK.format(tokens="32, 64", more=""),
    # Half of all launches need the type of which there is one node.
    "scarce": HEAD.format(name="scarce", launch_s=10)
    + f"hardware: {ALL}\ntensor_parallel: [1, 2, 4, 8]\nblocks:\n"
    + BLOCK.format(tokens="32", more=", hardware: [B200-SXM6-180GB]")
    + BLOCK.format(tokens="64", more=", tensor_parallel: [1]"),
    # One model takes many times longer, and some launches need two nodes at once.
    "long-tail-and-gangs": HEAD.format(name="long-tail-and-gangs", launch_s=10)
    + "hardware: [H100-SXM5-80GB, A100-SXM4-80GB, L40S-48GB]\n"
    + "tensor_parallel: [1, 2, 4]\npipeline_parallel: [1, 2]\nblocks:\n"
    + BLOCK.format(tokens="32", more=", pipeline_parallel: [1]")
    + BLOCK.format(tokens="4096", more=", tensor_parallel: [2], pipeline_parallel: [1]")
    + BLOCK.format(tokens="64", more=", hardware: [H100-SXM5-80GB], tensor_parallel: [4]"),
}


@dataclass(frozen=True, slots=True)
class Work:
    """One launch: GPU type, nodes that it takes at once, seconds."""

    hardware: str
    nodes: int
    seconds: float


def capacity() -> dict[str, tuple[int, int]]:
    """GPU type -> number of nodes in the lab, and GPUs on each."""
    counts: dict[str, int] = defaultdict(int)
    gpus: dict[str, int] = {}
    for node in NODES:
        name = str(identify(node.gpu.name, node.gpu.memory_bytes))
        counts[name] += 1
        gpus[name] = node.count
    return {name: (counts[name], gpus[name]) for name in counts}


def lower_bound_s(works: list[Work]) -> float:
    """No schedule is shorter: work of each type over its nodes, and the longest launch."""
    share: dict[str, float] = defaultdict(float)
    for work in works:
        share[work.hardware] += work.seconds * work.nodes / capacity()[work.hardware][0]
    return max(*share.values(), *(work.seconds for work in works))


def works_of(plan: Plan, seconds: Mapping[str, float]) -> list[Work]:
    """Launches of a plan with the seconds that each takes."""
    there = capacity()
    return [
        Work(
            launch.deployment.hardware,
            -(-launch.deployment.num_gpus // there[launch.deployment.hardware][1]),
            seconds[launch.launch_id],
        )
        for launch in plan.launches
    ]


def measure(lab: Lab, name: str, folder: Path, seconds: float) -> dict[str, object]:
    """Run one mix; return its figures."""
    sweep = folder / f"{name}.yaml"
    sweep.write_text(MIXES[name])
    plan = make_plan(sweep)
    planned_s = {launch.launch_id: launch.cost.duration_s for launch in plan.launches}
    scale = seconds / lower_bound_s(works_of(plan, planned_s))
    asked_s = {launch_id: scale * one for launch_id, one in planned_s.items()}
    lab.write_script({"launches": asked_s})
    out = folder / name
    with Driver(lab, sweep, out) as driver:
        if driver.wait(20 * seconds + 300) != 0:
            raise SystemExit(driver.said())
    ended = events(out, "launch_finished")
    held_s = {event["launch_id"].partition("-")[0]: event["seconds"] for event in ended}
    began = datetime.fromisoformat(events(out, "inventory")[0]["time"])
    over = datetime.fromisoformat(ended[-1]["time"])
    makespan_s = (over - began).total_seconds()
    bound_s = lower_bound_s(works_of(plan, asked_s))
    held_bound_s = lower_bound_s(works_of(plan, held_s))
    return {
        "figure": "fleet_utilisation",
        "mix": name,
        "launches": len(plan.launches),
        "longest_over_median": round(
            max(planned_s.values()) / sorted(planned_s.values())[len(planned_s) // 2], 2
        ),
        "over_two_nodes": sum(work.nodes > 1 for work in works_of(plan, asked_s)),
        "makespan_s": round(makespan_s, 1),
        "bound_of_sleeps_s": round(bound_s, 1),
        "over_bound_of_sleeps": round(makespan_s / bound_s - 1, 3),
        "bound_s": round(held_bound_s, 1),
        "over_bound": round(makespan_s / held_bound_s - 1, 3),
    }


def main() -> None:
    """Print one line of JSON a mix."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=200.0, help="lower bound of a mix, s")
    parser.add_argument("--mix", nargs="*", default=list(MIXES), choices=list(MIXES))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Lab() as lab:
        lab.start()
        for name in options.mix:
            figures = measure(lab, name, Path(folder), options.seconds)
            print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
