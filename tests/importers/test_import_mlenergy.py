"""Import of ML.ENERGY v3: a small file by hand, the published files, and bad ones."""

from __future__ import annotations

import copy
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

from harness.errors import ImportDataError
from harness.importers import import_data
from harness.store import read_measurements

TOKENS: dict[str, Any] = {
    "model_id": "org/moe",
    "task": "gpqa",
    "architecture": "MoE",
    "total_params_billions": 30.5,
    "activated_params_billions": 3.3,
    "weight_precision": "bfloat16",
    "output_length_distribution": {"bins": [], "counts": []},
    "configurations": [
        {
            "gpu_model": "B200",
            "num_gpus": 4,
            "max_num_seqs": 64,
            "avg_batch_size": 63.5,
            "avg_output_len": 100.4,
            "avg_power_watts": 2000.0,
            "energy_per_token_joules": 0.5,
            "energy_per_request_joules": 50.2,
            "median_itl_ms": 12.5,
            "output_throughput_tokens_per_sec": 4000.0,
            "parallelization": {
                "tensor_parallel": 1,
                "expert_parallel": 4,
                "data_parallel": 1,
                "notes": "",
            },
        }
    ],
}
VIDEO: dict[str, Any] = {
    "model_id": "org/video",
    "task": "text-to-video",
    "total_params_billions": 2.0,
    "activated_params_billions": 2.0,
    "weight_precision": "bfloat16",
    "configurations": [
        {
            "gpu_model": "H100",
            "num_gpus": 4,
            "batch_size": 2,
            "batch_latency_s": 30.0,
            "energy_per_video_joules": 900.5,
            "avg_power_watts": 60.0,
            "fps": 16,
            "inference_steps": 50,
            "num_frames": 81,
            "video_height": 480,
            "video_width": 832,
            "parallelization": {"ulysses_degree": 2, "ring_degree": 2},
        }
    ],
}


def put(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value))
    return path


def imported(tmp_path: Path, *values: object) -> pd.DataFrame:
    source = tmp_path / "json"
    source.mkdir(exist_ok=True)
    for index, value in enumerate(values):
        put(source / f"{index}.json", value)
    import_data("mlenergy", source, tmp_path / "run")
    return read_measurements(tmp_path / "run")


def test_a_language_model_row(tmp_path: Path):
    row = imported(tmp_path, TOKENS).iloc[0]
    assert row["hardware"] == "B200-SXM6-180GB"
    assert (row["tensor_parallel"], row["expert_parallel"], row["num_gpus"]) == (4, 4, 4)
    assert row["family"] == "moe"
    assert row["precision"] == "bf16"
    assert (row["params_total"], row["params_active"]) == (30_500_000_000, 3_300_000_000)
    assert (row["batch"], row["output_tokens"]) == (64, 100)
    assert row["energy_per_output_token_j"] == 0.5
    assert row["total_energy_j"] == 50.2 * 64
    assert row["itl_s"] == 0.0125
    assert (row["task"], row["source"], row["meter"]) == ("gpqa", "ML.ENERGY v3", "zeus-nvml")
    assert row["provenance"] == "imported"
    assert row["valid"]
    assert row["repeats"] == 1
    for name in ("input_tokens", "prefill_energy_j", "decode_energy_j", "ttft_s", "idle_power_w"):
        assert np.isnan(row[name])
    assert pd.isna(row["measured_at"])


def test_a_diffusion_row_cannot_be_mistaken_for_tokens(tmp_path: Path):
    frame = imported(tmp_path, TOKENS, VIDEO)
    row = frame[frame["task"] == "text-to-video"].iloc[0]
    assert np.isnan(row["output_tokens"])
    assert np.isnan(row["energy_per_output_token_j"])
    assert np.isnan(row["itl_s"])
    assert row["total_energy_j"] == 900.5 * 2
    assert row["total_latency_s"] == 30.0
    assert (row["output_frames"], row["output_height"], row["output_width"]) == (81, 480, 832)
    assert (row["ulysses_degree"], row["ring_degree"], row["num_gpus"]) == (2, 2, 4)
    assert (row["diffusion_steps"], row["engine"]) == (50, "xdit")
    assert frame["output_tokens"].notna().sum() == 1


def test_attention_data_parallel_keeps_its_degrees(tmp_path: Path):
    value = copy.deepcopy(TOKENS)
    value["configurations"][0]["parallelization"]["data_parallel"] = 4
    row = imported(tmp_path, value).iloc[0]
    degrees = ["tensor_parallel", "expert_parallel", "data_parallel", "num_gpus"]
    assert row[degrees].tolist() == [1, 4, 4, 4]


def test_the_same_configuration_in_two_tasks_is_two_rows(tmp_path: Path):
    frame = imported(tmp_path, TOKENS, {**TOKENS, "task": "lm-arena-chat"})
    assert frame["task_id"].nunique() == 2


