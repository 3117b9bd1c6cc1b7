"""Status from the files of a run alone: live, finished, interrupted, imported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from energylens.status import read_status
from harness.store import RunFolder


def test_a_finished_run(run_folder: Path) -> None:
    found = read_status(run_folder)
    assert (found.state, found.planned, found.done, found.remaining) == ("finished", 960, 960, 0)
    assert (found.valid, found.flagged, found.failed) == (957, 3, 0)
    assert found.reasons == {"throttled": 3}
    assert found.eta_s == 0.0
    assert found.last_event == "run_finished"


@pytest.fixture
def live(tmp_path: Path, table) -> RunFolder:
    """A run of which 100 of 960 tasks are measured and one has failed."""
    folder = RunFolder.create(tmp_path / "live", {})
    folder.append_event("run_started", sweep="face", tasks_planned=960, tasks_already_done=0)
    rows = table[table["hardware"].eq("H100-SXM5-80GB")].head(100)
    folder.write_result("a", "H100-SXM5-80GB", rows)
    folder.append_event(
        "task_failed", task_id="feedfeedfeedfeed", **{"class": "out_of_memory"}, detail="no room"
    )
    return folder


def test_a_live_run_counts_what_is_left_and_estimates_the_rest(live: RunFolder) -> None:
    live.append_event("launch_finished", launch_id="a", tasks=101, failed=1, seconds=1.0)
    found = read_status(live.path)
    assert (found.state, found.done, found.failed, found.remaining) == ("running", 100, 1, 859)
    assert found.failures == {"out_of_memory": 1}
    assert found.rate_per_s is not None
    assert found.eta_s == pytest.approx(859 / found.rate_per_s)


def test_a_failed_task_that_was_measured_later_is_no_failure(live: RunFolder, table) -> None:
    done = str(table[table["hardware"].eq("H100-SXM5-80GB")]["task_id"].iloc[0])
    live.append_event("task_failed", task_id=done, **{"class": "worker_died"}, detail="x")
    assert read_status(live.path).failures == {"out_of_memory": 1}


def test_lost_launches_stay_to_be_done_and_are_shown(live: RunFolder) -> None:
    live.append_event(
        "launch_lost", launch_ids=["b"], tasks=30, **{"class": "node_died"}, detail="x"
    )
    live.append_event("run_interrupted", done=100, failed=1, seconds=2.0)
    found = read_status(live.path)
    assert found.state == "interrupted"
    assert found.failures == {"out_of_memory": 1, "lost: node_died": 30}
    assert found.remaining == 859
    assert found.eta_s is None


def test_an_empty_folder_and_an_import(tmp_path: Path, table) -> None:
    RunFolder.create(tmp_path / "empty", {})
    assert read_status(tmp_path / "empty").state == "not started"
    rows = table[table["hardware"].eq("H100-SXM5-80GB")].head(5)
    folder = RunFolder.create(tmp_path / "other", {})
    folder.write_result("a", "H100-SXM5-80GB", rows.assign(provenance="imported"))
    found = read_status(folder.path)
    assert (found.state, found.planned, found.done) == ("imported", None, 5)


def test_the_command_prints_it_on_80_columns(cli, run_folder: Path) -> None:
    text = cli("status", run_folder).output
    assert "flagged because" in text
    assert max(map(len, text.splitlines())) <= 80
    values = json.loads(cli("status", run_folder, "--json").output)
    assert values["done"] == 960
