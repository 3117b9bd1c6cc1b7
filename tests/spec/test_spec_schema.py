"""The JSON schema of sweep files is that of the code, and it says what the code says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.errors import SweepError
from harness.spec import parse_sweep, sweep_json_schema, write_sweep_schema


def validator() -> Any:
    jsonschema = pytest.importorskip("jsonschema")
    return jsonschema.Draft202012Validator(sweep_json_schema())


def test_the_file_is_that_of_the_code(repository: Path, tmp_path: Path) -> None:
    write_sweep_schema(tmp_path / "schema.json")
    written = (tmp_path / "schema.json").read_text(encoding="utf-8")
    stored = (repository / "sweeps" / "sweep.schema.json").read_text(encoding="utf-8")
    assert stored == written, "run: python -m harness.spec"


def test_ready_made_sweeps_meet_the_schema(repository: Path) -> None:
    check = validator()
    for path in sorted((repository / "sweeps").glob("*.yaml")):
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert [error.message for error in check.iter_errors(data)] == [], path.name


GOOD: dict[str, Any] = {
    "name": "a",
    "models": "Qwen/Qwen3-8B",
    "hardware": "H100",
    "blocks": [{"batch": 1, "input_tokens": 8, "output_tokens": 8}],
}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"engine": "vllm"},
        {"precision": ["bf16", "fp8"]},
        {"tensor_parallel": {"range": [1, 8], "factor": 2}},
        {"tensor_parallel": [1, {"from": 2, "to": 8, "step": 2}]},
        {"sampling": "full"},
        {"sampling": {"method": "random", "size": 3, "over": "workloads"}},
        {"exclude": [{"batch": ">= 64, < 100"}, {"model": ["Qwen/Qwen3-8B"]}]},
        {"linked": {"tensor_parallel": [1, 2], "expert_parallel": [1, 2]}},
        {"price_per_gpu_hour": {"H100": 2}},
        {"budgets": {"gpu_hours": 3}},
        {"gpu_limit": None},
        {"typo": 1},
        {"name": "a b"},
        {"models": []},
        {"models": 3},
        {"precision": "fp9"},
        {"tensor_parallel": 0},
        {"tensor_parallel": {"range": [1, 8]}},
        {"tensor_parallel": {"range": [1, 8], "factor": 2, "step": 2}},
        {"sampling": "rondom"},
        {"sampling": {"method": "random", "sise": 3}},
        {"exclude": [{"batch": "=> 64"}]},
        {"repeats": 0},
        {"window_s": "5"},
        {"budgets": {"gpu_hour": 3}},
        {"blocks": [{"batch": 1, "input_tokens": 8, "output_tokens": 8, "images": 1}]},
        {"blocks": [{"modality": "audio", "batch": 1}]},
        {"price_per_gpu_hour": {"H100": "cheap"}},
    ],
)
def test_schema_and_code_agree(change: dict[str, Any]) -> None:
    data = {**GOOD, **change}
    by_schema = not list(validator().iter_errors(data))
    try:
        parse_sweep(json.dumps(data))
        by_code = True
    except SweepError:
        by_code = False
    assert by_schema == by_code
