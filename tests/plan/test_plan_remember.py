"""A remembered plan is the same plan, and is forgotten when what it rests on changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.plan import RememberingEstimator, RooflineEstimator, make_plan
from harness.plan import remember as module
from harness.store.files import write_atomic

SWEEP = """\
name: small
models: [meta-llama/Meta-Llama-3.1-8B, meta-llama/Meta-Llama-3.1-70B]
hardware: [H100, L40S]
tensor_parallel: [1, 2, 8]
blocks:
  - batch: [1, 64]
    input_tokens: [256, 4096]
    output_tokens: [64]
"""


class Counting(RooflineEstimator):
    """Counts the workloads it is asked about."""

    asked = 0

    def fits(self, model, hardware, deployment, workloads):  # type: ignore[no-untyped-def]
        self.asked += len(workloads)
        return super().fits(model, hardware, deployment, workloads)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SWEEP)
    return path


def plan_with(sweep: Path, memory: Path) -> tuple[dict[str, object], int]:
    inner = Counting()
    estimator = RememberingEstimator(inner, memory)
    plan = make_plan(sweep, estimator=estimator)
    estimator.save(write_atomic)
    return plan.to_dict(), inner.asked


def test_the_second_plan_asks_nothing_and_is_equal(sweep: Path, tmp_path: Path) -> None:
    memory = tmp_path / "plan.parquet"
    first, asked = plan_with(sweep, memory)
    second, asked_again = plan_with(sweep, memory)
    assert asked > 0
    assert asked_again == 0
    assert second == first
    assert first["skipped"]


def test_only_new_configurations_are_asked_about(sweep: Path, tmp_path: Path) -> None:
    memory = tmp_path / "plan.parquet"
    _, asked = plan_with(sweep, memory)
    sweep.write_text(SWEEP.replace("batch: [1, 64]", "batch: [1, 64, 8]"))
    _, more = plan_with(sweep, memory)
    assert 0 < more == asked // 2


def test_a_changed_estimator_forgets(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = tmp_path / "plan.parquet"
    _, asked = plan_with(sweep, memory)
    monkeypatch.setattr(module, "_fingerprint", lambda: b"another")
    assert plan_with(sweep, memory)[1] == asked


def test_a_torn_memory_is_no_memory(sweep: Path, tmp_path: Path) -> None:
    memory = tmp_path / "plan.parquet"
    _, asked = plan_with(sweep, memory)
    memory.write_bytes(memory.read_bytes()[:100])
    assert plan_with(sweep, memory)[1] == asked


def test_a_model_whose_config_changed_is_asked_about_again(tmp_path: Path) -> None:
    from harness.catalog import load_model

    config = load_model("Qwen/Qwen3-8B").config_path.read_text()
    (tmp_path / "models").mkdir()
    own = tmp_path / "models" / "me--mine.json"
    own.write_text(config)
    sweep = tmp_path / "own.yaml"
    text = SWEEP.replace("meta-llama/Meta-Llama-3.1-8B, meta-llama/Meta-Llama-3.1-70B", "me/mine")
    sweep.write_text(text)
    memory = tmp_path / "plan.parquet"
    _, asked = plan_with(sweep, memory)
    assert plan_with(sweep, memory)[1] == 0
    own.write_text(config.replace('"num_hidden_layers": 36', '"num_hidden_layers": 40'))
    module._digest.cache_clear()
    assert plan_with(sweep, memory)[1] == asked > 0
