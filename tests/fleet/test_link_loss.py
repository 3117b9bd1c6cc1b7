"""The network between driver and node fails: noticed within seconds, and the rest goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from lab import H100, Driver, LabNode, StartedLab, events, write_sweep

from harness.plan import make_plan
from harness.store import read_measurements

pytestmark = pytest.mark.ray

NOTICED_S = 20.0


class Link:
    """Two network namespaces and a cable between them."""

    def __init__(self) -> None:
        self.names = [f"el{os.getpid() % 100000}{side}" for side in "ab"]
        self.ips = ["10.77.0.1", "10.77.0.2"]
        made: list[str] = []
        try:
            for name in self.names:
                ip("netns", "add", name)
                made.append(name)
            ip("link", "add", *self._end(0), "type", "veth", "peer", "name", *self._end(1))
            for side, name in enumerate(self.names):
                ip("-n", name, "addr", "add", f"{self.ips[side]}/24", "dev", f"v{name}")
                ip("-n", name, "link", "set", "lo", "up")
                ip("-n", name, "link", "set", f"v{name}", "up")
        except BaseException:
            for name in made:
                ip("netns", "del", name)
            raise

    def _end(self, side: int) -> list[str]:
        return [f"v{self.names[side]}", "netns", self.names[side]]

    def inside(self, side: int) -> list[str]:
        return ["ip", "netns", "exec", self.names[side]]

    def cut(self) -> None:
        ip("-n", self.names[1], "link", "set", f"v{self.names[1]}", "down")

    def close(self) -> None:
        for name in self.names:
            ip("netns", "del", name)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def link() -> Iterator[Link]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if shutil.which("ip") is None:
        pytest.skip("no `ip` command: install iproute2")
    try:
        made = Link()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {' '.join(error.cmd)}: {error.stderr.strip()}")
    yield made
    made.close()


def test_a_node_behind_a_dead_link_is_given_up_and_the_rest_goes_on(
    link: Link, tmp_path: Path
) -> None:
    sweep = write_sweep(tmp_path / "lab.yaml")
    out = tmp_path / "run"
    near, far = LabNode("near", H100, 1), LabNode("far", H100, 1)
    with StartedLab() as lab:
        lab.write_script({"pace_s": 2.0})
        lab.head(near, ip=link.ips[0], port=6379, inside=link.inside(0))
        lab.node(far, ip=link.ips[1], inside=link.inside(1))
        with Driver(lab, sweep, out, inside=link.inside(0)) as driver:
            driver.wait_for(lambda: [e for e in lab.logged("open") if e["node"] == "far"], 180)
            link.cut()
            cut_at = time.time()
            lost = driver.wait_for(lambda: events(out, "node_lost"), 60)[0]
            noticed_s = datetime.fromisoformat(lost["time"]).timestamp() - cut_at
            print(f"link loss noticed after {noticed_s:.1f} s")
            assert noticed_s < NOTICED_S
            assert driver.wait(180) == 0, driver.said()
        ran_on = {e["node"] for e in lab.logged("close")}
    retried = events(out, "launch_retried")
    assert [e["class"] for e in retried] == ["node_lost"]
    assert {e["node"] for e in retried} == {lost["node"]}
    again = [e for e in events(out, "launch_finished") if e["attempt"] == 2]
    assert [e["launch_id"] for e in again] == [e["launch_id"] for e in retried]
    assert again[0]["node"] != lost["node"]
    assert "near" in ran_on
    rows = read_measurements(out)
    assert set(rows["task_id"]) == {t.task_id for t in make_plan(sweep).tasks}
    assert rows["task_id"].is_unique
