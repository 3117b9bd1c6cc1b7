"""One real launch with few packages: no Ray, SciPy, DuckDB or twin tables on the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from harness.catalog import load_model
from harness.catalog.local import local_hardware
from harness.launch import LaunchSpec, Protocol
from harness.spec import Deployment, Workload
from harness.store import RunFolder, read_measurements

ABSENT = (
    "aiconfigurator_core",
    "duckdb",
    "energylens",
    "fitting",
    "jinja2",
    "plotly",
    "ray",
    "rich",
    "scipy",
    "sklearn",
    "threadpoolctl",
    "typer",
)
BLOCKER = f"""
import importlib.util, sys
looked_up = importlib.util.find_spec
def absent(name):
    return name.partition(".")[0] in {ABSENT!r}
class Absent:
    def find_spec(self, name, path=None, target=None):
        if absent(name):
            raise ModuleNotFoundError(f"No module named {{name!r}} on a bare machine", name=name)
sys.meta_path.insert(0, Absent())
importlib.util.find_spec = lambda name, package=None: (
    None if absent(name) else looked_up(name, package)
)
"""


def test_a_tiny_model_is_measured_on_a_bare_machine(tmp_path: Path, repository: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(BLOCKER)
    config = repository / "sweeps" / "models" / "energylens--tiny-llama-57m.json"
    hardware = local_hardware(gpus=lambda: ())[0].hardware
    spec = LaunchSpec(
        launch_id="bare",
        model_id="energylens/tiny-llama-57m",
        config_path=config,
        deployment=Deployment(engine="transformers", hardware=hardware, precision="fp32"),
        workloads=(
            Workload(batch=1, input_tokens=16, output_tokens=4),
            Workload(batch=2, input_tokens=16, output_tokens=1),
        ),
        protocol=Protocol(repeats=2, window_s=0.2, warm_up_s=0.5, seed=5),
        keep_traces=(0,),
    )
    assert load_model(str(config)).family == "dense"
    path, out = tmp_path / "spec.json", tmp_path / "run"
    path.write_text(spec.model_dump_json())
    done = subprocess.run(
        [sys.executable, "-m", "harness.launch", str(path), "--out", str(out)],
        cwd=repository,
        env={
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join((str(tmp_path / "site"), str(repository))),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = read_measurements(out)
    assert len(rows) == 2
    assert (rows["prefill_latency_s"] > 0).all()
    assert set(rows["provenance"]) == {"measured"}
    record = RunFolder.open(out).launch_record("bare-1")
    assert record is not None
    environment = record["environment"]
    assert environment["versions"]["torch"]
    assert len(record["measuring"]["order"]) == 2
    if rows["meter"].eq("none").all():
        assert rows["total_energy_j"].isna().all()
        assert all("no_power_meter" in reasons for reasons in rows["reasons"])
