"""Planning and resuming 100,000 tasks: time, and memory of the process that does it.

    python benchmarks/plan_scale.py [--sweep benchmarks/hundred_thousand.yaml]

Four steps, each in a process of its own: `expand` (tasks and their ids), `plan` (the first plan,
every estimate asked for), `replan` (estimates from the memory of the run folder) and `resume` (a
whole run with nothing left to do; before it, outside its time, a row is put into the folder for
every task). Prints one JSON object a step: seconds on the wall and of this process's CPU, resident
memory at the end (`rss_mb`) and at most (`peak_mb`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.store import RunFolder

STEPS = ("expand", "plan", "replan", "resume")
SWEEP = Path(__file__).with_name("hundred_thousand.yaml")


def expand(sweep_path: Path, folder: Path) -> dict[str, Any]:
    """Expand the sweep and hash every task."""
    from harness.spec import expand_sweep, load_models, load_sweep

    sweep = load_sweep(sweep_path)
    tasks = expand_sweep(sweep, load_models(sweep)).tasks
    return {"tasks": len(tasks), "ids": len({task.task_id for task in tasks})}


def plan(sweep_path: Path, folder: Path) -> dict[str, Any]:
    """Plan with the memory of the folder, as a run does."""
    from harness.plan import RememberingEstimator, default_estimator, make_plan
    from harness.spec import load_sweep
    from harness.store.files import write_atomic

    sweep = load_sweep(sweep_path)
    memory = RememberingEstimator(default_estimator(sweep.engine), folder / "plan.parquet")
    made = make_plan(sweep, estimator=memory)
    memory.save(write_atomic)
    ids = {task.task_id for task in made.tasks}
    return {"tasks": len(ids), "launches": len(made.launches)}


def resume(sweep_path: Path, folder: Path) -> dict[str, Any]:
    """Run a sweep of which every task is done."""
    from harness.fleet import run_sweep

    summary = run_sweep(sweep_path, folder)
    if summary.done or summary.already_done != summary.planned:
        raise SystemExit(f"{summary.planned - summary.already_done} tasks were not done")
    return {"tasks": summary.already_done}


def fill(sweep_path: Path, folder: Path) -> None:
    """Put a row into the folder for every task: what is known before measuring."""
    import pandas as pd

    from harness.plan import RememberingEstimator, default_estimator, make_plan
    from harness.spec import load_sweep, task_columns

    sweep = load_sweep(sweep_path)
    memory = RememberingEstimator(default_estimator(sweep.engine), folder / "plan.parquet")
    made = make_plan(sweep, estimator=memory)
    run = RunFolder.open(folder)
    rows: dict[str, list[dict[str, Any]]] = {}
    for launch in made.launches:
        facts = made.models[launch.model_id]
        rows.setdefault(launch.deployment.hardware, []).extend(
            task_columns(task, facts) for task in launch.tasks
        )
        run.append_event("launch_finished", launch_id=launch.launch_id, tasks=len(launch.tasks))
    for number, (hardware, items) in enumerate(rows.items()):
        run.write_result(f"filled-{number}", hardware, pd.DataFrame.from_records(items))
    run.compact()


def memory_mb(key: str) -> float:
    """Resident memory of this process in MB: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1024


def measured(name: str, sweep_path: Path, folder: Path) -> dict[str, Any]:
    """Do one step in this process and say what it took, imports included."""
    does: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
        "expand": expand,
        "plan": plan,
        "replan": plan,
        "resume": resume,
    }
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    facts = does[name](sweep_path, folder)
    return {
        "step": name,
        **facts,
        "wall_s": round(time.perf_counter() - wall_s, 2),
        "cpu_s": round(time.process_time() - cpu_s, 2),
        "rss_mb": round(memory_mb("VmRSS")),
        "peak_mb": round(memory_mb("VmHWM")),
    }


def main() -> None:
    """Print one line a step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sweep", type=Path, default=SWEEP)
    parser.add_argument("--step", choices=(*STEPS, "fill"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step == "fill":
        fill(options.sweep, options.folder)
    elif options.step:
        print(json.dumps(measured(options.step, options.sweep, options.folder)), flush=True)
    else:
        with tempfile.TemporaryDirectory() as folder:
            run = RunFolder.create(Path(folder) / "run", {}).path
            for step in ("expand", "plan", "replan", "fill", "resume"):
                command = [sys.executable, __file__, "--sweep", str(options.sweep)]
                subprocess.run([*command, "--step", step, "--folder", str(run)], check=True)


if __name__ == "__main__":
    main()
