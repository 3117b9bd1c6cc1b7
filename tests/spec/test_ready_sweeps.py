"""The ready-made sweeps: what they promise, and the table that describes them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from harness.plan import Plan, RooflineEstimator, make_plan
from harness.spec import expand, load_models, load_sweep

REPOSITORY = Path(__file__).resolve().parents[2]
SWEEPS = sorted((REPOSITORY / "sweeps").glob("*.yaml"))
_PLANS: dict[str, Plan] = {}


def rows() -> dict[str, dict[str, int]]:
    """Rows of the table in sweeps/README.md by the name of the sweep."""
    text = (REPOSITORY / "sweeps" / "README.md").read_text(encoding="utf-8")
    names = ("models", "hardware", "configurations", "tasks", "launches")
    pattern = r"^\| \[(\w+)\]\(\1\.yaml\) \|" + r" (\d+) \|" * len(names)
    return {
        match[1]: dict(zip(names, map(int, match.groups()[1:]), strict=True))
        for match in re.finditer(pattern, text, re.MULTILINE)
    }


def quickstart() -> Plan:
    """Plan the quickstart once; without kernel tables, so memory decides alone."""
    if "quickstart" not in _PLANS:
        path = REPOSITORY / "sweeps" / "quickstart.yaml"
        _PLANS["quickstart"] = make_plan(path, estimator=RooflineEstimator())
    return _PLANS["quickstart"]


def test_every_sweep_is_in_the_table() -> None:
    assert sorted(rows()) == [path.stem for path in SWEEPS]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_the_table_counts_what_the_file_expands_to(path: Path) -> None:
    sweep = load_sweep(path)
    row = rows()[path.stem]
    assert sweep.name == path.stem
    assert row["models"] == len(sweep.models)
    assert row["hardware"] == len(sweep.hardware)
    tasks = expand(sweep, load_models(sweep))
    assert row["configurations"] == len(tasks)
    assert row["tasks"] <= row["configurations"]
    assert len({task.task_id for task in tasks}) == len(tasks)


@pytest.mark.parametrize("name", ["nightly"])
def test_the_table_counts_what_the_twin_plans(name: str) -> None:
    plan = make_plan(REPOSITORY / "sweeps" / f"{name}.yaml")
    row = rows()[name]
    assert (len(plan.tasks), len(plan.launches)) == (row["tasks"], row["launches"])


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_editors_find_the_schema(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first == "# yaml-language-server: $schema=./sweep.schema.json"


def test_quickstart_is_large_and_broad() -> None:
    plan = quickstart()
    assert rows()["quickstart"]["tasks"] >= 5000
    assert len(plan.tasks) >= 5000
    families = Counter(model.family for model in plan.models.values() if not model.vision)
    seeing = [model for model in plan.models.values() if model.vision]
    assert families["dense"] >= 3
    assert families["moe"] >= 2
    assert families["ssm"] + sum(model.family == "ssm" for model in seeing) >= 1
    assert {task.workload.modality for task in plan.tasks} == {"text", "image", "video"}
    assert {task.deployment.precision for task in plan.tasks} >= {"bf16", "fp8"}


def test_quickstart_has_over_a_hundred_rows_for_every_model_and_hardware() -> None:
    counts = Counter((task.model_id, task.deployment.hardware) for task in quickstart().tasks)
    assert len(counts) == 10 * 5
    assert min(counts.values()) > 110


def test_quickstart_workloads_have_every_split_of_a_gpu_count() -> None:
    splits: dict[tuple[object, ...], set[tuple[int, int]]] = defaultdict(set)
    sweep = load_sweep(REPOSITORY / "sweeps" / "quickstart.yaml")
    for task in expand(sweep, load_models(sweep)):
        deployment = task.deployment
        key = (task.model_id, deployment.hardware, deployment.precision, task.workload)
        splits[(*key, deployment.num_gpus)].add(
            (deployment.tensor_parallel, deployment.pipeline_parallel)
        )
    expected = {
        1: {(1, 1)},
        2: {(2, 1), (1, 2)},
        4: {(4, 1), (2, 2), (1, 4)},
        8: {(8, 1), (4, 2), (2, 4)},
    }
    assert {key[-1] for key in splits} == set(expected)
    for key, found in splits.items():
        assert found == expected[key[-1]]


def test_the_example_of_the_docs_is_a_sweep() -> None:
    text = (REPOSITORY / "docs" / "sweeps.md").read_text(encoding="utf-8")
    example = re.search(r"```yaml\n(# yaml-language.*?)```", text, re.DOTALL)
    assert example
    from harness.spec import expand_sweep, parse_sweep

    sweep = parse_sweep(example[1])
    expansion = expand_sweep(sweep, load_models(sweep))
    total = len(expansion.tasks) + sum(item.count for item in expansion.dropped)
    assert total == 2 * 2 * 4 * 2 * 14
    assert {item.deployment.num_gpus for item in expansion.dropped} == {16}


def test_the_docs_name_every_key() -> None:
    from harness.spec import EXPLANATIONS, Sweep
    from harness.spec.conditions import Condition

    text = (REPOSITORY / "docs" / "sweeps.md").read_text(encoding="utf-8")
    for name in (*Sweep.model_fields, *Condition.model_fields, *EXPLANATIONS):
        assert f"`{name}`" in text, name
