"""Sweeps of this machine: what `local` stands for, and what the engine cannot serve."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from harness.catalog import is_cpu, load_hardware, local_hardware
from harness.errors import SweepError
from harness.spec import (
    SkipReason,
    expand,
    expand_sweep,
    load_hardware_facts,
    load_models,
    parse_sweep,
)
from harness.spec.capable import engine_refusal

DATA: dict[str, Any] = {
    "name": "here",
    "engine": "transformers",
    "models": ["Qwen/Qwen3-0.6B"],
    "hardware": "local",
    "blocks": [{"batch": [1, 8], "input_tokens": 64, "output_tokens": 8}],
}
TWO_TYPES = {"local": (load_hardware("H100"), load_hardware("L4"))}


def build(**changes: Any) -> Any:
    return parse_sweep(json.dumps({**DATA, **changes}))


def test_local_stands_for_the_hardware_of_this_machine() -> None:
    sweep = build()
    assert load_hardware_facts(sweep) == {"local": local_hardware()}
    tasks = expand(sweep, load_models(sweep))
    assert {task.deployment.hardware for task in tasks} == {
        gpu.hardware for gpu in local_hardware()
    }


def test_tasks_of_local_are_those_of_its_canonical_id() -> None:
    names = [gpu.hardware for gpu in local_hardware()]
    sweeps = (build(), build(hardware=names), build(hardware=["LOCAL", *names]))
    ids = [[task.task_id for task in expand(s, load_models(s))] for s in sweeps]
    assert ids[0] == ids[1] == ids[2]


def test_several_gpu_types_are_all_measured() -> None:
    include = [
        {
            "model": "Qwen/Qwen3-0.6B",
            "hardware": "local",
            "batch": 2,
            "input_tokens": 9,
            "output_tokens": 9,
        }
    ]
    sweep = build(include=include)
    tasks = expand_sweep(sweep, load_models(sweep), TWO_TYPES).tasks
    assert [task.deployment.hardware for task in tasks].count("H100-SXM5-80GB") == 3
    assert [task.deployment.hardware for task in tasks].count("L4-24GB") == 3


@pytest.mark.parametrize(("word", "left"), [("local", 0), ("L4-24GB", 2)])
def test_an_exclude_may_name_all_of_them_or_one(word: str, left: int) -> None:
    sweep = build(exclude=[{"hardware": word, "batch": [1, 8]}])
    if not left:
        with pytest.raises(SweepError, match="excludes remove all"):
            expand_sweep(sweep, load_models(sweep), TWO_TYPES)
        return
    tasks = expand_sweep(sweep, load_models(sweep), TWO_TYPES).tasks
    assert [task.deployment.hardware for task in tasks] == ["H100-SXM5-80GB"] * left


def test_a_cpu_of_another_machine_can_be_named() -> None:
    sweep = build(hardware="CPU-Intel-Xeon-8488C-16C", precision=["fp32", "bf16"])
    (cpu,) = load_hardware_facts(sweep)["CPU-Intel-Xeon-8488C-16C"]
    assert is_cpu(cpu.hardware)
    assert len(expand(sweep, load_models(sweep))) == 4


AXES = ("tensor_parallel", "pipeline_parallel", "expert_parallel", "data_parallel")


@pytest.mark.parametrize("axis", AXES)
def test_transformers_runs_on_one_device(axis: str) -> None:
    one = dict.fromkeys(AXES, 1)
    assert engine_refusal("transformers", one, "bf16") == ""
    assert f"{axis} 2" in engine_refusal("transformers", {**one, axis: 2}, "bf16")
    for engine in ("twin", "vllm"):
        assert engine_refusal(engine, {**one, axis: 2}, "fp8") == ""


def test_what_an_engine_cannot_serve_is_dropped_with_a_reason() -> None:
    sweep = build(
        hardware=["H100"],
        precision=["bf16", "fp8"],
        tensor_parallel=[1, 2],
        data_parallel=[1, 2],
        include=[
            {
                "model": "Qwen/Qwen3-0.6B",
                "hardware": "H100",
                "pipeline_parallel": 2,
                "batch": 1,
                "input_tokens": 64,
                "output_tokens": 8,
            }
        ],
    )
    expansion = expand_sweep(sweep, load_models(sweep))
    assert len(expansion.tasks) == 2
    assert {item.reason for item in expansion.dropped} == {SkipReason.ENGINE_NOT_CAPABLE}
    assert sum(item.count for item in expansion.dropped) == 2 * 8 - 2 + 1
    details = {item.detail for item in expansion.dropped}
    assert "transformers runs on one device here, not with pipeline_parallel 2" in details
    assert any("not fp8" in detail for detail in details)
    plain = {**DATA, "engine": "twin", "hardware": ["H100"], "tensor_parallel": [1, 2]}
    twin = parse_sweep(json.dumps(plain))
    assert not expand_sweep(twin, load_models(twin)).dropped


def test_a_split_that_cannot_be_is_dropped_for_any_engine() -> None:
    """Reasons of the model come before those of the engine, so that they mean the same."""
    reasons = []
    for engine, ways in itertools.product(("twin", "transformers"), (1, 3)):
        sweep = build(engine=engine, hardware=["H100"], pipeline_parallel=[1, 29 * ways])
        reasons.append({d.reason for d in expand_sweep(sweep, load_models(sweep)).dropped})
    assert reasons == [{SkipReason.LAYERS_NOT_DIVISIBLE}] * 4
