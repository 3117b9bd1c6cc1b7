"""The run folder: making, opening, events, results, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.store import RunFolder, StoreError, read_measurements, read_traces


def row(task: str, **fields: object) -> dict[str, object]:
    return {"task_id": task, "model_id": "org/m", "batch": 1, "valid": True, **fields}


def test_create_open_and_merge(tmp_path: Path):
    made = RunFolder.create(tmp_path / "a" / "run", {"sweep": "one", "versions": {"ray": "2.60"}})
    again = RunFolder.create(made.path, {"sweep": "two", "schema_version": 7})
    opened = RunFolder.open(made.path)
    assert opened.manifest == again.manifest
    assert opened.manifest == {**made.manifest, "sweep": "two"}
    assert opened.manifest["schema_version"] == 1
    assert opened.manifest["created_at"] == made.manifest["created_at"]


def test_unchanged_manifest_is_not_written_again(tmp_path: Path):
    made = RunFolder.create(tmp_path / "run", {"sweep": "one"})
    before = (made.path / "manifest.json").stat().st_ino
    RunFolder.create(made.path, {"sweep": "one"})
    assert (made.path / "manifest.json").stat().st_ino == before


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda p: None, "no such run folder"),
        (lambda p: p.mkdir(), "is empty"),
        (lambda p: p.write_text("x"), "a file"),
        (lambda p: (p.mkdir(), (p / "notes.txt").write_text("x")), "no manifest.json"),
        (lambda p: (p.mkdir(), (p / "manifest.json").write_text('{"schema_ver')), "torn"),
        (lambda p: (p.mkdir(), (p / "manifest.json").write_text("{}")), "schema_version"),
        (lambda p: (p.mkdir(), (p / "manifest.json").write_text("[1]")), "schema_version"),
        (
            lambda p: (p.mkdir(), (p / "manifest.json").write_text('{"schema_version": 99}')),
            "schema version 99",
        ),
    ],
)
def test_open_refuses_what_is_no_run_folder(tmp_path: Path, make, text):
    path = tmp_path / "run"
    make(path)
    with pytest.raises(StoreError, match=text) as error:
        read_measurements(path)
    assert str(path) in str(error.value)
    assert error.value.fix


def test_create_refuses_a_folder_of_somebody_else(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(StoreError, match="holds other files"):
        RunFolder.create(tmp_path, {})
    with pytest.raises(StoreError, match="this is a file"):
        RunFolder.create(tmp_path / "thesis.tex", {})


def test_create_refuses_measurements_whose_manifest_is_gone(tmp_path: Path):
    folder = RunFolder.create(tmp_path / "run", {})
    folder.write_result("k", "H100", [row("a")])
    (folder.path / "manifest.json").unlink()
    with pytest.raises(StoreError, match=r"no manifest.json"):
        RunFolder.create(folder.path, {})


def test_create_goes_on_where_it_was_killed(tmp_path: Path):
    (tmp_path / "run" / "measurements").mkdir(parents=True)
    (tmp_path / "run" / ".manifest.json.tmp").write_text("{")
    assert RunFolder.create(tmp_path / "run", {"a": 1}).manifest["a"] == 1


def test_result_rows_come_back(tmp_path: Path):
    folder = RunFolder.create(tmp_path / "run", {})
    path = folder.write_result("l1", "H100-SXM5-80GB", [row("b", total_energy_j=2.5), row("a")])
    assert path == folder.path / "measurements/hardware=H100-SXM5-80GB/loose-l1.parquet"
    assert "hardware" not in pq.read_schema(path).names
    frame = read_measurements(folder)
    assert frame["task_id"].tolist() == ["a", "b"]
    assert frame["hardware"].tolist() == ["H100-SXM5-80GB"] * 2
    assert frame["attempt"].tolist() == [1, 1]
    assert frame["schema_version"].tolist() == [1, 1]
    assert frame["total_energy_j"].isna().tolist() == [True, False]
    assert folder.done_task_ids() == {"a", "b"}


def test_the_highest_attempt_counts_whatever_the_order(tmp_path: Path):
    folder = RunFolder.create(tmp_path / "run", {})
    folder.write_result("z", "H", [row("a", attempt=1, batch=1)])
    folder.write_result("b", "H", [row("a", attempt=10, batch=10)])
    folder.write_result("c", "H", [row("a", attempt=9, batch=9)])
    assert read_measurements(folder)["batch"].tolist() == [10]


def test_an_empty_run_reads_as_an_empty_table(tmp_path: Path):
    folder = RunFolder.create(tmp_path / "run", {})
    frame = read_measurements(folder)
    assert len(frame) == 0
    assert "total_energy_j" in frame
    assert folder.done_task_ids() == set()
    assert folder.compact() == 0
    assert len(read_traces(folder)) == 0
    assert list(folder.events()) == []


@pytest.mark.parametrize("key", ["", "../x", "a/b", ".hidden", "a b", "x" * 300])
def test_keys_that_could_leave_the_folder_are_refused(tmp_path: Path, key):
    folder = RunFolder.create(tmp_path / "run", {})
    with pytest.raises(StoreError, match="cannot name a file"):
        folder.write_result(key, "H", [row("a")])
    with pytest.raises(StoreError, match="cannot name a file"):
        folder.write_trace(key, [{"t_ns": 1}])


def test_bad_rows_are_refused_and_leave_no_file(tmp_path: Path):
    folder = RunFolder.create(tmp_path / "run", {})
    for rows, text in [
        ([{"model_id": "m"}], "no task_id"),
        ([row("a", hardware="B200")], "B200"),
        ([row("a", batch="lots")], "batch"),
    ]:
        with pytest.raises(StoreError, match=text):
            folder.write_result("k", "H100", rows)
    with pytest.raises(StoreError, match="hardware"):
        folder.write_result("k", " ", [row("a")])
    assert not list(folder.path.rglob("*.parquet"))


@pytest.mark.parametrize("damage", ["half", "tail", "text", "empty"])
@pytest.mark.parametrize("compacted", [False, True])
def test_a_torn_file_is_named(tmp_path: Path, damage, compacted):
    folder = RunFolder.create(tmp_path / "run", {})
    folder.write_result("good", "H", [row("a")])
    path = folder.write_result("torn", "H", [row("b")])
    if compacted:
        folder.compact()
        path = path.with_name("compacted.parquet")
    raw = path.read_bytes()
    content = {"half": raw[: len(raw) // 2], "tail": raw[:-20], "text": b"x" * 50, "empty": b""}
    path.write_bytes(content[damage])
    folder.write_result("late", "H", [row("c")])
    for read in (
        lambda: read_measurements(folder),
        folder.done_task_ids,
        folder.compact,
    ):
        with pytest.raises(StoreError, match=path.name) as error:
            read()
        assert str(path) in str(error.value)


def test_a_file_with_a_damaged_page_is_named(tmp_path: Path):
    folder = RunFolder.create(tmp_path / "run", {})
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"task_id": [f"{i}" for i in range(500)], "itl_s": rng.random(500)})
    path = folder.write_result("k", "H", frame)
    raw = bytearray(path.read_bytes())
    raw[200 : len(raw) // 3] = b"\xff" * (len(raw) // 3 - 200)
    path.write_bytes(bytes(raw))
    with pytest.raises(StoreError, match="loose-k"):
        read_measurements(folder)


def test_traces_come_back_with_their_key(tmp_path: Path):
    folder = RunFolder.create(tmp_path / "run", {})
    samples = pd.DataFrame(
        {
            "t_ns": np.arange(1000, dtype=np.int64) * 10_000_000,
            "gpu_uuid": "GPU-1",
            "power_w": np.linspace(100, 700, 1000),
            "energy_mj": np.arange(1000) * 5,
            "phase": "decode",
            "board": 1,
        }
    )
    folder.write_trace("abc-1", samples)
    folder.write_trace("abd-1", samples.head(3))
    assert len(read_traces(folder)) == 1003
    back = read_traces(folder, ["abc-1"])
    assert back["key"].unique().tolist() == ["abc-1"]
    assert back["power_w"].tolist() == samples["power_w"].tolist()
    assert back["temperature_c"].isna().all()
    assert back["board"].tolist() == [1.0] * 1000
    meta = pq.ParquetFile(folder.path / "traces" / "abc-1.parquet").metadata
    assert meta.row_group(0).column(1).compression == "ZSTD"
    with pytest.raises(StoreError, match="no trace 'nope'"):
        read_traces(folder, ["nope"])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**50), 2**50) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@given(
    events=st.lists(
        st.dictionaries(st.text("abcdefg", min_size=1, max_size=4), JSON, max_size=4), max_size=5
    ),
    tear=st.integers(0, 30),
)
def test_events_survive_a_torn_last_line(tmp_path_factory, events, tear):
    path = tmp_path_factory.mktemp("e") / "run"
    folder = RunFolder.create(path, {})
    for fields in events:
        folder.append_event("step", **fields)
    with (path / "events.jsonl").open("ab") as stream:
        stream.write(b'{"kind": "torn", "x": "' + b"y" * tear)
    after = RunFolder.open(path)
    after.append_event("resumed", n=1)
    found = list(after.events())
    assert [{k: v for k, v in e.items() if k not in {"time", "kind"}} for e in found] == [
        *events,
        {"n": 1},
    ]
    assert [e["kind"] for e in found] == ["step"] * len(events) + ["resumed"]
    shutil.rmtree(path.parent)


def test_events_hold_only_json(tmp_path: Path):
    folder = RunFolder.create(tmp_path / "run", {})
    folder.append_event("x", a=float("nan"), b=np.float64(2.5), c={1: (np.int64(3), Path("p"))})
    line = (folder.path / "events.jsonl").read_text()
    event = json.loads(line)
    assert event["a"] is None
    assert event["b"] == 2.5
    assert event["c"] == {"1": [3, "p"]}
    assert event["time"].endswith("+00:00")
