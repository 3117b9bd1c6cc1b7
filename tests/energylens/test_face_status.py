"""Status from the files of a run alone: live, finished, interrupted, imported."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from energylens.rowkinds import time_only, without_numbers
from energylens.runevents import LINE_WIDTH, LOG_LINES, EventTally, tail
from energylens.runrows import count_rows
from energylens.status import read_status
from harness.fleet.view import NodeView, RunView
from harness.store import RunFolder, read_measurements


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


VIEW = RunView(
    sweep="face",
    planned=960,
    already_done=0,
    done=101,
    failed=1,
    lost=0,
    launches_waiting=7,
    launches_running=2,
    retries=0,
    seconds=60.0,
    rate_per_s=2.0,
    eta_s=430.0,
    energy_kwh=1.25,
    gpu_hours=3.5,
    cost=None,
    nodes=(
        NodeView("gpu01/aaaaaa", "8 x H100-SXM5-80GB", "busy", "Llama tp 8", 12.0, 60, 1),
        NodeView("gpu02/bbbbbb", "8 x H100-SXM5-80GB", "lost", "no heartbeat", 30.0, 40),
    ),
)


def write_word(folder: RunFolder, view: RunView, age_s: float = 0.0) -> None:
    """Write progress.json as the driver does, so many seconds ago."""
    written = datetime.now(UTC) - timedelta(seconds=age_s)
    text = json.dumps({"time": written.isoformat(), "view": view.to_dict()})
    (folder.path / "progress.json").write_text(text)


def test_the_drivers_last_word_is_shown_with_its_age(live: RunFolder, cli) -> None:
    write_word(live, VIEW)
    found = read_status(live.path)
    assert (found.state, found.rate_per_s, found.eta_s) == ("running", 2.0, 430.0)
    assert (found.energy_kwh, found.gpu_hours, found.cost) == (1.25, 3.5, None)
    assert found.nodes == VIEW.nodes
    assert found.progress_age_s is not None
    assert found.progress_age_s < 10
    text = cli("status", live.path).output
    assert "2 launches running, 7 waiting" in text
    assert "lost 30 s, no heartbeat" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80


def test_a_driver_that_died_is_told_by_its_silence(live: RunFolder, cli) -> None:
    write_word(live, VIEW)
    later = datetime.now(UTC) + timedelta(minutes=12)
    found = read_status(live.path, now=lambda: later)
    assert found.state == "silent"
    assert found.progress_age_s == pytest.approx(720, abs=5)
    assert found.eta_s is None
    began = datetime.now(UTC) - timedelta(hours=1)
    backdate(live, began)
    write_word(live, VIEW, age_s=720)
    text = cli("status", live.path).output
    assert "no word from the driver for 12 min; run it again to resume" in text


def backdate(folder: RunFolder, began: datetime) -> None:
    """Move the start of the run into the past."""
    path = folder.path / "events.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()]
    events[0]["time"] = began.isoformat()
    path.write_text("".join(json.dumps(event) + "\n" for event in events))


def test_the_word_of_an_earlier_run_or_a_torn_one_says_nothing(live: RunFolder) -> None:
    write_word(live, VIEW, age_s=3600)
    assert read_status(live.path).progress_age_s is None
    assert read_status(live.path).state == "running"
    for text in ("", '{"time": "2026', "[]", '{"time": "soon", "view": {}}', '{"time": null}'):
        (live.path / "progress.json").write_text(text)
        assert read_status(live.path).progress_age_s is None


def test_a_run_that_stopped_says_why_and_how_to_go_on(live: RunFolder, cli) -> None:
    write_word(live, VIEW)
    live.append_event("stopping", reason="8 h of wall time are used up")
    assert read_status(live.path).state == "running"
    assert read_status(live.path).stopping == "8 h of wall time are used up"
    live.append_event("run_stopped", reason="8 h of wall time are used up")
    found = read_status(live.path)
    assert (found.state, found.goes_on, found.remaining) == ("stopped", False, 859)
    assert [node.state for node in found.nodes] == ["idle", "lost"]
    text = cli("status", live.path).output
    assert "8 h of wall time are used up" in text
    assert "run it again" in text


def test_attempts_nodes_and_one_example_a_class(live: RunFolder, cli) -> None:
    node, other = "gpu01.lab.example.org/aaaaaa", "gpu02.lab.example.org/bbbbbb"
    why: dict[str, Any] = {"class": "worker_died", "detail": "signal 9"}
    live.append_event("node_unusable", node="gpu03/cccccc", code="clock", detail="off", fix="ntp")
    live.append_event("launch_started", launch_id="a", attempt=1, node=node, tasks=30)
    live.append_event("launch_retried", launch_id="a", attempt=1, node=node, **why)
    live.append_event("launch_started", launch_id="a", attempt=2, node=other, tasks=30)
    log = "loading\n\x1b[31mCUDA error\x1b[0m: assert\n"
    lost = {**why, "log": log, "node": other}
    live.append_event("launch_lost", launch_ids=["a"], tasks=30, attempts=2, **lost)
    live.append_event("node_quarantined", node=other, failures=3)
    live.append_event("node_slow", node=node, ratio=1.7)
    live.append_event("unplaceable", need="8 H200", tasks=40, detail="no node has H200")
    found = read_status(live.path)
    assert found.attempts == {1: 1, 2: 1}
    assert found.retried == {"worker_died": 1}
    assert found.failures == {"out_of_memory": 1, "lost: worker_died": 30}
    assert found.examples["worker_died"].log == ("loading", "CUDA error: assert")
    assert {n.name: n.state for n in found.nodes} == {
        node: "idle",
        other: "quarantined",
        "gpu03/cccccc": "unusable",
    }
    assert {n.name: n.lost for n in found.nodes}[other] == 30
    assert found.slow == {node: 1.7}
    text = cli("status", live.path).output
    assert "| CUDA error: assert" in text
    assert "40 tasks cannot be placed: no node has H200" in text
    assert "takes 1.7 times as long" in text
    assert max(map(len, text.splitlines())) <= 80
    values = json.loads(cli("status", live.path, "--json").output)
    assert values["examples"]["out_of_memory"]["detail"] == "no room"


def test_watching_ends_with_the_run(live: RunFolder, cli) -> None:
    live.append_event("run_finished", done=1, failed=0, seconds=1.0)
    assert "face  finished" in cli("status", live.path, "--watch").output
    (line,) = cli("status", live.path, "--watch", "--json").output.splitlines()
    assert json.loads(line)["state"] == "finished"


def test_a_new_run_forgets_the_trouble_of_the_last_one(live: RunFolder) -> None:
    live.append_event("node_lost", node="gpu01/aaaaaa", reason="no heartbeat")
    live.append_event("launch_lost", launch_ids=["a"], tasks=3, **{"class": "node_died"})
    live.append_event("run_interrupted")
    live.append_event("run_started", sweep="face", tasks_planned=960, tasks_already_done=100)
    found = read_status(live.path)
    assert (found.state, found.nodes) == ("running", ())
    assert found.failures == {"out_of_memory": 1}


@given(st.lists(st.text(), max_size=40) | st.text() | st.none())
def test_a_log_tail_is_short_and_plain(log: object) -> None:
    lines = tail(log)
    assert len(lines) <= LOG_LINES
    assert all(0 < len(line) <= LINE_WIDTH for line in lines)
    assert not any(c < " " or c == "\x7f" for line in lines for c in line)


def test_the_size_of_a_tally_does_not_grow_with_its_events() -> None:
    def held(number: int) -> int:
        tally = EventTally()
        tally.add({"kind": "run_started", "time": "2026-11-20T00:00:00+00:00"})
        for i in range(number):
            where = {"node": f"gpu{i % 5}/aaaaaa", "launch_id": f"l{i}", "attempt": 1, "tasks": 2}
            time = f"2026-11-20T01:00:{i % 60:02d}+00:00"
            tally.add({"kind": "launch_started", "time": time, **where})
            tally.add({"kind": "launch_retried", "time": time, **where, "class": "worker_died"})
            tally.add({"kind": "launch_finished", "time": time, **where, "seconds": 1.0})
        assert tally.attempts == {1: number}
        return sum(len(value) for value in vars(tally).values() if hasattr(value, "__len__"))

    assert held(20) == held(2000)


def test_rows_are_counted_as_the_whole_table_says(tmp_path: Path, table: pd.DataFrame) -> None:
    """Counting by columns gives what reading the table gives, attempts and odd rows included."""
    rows = table[table["hardware"].eq("H100-SXM5-80GB")].head(60).copy()
    ids = list(rows["task_id"])
    nothing = ["total_energy_j", "prefill_energy_j", "decode_energy_j"]
    rows.loc[rows.index[10:14], nothing] = float("nan")
    rows.loc[rows.index[10:14], "valid"] = False
    rows["reasons"] = [list(codes) for codes in rows["reasons"]]
    for index in rows.index[10:14]:
        rows.at[index, "reasons"] = ["no_power_meter"]
    rows.loc[rows.index[20:25], [*nothing, "total_latency_s"]] = float("nan")
    rows.loc[rows.index[20:25], "valid"] = False
    for index in rows.index[20:25]:
        rows.at[index, "reasons"] = ["out_of_memory"]
    folder = RunFolder.create(tmp_path / "run", {})
    folder.write_result("a", "H100-SXM5-80GB", rows)
    again = table[table["hardware"].eq("H100-SXM5-80GB")].head(60).iloc[20:22]
    folder.write_result("b", "H100-SXM5-80GB", again.assign(attempt=2, valid=True))
    frame = read_measurements(folder)
    empty = without_numbers(frame)
    measured = frame[~empty]
    timed = time_only(measured)
    flagged = measured[~measured["valid"].astype(bool) & ~timed]
    counts = count_rows(folder, {ids[0]: "worker_died", "f" * 16: "timed_out"})
    assert counts.done == len(measured) == 57
    assert counts.time_only == int(timed.sum()) == 4
    assert counts.valid == int(measured["valid"].astype(bool).sum())
    assert counts.reasons == dict(Counter(c for codes in flagged["reasons"] for c in codes))
    assert counts.energy_j == pytest.approx(measured["total_energy_j"].sum())
    assert counts.failures == {"out_of_memory": 3, "timed_out": 1}
