"""The driver lock, with real processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.store import RunFolder, StoreError
from harness.store.lock import driver_lock

HOLD = (
    "import sys\n"
    "from harness.store import RunFolder\n"
    "with RunFolder.open(sys.argv[1]).lock():\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.readline()\n"
)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", {})


def holder(folder: RunFolder) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_driver_is_refused_by_name(folder: RunFolder):
    with holder(folder) as first:
        with pytest.raises(StoreError) as error, folder.lock():
            pass
        assert f"process {first.pid} on host {socket.gethostname()}" in str(error.value)
        with pytest.raises(StoreError, match=str(first.pid)):
            folder.compact()
        first.communicate("\n")
    with folder.lock():
        text = json.loads((folder.path / "driver.lock").read_text())
        assert text["pid"] == os.getpid()
        assert text["host"] == socket.gethostname()
        assert text["started_at"]
    assert (folder.path / "driver.lock").read_text() == ""


def test_the_lock_of_a_killed_driver_is_taken_over(folder: RunFolder):
    with holder(folder) as first:
        first.send_signal(signal.SIGKILL)
        first.wait()
    with folder.lock():
        pass
    events = list(folder.events())
    assert [e["kind"] for e in events] == ["lock_taken_over"]
    assert events[0]["previous"]["pid"] == first.pid


def test_a_lock_file_left_by_a_dead_process_is_taken_over(folder: RunFolder):
    (folder.path / "driver.lock").write_text(json.dumps({"pid": 2**22 + 7, "host": "gone"}))
    with folder.lock() as held:
        assert held is folder


def test_a_second_driver_in_the_same_process_is_refused(folder: RunFolder):
    other = RunFolder.open(folder.path)
    with folder.lock():
        with pytest.raises(StoreError, match=f"process {os.getpid()}"), other.lock():
            pass
        assert folder.compact() == 0
    with other.lock():
        pass


def test_a_child_that_keeps_the_lock_of_a_dead_driver_is_told_apart(folder: RunFolder):
    code = (
        "import os, sys, time\n"
        "from harness.store import RunFolder\n"
        "lock = RunFolder.open(sys.argv[1]).lock()\n"
        "lock.__enter__()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    time.sleep(60)\n"
        "print(child, flush=True)\n"
        "os._exit(0)\n"
    )
    done = subprocess.Popen(
        [sys.executable, "-c", code, str(folder.path)], stdout=subprocess.PIPE, text=True
    )
    assert done.stdout is not None
    child = int(done.stdout.readline())
    done.wait()
    try:
        with pytest.raises(StoreError, match=f"{done.pid}.*is gone, but a child"), folder.lock():
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        done.stdout.close()


def test_the_lock_is_free_again_after_an_error(folder: RunFolder):
    with pytest.raises(ZeroDivisionError), folder.lock():
        raise ZeroDivisionError
    with folder.lock():
        pass


def left_by(path: Path, host: str, **more: object) -> None:
    text = {"pid": 7, "host": host, "started_at": "then", **more}
    path.write_text(json.dumps(text))


def test_a_host_that_the_lock_does_not_reach_is_respected(tmp_path: Path):
    lock = tmp_path / "driver.lock"
    left_by(lock, "far", beat_s=5)
    with pytest.raises(StoreError, match="process 7 on host far") as error, driver_lock(lock):
        pass
    assert "free in 3" in str(error.value.fix)
    assert json.loads(lock.read_text())["host"] == "far", "its file stays its own"
    long_ago = time.time() - 31
    os.utime(lock, (long_ago, long_ago))
    with driver_lock(lock) as left:
        assert left is not None
        assert left["host"] == "far"


def test_on_a_shared_file_system_the_last_writer_drives(tmp_path: Path):
    lock = tmp_path / "driver.lock"
    waited: list[float] = []

    def meanwhile(seconds: float) -> None:
        waited.append(seconds)
        left_by(lock, "far", beat_s=5)

    with (
        pytest.raises(StoreError, match="host far"),
        driver_lock(lock, shared=True, sleep=meanwhile),
    ):
        pass
    assert waited
    lock.write_text("")
    with driver_lock(lock, shared=True, sleep=lambda _: None):
        assert json.loads(lock.read_text())["pid"] == os.getpid()


def test_a_driver_touches_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("harness.store.lock.BEAT_S", 0.02)
    lock = tmp_path / "driver.lock"
    with driver_lock(lock):
        os.utime(lock, (0, 0))
        until = time.monotonic() + 10
        while lock.stat().st_mtime == 0 and time.monotonic() < until:
            time.sleep(0.01)
        assert lock.stat().st_mtime > 0
