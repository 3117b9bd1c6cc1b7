"""Levers and divergence on tables small enough to count by hand."""

from __future__ import annotations

import pandas as pd
import pytest

from fitting import divergence
from fitting.levers import levers

BASE = {
    "model_id": "a/M",
    "hardware": "H",
    "family": "dense",
    "modality": "text",
    "precision": "bf16",
    "batch": 1,
    "input_tokens": 100,
    "visual_tokens": 0,
    "output_tokens": 10,
    "tensor_parallel": 1,
    "pipeline_parallel": 1,
    "num_gpus": 1,
    "total_energy_j": 100.0,
    "prefill_energy_j": 20.0,
    "total_energy_j_ci95_j": 0.5,
    "total_latency_s": 1.0,
}


def table(*rows: dict[str, object]) -> pd.DataFrame:
    return pd.DataFrame([{**BASE, **row} for row in rows])


def lever(frame: pd.DataFrame, name: str) -> dict:
    return next(record for record in levers(frame) if record["lever"] == name)


def test_reduced_precision_counts_by_hand():
    rows = []
    for t, energies in ((1, (100.0, 130.0)), (2, (120.0, 90.0)), (4, (150.0, 150.4))):
        for precision, energy in zip(("bf16", "int4"), energies, strict=True):
            rows.append(
                {"precision": precision, "tensor_parallel": t, "num_gpus": t}
                | {"total_energy_j": energy}
            )
    found = lever(table(*rows), "int4 weights")
    assert found["cases"] == 3
    assert found["share_backfires"] == pytest.approx(1 / 3)  # 0.4 J is within the intervals
    assert found["mean_change"] == pytest.approx((0.3 - 0.25 + 0.4 / 150) / 3)
    assert found["worst_change"] == pytest.approx(0.3)
    assert found["best_change"] == pytest.approx(-0.25)
    assert found["worst"]["precision"] == "bf16 to int4"
    assert found["worst"]["tensor_parallel"] == 1
    by = {r["group"]: r for r in found["by"] if r["kind"] == "tensor_parallel"}
    assert by[1]["share_backfires"] == 1.0
    assert by[2]["share_backfires"] == 0.0


def test_a_larger_batch_is_compared_per_output_token():
    energies = {1: 100.0, 2: 150.0, 8: 800.0}
    rows = [{"batch": b, "total_energy_j": e} for b, e in energies.items()]
    found = lever(table(*rows), "larger batch")
    assert found["cases"] == 2
    assert found["share_backfires"] == 0.5
    assert found["worst_change"] == pytest.approx(800 / 8 / (150 / 2) - 1)
    assert found["best_change"] == pytest.approx(150 / 2 / 100 - 1)


def test_tensor_and_pipeline_steps():
    rows = [
        {"tensor_parallel": 1, "num_gpus": 1, "total_energy_j": 100.0},
        {"tensor_parallel": 2, "num_gpus": 2, "total_energy_j": 130.0},
        {"pipeline_parallel": 2, "num_gpus": 2, "total_energy_j": 104.0},
    ]
    frame = table(*rows)
    assert lever(frame, "larger t")["cases"] == 1
    assert lever(frame, "larger t")["mean_change"] == pytest.approx(0.3)
    found = lever(frame, "pipeline for tensor")
    assert found["cases"] == 1
    assert found["mean_change"] == pytest.approx(104 / 130 - 1)
    assert found["share_backfires"] == 0.0
    assert found["where"] is None


def test_video_is_held_against_the_same_text_prompt():
    frame = table(
        {},
        {"modality": "video", "input_tokens": 1100, "visual_tokens": 1000, "frames": 8}
        | {"total_energy_j": 300.0, "prefill_energy_j": 200.0},
        {"modality": "video", "input_tokens": 1200, "visual_tokens": 1000, "frames": 8}
        | {"total_energy_j": 900.0, "prefill_energy_j": 800.0},
    )
    found = lever(frame, "video input")
    assert found["cases"] == 1  # the second has a longer text prompt than any text row
    assert found["mean_change"] == pytest.approx(2.0)
    assert found["mean_prefill_ratio"] == pytest.approx(10.0)


def test_what_differs_in_anything_else_is_no_case():
    frame = table({}, {"precision": "fp8", "hardware": "Z"}, {"precision": "fp8", "batch": 2})
    assert levers(frame) == []
    assert levers(table({}).assign(input_tokens=None)) == []


def test_divergence_says_where():
    rows = []
    for batch, slow in ((1, 80.0), (8, 110.0)):
        rows += [
            {"batch": batch, "tensor_parallel": 2, "num_gpus": 2, "total_latency_s": 1.0},
            {"batch": batch, "pipeline_parallel": 2, "num_gpus": 2, "total_latency_s": 2.0}
            | {"total_energy_j": slow},
        ]
    found = divergence(table(*rows))
    assert found["share"] == 0.5
    by = {(r["kind"], r["group"]): r for r in found["by"]}
    assert by["batch", 1]["share"] == 1.0
    assert by["batch", 1]["max_penalty"] == pytest.approx(0.25)
    assert by["batch", 8]["share"] == 0.0
    assert by["num_gpus", 2]["scenarios"] == 2
    # With the batch free: the fastest is 100 J for 10 tokens, the best 100 J for 80.
    free = found["batch_free"]
    assert free["scenarios"] == 1
    assert free["share"] == 1.0
    assert found["all_free"]["scenarios"] == 2