def test_repeats_become_one_row_with_an_interval(tmp_path: Path):
    value = copy.deepcopy(TOKENS)
    second = copy.deepcopy(value["configurations"][0])
    second |= {
        "avg_output_len": 110.0,
        "energy_per_token_joules": 0.6,
        "energy_per_request_joules": 66.0,
        "median_itl_ms": 13.5,
    }
    value["configurations"].append(second)
    frame = imported(tmp_path, value)
    assert len(frame) == 1
    row = frame.iloc[0]
    totals = [50.2 * 64, 66.0 * 64]
    assert row["repeats"] == 2
    assert row["total_energy_j"] == pytest.approx(statistics.mean(totals), rel=1e-15)
    assert row["energy_per_output_token_j"] == pytest.approx(0.55)
    assert row["output_tokens"] == 105
    assert row["itl_s"] == pytest.approx(0.013)
    half = student.ppf(0.975, 1) * statistics.stdev(totals) / np.sqrt(2)
    assert row["total_energy_j_ci95_j"] == pytest.approx(half)


def test_other_tasks_are_left_out_and_listed(tmp_path: Path):
    put(tmp_path / "a.json", TOKENS)
    put(tmp_path / "b.json", {**TOKENS, "task": "audio-chat"})
    summary = import_data("mlenergy", tmp_path, tmp_path / "run")
    assert summary.rows == 1
    assert [where for where, _ in summary.skipped] == ["b.json"]
    with pytest.raises(ImportDataError, match="None of the files"):
        import_data("mlenergy", tmp_path / "b.json", tmp_path / "other")


def test_an_unknown_gpu_keeps_its_name_with_a_note(tmp_path: Path):
    value = copy.deepcopy(TOKENS)
    value["configurations"][0]["gpu_model"] = "Z900"
    summary = import_data("mlenergy", put(tmp_path / "a.json", value), tmp_path / "run")
    assert summary.hardware == ["Z900"]
    assert "'Z900' is not in the catalog" in summary.notes[0]


def _set(path: str, value: object) -> object:
    out = copy.deepcopy(TOKENS)
    *outer, last = path.split("/")
    target: Any = out
    for key in outer:
        target = target[int(key) if key.isdigit() else key]
    if value is KeyError:
        del target[last]
    else:
        target[last] = value
    return out


