"""Characterise the sensor once, in a process of its own, and keep it in the run folder.

A CUDA context that this process left open would count as somebody else's in every launch.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import EnergyLensError, MeterError
from harness.meters.characterise import QUICK, Timing, characterise
from harness.meters.choose import nvidia_facts
from harness.meters.sensor_cache import VARIABLE, cache_folder, load, store

if TYPE_CHECKING:
    from harness.gpucheck.machine import CheckedGpu
    from harness.meters.base import SensorFacts
    from harness.meters.loads import Load
    from harness.meters.sensor_report import Characterisation

PATIENCE_S = 120.0
LoadFactory = Callable[[str], "tuple[Load | None, str]"]


def characterise_gpu(
    gpu: CheckedGpu, *, timing: Timing = QUICK, make_load: LoadFactory | None = None
) -> Characterisation:
    """Characterise in this process, and keep what was found in the cache.

    Raises
    ------
    MeterError
        If the GPU is in use or its sensor cannot be read.
    """
    from harness.meters.loads import torch_load
    from harness.meters.nvml import NvmlReader
    from harness.meters.sensor_findings import Gpu

    reader = NvmlReader([gpu.uuid])
    try:
        work, why_not = (make_load or torch_load)(gpu.uuid)
        found = characterise(
            reader,
            Gpu(gpu.uuid, gpu.name, gpu.driver, gpu.simulated),
            load=work,
            timing=timing,
            notes=(why_not,) if why_not else (),
        )
    finally:
        reader.close()
    store(found)
    return found


def characterise_apart(gpu: CheckedGpu) -> Characterisation:
    """Characterise in a child, whose context is gone when it ends.

    Raises
    ------
    MeterError
        If it fails or does not come back.
    """
    command = [sys.executable, "-m", "harness.gpucheck.sensor", f"cuda:{gpu.index}"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise MeterError(
            f"the characterisation did not end within {PATIENCE_S:.0f} s",
            where=gpu.uuid,
            fix="see the kernel log for Xid errors",
        ) from None
    found = load(gpu.uuid, gpu.driver).found
    if done.returncode != 0 or found is None:
        lines = done.stderr.strip().splitlines()
        raise MeterError(
            "the sensor could not be characterised: "
            + (lines[0].removeprefix("error: ") if lines else f"exit code {done.returncode}"),
            where=gpu.uuid,
            fix="energylens doctor --sensors says more",
        )
    return found


def use_cache_in(out: Path) -> None:
    """Keep characterisations in the run folder, unless the user named a cache."""
    os.environ.setdefault(VARIABLE, str(out.resolve()))


def known_sensor(
    gpu: CheckedGpu,
    measure: Callable[[CheckedGpu], Characterisation],
    tell: Callable[[str], None],
) -> tuple[Characterisation | None, SensorFacts]:
    """Return what is known of the sensor, after finding it out if it is not.

    Where it cannot be found out, documentation is assumed, and that is told.
    """
    cached = load(gpu.uuid, gpu.driver)
    found = cached.found
    if found is None:
        if cached.warning:
            tell(cached.warning)
        tell(f"characterising the power sensor, about {QUICK.total_s:.0f} s")
        try:
            found = measure(gpu)
        except MeterError as error:
            tell(f"{error.what}; documentation is assumed")
    if found is None or not found.facts.counter_period_s > 0:
        return found, nvidia_facts(gpu.name)
    return found, found.facts


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `python -m harness.gpucheck.sensor cuda:N`; return the exit code."""
    from harness.gpucheck.machine import find_gpu

    parser = argparse.ArgumentParser(description="Characterise the power sensor of one GPU.")
    parser.add_argument("device")
    options = parser.parse_args(arguments)
    try:
        characterise_gpu(find_gpu(options.device))
    except EnergyLensError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"kept in {cache_folder()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
