"""Energy counters of CPUs read from a made-up power capping tree."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import MeterError
from harness.meters.rapl import RaplReader, find_domains
from harness.meters.records import READING_FIELDS

RANGE_UJ = 262_143_328_850
ENERGY = READING_FIELDS.index("energy_mj")
STATUS = READING_FIELDS.index("status")


class Tree:
    """Zones as the kernel lays them out, with a clock that tests advance."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now_ns = 0

    def zone(self, path: str, name: str, energy_uj: int = 0) -> Path:
        zone = self.root / path
        zone.mkdir(parents=True)
        (zone / "name").write_text(f"{name}\n")
        (zone / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
        self.set(path, energy_uj)
        return zone

    def set(self, path: str, energy_uj: int) -> None:
        (self.root / path / "energy_uj").write_text(f"{energy_uj}\n")

    def reader(self, *names: str) -> RaplReader:
        return RaplReader(names, root=self.root, clock=lambda: self.now_ns)


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path / "powercap")


def server(tree: Tree) -> None:
    """Two packages with their parts, the platform, and a second view of package 0."""
    for i in (0, 1):
        tree.zone(f"intel-rapl:{i}", f"package-{i}", 1_000_000 * (i + 1))
        tree.zone(f"intel-rapl:{i}/intel-rapl:{i}:0", "core", 400_000)
        tree.zone(f"intel-rapl:{i}/intel-rapl:{i}:1", "dram", 250_000)
    tree.zone("intel-rapl:2", "psys", 9_000_000)
    tree.zone("intel-rapl-mmio:0", "package-0", 1_000_000)
    (tree.root / "intel-rapl").mkdir()
    for i in (0, 1):  # the kernel also lists every zone beside its package
        for j in (0, 1):
            part = tree.root / f"intel-rapl:{i}" / f"intel-rapl:{i}:{j}"
            (tree.root / f"intel-rapl:{i}:{j}").symlink_to(part)


def test_packages_and_memory_are_counted_once_and_parts_not_at_all(tree):
    server(tree)
    reader = tree.reader()
    assert reader.device_ids == ("package-0", "dram-0", "package-1", "dram-1")
    rows = reader.read(slow=True)
    assert [row[ENERGY] for row in rows] == [1000.0, 250.0, 2000.0, 250.0]
    assert all(len(row) == len(READING_FIELDS) for row in rows)
    assert all(math.isnan(row[READING_FIELDS.index("power_w")]) for row in rows)
    assert all(row[STATUS] == 0 for row in rows)
    reader.close()


def test_more_than_ten_packages_keep_their_order(tree):
    for i in range(12):
        tree.zone(f"intel-rapl:{i}", f"package-{i}")
    assert list(find_domains(tree.root)) == [f"package-{i}" for i in range(12)]


def test_devices_can_be_chosen(tree):
    server(tree)
    assert tree.reader("dram-1", "package-0").device_ids == ("dram-1", "package-0")
    with pytest.raises(MeterError, match="no energy counter named package-7") as caught:
        tree.reader("package-7")
    assert "package-0" in str(caught.value.fix)


@given(
    steps=st.lists(st.integers(0, 40_000_000), min_size=1, max_size=60),
    start=st.integers(0, RANGE_UJ - 1),
)
def test_a_counter_that_wraps_gives_the_true_energy(tmp_path_factory, steps, start):
    tree = Tree(tmp_path_factory.mktemp("rapl"))
    # A range of 100 J wraps every few steps.
    zone = tree.zone("intel-rapl:0", "package-0", start % 100_000_000)
    (zone / "max_energy_range_uj").write_text("100000000")
    reader = tree.reader()
    (first,) = reader.read(slow=False)
    true_uj = start % 100_000_000
    before = first[ENERGY]
    for step in steps:
        true_uj += step
        tree.now_ns += 20_000_000
        tree.set("intel-rapl:0", true_uj % 100_000_000)
        tree.now_ns += 10**9
        (row,) = reader.read(slow=False)
        assert row[ENERGY] >= before
        before = row[ENERGY]
    reader.close()
    assert before - first[ENERGY] == pytest.approx(sum(steps) / 1e3)


def test_a_reset_is_a_gap_never_a_made_up_energy(tree):
    tree.zone("intel-rapl:0", "package-0", 50_000_000)
    reader = tree.reader()
    tree.now_ns += 20_000_000
    tree.set("intel-rapl:0", 1_000_000)
    (row,) = reader.read(slow=False)
    assert math.isnan(row[ENERGY])
    assert row[STATUS] != 0
    tree.now_ns += 20_000_000
    tree.set("intel-rapl:0", 2_000_000)
    (row,) = reader.read(slow=False)
    assert row[ENERGY] == pytest.approx(50_000.0 + 1_000.0)
    reader.close()


def test_a_counter_that_vanishes_is_nan_and_the_others_go_on(tree):
    server(tree)
    reader = tree.reader()
    tree.set("intel-rapl:0", 3_000_000)
    (tree.root / "intel-rapl:1" / "energy_uj").write_text("")
    tree.now_ns += 10**9
    rows = reader.read(slow=False)
    assert rows[0][ENERGY] == 3000.0
    assert math.isnan(rows[2][ENERGY])
    assert rows[2][STATUS] != 0
    reader.close()


def test_a_machine_without_counters_is_said(tree):
    with pytest.raises(MeterError, match="no energy counter") as caught:
        tree.reader()
    assert caught.value.where == str(tree.root)


def test_a_counter_that_is_no_file_is_said(tree):
    zone = tree.zone("intel-rapl:0", "package-0")
    (zone / "energy_uj").unlink()
    (zone / "energy_uj").mkdir()
    with pytest.raises(MeterError, match="cannot be read") as caught:
        tree.reader()
    assert caught.value.where == str(zone / "energy_uj")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop its rights")
def test_without_the_right_to_read_the_fix_is_named():
    code = (
        "import os, sys\n"
        "from harness.meters.rapl import RaplReader\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: RaplReader(root=sys.argv[1])\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    # Folders of pytest are closed to others.
    with tempfile.TemporaryDirectory() as open_folder:
        tree = Tree(Path(open_folder) / "powercap")
        tree.zone("intel-rapl:0", "package-0").joinpath("energy_uj").chmod(0o400)
        Path(open_folder).chmod(0o755)
        shown = subprocess.run(
            [sys.executable, "-P", "-c", code, str(tree.root)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        ).stdout
    assert shown.startswith("MeterError only root may read")
    assert "chmod" in shown
    assert "udev" in shown
