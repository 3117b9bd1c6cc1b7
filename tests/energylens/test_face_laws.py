"""`fit`, `evaluate` and `query` through the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from energylens.evaluation import evaluate_run, saved_evaluation
from energylens.fingerprint import fingerprint


@pytest.fixture
def copy(run_folder: Path, tmp_path: Path) -> Path:
    """A run to write into."""
    return Path(shutil.copytree(run_folder, tmp_path / "run"))


def test_fit_prints_the_law_and_writes_it(cli, copy: Path) -> None:
    out = copy / "deep" / "fit.json"
    result = cli("fit", copy, "--out", out, "--samples", 50)
    assert result.exit_code == 0, result.output
    assert "projected" in result.output
    assert "4 pairs" in result.output
    assert "prefill energy [J]" in result.output
    assert "95 % interval" in result.output
    body = result.output.split("Written:")[0]
    assert max(map(len, body.splitlines())) <= 80
    assert json.loads(out.read_text())["form"] == "energylens12"


def test_fit_prints_the_pair_that_is_asked_for(cli, copy: Path) -> None:
    result = cli("fit", copy, "--model", "Qwen/Qwen3-32B", "--hardware", "H200-SXM5-141GB")
    assert "Qwen/Qwen3-32B on H200-SXM5-141GB" in result.output
    assert "Qwen/Qwen3-32B on H100-SXM5-80GB" not in result.output
    result = cli("fit", copy, "--model", "nobody/nothing")
    assert result.exit_code == 2
    assert "no such pair" in result.stderr


def test_fit_says_what_the_rows_do_not_tell(cli, copy: Path) -> None:
    result = cli("fit", copy, "--samples", 40, "--no-pooled")
    assert result.exit_code == 0, result.output
    assert "Not identifiable: " in result.output
    assert "Rows that would tell: " in result.output
    values = json.loads(cli("fit", copy, "--json", "--samples", 40, "--no-pooled").output)
    report = values["pairs"][0]["identifiability"]
    assert set(report) == {
        "not_identified",
        "correlated",
        "directions",
        "missing",
        "rows_to_add",
    }
    assert values["pooled"] == []


def test_fit_takes_intervals_by_profile(cli, copy: Path) -> None:
    options = ("--samples", 14, "--form", "energylens6", "--no-pooled")
    result = cli("fit", copy, "--intervals", "profile", *options)
    assert result.exit_code == 0, result.output
    assert "95 % interval (profile)" in result.output


def test_few_rows_a_pair_borrow_the_pooled_law(cli, copy: Path) -> None:
    out = copy / "fit.json"
    result = cli("fit", copy, "--samples", 5, "--out", out)
    assert result.exit_code == 0, result.output
    assert "partial pooling" in result.output
    assert "energylens_pooled" in result.output
    assert max(map(len, result.output.split("Written:")[0].splitlines())) <= 80
    saved = json.loads(out.read_text())
    assert saved["pairs"] == []
    assert len(saved["pooled_pairs"]) == 4
    pair = ("--model", "Qwen/Qwen3-14B", "--hardware", "A100-SXM4-80GB")
    result = cli("fit", copy, "--samples", 30, *pair)
    assert result.exit_code == 0, result.output
    assert "has no law of its own" in result.output


def test_fit_json_is_the_fit(cli, copy: Path) -> None:
    values = json.loads(cli("fit", copy, "--json", "--samples", 40).output)
    assert len(values["pairs"]) == 4
    assert values["pairs"][0]["n_rows"] == 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "--form", "magic"], "magic"),
        (["fit", "--samples", "3", "--no-pooled"], "too few"),
        (["fit", "--samples", "2"], "too few"),
        (["fit", "--intervals", "guess"], "profile"),
        (["evaluate", "--classes", "S9"], "S9"),
        (["evaluate", "--methods", "astrology"], "astrology"),
        (["evaluate", "--samples", "ten"], "whole numbers"),
        (["evaluate", "--samples", ""], "No samples given"),
        (["evaluate", "--classes", ""], "No classes given"),
    ],
)
def test_bad_wishes_exit_2(cli, copy: Path, arguments: list[str], message: str) -> None:
    result = cli(arguments[0], copy, *arguments[1:])
    assert result.exit_code == 2
    assert message in result.stderr


METHODS = "energylens12,fewest_gpus,lowest_latency"


def test_evaluate_prints_scores_beside_rules_and_keeps_them(cli, copy: Path, table) -> None:
    result = cli("evaluate", copy, "--methods", METHODS, "--classes", "S1,S3")
    assert result.exit_code == 0, result.output
    for part in ("S1: ", "S3: ", "fewest_gpus", "lowest_latency", "Top-1", "projected"):
        assert part in result.output
    body = result.output.split("Written:")[0]
    assert max(map(len, body.splitlines())) <= 80
    saved = json.loads((copy / "evaluation.json").read_text())
    assert len(saved["predictions"]["task_id"]) == 957
    assert sum(saved["predictions"]["fitted"]) == 4 * 50
    top1 = [
        row["top1"]
        for row in saved["scores"]
        if (row["scenario_class"], row["group_kind"], row["method"])
        == ("S1", "all", "energylens12")
    ]
    assert top1[0] > 0.85


def test_evaluate_json_is_pure_and_without_the_bulk(cli, copy: Path) -> None:
    values = json.loads(cli("evaluate", copy, "--methods", METHODS, "--json").output)
    assert "predictions" not in values
    assert values["provenance"] == {"projected": 960}
    assert values["divergence"]["scenarios"] > 0


def test_a_saved_evaluation_counts_only_for_its_own_rows(copy: Path, table) -> None:
    result = evaluate_run(copy, methods=("fewest_gpus",), classes=("S1",), frame=table)
    assert saved_evaluation(copy, table) == json.loads(json.dumps(result.to_dict()))
    changed = table.copy()
    changed.loc[7, "total_energy_j"] *= 1.0001
    assert saved_evaluation(copy, changed) is None
    (copy / "evaluation.json").write_text("{ torn")
    assert saved_evaluation(copy, table) is None


def test_the_fingerprint_is_of_the_rows_not_of_their_order(table) -> None:
    first = fingerprint(table)
    assert fingerprint(table.sample(frac=1.0, random_state=3)) == first
    assert fingerprint(table.drop(index=5)) != first
    assert fingerprint(table.assign(valid=True)) != first
    swapped = table.copy()
    swapped.loc[[10, 11], "total_energy_j"] = swapped.loc[[11, 10], "total_energy_j"].to_numpy()
    assert fingerprint(swapped) != first


def test_query_speaks_tables_csv_and_json(cli, run_folder: Path) -> None:
    sql = (
        "select hardware, count(*) as rows, avg(total_energy_j) as mean_j, null as nothing "
        "from measurements group by 1 order by 1"
    )
    text = cli("query", run_folder, sql).output
    assert "H100-SXM5-80GB" in text
    assert max(map(len, text.splitlines())) <= 80
    rows = json.loads(cli("query", run_folder, sql, "--json").output)
    assert rows[0]["hardware"] == "H100-SXM5-80GB"
    assert rows[0]["rows"] == 480
    assert rows[0]["nothing"] is None
    lines = cli("query", run_folder, sql, "--csv").output.splitlines()
    assert lines[0] == "hardware,rows,mean_j,nothing"
    assert len(lines) == 3


def test_query_tells_when_it_shows_a_part_only(cli, run_folder: Path) -> None:
    text = cli("query", run_folder, "select task_id from measurements", "--limit", 3).output
    assert "3 of 960 rows" in text


def test_query_of_every_column_shows_each_of_them(cli, run_folder: Path) -> None:
    text = cli("query", run_folder, "select * from measurements limit 1").output
    for part in ("tensor_parallel", "total_energy_j_ci95_j", "measured_at", "row 1"):
        assert part in text
    assert max(map(len, text.splitlines())) <= 80
    nothing = cli("query", run_folder, "select * from measurements limit 0").output
    assert "No rows" in nothing
    assert "tensor_parallel" in nothing


def test_bad_sql_exits_2(cli, run_folder: Path) -> None:
    result = cli("query", run_folder, "select nonsense from nowhere")
    assert result.exit_code == 2
    assert "nowhere" in result.stderr
