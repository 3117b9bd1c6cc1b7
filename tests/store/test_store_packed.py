"""Files that travel: what is let into a run folder, in which order, and events in pieces."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_data import row

from harness.store import RunFolder, StoreError, read_traces
from harness.store.packed import in_order
from harness.store.segments import Segments, unite_segments


def staged(path: Path) -> dict[str, bytes]:
    folder = RunFolder.create(path, {})
    folder.write_result("k", "H100 (PCIe)/x", [row("a"), row("b")])
    folder.write_trace("a-1", [{"t_ns": 1, "power_w": 3.0}])
    folder.write_launch("k", {"x": 1})
    folder.append_event("not packed")
    (folder.path / "traces" / ".half.parquet.tmp").write_bytes(b"x")
    return folder.packed()


def test_packed_files_come_back_whole(tmp_path: Path):
    files = staged(tmp_path / "staging")
    assert len(files) == 3
    folder = RunFolder.create(tmp_path / "run", {})
    folder.commit(files)
    folder.commit(files)
    assert folder.packed() == files
    assert folder.done_task_ids() == {"a", "b"}
    assert read_traces(folder)["power_w"].tolist() == [3.0]
    assert folder.launch_record("k") == {"x": 1}
    assert [name for name, _ in folder.partitions()] == ["H100 (PCIe)/x"]


def test_result_files_are_written_last(tmp_path: Path):
    groups = in_order(dict(reversed(staged(tmp_path / "s").items())))
    names = [[name.partition("/")[0] for name, _ in group] for group in groups]
    assert [sorted(group) for group in names] == [["launches", "traces"], ["measurements"]]
    assert in_order({}) == []


@pytest.mark.parametrize(
    "name",
    [
        "",
        "manifest.json",
        "events.jsonl",
        "/etc/passwd",
        "traces/../manifest.json",
        "traces/.hidden.parquet",
        "traces/a/b.parquet",
        "traces/a.json",
        "launches/a.parquet",
        "measurements/loose-a.parquet",
        "measurements/hardware=H/compacted.parquet",
        "measurements/hardware=../loose-a.parquet",
        "measurements/hardware=H/../../x/loose-a.parquet",
        "measurements/hardware=H/loose-a.parquet\n",
    ],
)
def test_other_names_are_refused_and_nothing_is_written(tmp_path: Path, name):
    files = staged(tmp_path / "staging")
    folder = RunFolder.create(tmp_path / "run", {})
    content = next(iter(files.values()))
    if name == "measurements/hardware=../loose-a.parquet":
        folder.commit({name: content})
        assert (folder.path / name).exists(), "a folder that is called so, not the one above"
        return
    with pytest.raises(StoreError, match="no file that a launch writes"):
        folder.commit({**files, name: content})
    assert folder.packed() == {}


@pytest.mark.parametrize("cut", [0, 4, -1])
def test_a_torn_file_is_refused(tmp_path: Path, cut):
    files = staged(tmp_path / "staging")
    name = next(n for n in files if n.startswith("measurements"))
    folder = RunFolder.create(tmp_path / "run", {})
    with pytest.raises(StoreError, match="arrived torn"):
        folder.commit({**files, name: files[name][:cut]})
    assert folder.packed() == {}


def test_progress_is_replaced_and_read(tmp_path: Path):
    folder = RunFolder.create(tmp_path / "run", {})
    assert folder.read_progress() is None
    for number in range(3):
        folder.write_progress({"done": number, "nodes": [{"name": "n"}], "eta_s": float("inf")})
    progress = RunFolder.open(folder.path).read_progress()
    assert progress == {"done": 2, "nodes": [{"name": "n"}], "eta_s": None}
    (folder.path / "progress.json").write_text('{"done":')
    assert folder.read_progress() is None


@given(
    bursts=st.lists(st.lists(st.binary(max_size=30), max_size=5), max_size=8),
    limit=st.integers(1, 60),
    fails=st.sets(st.integers(0, 20)),
)
def test_pieces_of_the_event_log_make_it_again(tmp_path_factory, bursts, limit, fails):
    folder = tmp_path_factory.mktemp("run")
    away = tmp_path_factory.mktemp("store")
    log = folder / "events.jsonl"
    log.write_bytes(b"from before\n")
    (away / "events").mkdir()
    (away / "events" / "0.jsonl").write_bytes(b"from before\n")
    pieces = Segments(folder, "1", limit)
    calls = 0

    def send(path: Path) -> None:
        nonlocal calls
        calls += 1
        if calls in fails:
            raise OSError
        (away / "events" / path.name).write_bytes(path.read_bytes())

    for burst in bursts:
        with log.open("ab") as stream:
            for line in burst:
                stream.write(line.replace(b"\n", b"") + b"\n")
        try:
            pieces.send(send)
        except OSError:
            continue
    fails.clear()
    pieces.send(send)
    unite_segments(away)
    assert (away / "events.jsonl").read_bytes() == log.read_bytes()
    pieces.send(send)
    count = calls
    pieces.send(send)
    assert calls == count
