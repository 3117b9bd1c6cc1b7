"""The head of the cluster dies: the driver says so in time, and a new cluster goes on."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from lab import H100, Driver, LabNode, StartedLab, events, send, write_sweep

from harness.plan import make_plan
from harness.store import RunFolder, read_measurements

pytestmark = pytest.mark.ray

ENDED_S = 75.0
NODE = LabNode("only", H100, 1)


def test_a_lost_head_ends_the_run_in_words_and_another_cluster_goes_on(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "lab.yaml")
    planned = {t.task_id for t in make_plan(sweep).tasks}
    out = tmp_path / "run"
    with StartedLab() as lab:
        lab.write_script({"pace_s": 1.0})
        lab.head(NODE)
        with Driver(lab, sweep, out) as driver:
            driver.wait_for(lambda: len(lab.logged("open")) > 1, 180)
            send(lab.head_service(), signal.SIGKILL)
            killed_s = time.monotonic()
            code = driver.wait(ENDED_S)
            print(f"driver ended {time.monotonic() - killed_s:.1f} s after the head")
            said = driver.said()
    assert code == 2, said
    # Which of the two is seen first depends on how soon the driver's own raylet follows its head.
    assert "head of the Ray cluster" in said or "Ray on the driver's machine" in said
    assert "what to do" in said
    assert "run the same command" in said
    assert "Traceback" not in said
    assert events(out)[-1]["kind"] == "run_failed"
    first = read_measurements(out)
    assert 0 < len(first) < len(planned)
    with RunFolder.open(out).lock():
        pass

    with StartedLab() as lab:
        lab.head(NODE)
        with Driver(lab, sweep, out) as driver:
            assert driver.wait(180) == 0, driver.said()
    rows = read_measurements(out)
    assert set(rows["task_id"]) == planned
    assert rows["task_id"].is_unique
    kept = rows.set_index("task_id").loc[first["task_id"], "total_energy_j"]
    assert (kept.to_numpy() == first["total_energy_j"].to_numpy()).all()
