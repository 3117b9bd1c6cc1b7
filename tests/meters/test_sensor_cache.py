"""The cache of characterisations: what is kept, what is void, what is torn."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from harness.errors import MeterError
from harness.meters.base import SensorFacts
from harness.meters.sensor_cache import cache_folder, entries, load, load_facts, store
from harness.meters.sensor_report import Characterisation
from harness.meters.updates import UNKNOWN, Period

FACTS = SensorFacts(0.1, 0.02, 0.03, lag_s=0.01, origin="characterised")
FOUND = Characterisation(
    uuid="GPU-1234",
    name="NVIDIA H200",
    driver="570.1",
    measured_at=datetime(2026, 5, 6, tzinfo=UTC),
    seconds=40.0,
    facts=FACTS,
    counter=Period(0.1, True, 50, 0.0),
    power=UNKNOWN,
    average=UNKNOWN,
)


def test_what_is_stored_is_found_again(tmp_path: Path) -> None:
    path = store(FOUND, tmp_path / "new" / "folder")
    assert os.listdir(path.parent) == [path.name]
    facts = load_facts("GPU-1234", "570.1", path.parent)
    assert facts is not None
    assert facts.counter_period_s == 0.1
    assert facts.power_period_s != facts.power_period_s  # what was not known stays NaN
    assert facts.shortest_window_s == pytest.approx(5.0)
    assert load("GPU-1234", "570.1", path.parent).found is not None


def test_another_driver_makes_it_void_and_says_so(tmp_path: Path) -> None:
    store(FOUND, tmp_path)
    cached = load("GPU-1234", "580.2", tmp_path)
    assert cached.found is None
    assert "570.1" in cached.warning
    assert "580.2" in cached.warning
    with pytest.warns(UserWarning, match="580.2"):
        assert load_facts("GPU-1234", "580.2", tmp_path) is None
    store(replace(FOUND, driver="580.2"), tmp_path)
    assert load_facts("GPU-1234", "580.2", tmp_path) is not None


def test_an_unknown_gpu_is_no_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_facts("GPU-none", "570.1", tmp_path) is None
        assert load_facts("GPU-none", "570.1", tmp_path / "nowhere") is None


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.99])
def test_a_torn_file_is_ignored_with_a_warning(tmp_path: Path, keep: float) -> None:
    path = store(FOUND, tmp_path)
    text = path.read_text().strip()
    path.write_text(text[: int(keep * len(text))])
    with pytest.warns(UserWarning, match="torn"):
        assert load_facts("GPU-1234", "570.1", tmp_path) is None
    (entry,) = entries(tmp_path)
    assert entry.found is None
    assert str(path) in entry.warning


@pytest.mark.parametrize("text", ["[]", "3", '{"uuid": "GPU-1234"}', '{"facts": 1}', "\x00"])
def test_other_json_is_ignored_too(tmp_path: Path, text: str) -> None:
    (tmp_path / "GPU-1234.json").write_text(text)
    assert load("GPU-1234", "570.1", tmp_path).warning


def test_a_file_about_another_gpu_is_not_taken(tmp_path: Path) -> None:
    path = store(FOUND, tmp_path)
    path.rename(tmp_path / "GPU-9.json")
    assert load("GPU-9", "570.1", tmp_path).found is None


def test_facts_without_a_period_are_none(tmp_path: Path) -> None:
    store(replace(FOUND, facts=replace(FACTS, counter_period_s=float("nan"))), tmp_path)
    assert load_facts("GPU-1234", "570.1", tmp_path) is None


def test_a_strange_uuid_stays_inside_the_folder(tmp_path: Path) -> None:
    path = store(replace(FOUND, uuid="../../etc/x"), tmp_path / "sensors")
    assert path.parent == tmp_path / "sensors"


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(MeterError, match="cannot be kept") as caught:
        store(FOUND, blocked / "sensors")
    assert "ENERGYLENS_CACHE" in str(caught.value)


def test_the_folder_follows_the_variable(tmp_path: Path) -> None:
    assert cache_folder({"ENERGYLENS_CACHE": str(tmp_path)}) == tmp_path / "sensors"
    assert cache_folder({}) == Path.home() / ".cache" / "energylens" / "sensors"
