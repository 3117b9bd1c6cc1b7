"""Sampling: sizes, seeds, coverage of every axis, and whole workloads."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.spec import Sweep, Task, expand, load_models, parse_sweep
from harness.spec.sampling import apportion, latin_hypercube

TEXT = """
name: sampled
models: [Qwen/Qwen3-8B, Qwen/Qwen3-30B-A3B]
hardware: [H100, H200, B200]
tensor_parallel: [1, 2, 4, 8]
pipeline_parallel: [1, 2, 4]
gpu_limit: 8
blocks:
  - batch: {range: [1, 64], factor: 2}
    input_tokens: [128, 512, 2048]
    output_tokens: [32, 128]
"""


def sampled(line: str) -> list[Task]:
    sweep = parse_sweep(TEXT + line)
    return expand(sweep, load_models(sweep))


def full_grid(lengths: list[int]) -> Any:
    return np.stack(np.unravel_index(np.arange(np.prod(lengths)), lengths), axis=1)


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    size=st.integers(1, 60),
    seed=st.integers(0, 1000),
)
def test_hypercube_covers_every_value_of_every_axis(
    lengths: list[int], size: int, seed: int
) -> None:
    grid = full_grid(lengths)
    if size >= len(grid):
        return
    chosen = latin_hypercube(grid, size, seed)
    assert len(set(chosen.tolist())) == size
    for axis, length in enumerate(lengths):
        covered = set(grid[chosen, axis].tolist())
        assert len(covered) >= min(length, size) if size >= max(lengths) else covered


@given(lengths=st.lists(st.integers(2, 8), min_size=2, max_size=3), seed=st.integers(0, 1000))
def test_hypercube_covers_what_a_grid_with_holes_has(lengths: list[int], seed: int) -> None:
    grid = full_grid(lengths)
    rare = (grid[:, 0] == lengths[0] - 1) & (grid[:, 1:].sum(axis=1) > 0)
    rows = grid[~rare]
    size = sum(lengths)
    if size >= len(rows):
        return
    chosen = latin_hypercube(rows, size, seed)
    assert len(set(chosen.tolist())) == size
    for axis in range(len(lengths)):
        assert set(rows[chosen, axis]) == set(rows[:, axis])


def test_hypercube_shares_a_full_axis_evenly() -> None:
    grid = full_grid([7, 6, 5, 9])
    chosen = grid[latin_hypercube(grid, 126, 3)]
    for axis, length in enumerate([7, 6, 5, 9]):
        counts = Counter(chosen[:, axis].tolist())
        assert len(counts) == length
        assert max(counts.values()) - min(counts.values()) <= 0.25 * 126 / length


@pytest.mark.parametrize("method", ["random", "latin_hypercube"])
def test_size_seed_and_order(method: str) -> None:
    everything = [task.task_id for task in sampled("")]
    found = [task.task_id for task in sampled(f"sampling: {{method: {method}, size: 100}}")]
    again = [
        task.task_id for task in sampled(f"sampling: {{method: {method}, size: 100, seed: 0}}")
    ]
    other = [
        task.task_id for task in sampled(f"sampling: {{method: {method}, size: 100, seed: 1}}")
    ]
    assert len(set(found)) == 100
    assert found == again
    assert set(found) != set(other)
    assert found == [task_id for task_id in everything if task_id in set(found)]


def test_a_size_beyond_the_grid_keeps_everything() -> None:
    assert len(sampled("sampling: {method: random, size: 99999}")) == len(sampled(""))


def test_sampling_over_workloads_keeps_every_deployment_of_each() -> None:
    tasks = sampled("sampling: {method: latin_hypercube, size: 8, over: workloads}")
    workloads = Counter(task.workload for task in tasks)
    assert len(workloads) == 8
    deployments = {(task.model_id, task.deployment) for task in sampled("")}
    assert set(workloads.values()) == {len(deployments)}
    assert {task.workload.batch for task in tasks} == {1, 2, 4, 8, 16, 32, 64}


def test_a_sampled_axis_is_covered_through_the_sweep() -> None:
    tasks = sampled("sampling: {method: latin_hypercube, size: 60, seed: 5}")
    assert {task.deployment.hardware for task in tasks} == {
        "H100-SXM5-80GB",
        "H200-SXM5-141GB",
        "B200-SXM6-180GB",
    }
    assert {task.workload.batch for task in tasks} == {1, 2, 4, 8, 16, 32, 64}
    assert {task.deployment.pipeline_parallel for task in tasks} == {1, 2, 4}


def test_blocks_share_a_size_and_own_sampling_comes_first() -> None:
    text = TEXT + (
        "  - {batch: 3, input_tokens: [128, 256, 512], output_tokens: 7}\n"
        "  - {batch: 5, input_tokens: 128, output_tokens: [7, 8, 9],\n"
        "     sampling: {method: random, size: 4}}\n"
        "sampling: {method: random, size: 50}\n"
    )
    sweep = parse_sweep(text)
    tasks = expand(sweep, load_models(sweep))
    batches = Counter(task.workload.batch for task in tasks)
    assert len(tasks) == 54
    assert batches[5] == 4
    assert batches[3] == round(50 * 3 / 45)


@given(st.lists(st.integers(0, 100), min_size=1, max_size=6), st.integers(0, 400))
def test_apportion_keeps_the_sum_and_the_limits(weights: list[int], size: int) -> None:
    shares = apportion(size, weights)
    assert sum(shares) == min(size, sum(weights))
    assert all(0 <= share <= weight for share, weight in zip(shares, weights, strict=True))
    if size >= sum(1 for weight in weights if weight):
        assert all(share > 0 for share, weight in zip(shares, weights, strict=True) if weight)


def test_a_sweep_is_a_value() -> None:
    assert isinstance(parse_sweep(TEXT), Sweep)
    assert parse_sweep(TEXT) == parse_sweep(TEXT)
