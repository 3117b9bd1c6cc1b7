"""Disks that refuse: full, read-only, limited. Nothing half-written, nothing lost."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.store import RunFolder, StoreError, read_measurements


def _mount(folder: Path, options: str) -> bool:
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    if not _mount(disk, "size=200k"):
        pytest.skip("needs root and the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def whole(folder: RunFolder) -> set[str]:
    assert not list(folder.path.rglob(".*.tmp"))
    return set(read_measurements(folder)["task_id"])


def test_a_full_disk_keeps_what_was_measured(small_disk: Path):
    folder = RunFolder.create(small_disk / "run", {})
    done: set[str] = set()

    def fill() -> None:
        for i in range(1000):
            folder.write_result(f"k{i}", "H", [{"task_id": f"t{i}"}])
            done.add(f"t{i}")

    with pytest.raises(StoreError, match="disk is full") as error:
        fill()
    assert "What was measured before stays" in str(error.value)
    assert "resumes" in str(error.value)
    assert done
    assert whole(folder) == done
    with pytest.raises(StoreError, match="disk is full"):
        folder.compact()
    assert whole(folder) == done

    def pad() -> None:
        for _ in range(1000):
            folder.append_event("pad", text="x" * 2000)

    with pytest.raises(StoreError, match="disk is full"):
        pad()
    assert all(event["kind"] == "pad" for event in folder.events())
    with pytest.raises(StoreError, match="disk is full"):
        folder.update_manifest({"sweep": "x" * 300_000})
    assert RunFolder.open(folder.path).manifest["schema_version"] == 1


def test_a_read_only_disk_is_refused_and_can_be_read(small_disk: Path):
    folder = RunFolder.create(small_disk / "run", {})
    folder.write_result("a", "H", [{"task_id": "a"}])
    remount = ["mount", "-o", "remount,ro", str(small_disk)]
    subprocess.run(remount, check=True, capture_output=True)
    for write in (
        lambda: folder.write_result("b", "H", [{"task_id": "b"}]),
        lambda: folder.write_trace("b", [{"t_ns": 1}]),
        lambda: folder.append_event("x"),
        lambda: folder.compact(),
        lambda: folder.update_manifest({"a": 1}),
        lambda: RunFolder.create(small_disk / "new", {}),
    ):
        with pytest.raises(StoreError, match="may not be written"):
            write()
    assert whole(folder) == {"a"}


def test_a_folder_without_write_permission_is_refused(tmp_path: Path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    folder = RunFolder.create(tmp_path / "run", {})
    folder.write_result("a", "H", [{"task_id": "a"}])
    partition = folder.partition("H")
    partition.chmod(0o555)
    try:
        with pytest.raises(StoreError, match="may not be written"):
            folder.write_result("b", "H", [{"task_id": "b"}])
    finally:
        partition.chmod(0o755)
    assert whole(folder) == {"a"}


LIMITED = """
import sys
from harness.store import RunFolder, StoreError
folder = RunFolder.open(sys.argv[1])
try:
    rows = [{"task_id": f"{i * 2654435761 % 2**32:x}"} for i in range(9000)]
    folder.write_result("big", "H", rows)
except StoreError as error:
    sys.exit(str(error))
"""


def test_a_file_size_limit_leaves_no_half_file(tmp_path: Path):
    folder = RunFolder.create(tmp_path / "run", {})
    folder.write_result("a", "H", [{"task_id": "a"}])
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(folder.path)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000)),
    )
    assert done.returncode == 1
    assert "disk is full" in done.stderr
    assert "loose-big.parquet" in done.stderr
    assert whole(folder) == {"a"}
