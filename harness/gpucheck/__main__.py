"""`python -m harness.gpucheck --out DIR`: one slice of the GPU check; `--list` only plans."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from harness.errors import EnergyLensError

PLAN_HARDWARE = "H200-SXM5-141GB"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one slice; return 0 if it did, 2 for what the user has to mend."""
    options = _parser().parse_args(arguments)
    try:
        from harness.gpucheck.machine import check_packages

        if options.list:
            # Planning needs neither a GPU nor what runs on it.
            check_packages(("numpy", "pydantic", "pandas"))
            print(listing(options.hardware, options.counter_period_s))
            return 0
        if options.out is None:
            raise _usage("--out is missing: a folder for the results")
        check_packages()
        from harness.gpucheck.check import run_check

        started_s = time.monotonic()
        run_check(
            options.out,
            device=options.device,
            slice_s=options.slice_s,
            tell=_tell,
            started_s=started_s,
        )
    except EnergyLensError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def listing(hardware_id: str, counter_period_s: float) -> str:
    """Return the plan of the first pass with its estimates, as text.

    Parameters
    ----------
    hardware_id
        Canonical id of the GPU type.
    counter_period_s
        Update period of its energy counter, which sets the windows.
    """
    from harness.catalog import load_hardware
    from harness.gpucheck.plan import make_check_plan, pace_for
    from harness.meters.choose import NVIDIA_FACTS

    hardware = load_hardware(hardware_id)
    sensor = dataclasses.replace(NVIDIA_FACTS, counter_period_s=counter_period_s)
    pace = pace_for(sensor)
    plan = make_check_plan(hardware, sensor, pace)
    lines = [
        f"{hardware.hardware}, counter every {1e3 * counter_period_s:g} ms: windows of at least "
        f"{pace.window_s:g} s; times are estimates of planning"
    ]
    total_s = 0.0
    for launch in plan.launches:
        total_s += launch.seconds
        protocol = launch.spec.protocol
        phases = "3" if protocol.decode_windows else "2"
        lines.append(
            f"\n{launch.spec.key}  {launch.spec.model_id}  {protocol.repeats} x {phases} windows"
            f"  {launch.seconds:.0f} s, {total_s / 60:.1f} min so far"
        )
        for workload in launch.spec.workloads:
            pieces = f"{workload.images} images" if workload.images else ""
            pieces = f"{workload.frames} frames" if workload.frames else pieces
            side = f" of {workload.image_height} px" if pieces else ""
            lines.append(
                f"    {workload.modality:5}  batch {workload.batch:2}  {workload.input_tokens:4} in"
                f"  {workload.output_tokens:3} out  {pieces}{side}".rstrip()
            )
    lines.append(f"\n{plan.rows} rows, {len(plan.launches)} launches, {total_s / 60:.1f} min")
    lines += [f"left out: {text}" for text in plan.left_out]
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.gpucheck",
        description="Measure a fixed set of workloads on a CUDA machine, slice by slice.",
    )
    parser.add_argument("--out", type=Path, help="run folder; an earlier one is gone on with")
    parser.add_argument(
        "--slice-s", type=float, default=480.0, help="longest time of this call, seconds (480)"
    )
    parser.add_argument("--device", default="cuda:0", help="cuda:N, among the visible GPUs")
    parser.add_argument("--list", action="store_true", help="print the plan; needs no GPU")
    parser.add_argument(
        "--hardware", default=PLAN_HARDWARE, help=f"with --list: GPU type ({PLAN_HARDWARE})"
    )
    parser.add_argument(
        "--counter-period-s",
        type=float,
        default=0.1,
        help="with --list: update period of its energy counter (0.1)",
    )
    return parser


def _usage(text: str) -> EnergyLensError:
    from harness.errors import RunError

    return RunError(text, where="command line", fix="python -m harness.gpucheck --out DIR")


def _tell(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
