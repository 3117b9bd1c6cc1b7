"""100,000 null launches' tasks through the whole path, on local Ray: rate, memory, resume.

    python benchmarks/fleet_scale.py [--tasks 100000]

One JSON line for each figure. Lease, executor, result, commit and event are those of every run;
only the engine does nothing (null_engine.py). The rate counts from the first started batch to
the last row, the planning before it is a figure of its own. Memory is that of the driver alone,
every second; its slope is fitted over the second half of the dispatch.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
DRIVER = """\
import sys, time
from harness.fleet import run_sweep
began = time.monotonic()
summary = run_sweep(sys.argv[1], sys.argv[2])
print(summary.done, summary.already_done, time.monotonic() - began)
"""


def sweep_of(tasks: int, folder: Path) -> Path:
    """The sweep of plan_scale.py with the null engine and `tasks` of its tasks."""
    text = (HERE / "hundred_thousand.yaml").read_text()
    text = text.replace("engine: twin", "engine: null_engine:NullEngine")
    if tasks < 100_000:
        text += f"sampling: {{method: random, size: {tasks}}}\n"
    path = folder / "null.yaml"
    path.write_text(text)
    return path


def drive(sweep: Path, out: Path) -> tuple[list[str], list[tuple[float, float]]]:
    """Run a driver; return what it printed and its memory (s, MB) over time."""
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(sweep), str(out)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    memory = []
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
            (line,) = (each for each in status.splitlines() if each.startswith("VmRSS"))
            memory.append((time.time(), int(line.split()[1]) / 1000))
        except (OSError, ValueError):
            pass
        time.sleep(0.5)
    said = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise SystemExit(f"the driver ended with {process.returncode}: {said}")
    return said.split(), memory


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fleet-scale-") as name:
        folder = Path(name)
        sweep, out = sweep_of(options.tasks, folder), folder / "run"
        said, memory = drive(sweep, out)
        at: dict[str, list[float]] = {}
        for line in (out / "events.jsonl").open():
            event = json.loads(line)
            when = datetime.fromisoformat(event["time"]).timestamp()
            at.setdefault(event["kind"], []).append(when)
        first, last = at["inventory"][0], at["launch_finished"][-1]
        middle = (first + last) / 2
        half = np.array([m for m in memory if middle <= m[0] <= last])
        slope = float(np.polyfit(half[:, 0] - middle, half[:, 1], 1)[0]) if len(half) > 2 else None
        done = int(said[0])
        print_figure("dispatch", tasks=done, seconds=last - first, rate_per_s=done / (last - first))
        print_figure("launches", count=len(at["launch_finished"]))
        print_figure("before_dispatch", seconds=first - memory[0][0])
        print_figure(
            "driver_memory",
            peak_mb=max(m for _, m in memory),
            second_half_mb=[float(half[:, 1].min()), float(half[:, 1].max())]
            if len(half)
            else None,
            second_half_slope_mb_per_s=slope,
        )
        print_figure("compaction", seconds=at["compacted"][-1] - last)
        began = time.monotonic()
        said, memory = drive(sweep, out)
        print_figure(
            "resume",
            already_done=int(said[1]),
            seconds=time.monotonic() - began,
            in_process_s=float(said[2]),
            peak_mb=max(m for _, m in memory),
        )


def print_figure(name: str, **values: object) -> None:
    """One JSON line."""
    rounded = {k: round(v, 3) if isinstance(v, float) else v for k, v in values.items()}
    print(json.dumps({"figure": name, **rounded}), flush=True)


if __name__ == "__main__":
    main()
