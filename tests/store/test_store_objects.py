"""A run folder in an object store: the same guarantees as on a disk."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pytest
from store_data import ObjectStore, row

from harness.store import RunFolder, StoreError, local_folder, query, read_measurements, read_traces
from harness.store.mirror import ObjectPlace
from harness.store.s3 import Bucket, Stamp, UnreachableError, parse_address

DRIVER = (
    "import sys, time\n"
    "from harness.store import RunFolder\n"
    "folder = RunFolder.create(sys.argv[1], {})\n"
    "with folder.lock():\n"
    "    folder.append_event('begun')\n"
    "    folder.write_result('a', 'H100', [{'task_id': 'a'}])\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.readline()\n"
)


def test_a_run_goes_on_from_another_machine(lab: ObjectStore):
    folder = RunFolder.create(lab.url, {"sweep": "one"})
    with folder.lock():
        folder.append_event("begun", n=1)
        folder.write_result("l1", "H100 (PCIe)", [row("a"), row("b")])
        folder.write_trace("a-1", [{"t_ns": 1, "power_w": 5.0}])
        folder.write_launch("l1", {"order": [1, 2]})
        folder.append_event("ended", n=2)
        assert read_measurements(lab.url)["task_id"].tolist() == ["a", "b"]
    lab.on_machine("two")
    other = RunFolder.open(lab.url)
    assert other.path != folder.path
    assert other.manifest == folder.manifest
    assert other.done_task_ids() == {"a", "b"}
    pd.testing.assert_frame_equal(read_measurements(other), read_measurements(folder))
    assert [e["kind"] for e in other.events()] == ["begun", "ended"]
    assert other.launch_record("l1") == {"order": [1, 2]}
    assert not list((other.path / "traces").iterdir()), "traces come when they are asked for"
    assert read_traces(other)["power_w"].tolist() == [5.0]
    assert query(lab.url, "select count(*) n from traces")["n"].tolist() == [1]
    with other.lock():
        other.append_event("begun", n=3)
        other.write_result("l2", "H100 (PCIe)", [row("b", attempt=2), row("c")])
        other.compact()
    lab.on_machine("one")
    again = RunFolder.open(lab.url)
    assert again.path == folder.path
    assert read_measurements(again)["attempt"].tolist() == [1, 2, 1]
    assert [e.get("n") for e in again.events()] == [1, 2, 3]
    assert lab.keys("measurements") == ["measurements/hardware=H100 (PCIe)/compacted.parquet"]
    table = ds.dataset(again.path / "measurements", partitioning="hive").to_table()
    assert table.num_rows == 3


def test_the_address_as_pathlib_writes_it(lab: ObjectStore):
    folder = RunFolder.create(Path(lab.url), {"a": 1})
    assert str(Path(lab.url)).startswith("s3:/lab")
    assert RunFolder.open(Path(lab.url)).path == folder.path == local_folder(lab.url)
    assert local_folder(lab.tmp) == lab.tmp
    assert lab.keys() == ["manifest.json"]


def test_what_did_not_change_is_not_brought_again(lab: ObjectStore):
    folder = RunFolder.create(lab.url, {})
    with folder.lock():
        folder.write_result("k", "H", [row("a")])
    path = folder.partition("H") / "loose-k.parquet"
    before = path.stat().st_ino
    assert RunFolder.open(lab.url).done_task_ids() == {"a"}
    assert path.stat().st_ino == before
    lab.on_machine("two")
    RunFolder.open(lab.url).write_result("k", "H", [row("b"), row("c")])
    lab.on_machine("one")
    assert RunFolder.open(lab.url).done_task_ids() == {"b", "c"}
    lab.bucket.delete("measurements/hardware=H/loose-k.parquet")
    assert RunFolder.open(lab.url).done_task_ids() == set()


def test_files_of_a_staging_folder_are_committed(lab: ObjectStore, tmp_path: Path):
    staging = RunFolder.create(tmp_path / "staging", {})
    staging.write_result("k", "A 100/x", [row("a")])
    staging.write_trace("a-1", [{"t_ns": 1}])
    staging.write_launch("k", {"x": 1})
    files = staging.packed()
    folder = RunFolder.create(lab.url, {})
    with folder.lock():
        folder.commit(files)
    lab.on_machine("two")
    other = RunFolder.open(lab.url)
    assert other.done_task_ids() == {"a"}
    assert other.launch_record("k") == {"x": 1}
    assert other.trace_files()[0].read_bytes() == files["traces/a-1.parquet"]


@pytest.mark.parametrize("step", ["written", "replaced"])
def test_a_compaction_killed_anywhere_loses_nothing(lab: ObjectStore, step: str):
    folder = RunFolder.create(lab.url, {})
    with folder.lock():
        folder.write_result("a", "H", [row("1"), row("2")])
        folder.compact()
        folder.write_result("b", "H", [row("2", attempt=2), row("3")])
    code = (
        "import os, signal, sys\n"
        "from harness.store import RunFolder\n"
        "def die(step):\n"
        "    if step == sys.argv[2]: os.kill(os.getpid(), signal.SIGKILL)\n"
        "RunFolder.open(sys.argv[1]).compact(die)\n"
    )
    lab.on_machine("two")
    with lab.process(code, step) as killed:
        assert killed.wait() == -signal.SIGKILL
    for machine in ("two", "three"):
        lab.on_machine(machine)
        frame = read_measurements(lab.url)
        assert frame["task_id"].tolist() == ["1", "2", "3"]
        assert frame["attempt"].tolist() == [1, 2, 1]
    assert RunFolder.open(lab.url).compact() == 3
    assert lab.keys("measurements") == ["measurements/hardware=H/compacted.parquet"]


def test_an_upload_that_is_killed_leaves_nothing_or_all(lab: ObjectStore):
    folder = RunFolder.create(lab.url, {})
    big = lab.tmp / "big"
    big.write_bytes(np.random.default_rng(0).bytes(24_000_000))
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from harness.store.s3 import Bucket, parse_address\n"
        "bucket = Bucket(parse_address(sys.argv[1]))\n"
        "print('ready', flush=True)\n"
        "bucket.upload(sys.argv[3], Path(sys.argv[2]))\n"
    )
    for number, wait_s in enumerate((0.02, 0.1)):
        key = f"traces/t{number}.parquet"
        with lab.process(code, str(big), key) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(wait_s)
            process.kill()
        stamp = lab.bucket.stat(key)
        assert stamp is None or stamp.size == big.stat().st_size
    assert RunFolder.open(lab.url).manifest == folder.manifest


def test_a_second_driver_is_refused_on_any_machine(lab: ObjectStore):
    with lab.process(DRIVER) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        for machine in ("one", "two"):
            lab.on_machine(machine)
            folder = RunFolder.open(lab.url)
            with pytest.raises(StoreError, match=f"process {first.pid} on host") as error:
                folder.compact()
            assert error.value.fix
        first.communicate("\n")
    assert first.returncode == 0
    lab.on_machine("two")
    folder = RunFolder.open(lab.url)
    assert folder.compact() == 1
    assert [e["kind"] for e in folder.events()] == ["begun"]
    assert lab.keys("lease") == []


def test_a_killed_driver_of_this_machine_is_followed_at_once(lab: ObjectStore):
    with lab.process(DRIVER) as first:
        assert first.stdout is not None
        first.stdout.readline()
        first.kill()
    lab.on_machine("two")
    folder = RunFolder.open(lab.url)
    assert folder.done_task_ids() == {"a"}
    with folder.lock():
        pass
    taken = next(e for e in folder.events() if e["kind"] == "lock_taken_over")
    assert taken["previous"]["pid"] == first.pid  # type: ignore[index]


def test_events_outside_a_lock_are_kept_too(lab: ObjectStore):
    folder = RunFolder.create(lab.url, {})
    folder.append_event("one")
    folder.append_event("two")
    lab.on_machine("two")
    other = RunFolder.open(lab.url)
    assert [e["kind"] for e in other.events()] == ["one", "two"]
    other.append_event("three")
    lab.on_machine("one")
    assert [e["kind"] for e in RunFolder.open(lab.url).events()] == ["one", "two", "three"]


def test_a_copied_local_run_is_opened_and_goes_on(lab: ObjectStore, tmp_path: Path):
    local = RunFolder.create(tmp_path / "run", {})
    with local.lock():
        local.append_event("at_home")
        local.write_result("k", "H", [row("a")])
    for path in local.path.rglob("*"):
        if path.is_file():
            lab.bucket.upload(path.relative_to(local.path).as_posix(), path)
    folder = RunFolder.open(lab.url)
    with folder.lock():
        folder.append_event("away")
    lab.on_machine("two")
    assert [e["kind"] for e in RunFolder.open(lab.url).events()] == ["at_home", "away"]


def test_progress_is_read_from_another_machine(lab: ObjectStore):
    folder = RunFolder.create(lab.url, {})
    assert folder.read_progress() is None
    folder.write_progress({"done": 1, "rate": float("nan")})
    folder.write_progress({"done": 2})
    lab.on_machine("two")
    assert RunFolder.open(lab.url).read_progress() == {"done": 1, "rate": None}
    folder.write_progress({"done": 3}, force=True)
    assert RunFolder.open(lab.url).read_progress() == {"done": 3}


def test_what_is_no_run_folder_is_refused(lab: ObjectStore):
    with pytest.raises(StoreError, match="no such run folder") as error:
        RunFolder.open(lab.url)
    assert lab.url in str(error.value)
    lab.bucket.write("thesis.tex", b"x")
    with pytest.raises(StoreError, match=r"no manifest.json"):
        RunFolder.open(lab.url)
    with pytest.raises(StoreError, match="other files"):
        RunFolder.create(lab.url, {})
    lab.bucket.delete("thesis.tex")
    lab.bucket.write("measurements/hardware=H/compacted.parquet", b"x")
    with pytest.raises(StoreError, match="other files"):
        RunFolder.create(lab.url, {})
    lab.bucket.write("manifest.json", json.dumps({"schema_version": 99}).encode())
    with pytest.raises(StoreError, match="schema version 99"):
        RunFolder.open(lab.url)


class Flaky(Bucket):
    """A store that is away for some requests."""

    away = 0

    def upload(self, key: str, path: Path) -> None:
        self._answer()
        super().upload(key, path)

    def list(self, under: str = "") -> dict[str, Stamp]:
        self._answer()
        return super().list(under)

    def _answer(self) -> None:
        if self.away > 0:
            self.away -= 1
            raise UnreachableError("away")


def test_a_short_outage_is_waited_out_and_a_long_one_is_said(lab: ObjectStore):
    RunFolder.create(lab.url, {})
    bucket, now_s = Flaky(parse_address(lab.url)), [0.0]

    def sleep(seconds: float) -> None:
        now_s[0] += seconds

    place = ObjectPlace(bucket, lab.tmp / "mirror", clock=lambda: now_s[0], sleep=sleep)
    with place.lock():
        bucket.away = 3
        place.write(place.path / "launches" / "a.json", lambda stream: stream.write(b"{}"))
        now_s[0] += 20  # the lease has to be shown alive before the next write
        bucket.away = 25
        place.write(place.path / "launches" / "b.json", lambda stream: stream.write(b"{}"))
        bucket.away = 1000
        with pytest.raises(UnreachableError):
            place.write(place.path / "launches" / "c.json", lambda stream: stream.write(b"{}"))
        bucket.away = 0
    assert lab.keys("launches") == ["launches/a.json", "launches/b.json"]
