"""What a run folder costs with 100,000 tasks: compaction, resume, events. One JSON line a figure.

    python benchmarks/store_scale.py                    # about four minutes
    python benchmarks/store_scale.py --tasks 10000      # a look

Goals, on two cores: 100,000 loose one-row files compacted within 60 s; a resume that reads the
ids of 100,000 done tasks within 10 s; memory that does not grow with the number of files.
Seconds of the clock depend on who else uses the machine; `cpu_s` does much less.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.store import RunFolder
from harness.store.convert import to_table
from harness.store.parquet import loose_bytes

LAUNCH_ROWS = 96
HARDWARE = "H100-SXM5-80GB"
ROW: dict[str, object] = {
    "model_id": "meta-llama/Llama-3.1-8B-Instruct", "family": "dense", "modality": "text",
    "sweep": "scale", "provenance": "projected", "engine": "twin", "engine_version": "1",
    "seed": 0, "launch_id": "0123456789abcdef", "host": "node-1", "gpu_uuids": ["GPU-1"],
    "params_total": 8_030_000_000, "params_active": 8_030_000_000, "hidden_size": 4096,
    "num_gpus": 1, "num_nodes": 1, "tensor_parallel": 1, "pipeline_parallel": 1,
    "precision": "bf16", "batch": 8, "input_tokens": 512, "output_tokens": 128,
    "prefill_energy_j": 12.5, "decode_energy_j": 250.0, "total_energy_j": 262.5,
    "prefill_energy_j_ci95_j": 0.1, "decode_energy_j_ci95_j": 1.5, "total_energy_j_ci95_j": 1.6,
    "idle_power_w": 70.0, "energy_per_output_token_j": 0.25, "prefill_latency_s": 0.05,
    "decode_latency_s": 1.1, "total_latency_s": 1.15, "ttft_s": 0.05, "itl_s": 0.009,
    "meter": "twin", "window_s": 2.0, "samples": 100, "repeats": 3, "valid": True,
    "reasons": ["time_only"], "measured_at": "2026-01-01T00:00:00+00:00",
}  # fmt: skip


def measured(name: str, tasks: int, work: Callable[[], object]) -> None:
    """Do one thing in a process of its own; print its seconds and its peak of memory."""
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)

    def run() -> None:
        before = resource.getrusage(resource.RUSAGE_SELF)
        began, cpu = time.perf_counter(), time.process_time()
        result = work()
        figures = {
            "figure": name,
            "tasks": tasks,
            "result": result,
            "seconds": round(time.perf_counter() - began, 3),
            "cpu_s": round(time.process_time() - cpu, 3),
            "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            "peak_before_mb": round(before.ru_maxrss / 1024, 1),
        }
        send.send(figures)

    process = context.Process(target=run)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{name} ended with code {process.exitcode}")
    print(json.dumps(receive.recv()), flush=True)


def fill(folder: RunFolder, tasks: int, rows: int) -> None:
    """Put loose files there as a driver would get them, without waiting for the disk."""
    partition = folder.partition(HARDWARE)
    partition.mkdir(parents=True, exist_ok=True)
    table = to_table([{**ROW, "task_id": f"{i * 7919 % tasks:016x}"} for i in range(tasks)])
    table = table.drop_columns(["hardware"])
    for start in range(0, tasks, rows):
        path = partition / f"loose-{start:08d}.parquet"
        path.write_bytes(loose_bytes(table.slice(start, rows)))


def append(folder: RunFolder, count: int) -> float:
    """Append events as a driver does; returns how many a second."""
    began = time.perf_counter()
    with folder.lock():
        for number in range(count):
            folder.append_event("launch_done", launch=f"{number:016x}", node="node-1", tasks=96)
    return round(count / (time.perf_counter() - began))


def commit(folder: RunFolder, launches: int) -> float:
    """Take in launches of 96 rows, a trace and a record each; returns how many a second."""
    with tempfile.TemporaryDirectory() as place:
        staging = RunFolder.create(Path(place) / "staging", {})
        rows = [{**ROW, "task_id": f"{i:016x}"} for i in range(LAUNCH_ROWS)]
        staging.write_result("k", HARDWARE, rows)
        staging.write_trace("t-1", [{"t_ns": i, "power_w": 1.0} for i in range(1000)])
        staging.write_launch("k", {"spec": ROW})
        files = staging.packed()
    began = time.perf_counter()
    with folder.lock():
        for number in range(launches):
            folder.commit({_renamed(name, number): raw for name, raw in files.items()})
    return round(launches / (time.perf_counter() - began))


def _renamed(name: str, number: int) -> str:
    stem, _, end = name.rpartition(".")
    return f"{stem}-{number:06d}.{end}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure each figure and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    options = parser.parse_args(arguments)
    tasks = options.tasks
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        single = RunFolder.create(Path(place) / "single", {})
        measured("fill_one_row_files", tasks, lambda: fill(single, tasks, 1))
        measured("compact_one_row_files", tasks, single.compact)
        measured("done_task_ids", tasks, lambda: len(single.done_task_ids()))
        launches = RunFolder.create(Path(place) / "launches", {})
        measured("fill_launch_files", tasks, lambda: fill(launches, tasks, LAUNCH_ROWS))
        measured("compact_launch_files", tasks, launches.compact)
        measured("compact_again_one_more", tasks, lambda: one_more(launches))
        measured("append_events_per_s", tasks, lambda: append(single, tasks))
        measured("read_events", tasks, lambda: sum(1 for _ in single.events()))
        measured("commit_launches_per_s", 300, lambda: commit(launches, 300))
    return 0


def one_more(folder: RunFolder) -> int:
    """Compact after one more launch, as a driver does now and then."""
    rows = [{**ROW, "task_id": f"more{i:012x}"} for i in range(LAUNCH_ROWS)]
    folder.write_result("more", HARDWARE, rows)
    return folder.compact()


if __name__ == "__main__":
    sys.exit(main())
