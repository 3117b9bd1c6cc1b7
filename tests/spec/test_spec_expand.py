"""Expansion: order, ids, excludes, links, includes, visual tokens."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import SweepError
from harness.spec import SkipReason, Sweep, Task, expand, expand_sweep, load_models, parse_sweep

MODELS = ("Qwen/Qwen3-8B", "Qwen/Qwen3-30B-A3B", "Qwen/Qwen3-VL-8B-Instruct", "Qwen/Qwen3.5-27B")
GPUS = ("A100-SXM4-80GB", "H100-SXM5-80GB", "L40S-48GB")

axis = st.lists(st.sampled_from([1, 2, 4, 8, 16]), min_size=1, max_size=3, unique=True)


@st.composite
def sweeps(draw: st.DrawFn) -> dict[str, Any]:
    """Small sweeps of text."""
    return {
        "name": "drawn",
        "models": draw(st.lists(st.sampled_from(MODELS), min_size=1, max_size=3, unique=True)),
        "hardware": draw(st.lists(st.sampled_from(GPUS), min_size=1, max_size=2, unique=True)),
        "tensor_parallel": draw(axis.map(lambda values: [min(value, 8) for value in values])),
        "pipeline_parallel": draw(axis),
        "gpu_limit": draw(st.sampled_from([8, 16, 128])),
        "blocks": draw(
            st.lists(
                st.fixed_dictionaries({"batch": axis, "input_tokens": axis, "output_tokens": axis}),
                min_size=1,
                max_size=2,
            )
        ),
    }


def build(data: dict[str, Any]) -> Sweep:
    """Read a sweep from a dict; JSON is YAML."""
    return parse_sweep(json.dumps(data))


def tasks_of(data: dict[str, Any]) -> list[Task]:
    sweep = build(data)
    return list(expand_sweep(sweep, load_models(sweep)).tasks)


def ids(tasks: list[Task]) -> list[str]:
    return [task.task_id for task in tasks]


@given(sweeps())
def test_the_same_sweep_gives_the_same_ids_in_the_same_order(data: dict[str, Any]) -> None:
    assert ids(tasks_of(data)) == ids(tasks_of(data))


@given(sweeps())
def test_every_configuration_comes_once_and_all_are_accounted_for(data: dict[str, Any]) -> None:
    sweep = build(data)
    expansion = expand_sweep(sweep, load_models(sweep))
    found = ids(list(expansion.tasks))
    assert len(found) == len(set(found))
    deployments = len(data["models"]) * len(data["hardware"])
    deployments *= len(set(data["tensor_parallel"])) * len(data["pipeline_parallel"])
    workloads = [
        {(b, n, m) for b in w["batch"] for n in w["input_tokens"] for m in w["output_tokens"]}
        for w in data["blocks"]
    ]
    dropped = sum(item.count for item in expansion.dropped)
    if len(workloads) == 1:
        assert len(found) + dropped == deployments * len(workloads[0])
    else:
        possible = len(found) // max(1, len(set.union(*workloads)))
        assert len(found) == possible * len(set.union(*workloads))
        assert dropped == (deployments - possible) * sum(len(grid) for grid in workloads)


@given(sweeps())
def test_tasks_respect_the_limits(data: dict[str, Any]) -> None:
    sweep = build(data)
    models = load_models(sweep)
    for task in expand_sweep(sweep, models).tasks:
        assert task.deployment.num_gpus <= data["gpu_limit"]
        facts = models[task.model_id]
        assert facts.heads % task.deployment.tensor_parallel == 0
        assert task.deployment.pipeline_parallel <= facts.layers


@given(sweeps(), st.sampled_from([1, 2, 4, 8]), st.sampled_from([">=", "<", "==", "!=", ""]))
def test_excludes_remove_exactly_what_matches(data: dict[str, Any], bound: int, sign: str) -> None:
    always = {
        "model": "Qwen/Qwen3-8B",
        "hardware": "H200",
        "batch": 3,
        "input_tokens": 3,
        "output_tokens": 3,
    }
    data = {**data, "include": [always]}
    plain = tasks_of(data)
    condition: dict[str, Any] = {
        "batch": f"{sign} {bound}" if sign else bound,
        "hardware": data["hardware"][0],
    }
    checks = {
        ">=": lambda batch: batch >= bound,
        "<": lambda batch: batch < bound,
        "==": lambda batch: batch == bound,
        "!=": lambda batch: batch != bound,
        "": lambda batch: batch == bound,
    }
    expected = [
        task.task_id
        for task in plain
        if not (
            checks[sign](task.workload.batch) and task.deployment.hardware == data["hardware"][0]
        )
    ]
    assert ids(tasks_of({**data, "exclude": [condition]})) == expected


def test_exclude_keys_reach_every_column() -> None:
    base = {
        "name": "a",
        "models": ["Qwen/Qwen3-8B", "Qwen/Qwen3-VL-8B-Instruct", "Qwen/Qwen3-30B-A3B"],
        "hardware": ["H100", "L40S"],
        "precision": ["bf16", "fp8"],
        "tensor_parallel": [1, 2, 4],
        "pipeline_parallel": [1, 2],
        "expert_parallel": [1, 2],
        "data_parallel": [1, 2],
        "blocks": [
            {"batch": [1, 8], "input_tokens": [64, 500], "output_tokens": [8, 32]},
            {
                "modality": "image",
                "batch": [1, 8],
                "text_tokens": [16, 64],
                "images": [1, 2],
                "image_size": [[448, 448]],
                "output_tokens": 8,
            },
            {
                "modality": "video",
                "batch": 1,
                "text_tokens": 16,
                "frames": [8, 16],
                "frame_size": [224, 224],
                "output_tokens": 8,
            },
        ],
    }
    sweep = build(base)
    models = load_models(sweep)
    every = expand(sweep, models)
    columns = {
        "model": (lambda t: t.model_id, "Qwen/Qwen3-8B"),
        "family": (lambda t: models[t.model_id].family, "moe"),
        "hardware": (lambda t: t.deployment.hardware, "L40S-48GB"),
        "precision": (lambda t: t.deployment.precision, "fp8"),
        "modality": (lambda t: t.workload.modality, "image"),
        "tensor_parallel": (lambda t: t.deployment.tensor_parallel, 2),
        "pipeline_parallel": (lambda t: t.deployment.pipeline_parallel, 2),
        "expert_parallel": (lambda t: t.deployment.expert_parallel, 2),
        "data_parallel": (lambda t: t.deployment.data_parallel, 2),
        "num_gpus": (lambda t: t.deployment.num_gpus, 4),
        "batch": (lambda t: t.workload.batch, 8),
        "input_tokens": (lambda t: t.workload.input_tokens, 64),
        "output_tokens": (lambda t: t.workload.output_tokens, 32),
        "text_tokens": (lambda t: t.workload.text_tokens, 64),
        "visual_tokens": (lambda t: t.workload.visual_tokens, 392),
        "images": (lambda t: t.workload.images, 2),
        "frames": (lambda t: t.workload.frames, 16),
    }
    for key, (value_of, value) in columns.items():
        expected = [task.task_id for task in every if value_of(task) != value]
        assert 0 < len(expected) < len(every), key
        assert ids(tasks_of({**base, "exclude": [{key: value}]})) == expected, key


def test_conditions_of_one_exclude_must_all_hold_and_several_add_up() -> None:
    base = {
        "name": "a",
        "models": ["Qwen/Qwen3-8B"],
        "hardware": ["H100"],
        "blocks": [{"batch": [1, 2, 4, 8], "input_tokens": [16, 64], "output_tokens": 8}],
    }
    exclude = [{"batch": "> 1, < 8", "input_tokens": 16}, {"batch": [8, "< 2"]}]
    left = [
        (t.workload.batch, t.workload.input_tokens) for t in tasks_of(base | {"exclude": exclude})
    ]
    assert left == [(2, 64), (4, 64)]


@given(
    st.lists(st.tuples(st.integers(1, 99), st.integers(1, 99)), min_size=1, max_size=6),
    st.lists(st.integers(1, 64), min_size=1, max_size=3, unique=True),
)
def test_linked_axes_move_together(pairs: list[tuple[int, int]], batches: list[int]) -> None:
    tasks = tasks_of(
        {
            "name": "a",
            "models": ["Qwen/Qwen3-8B"],
            "hardware": ["H100"],
            "blocks": [
                {
                    "batch": batches,
                    "linked": {
                        "input_tokens": [first for first, _ in pairs],
                        "output_tokens": [second for _, second in pairs],
                    },
                }
            ],
        }
    )
    found = [(t.workload.batch, t.workload.input_tokens, t.workload.output_tokens) for t in tasks]
    assert found == [(b, *pair) for b in batches for pair in dict.fromkeys(pairs)]


def test_linked_deployment_axes() -> None:
    data = {
        "name": "a",
        "models": ["Qwen/Qwen3-30B-A3B"],
        "hardware": ["H100"],
        "linked": {"tensor_parallel": [1, 2, 4], "expert_parallel": [1, 2, 1]},
        "blocks": [{"batch": 1, "input_tokens": 8, "output_tokens": 8}],
    }
    found = [(t.deployment.tensor_parallel, t.deployment.expert_parallel) for t in tasks_of(data)]
    assert found == [(1, 1), (2, 2), (4, 1)]


def test_defaults_written_out_change_no_id() -> None:
    short = {
        "name": "a",
        "models": "Qwen/Qwen3-8B",
        "hardware": "H100",
        "blocks": [{"batch": [1, 2], "input_tokens": 8, "output_tokens": 8}],
    }
    long = {
        "name": "other-name",
        "description": "text",
        "engine": "twin",
        "models": ["Qwen/Qwen3-8B"],
        "hardware": ["H100-SXM5-80GB"],
        "precision": ["bf16"],
        "tensor_parallel": [1],
        "pipeline_parallel": 1,
        "expert_parallel": [1],
        "data_parallel": 1,
        "sampling": "full",
        "repeats": 7,
        "blocks": [{"modality": "text", "batch": [1, 2], "input_tokens": [8], "output_tokens": 8}],
    }
    assert ids(tasks_of(short)) == ids(tasks_of(long))


def test_a_hardware_alias_is_the_hardware() -> None:
    data = {
        "name": "a",
        "models": "Qwen/Qwen3-8B",
        "hardware": ["H100", "H100-SXM5-80GB", "h100_sxm"],
        "blocks": [{"batch": 1, "input_tokens": 8, "output_tokens": 8}],
    }
    assert [task.deployment.hardware for task in tasks_of(data)] == ["H100-SXM5-80GB"]


def test_blocks_that_overlap_give_each_task_once() -> None:
    block = {"batch": [1, 2], "input_tokens": 8, "output_tokens": 8}
    data = {
        "name": "a",
        "models": "Qwen/Qwen3-8B",
        "hardware": "H100",
        "blocks": [block, {**block, "batch": [2, 4]}],
    }
    assert [task.workload.batch for task in tasks_of(data)] == [1, 2, 4]


def test_a_block_narrows_only_itself() -> None:
    block = {"batch": 1, "input_tokens": 8, "output_tokens": 8}
    data = {
        "name": "a",
        "models": ["Qwen/Qwen3-8B", "Qwen/Qwen3-30B-A3B"],
        "hardware": ["H100", "L40S"],
        "precision": ["bf16", "fp8"],
        "tensor_parallel": [1, 2, 4],
        "blocks": [
            {
                **block,
                "models": "Qwen/Qwen3-8B",
                "hardware": "L40S",
                "precision": "fp8",
                "tensor_parallel": [2, 4],
            },
            {**block, "batch": 2},
        ],
    }
    tasks = tasks_of(data)
    first = [task for task in tasks if task.workload.batch == 1]
    assert len(first) == 2
    assert {(t.model_id, t.deployment.hardware, t.deployment.precision) for t in first} == {
        ("Qwen/Qwen3-8B", "L40S-48GB", "fp8")
    }
    assert len(tasks) - len(first) == 2 * 2 * 2 * 3


def test_image_tokens_come_from_the_model() -> None:
    data = {
        "name": "a",
        "models": ["Qwen/Qwen3-VL-8B-Instruct", "Qwen/Qwen3-8B"],
        "hardware": "H100",
        "blocks": [
            {
                "modality": "image",
                "batch": 1,
                "text_tokens": 100,
                "images": [1, 3],
                "image_size": [448, 672],
                "output_tokens": 8,
            }
        ],
    }
    sweep = build(data)
    models = load_models(sweep)
    expansion = expand_sweep(sweep, models)
    each = models["Qwen/Qwen3-VL-8B-Instruct"].visual_tokens(448, 672)
    assert each == (448 // 32) * (672 // 32)
    assert [t.workload.visual_tokens for t in expansion.tasks] == [each, 3 * each]
    assert [t.workload.input_tokens for t in expansion.tasks] == [100 + each, 100 + 3 * each]
    assert [t.workload.text_tokens for t in expansion.tasks] == [100, 100]
    assert {(t.workload.image_height, t.workload.image_width) for t in expansion.tasks} == {
        (448, 672)
    }
    assert [(d.model_id, d.reason, d.count) for d in expansion.dropped] == [
        ("Qwen/Qwen3-8B", SkipReason.NO_VISION_TOWER, 2)
    ]


def test_video_tokens_come_from_the_model() -> None:
    data = {
        "name": "a",
        "models": "Qwen/Qwen3-VL-8B-Instruct",
        "hardware": "H100",
        "blocks": [
            {
                "modality": "video",
                "batch": 1,
                "text_tokens": 10,
                "linked": {"frames": [8, 16], "frame_size": [[448, 448], [224, 224]]},
                "output_tokens": 8,
            }
        ],
    }
    sweep = build(data)
    facts = load_models(sweep)["Qwen/Qwen3-VL-8B-Instruct"]
    found = [
        (t.workload.frames, t.workload.visual_tokens) for t in expand(sweep, load_models(sweep))
    ]
    assert found == [(8, facts.video_tokens(8, 448, 448)), (16, facts.video_tokens(16, 224, 224))]


@pytest.mark.parametrize(
    ("change", "reason", "detail"),
    [
        ({"tensor_parallel": [1, 16]}, SkipReason.HEADS_NOT_DIVISIBLE, "24 heads over 16"),
        ({"pipeline_parallel": 65}, SkipReason.LAYERS_NOT_DIVISIBLE, "64 layers over 65"),
        ({"expert_parallel": 2}, SkipReason.EXPERTS_NOT_DIVISIBLE, "0 experts over 2"),
        ({"gpu_limit": 1, "data_parallel": [1, 2]}, SkipReason.GPU_LIMIT, "needs 2 GPUs"),
        ({"precision": ["bf16", "fp8"]}, SkipReason.PRECISION_NOT_SUPPORTED, "not fp8"),
    ],
)
def test_what_cannot_run_is_dropped_with_the_reason(
    change: dict[str, Any], reason: SkipReason, detail: str
) -> None:
    data = {
        "name": "a",
        "models": ["Qwen/Qwen3.5-27B", "Qwen/Qwen3-8B"],
        "hardware": "A100",
        "blocks": [{"batch": [1, 2], "input_tokens": 8, "output_tokens": 8}],
        **change,
    }
    sweep = build(data)
    dropped = expand_sweep(sweep, load_models(sweep)).dropped
    assert reason in {item.reason for item in dropped}
    assert detail in "\n".join(item.detail for item in dropped)
    assert all(item.count == 2 for item in dropped)


def test_a_sweep_of_which_nothing_can_run_is_refused() -> None:
    data = {
        "name": "a",
        "models": "Qwen/Qwen3-8B",
        "hardware": "A100",
        "precision": "fp8",
        "blocks": [{"batch": [1, 2], "input_tokens": 8, "output_tokens": 8}],
    }
    sweep = build(data)
    with pytest.raises(SweepError, match=r"2 precision_not_supported \(A100-SXM4-80GB has bf16"):
        expand(sweep, load_models(sweep))


def test_a_context_beyond_the_model_is_dropped() -> None:
    data = {
        "name": "a",
        "models": "nvidia/Nemotron-H-56B-Base-8K",
        "hardware": "H200",
        "blocks": [{"batch": 1, "input_tokens": [4096, 8000], "output_tokens": [192, 193]}],
    }
    sweep = build(data)
    expansion = expand_sweep(sweep, load_models(sweep))
    assert Counter(item.reason for item in expansion.dropped) == {SkipReason.CONTEXT_TOO_LONG: 1}
    assert max(task.workload.context_tokens for task in expansion.tasks) == 8192


def test_weights_in_four_bits_run_where_there_is_no_such_arithmetic() -> None:
    data = {
        "name": "a",
        "models": "openai/gpt-oss-20b",
        "hardware": ["H100", "A100"],
        "precision": "mxfp4",
        "blocks": [{"batch": 1, "input_tokens": 8, "output_tokens": 8}],
    }
    assert len(tasks_of(data)) == 2


def test_includes_are_added_after_excludes_and_sampling() -> None:
    data = {
        "name": "a",
        "models": "Qwen/Qwen3-8B",
        "hardware": "H100",
        "blocks": [{"batch": [1, 2, 4], "input_tokens": [8, 16], "output_tokens": 8}],
        "exclude": [{"batch": 1}],
        "sampling": {"method": "random", "size": 2},
        "include": [
            {
                "model": "Qwen/Qwen3-32B",
                "hardware": "L40S",
                "tensor_parallel": 4,
                "batch": 1,
                "input_tokens": 8,
                "output_tokens": 8,
            }
        ],
    }
    tasks = tasks_of(data)
    assert len(tasks) == 3
    assert tasks[-1].model_id == "Qwen/Qwen3-32B"
    assert tasks[-1].deployment.summary == "L40S-48GB t4 p1 bf16"
    assert tasks[-1].workload.batch == 1


def test_an_included_image_and_one_that_cannot_run() -> None:
    image = {
        "hardware": "H100",
        "modality": "image",
        "batch": 1,
        "text_tokens": 10,
        "images": 1,
        "image_size": [448, 448],
        "output_tokens": 8,
    }
    data = {
        "name": "a",
        "models": "Qwen/Qwen3-8B",
        "hardware": "H100",
        "include": [
            {"model": "Qwen/Qwen3-VL-8B-Instruct", **image},
            {"model": "Qwen/Qwen3-8B", **image},
        ],
    }
    sweep = build(data)
    expansion = expand_sweep(sweep, load_models(sweep))
    assert [task.workload.input_tokens for task in expansion.tasks] == [10 + 196]
    assert [item.reason for item in expansion.dropped] == [SkipReason.NO_VISION_TOWER]


def test_a_model_beside_the_sweep_keeps_the_name_it_has_there(
    tmp_path: Path, repository: Path
) -> None:
    packaged = repository / "harness" / "catalog" / "configs"
    text = (packaged / "Qwen--Qwen3-8B.json").read_text(encoding="utf-8")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "ACME--Tiny.json").write_text(text, encoding="utf-8")
    (tmp_path / "mine.json").write_text(text, encoding="utf-8")
    path = tmp_path / "sweep.yaml"
    path.write_text(
        "name: a\nmodels: [ACME/Tiny, mine.json]\nhardware: H100\n"
        "blocks: [{batch: 1, input_tokens: 8, output_tokens: 8}]\n",
        encoding="utf-8",
    )
    sweep = parse_sweep(path.read_text(encoding="utf-8"), path=path)
    models = load_models(sweep)
    assert [task.model_id for task in expand(sweep, models)] == ["ACME/Tiny", "mine.json"]
    assert models["mine.json"].layers == 36


def test_twenty_thousand_tasks_are_quick() -> None:
    import time

    data = {
        "name": "a",
        "models": ["Qwen/Qwen3-8B", "Qwen/Qwen3-30B-A3B"],
        "hardware": ["H100", "H200", "B200"],
        "tensor_parallel": [1, 2, 4, 8],
        "blocks": [
            {
                "batch": {"range": [1, 64], "factor": 2},
                "input_tokens": {"range": [128, 2048], "step": 128},
                "output_tokens": {"range": [32, 256], "step": 32},
            }
        ],
    }
    sweep = build(data)
    models = load_models(sweep)
    start = time.process_time()
    found = ids(expand(sweep, models))
    assert len(set(found)) == 21_504
    assert time.process_time() - start < 2.0
