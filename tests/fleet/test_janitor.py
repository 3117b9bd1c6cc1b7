"""The janitor on real processes: ends what is ours and left over, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from harness.fleet.janitor import (
    HOLDER,
    LAUNCH,
    end_leftovers,
    holder,
    is_marked,
    leftovers,
    marker,
)

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")

SLEEP = "import time; time.sleep(60)"
STUBBORN = """\
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(60)
"""
HOLDER_PROGRAM = """\
import os, subprocess, sys, time
from harness.fleet.janitor import marker
GRANDCHILD = "import time; time.sleep(60)"
CHILD = (
    "import subprocess, sys, time;"
    f"child = subprocess.Popen([sys.executable, '-c', {GRANDCHILD!r}], start_new_session=True);"
    "print(child.pid, flush=True); time.sleep(60)"
)
child = subprocess.Popen(
    [sys.executable, "-c", CHILD],
    env={**os.environ, **marker("launch-1")},
    stdout=subprocess.PIPE, text=True, start_new_session=True,
)
print(child.pid, child.stdout.readline().strip(), flush=True)
time.sleep(60)
"""


class View:
    """A folder of processes that shows the janitor only those of one test."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        self.show("self")

    def show(self, *pids: int | str) -> None:
        for pid in pids:
            (self.root / str(pid)).symlink_to(f"/proc/{pid}")


@pytest.fixture
def view(tmp_path: Path) -> View:
    return View(tmp_path / "proc")


@pytest.fixture
def start(view: View) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start Python programs that are shown to the janitor and surely end with the test."""
    started: list[subprocess.Popen[str]] = []

    def run(program: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, **(environment or {})},
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        view.show(process.pid)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def gone(pid: int) -> bool:
    """Whether a process has ended; whoever is its parent by now may not have noticed yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def dead_holder() -> str:
    """Name of a process that lived here and does not any more."""
    child = subprocess.Popen([sys.executable, "-c", SLEEP])
    name = holder(child.pid)
    child.kill()
    child.wait()
    return name


def test_children_of_a_living_holder_are_spared_and_ended_once_it_is_gone(
    view: View, start: Callable[..., subprocess.Popen[str]]
) -> None:
    held = start(HOLDER_PROGRAM)
    assert held.stdout is not None
    child, grandchild = map(int, held.stdout.readline().split())
    view.show(child, grandchild)
    try:
        # The kernel shows no environment for the moment in which a program is being loaded.
        while not (is_marked(child) and is_marked(grandchild)):
            time.sleep(0.01)
        assert leftovers(view.root) == []
        assert end_leftovers(0.5, root=view.root) == []
        assert not gone(child)
        held.kill()
        # The holder is a zombie until its parent looks; that is gone already.
        while not gone(held.pid):
            time.sleep(0.01)
        found = leftovers(view.root)
        assert {(each.pid, each.launch_id) for each in found} == {
            (child, "launch-1"),
            (grandchild, "launch-1"),
        }
        ended = end_leftovers(5.0, root=view.root)
        assert {each.pid for each in ended} == {child, grandchild}
        assert all(each.ended for each in ended)
        assert gone(child)
        assert gone(grandchild)
    finally:
        for pid in (child, grandchild):
            if not gone(pid):
                os.kill(pid, signal.SIGKILL)


def test_what_ignores_the_question_is_forced(
    view: View, start: Callable[..., subprocess.Popen[str]]
) -> None:
    child = start(STUBBORN, {LAUNCH: "deaf", HOLDER: dead_holder()})
    assert child.stdout is not None
    child.stdout.readline()
    ended = end_leftovers(0.3, root=view.root)
    assert [(each.pid, each.launch_id, each.ended) for each in ended] == [(child.pid, "deaf", True)]
    assert child.wait(5) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda pid, ticks, space: f"{pid}:{ticks}:{int(space) + 1}", "another namespace"),
        (lambda pid, ticks, space: "", "no holder named"),
        (lambda pid, ticks, space: f"{pid}:{ticks}", "an unknown format"),
        (lambda pid, ticks, space: f"{pid}::{space}", "a start time that nobody could tell"),
    ],
)
def test_what_cannot_be_judged_is_left_alone(
    view: View,
    start: Callable[..., subprocess.Popen[str]],
    change: Callable[[str, str, str], str],
    why: str,
) -> None:
    child = start(SLEEP, {LAUNCH: "x", HOLDER: change(*dead_holder().split(":"))})
    assert end_leftovers(0.2, root=view.root) == [], why
    assert not gone(child.pid)


def test_a_pid_that_was_given_away_does_not_hold(
    view: View, start: Callable[..., subprocess.Popen[str]]
) -> None:
    other = start(SLEEP)
    pid, ticks, space = holder(other.pid).split(":")
    child = start(SLEEP, {LAUNCH: "x", HOLDER: f"{pid}:{int(ticks) - 1}:{space}"})
    assert [each.pid for each in end_leftovers(2.0, root=view.root)] == [child.pid]
    assert child.wait(5) == -signal.SIGTERM
    assert other.poll() is None


def test_processes_without_a_marker_are_nobody_of_ours(
    view: View, start: Callable[..., subprocess.Popen[str]]
) -> None:
    child = start(SLEEP, {HOLDER: dead_holder()})
    assert not is_marked(child.pid)
    assert end_leftovers(0.2, root=view.root) == []
    assert not gone(child.pid)


def test_the_whole_machine_is_looked_at_and_this_process_never_taken() -> None:
    own = marker("mine")
    assert own[LAUNCH] == "mine"
    assert own[HOLDER].split(":")[0] == str(os.getpid())
    child = subprocess.Popen(
        [sys.executable, "-c", SLEEP], env={**os.environ, LAUNCH: "seen", HOLDER: own[HOLDER]}
    )
    try:
        found = {each.pid for each in leftovers()}
        assert child.pid not in found
        assert os.getpid() not in found
    finally:
        child.kill()
        child.wait()


def test_a_system_without_process_files_has_no_leftovers(tmp_path: Path) -> None:
    assert leftovers(tmp_path / "missing") == []
    assert end_leftovers(0.1, root=tmp_path / "missing") == []
