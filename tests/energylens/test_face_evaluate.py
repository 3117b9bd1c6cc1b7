"""`evaluate` over classes and sample budgets, and what the report draws of it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from energylens.evaluation import VERSION, evaluate_run, main_budget, saved_evaluation
from energylens.report import write_report
from energylens.report.levers import levers
from energylens.report.ranking import curves, ranking

METHODS = "energylens12,fewest_gpus,highest_throughput,extra_trees,llmcarbon"


@pytest.fixture(scope="module")
def copy(run_folder: Path, tmp_path_factory) -> Path:
    return Path(shutil.copytree(run_folder, tmp_path_factory.mktemp("evaluate") / "run"))


@pytest.fixture(scope="module")
def printed(copy: Path) -> str:
    """What the command prints at 80 columns; it also writes DIR/evaluation.json."""
    from typer.testing import CliRunner

    from energylens.cli import app

    arguments = ["evaluate", str(copy), "--methods", METHODS, "--samples", "10,30,50"]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "80", "NO_COLOR": "1"})
    assert result.exit_code == 0, result.output
    return result.output


def test_one_table_a_class_over_the_budgets(printed: str) -> None:
    for name in ("S1", "S2", "S3", "S4", "S5"):
        assert f"{name}: " in printed
    assert re.search(r"method +10 +30 +50", printed)
    assert "highest_throughput *" in printed
    assert "* knows the true latency or throughput" in printed
    assert max(map(len, printed.split("Written:")[0].splitlines())) <= 80


def test_levers_and_divergence_are_told_in_short(printed: str) -> None:
    assert "Levers: how often energy rises" in printed
    assert "larger batch" in printed
    assert "GPU count free: in" in printed
    assert "GPU count and batch free: in" in printed
    lines = printed.split("Levers:")[1].split("\n- ")[0].strip().splitlines()
    assert len([line for line in lines[3:] if line.strip()]) <= 8


def test_notes_are_of_the_main_budget_only(printed: str) -> None:
    assert "energylens12 at 50 samples" in printed
    assert "energylens12 at 10 samples" not in printed
    assert main_budget([10, 50]) == 50
    assert main_budget([10, 25]) == 10
    assert main_budget([]) is None


def test_the_file_holds_everything_and_an_older_one_is_made_again(printed: str, copy: Path) -> None:
    from harness.store import read_measurements

    table = read_measurements(copy)
    saved = json.loads((copy / "evaluation.json").read_text())
    assert saved["version"] == VERSION == 2
    assert saved["classes"] == ["S1", "S2", "S3", "S4", "S5"]
    assert saved["levers"][0]["cases"] > 0
    assert {row["samples"] for row in saved["scores"]} == {10, 30, 50}
    assert saved_evaluation(copy, table) == saved
    old = {**saved, "version": 1}
    old.pop("levers")
    (copy / "evaluation.json").write_text(json.dumps(old))
    assert saved_evaluation(copy, table) is None
    (copy / "evaluation.json").write_text(json.dumps(saved))


def test_the_report_draws_the_curve_and_the_levers(printed: str, copy: Path) -> None:
    saved = json.loads((copy / "evaluation.json").read_text())
    drawn = curves(saved)
    assert drawn is not None
    assert drawn["budgets"] == [10, 30, 50]
    first = drawn["classes"][0]["lines"]
    assert first[0]["ours"]
    assert len(first[0]["top1"]) == 3
    assert "Highest throughput" not in [line["name"] for line in first]
    page = write_report(copy).path.read_text(encoding="utf-8")
    assert 'id="plot-curves"' in page
    assert "Levers, and when they backfire" in page
    for lever in levers(saved):
        assert lever["lever"] in page
    shown = ranking(saved)
    assert shown["budget"] == 50
    assert len(shown["overview"]) == len(METHODS.split(","))
    assert all(len(row["cells"]) == len(shown["classes"]) for row in shown["overview"])


def test_one_budget_has_no_curve_and_facts_come_from_the_catalog(
    run_folder: Path, tmp_path: Path, table
) -> None:
    own = Path(shutil.copytree(run_folder, tmp_path / "run"))
    data = evaluate_run(
        own, methods=("energylens12", "llmcarbon"), classes=("S1",), frame=table
    ).to_dict()
    assert curves(data) is None
    known = {row["method"] for row in data["scores"]}
    judged = any("llmcarbon" in note for note in data["notes"])
    assert ("llmcarbon" in known) != judged
