"""`plan`, `run` and `import` through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from energylens.status import read_status

SWEEP = """\
name: tiny
models: [meta-llama/Meta-Llama-3.1-8B]
hardware: [H100, L40S]
tensor_parallel: [1, 2]
pipeline_parallel: [1, 16]
gpu_limit: 8
keep_traces: 1
blocks:
  - modality: text
    batch: [1, 8]
    input_tokens: [256]
    output_tokens: [32]
"""


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(SWEEP)
    return path


def test_plan_shows_a_row_a_gpu_type_with_totals_and_skips(cli, sweep: Path) -> None:
    result = cli("plan", sweep)
    assert result.exit_code == 0, result.output
    for part in ("H100-SXM5-80GB", "L40S-48GB", "all", "GPU-hours", "kWh", "gpu limit"):
        assert part in result.output
    assert max(map(len, result.output.splitlines())) <= 80
    assert "…" not in result.output
    assert sorted(sweep.parent.iterdir()) == [sweep]


def test_plan_json(cli, sweep: Path) -> None:
    values = json.loads(cli("plan", sweep, "--json").output)
    assert values["tasks"] == sum(row["tasks"] for row in values["by_hardware"]) == 8
    assert values["provenance"] == "projected"
    assert sum(values["skipped"].values()) == 8


def test_a_typing_error_in_a_sweep_is_shown_with_its_key(cli, sweep: Path) -> None:
    sweep.write_text(SWEEP.replace("gpu_limit", "gpu_limits"))
    for arguments in (["plan", sweep], ["run", sweep, "--out", sweep.parent / "out"]):
        result = cli(*arguments)
        assert result.exit_code == 2
        assert "gpu_limits" in result.stderr
        assert result.stdout == ""
    assert not (sweep.parent / "out").exists()


@pytest.mark.ray
def test_run_measures_resumes_and_keeps_json_pure(cli, sweep: Path) -> None:
    out = sweep.parent / "out"
    first = cli("run", sweep, "--out", out, "--workers", 1)
    assert first.exit_code == 0, first.output
    assert "8 tasks done" in first.stdout
    assert "8 tasks, 8 to do" in first.stderr
    second = cli("run", sweep, "--out", out, "--workers", 1, "--json")
    assert second.exit_code == 0, second.output
    values = json.loads(second.stdout)
    assert (values["already_done"], values["done"], values["failed"]) == (8, 0, 0)
    found = read_status(out)
    assert (found.state, found.planned, found.done, found.remaining) == ("finished", 8, 8, 0)


CSV = """\
model_id,family,hardware,batch,output_tokens,total_energy_j
a/b,dense,H100,4,128,1500.5
a/b,dense,H100,8,128,2100.5
"""


def test_import_of_a_table_says_what_came_in(cli, tmp_path: Path) -> None:
    source = tmp_path / "rows.csv"
    source.write_text(CSV)
    out = tmp_path / "out"
    result = cli("import", "table", source, "--out", out)
    assert result.exit_code == 0, result.output
    assert "imported" in result.output
    assert max(map(len, result.output.split("Written:")[0].splitlines())) <= 80
    assert read_status(out).done == 2
    values = json.loads(cli("import", "table", source, "--out", tmp_path / "o2", "--json").output)
    assert values["rows"] == 2


def test_a_table_without_energy_is_refused(cli, tmp_path: Path) -> None:
    source = tmp_path / "rows.csv"
    source.write_text(CSV.replace("total_energy_j", "colour"))
    result = cli("import", "table", source, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "total_energy_j" in result.stderr


def test_published_serving_data_goes_all_the_way_to_a_report(
    cli, shared_data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "ml"
    assert cli("import", "mlenergy", shared_data / "mlenergy_v3", "--out", run).exit_code == 0
    result = cli("report", run)
    assert result.exit_code == 0, result.output
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "badge imported" in page
    assert "No law was fitted: " in page
    assert "EnergyLens, pooled" in page
