"""A plan with nothing left says why, with counts, and what would help."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.errors import PlanError
from harness.plan import RooflineEstimator, TwinEstimator, make_plan
from harness.spec import parse_sweep

BASE: dict[str, Any] = {
    "name": "hopeless",
    "models": ["Qwen/Qwen3-8B"],
    "hardware": ["H100"],
    "blocks": [{"batch": [1, 8], "input_tokens": 128, "output_tokens": 32}],
}

CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "memory": (
        {"models": ["meta-llama/Meta-Llama-3.1-70B"], "hardware": ["L40S", "H100"]},
        [
            "4  does_not_fit_in_memory",
            "weights, KV cache",
            "131 GiB of weights",
            "use at least 2 GPUs",
        ],
    ),
    "gpu limit": (
        {"tensor_parallel": [4, 8], "gpu_limit": 2},
        ["4  gpu_limit", "raise gpu_limit from 2 to 4"],
    ),
    "heads": (
        {
            "models": ["Qwen/Qwen3.5-27B", "Qwen/Qwen3-8B"],
            "tensor_parallel": 16,
            "blocks": [{**BASE["blocks"][0], "models": "Qwen/Qwen3.5-27B"}],
        },
        ["2  heads_not_divisible", "24 heads over 16 ranks", "Qwen/Qwen3.5-27B has 24"],
    ),
    "layers": (
        {"pipeline_parallel": 48},
        ["2  layers_not_divisible", "36 layers over 48", "pipeline_parallel up to 36"],
    ),
    "experts": ({"expert_parallel": 2}, ["2  experts_not_divisible", "0 experts over 2"]),
    "precision": (
        {"hardware": ["A100"], "precision": "fp8"},
        ["2  precision_not_supported", "not fp8", "A100-SXM4-80GB: bf16"],
    ),
    "context": (
        {"blocks": [{"batch": 1, "input_tokens": 40960, "output_tokens": 1}]},
        ["1  context_too_long", "within 40960 tokens"],
    ),
    "budget": (
        {"budgets": {"gpu_hours": 0.001}},
        ["2  over_budget", "of 0.001", "raise the budget"],
    ),
    "several": (
        {
            "models": ["meta-llama/Meta-Llama-3.1-70B"],
            "tensor_parallel": [1, 4],
            "gpu_limit": 2,
            "precision": ["bf16", "nvfp4"],
        },
        ["8 skipped", "gpu_limit from 2 to 4", "precision_not_supported", "does_not_fit_in_memory"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_nothing_left(case: str) -> None:
    change, fragments = CASES[case]
    sweep = parse_sweep(json.dumps({**BASE, **change}))
    with pytest.raises(PlanError) as caught:
        make_plan(sweep, estimator=RooflineEstimator())
    printed = str(caught.value)
    assert "Nothing of the sweep 'hopeless' can be measured" in printed
    assert "what to do:" in printed
    for fragment in fragments:
        assert fragment in printed, printed


def test_no_kernel_data() -> None:
    sweep = parse_sweep(json.dumps({**BASE, "hardware": "MI300X-192GB"}))
    with pytest.raises(PlanError, match="no kernel tables for MI300X-192GB"):
        make_plan(sweep, estimator=TwinEstimator())


def test_a_real_engine_is_planned_where_the_twin_has_no_tables() -> None:
    sweep = parse_sweep(json.dumps({**BASE, "hardware": "MI300X-192GB", "engine": "vllm"}))
    plan = make_plan(sweep)
    assert plan.estimators == {"roofline": 2}
