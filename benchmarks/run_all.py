"""Run every benchmark and print what docs/benchmarks.md records.

    make bench

The ones that need the third-party data sets skip with a reason where those are absent.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
DATA = Path(os.environ.get("ENERGYLENS_SHARED_DATA", HERE.parent.parent / "shared" / "data"))


def show(script: str, *arguments: str) -> None:
    """Run one script and let its output through."""
    command = [sys.executable, str(HERE / script), *arguments]
    print(f"\n$ python benchmarks/{script} {' '.join(arguments)}".rstrip(), flush=True)
    code = subprocess.run(command, check=False).returncode
    if code:
        raise SystemExit(f"{script} ended with code {code}")


def main() -> None:
    """Run them in order."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    show("quickstart.py")
    show("plan_scale.py")
    show("fleet_scale.py")
    show("store_scale.py", "--tasks", "10000")
    show("fleet_utilisation.py")
    with tempfile.TemporaryDirectory() as folder:
        run = f"{folder}/run"
        command = [sys.executable, "-m", "energylens", "run", "sweeps/quickstart.yaml"]
        subprocess.run([*command, "--out", run], check=True, stdout=subprocess.DEVNULL)
        show("fit_speed.py", run)
        show("intervals.py", run)
        show("selection.py", run)
        show("pooling.py", run)
        show("design.py", run, "--methods", "random", "lhs", "regret", "--rows", "12", "25", "50")
        if DATA.is_dir():
            published = f"{folder}/published"
            command = [sys.executable, "-m", "energylens", "import", "mlenergy"]
            source = str(DATA / "mlenergy_v3" / "models")
            subprocess.run(
                [*command, source, "--out", published], check=True, stdout=subprocess.DEVNULL
            )
            show("serving.py", published)
            show("diffusion.py", published)
    if DATA.is_dir():
        show("operators.py", str(DATA / "aiconfigurator_ops" / "ops.parquet"))
        show("twin_power.py", str(DATA / "aiconfigurator_ops"))
        show("twin_end_to_end.py", str(DATA))
    else:
        print(
            "skipped: serving.py, diffusion.py, operators.py, twin_power.py and "
            f"twin_end_to_end.py need the data sets at {DATA}"
        )


if __name__ == "__main__":
    main()
