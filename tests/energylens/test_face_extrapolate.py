"""`extrapolate` through the command line, and what it leaves beside the run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from energylens.extrapolation import FILE, saved_extrapolation
from energylens.fingerprint import fingerprint
from harness.store import read_measurements

FAST = ("--methods", "kin,energylens12,fewest_gpus", "--rows", "0,3,20")


@pytest.fixture
def copy(run_folder: Path, tmp_path: Path) -> Path:
    """A run to write into."""
    return Path(shutil.copytree(run_folder, tmp_path / "run"))


def test_it_prints_tables_and_verdicts_and_keeps_them(cli, copy: Path) -> None:
    result = cli("extrapolate", copy, "--hold-out", "hardware,batch", "--names", *FAST)
    assert result.exit_code == 0, result.output
    assert "projected" in result.output
    assert "New GPU type: holds" in result.output
    assert "Larger batch: holds" in result.output
    assert "H200-SXM5-141GB" in result.output
    body = result.output.split("Written:")[0]
    assert max(map(len, body.splitlines())) <= 80
    saved = json.loads((copy / FILE).read_text())
    table = read_measurements(copy)
    assert saved["fingerprint"] == fingerprint(table)
    assert saved_extrapolation(copy, table) == saved
    assert saved_extrapolation(copy, table.head(10)) is None


def test_json_is_the_result(cli, copy: Path) -> None:
    result = cli("extrapolate", copy, "--hold-out", "batch", "--json", *FAST, "--min-top1", 100)
    values = json.loads(result.output)
    assert values["thresholds"] == {"mape": 0.1, "top1": 1.0, "coverage": 0.85, "answered": 0.95}
    assert {row["hold_out"] for row in values["table"]} == {"batch"}
    assert values["verdicts"][0]["method"] == "energylens12"
    assert values["rows"] == [0, 3, 20]


def test_kinds_that_cannot_be_asked_are_left_out_with_a_note(cli, copy: Path) -> None:
    result = cli("extrapolate", copy, "--methods", "fewest_gpus", "--rows", "0")
    assert result.exit_code == 0, result.output
    assert "only bf16" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hold-out", "colour"], "colour"),
        (["--hold-out", "precision"], "only bf16"),
        (["--hold-out", "family"], "only dense"),
        (["--hold-out", "task"], "cannot be held out"),
        (["--methods", "astrology"], "astrology"),
        (["--rows", "some"], "whole numbers"),
        (["--rows", ""], "whole numbers"),
    ],
)
def test_bad_input_exits_with_2(cli, run_folder: Path, arguments, message) -> None:
    result = cli("extrapolate", run_folder, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "what to do" in result.stderr


def test_help_names_the_kinds(cli) -> None:
    output = cli("extrapolate", "--help").output
    for kind in ("hardware", "batch", "length", "precision", "modality"):
        assert kind in output
