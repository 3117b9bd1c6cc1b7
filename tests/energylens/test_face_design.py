"""`design` through the command line, and the sweep that it writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

SWEEP = """\
name: tiny
models: [meta-llama/Meta-Llama-3.1-8B, Qwen/Qwen3-VL-8B-Instruct]
hardware: [H100]
tensor_parallel: [1, 2]
pipeline_parallel: [1, 2]
keep_traces: 0
launch_s: 90
repeats: 2
blocks:
  - modality: text
    models: meta-llama/Meta-Llama-3.1-8B
    batch: [1, 8]
    input_tokens: [256, 1024]
    output_tokens: [32]
  - modality: image
    models: Qwen/Qwen3-VL-8B-Instruct
    batch: [1, 4]
    text_tokens: 64
    images: 1
    image_size: [448, 448]
    output_tokens: [32]
"""


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(SWEEP)
    return path


def test_design_of_a_sweep_prints_what_to_measure(cli, sweep: Path) -> None:
    result = cli("design", sweep, "--budget", "3")
    assert result.exit_code == 0, result.output
    for part in ("6 configurations", "none yet", "regret", "launch", "t=2", "GPU-hours"):
        assert part in result.output
    assert max(map(len, result.output.splitlines())) <= 80
    assert "…" not in result.output
    assert sorted(sweep.parent.iterdir()) == [sweep]


def test_design_json(cli, sweep: Path) -> None:
    values = json.loads(cli("design", sweep, "--budget", "4", "--per", "total", "--json").output)
    assert values["rows"] == len(values["tasks"]) == 4
    assert values["candidates"] == sum(p["candidates"] for p in values["pairs"])
    assert 0 < values["regret_after"] < values["regret_before"]
    first_of_launches = 90.0 * values["launches"]
    assert values["hours"] * 3600 > first_of_launches
    assert values["provenance"] == {}


def test_the_sweep_it_writes_runs_and_its_rows_lead_to_the_next(
    cli, sweep: Path, tmp_path: Path
) -> None:
    """Design, run with the twin, design again in the same folder: nothing is measured twice."""
    from harness.store import read_measurements

    first, out = tmp_path / "next.yaml", tmp_path / "run"
    chosen = json.loads(cli("design", sweep, "--budget", "4", "--out", first, "--json").output)
    wanted = {task["task_id"] for task in chosen["tasks"]}
    result = cli("run", first, "--out", out)
    assert result.exit_code == 0, result.output
    rows = read_measurements(out)
    assert set(rows["task_id"]) == wanted
    again = json.loads(cli("design", sweep, "--measured", out, "--budget", "2", "--json").output)
    assert again["provenance"] == {"projected": 8}
    assert not wanted & {task["task_id"] for task in again["tasks"]}
    # The folder itself knows only the sweep that was run last, and that is complete.
    done = cli("design", out)
    assert done.exit_code == 2
    assert "Nothing is left to measure" in done.stderr
    assert "--measured" in done.stderr


def test_csv(cli, sweep: Path, tmp_path: Path) -> None:
    out = tmp_path / "next.csv"
    assert cli("design", sweep, "--hours", "0.2", "--out", out).exit_code == 0
    assert out.read_text().startswith("order,task_id,launch,model_id,hardware")


def test_a_run_folder_is_a_target(cli, sweep: Path, tmp_path: Path) -> None:
    from harness.store import RunFolder

    RunFolder.create(tmp_path / "run", {"sweep": SWEEP, "sweep_name": "tiny"})
    values = json.loads(cli("design", tmp_path / "run", "--budget", "2", "--json").output)
    assert values["rows"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hours", "0.001"], "does not pay for one launch"),
        (["--method", "guess"], "Unknown method"),
        (["--per", "model"], "pair or total"),
        (["--hours", "1", "--budget", "3"], "do not go together"),
        (["--out", "next.txt"], "cannot be written as"),
        (["--measured", "nowhere"], "no such run folder"),
    ],
)
def test_bad_wishes_exit_2(cli, sweep: Path, arguments: list[str], message: str) -> None:
    result = cli("design", sweep, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "what to do" in result.stderr
    assert result.stdout == ""


def test_a_folder_without_a_sweep_is_refused(cli, run_folder: Path, tmp_path: Path) -> None:
    result = cli("design", run_folder)
    assert result.exit_code == 2
    assert "not made by a sweep" in result.stderr
    result = cli("design", tmp_path / "nothing.yaml")
    assert result.exit_code == 2


def test_a_sweep_that_names_model_files_must_be_beside_them(
    cli, sweep: Path, tmp_path: Path
) -> None:
    facts = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 8192,
    }
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "config.json").write_text(json.dumps(facts))
    sweep.write_text(
        SWEEP.split("  - modality: image")[0]
        .replace(
            "models: [meta-llama/Meta-Llama-3.1-8B, Qwen/Qwen3-VL-8B-Instruct]", "models: [./own]"
        )
        .replace("    models: meta-llama/Meta-Llama-3.1-8B\n", "")
    )
    assert cli("design", sweep, "--budget", "2", "--out", tmp_path / "next.yaml").exit_code == 0
    (tmp_path / "other").mkdir()
    result = cli("design", sweep, "--budget", "2", "--out", tmp_path / "other" / "next.yaml")
    assert result.exit_code == 2
    assert "folder of the sweep" in result.stderr
