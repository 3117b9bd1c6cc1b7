"""The quickstart as a user runs it: wall time of each step, peak memory of the driver, resume.

    python benchmarks/quickstart.py [--sweep sweeps/quickstart.yaml] [--runs 1]

Installation is not counted. Prints medians over the runs, and the help command's over 7.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def timed(*arguments: str) -> tuple[float, float]:
    """Run the command line once; return seconds and the process's own peak memory in MB."""
    command = [sys.executable, "-m", "energylens", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment
    )
    peak_kb = 0
    while process.poll() is None:
        peak_kb = max(peak_kb, high_water_kb(process.pid))
        time.sleep(0.01)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with code {process.returncode}")
    return seconds, peak_kb / 1024


def high_water_kb(pid: int) -> int:
    """Largest resident size of a process so far, from the kernel's own account."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(found[0].split()[1]) if found else 0


def main() -> None:
    """Print one line a step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sweep", default="sweeps/quickstart.yaml")
    parser.add_argument("--runs", type=int, default=1)
    options = parser.parse_args()
    steps: dict[str, list[tuple[float, float]]] = {}
    tasks = 0
    for _ in range(options.runs):
        with tempfile.TemporaryDirectory() as folder:
            run, fit = f"{folder}/run", f"{folder}/run/fit.json"
            for name, arguments in {
                "run": ("run", options.sweep, "--out", run),
                "fit": ("fit", run, "--out", fit, "--samples", "50"),
                "evaluate": ("evaluate", run, "--samples", "50"),
                "recommend": ("recommend", fit),
                "report": ("report", run),
                "resume": ("run", options.sweep, "--out", run),
            }.items():
                steps.setdefault(name, []).append(timed(*arguments))
            tasks = count_tasks(run)
    helps = [timed("--help")[0] for _ in range(7)]
    print(f"{tasks} configurations")
    main_path = 0.0
    for name, values in steps.items():
        seconds = statistics.median(s for s, _ in values)
        main_path += seconds if name != "resume" else 0.0
        print(f"{name:10} {seconds:7.1f} s   peak {max(m for _, m in values):6.0f} MB")
    print(f"{'in all':10} {main_path:7.1f} s   sweep file to report, resume not counted")
    print(f"{'run rate':10} {tasks / statistics.median(s for s, _ in steps['run']):7.0f} tasks/s")
    print(f"{'--help':10} {statistics.median(helps):7.2f} s")


def count_tasks(run: str) -> int:
    """Rows of the run folder."""
    from harness.store import RunFolder

    return len(RunFolder.open(run).done_task_ids())


if __name__ == "__main__":
    main()