ONE = "configurations/0/"
BAD: dict[str, tuple[object, str, str]] = {
    "no model": (_set("model_id", KeyError), "missing", "key model_id"),
    "no task": (_set("task", KeyError), "missing", "key task"),
    "other schema": ({"results": [1, 2]}, "missing", "key task"),
    "a list": ([TOKENS], "JSON list", "top level"),
    "no configurations": (_set("configurations", []), "not empty", "key configurations"),
    "odd configuration": (_set("configurations", [3]), "object", "configurations[0]"),
    "no energy": (
        _set(f"{ONE}energy_per_token_joules", KeyError),
        "missing",
        "key configurations[0].energy_per_token_joules",
    ),
    "negative energy": (
        _set(f"{ONE}energy_per_request_joules", -3.0),
        "above 0",
        "key configurations[0].energy_per_request_joules",
    ),
    "NaN energy": (_set(f"{ONE}energy_per_token_joules", float("nan")), "above 0", "per_token"),
    "null energy": (_set(f"{ONE}energy_per_token_joules", None), "a number", "per_token_joules"),
    "energy as text": (_set(f"{ONE}energy_per_token_joules", "0.5"), "a number", "per_token"),
    "energies that disagree": (
        _set(f"{ONE}energy_per_request_joules", 80.0),
        "avg_output_len",
        "energy_per_request_joules",
    ),
    "half a GPU": (_set(f"{ONE}num_gpus", 1.5), "whole", "configurations[0].num_gpus"),
    "GPUs and degrees disagree": (_set(f"{ONE}num_gpus", 8), "make 4 GPUs", "parallelization"),
    "no degree": (
        _set(f"{ONE}parallelization/tensor_parallel", KeyError),
        "missing",
        "configurations[0].parallelization.tensor_parallel",
    ),
    "degrees as text": (_set(f"{ONE}parallelization", "TP4"), "object", "parallelization"),
    "unknown architecture": (_set("architecture", "RNN"), "Dense Transformer", "key architecture"),
    "unknown precision": (_set("weight_precision", "fp5"), "bfloat16", "key weight_precision"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_by_key(tmp_path: Path, case):
    value, what, where = BAD[case]
    good = tmp_path / "json"
    good.mkdir()
    put(good / "a.json", TOKENS)
    path = put(good / "b.json", value)
    with pytest.raises(ImportDataError) as error:
        import_data("mlenergy", good, tmp_path / "run")
    assert what in str(error.value)
    assert where in str(error.value.where)
    assert str(path) in str(error.value.where)
    assert not (tmp_path / "run").exists()


def test_torn_files_and_empty_folders_are_refused(tmp_path: Path):
    torn = tmp_path / "torn.json"
    torn.write_text(json.dumps(TOKENS)[:200])
    with pytest.raises(ImportDataError, match=r"truncated") as error:
        import_data("mlenergy", torn, tmp_path / "run")
    assert "torn.json" in str(error.value)
    torn.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ImportDataError, match="not JSON"):
        import_data("mlenergy", torn, tmp_path / "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImportDataError, match="no JSON files"):
        import_data("mlenergy", tmp_path / "empty", tmp_path / "run")


# The published files.


@pytest.fixture(scope="module")
def published(shared_data: Path) -> Path:
    folder = shared_data / "mlenergy_v3" / "models"
    if not folder.is_dir():
        pytest.skip(f"the published files are not present: {folder}")
    return folder


@pytest.fixture(scope="module")
def table(published: Path, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    run = tmp_path_factory.mktemp("mlenergy") / "run"
    summary = import_data("mlenergy", published, run)
    assert summary.rows == 1395
    assert summary.skipped == []
    assert "3 configurations were measured more than once" in summary.notes[0]
    frame = read_measurements(run)
    again = import_data("mlenergy", published, run)
    assert again.rows == 1395
    pd.testing.assert_frame_equal(read_measurements(run), frame)
    return frame


def test_published_counts(published: Path, table: pd.DataFrame):
    # 550 configurations of language models, three of them twice; 534 image and 314 video ones.
    assert len(list(published.glob("*.json"))) == 44
    assert table.groupby("task").size().to_dict() == {
        "gpqa": 134,
        "lm-arena-chat": 269,
        "sourcegraph-fim": 50,
        "image-chat": 94,
        "text-to-image": 534,
        "text-to-video": 314,
    }
    tokens = table[table["output_tokens"].notna()]
    assert len(tokens) == 547
    assert tokens["family"].value_counts().to_dict() == {"moe": 318, "dense": 200, "ssm": 29}
    assert set(tokens.loc[tokens["family"] == "ssm", "model_id"]) == {
        "nvidia/NVIDIA-Nemotron-Nano-9B-v2"
    }
    assert table["hardware"].value_counts().to_dict() == {
        "H100-SXM5-80GB": 690,
        "B200-SXM6-180GB": 705,
    }
    assert table["repeats"].value_counts().to_dict() == {1: 1392, 2: 3}
    assert table["valid"].all()
    assert (table["provenance"] == "imported").all()


def test_published_energy_per_token_is_kept_exactly(published: Path, table: pd.DataFrame):
    names = ["model_id", "task", "hardware", "num_gpus", "data_parallel", "batch"]
    tokens = table[table["output_tokens"].notna()]
    found = tokens.set_index(names)[["energy_per_output_token_j", "total_energy_j"]].sort_index()
    hardware = {"H100": "H100-SXM5-80GB", "B200": "B200-SXM6-180GB"}
    published_values: dict[tuple[object, ...], list[tuple[float, float]]] = {}
    for path in published.glob("*.json"):
        value = json.loads(path.read_text())
        if "architecture" not in value:
            continue
        for one in value["configurations"]:
            key = (
                value["model_id"],
                value["task"],
                hardware[one["gpu_model"]],
                one["num_gpus"],
                one["parallelization"]["data_parallel"],
                one["max_num_seqs"],
            )
            joules = (
                one["energy_per_token_joules"],
                one["energy_per_request_joules"] * one["max_num_seqs"],
            )
            published_values.setdefault(key, []).append(joules)
    assert len(published_values) == len(found) == 547
    single = 0
    for key, values in published_values.items():
        row = found.loc[key]
        if len(values) == 1:
            single += 1
            assert tuple(row) == values[0]
        else:
            means = [statistics.fmean(v) for v in zip(*values, strict=True)]
            assert row.tolist() == pytest.approx(means, rel=1e-14)
    assert single == 544


def test_published_repeats_spread_as_the_source_says(table: pd.DataFrame):
    twice = table[table["repeats"] == 2]
    # Two values a, b: half width = 12.706 |a - b| / 2.
    spread = 2 * twice["total_energy_j_ci95_j"] / 12.706 / twice["total_energy_j"]
    assert sorted(spread.round(2)) == [0.08, 0.09, 0.17]


def test_published_rows_come_back_through_a_table(table: pd.DataFrame, tmp_path: Path):
    table.to_parquet(tmp_path / "t.parquet")
    summary = import_data("table", tmp_path / "t.parquet", tmp_path / "run")
    assert summary.notes == []
    pd.testing.assert_frame_equal(read_measurements(tmp_path / "run"), table)
