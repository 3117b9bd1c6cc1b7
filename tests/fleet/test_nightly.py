"""scripts/nightly.sh on this machine: two nights, a planted regression, the same night twice."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from energylens import load

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "nightly.sh"
SWEEP = """\
name: tiny
models: [meta-llama/Meta-Llama-3.1-8B]
hardware: [H100]
keep_traces: 0
blocks:
  - {batch: [1, 8], input_tokens: 256, output_tokens: [32, 64]}
"""


def nightly(sweep: Path, runs: Path, night: str, **env: str) -> subprocess.CompletedProcess[str]:
    settings: Mapping[str, str] = {
        **{k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
        "RUNS": str(runs),
        "NIGHT": night,
        "PYTHON": sys.executable,
        **env,
    }
    return subprocess.run(
        ["bash", str(SCRIPT), str(sweep)],
        env=settings,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def events(run: Path, kind: str) -> int:
    lines = (run / "events.jsonl").read_text().splitlines()
    return sum(json.loads(line)["kind"] == kind for line in lines)


def make_cheaper(run: Path) -> None:
    """Take 10 % off every energy of a night, so that the next one looks worse."""
    for path in (run / "measurements").rglob("*.parquet"):
        table = pq.read_table(path, partitioning=None)
        frame = table.to_pandas()
        energies = [name for name in frame.columns if name.endswith("energy_j")]
        frame[energies] *= 0.9
        pq.write_table(table.from_pandas(frame, schema=table.schema), path)


@pytest.mark.ray
def test_nights_are_compared_resumed_and_a_regression_exits_1(tmp_path):
    sweep, runs = tmp_path / "tiny.yaml", tmp_path / "runs"
    sweep.write_text(SWEEP)
    first = nightly(sweep, runs, "2026-03-01")
    assert first.returncode == 0, first.stderr
    assert "first night" in first.stdout
    second = nightly(sweep, runs, "2026-03-02")
    assert second.returncode == 0, second.stdout + second.stderr
    assert "No change" in second.stdout
    assert json.loads((runs / "logs" / "2026-03-02.json").read_text())["verdict"] == "no change"
    assert "No change" in (runs / "logs" / "2026-03-02.html").read_text()

    before = load(runs / "2026-03-02")
    make_cheaper(runs / "2026-03-01")
    again = nightly(sweep, runs, "2026-03-02")
    assert again.returncode == 1, again.stdout + again.stderr
    assert "Regression" in again.stdout
    assert json.loads((runs / "logs" / "2026-03-02.json").read_text())["verdict"] == "regression"
    assert load(runs / "2026-03-02")["measured_at"].equals(before["measured_at"])
    assert events(runs / "2026-03-02", "launch_finished") == 1
    assert len((runs / "logs" / "finished").read_text().splitlines()) == 2
    assert (runs / "logs" / "2026-03-02.log").read_text().count("== ") == 2


def test_a_missing_sweep_exits_2_and_is_no_night_to_compare_with(tmp_path):
    done = nightly(tmp_path / "nowhere.yaml", tmp_path / "runs", "2026-03-01")
    assert done.returncode == 2
    assert "does not exist" in (tmp_path / "runs" / "logs" / "2026-03-01.log").read_text()
    assert not (tmp_path / "runs" / "logs" / "finished").exists()


def test_two_at_the_same_time_are_refused(tmp_path):
    logs = tmp_path / "runs" / "logs"
    logs.mkdir(parents=True)
    with (logs / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = nightly(tmp_path / "nowhere.yaml", tmp_path / "runs", "2026-03-01")
    assert done.returncode == 2
    assert "under way" in done.stderr


def test_an_unreachable_cluster_exits_2(tmp_path):
    sweep = tmp_path / "tiny.yaml"
    sweep.write_text(SWEEP)
    done = nightly(sweep, tmp_path / "runs", "2026-03-01", ADDRESS="http://127.0.0.1:9")
    assert done.returncode == 2
    assert "nobody answers" in done.stdout
