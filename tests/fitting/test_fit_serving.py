"""The pooled law for serving rows, on known truths and on imported data."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fitting import evaluate, fit_frame
from fitting.serving import TERMS, design, fit_serving
from harness.store import FitError

SCALE = {"a/S-8B": 1.0, "a/M-32B": 1.3, "a/L-70B": 0.8}
SIZE = {"a/S-8B": 8e9, "a/M-32B": 32e9, "a/L-70B": 70e9}
TRUE = np.array([0.08, 0.001, 0.6, 0.02])


def serving(noise=0.03, seed=0):
    rows = [
        {
            "model_id": m,
            "task": task,
            "hardware": h,
            "batch": b,
            "num_gpus": g,
            "precision": q,
            "tensor_parallel": g,
            "family": "dense",
            "modality": "text",
            "output_tokens": 500,
            "params_total": SIZE[m],
            "params_active": SIZE[m],
            "itl_s": 0.01 / g,
        }
        for m in SIZE
        for task in ("chat", "qa")
        for h in ("H100", "B200")
        for b in (16, 64, 256)
        for g in (1, 2, 4)
        for q in ("bf16",)
    ]
    frame = pd.DataFrame(rows)
    scale = frame["model_id"].map(SCALE) * np.where(frame["hardware"] == "B200", 0.7, 1.0)
    rng = np.random.default_rng(seed)
    frame["energy_per_output_token_j"] = (
        design(frame) @ TRUE * scale * np.exp(noise * rng.standard_normal(len(frame)))
    )
    frame["total_energy_j"] = frame["energy_per_output_token_j"] * frame["batch"] * 500
    return frame.assign(
        provenance="imported",
        valid=True,
        input_tokens=np.nan,
        task_id=[f"{i}" for i in range(len(frame))],
    )


def test_scales_of_models_and_hardware_come_back():
    law = fit_serving(serving())
    hardware = law.scales["hardware"]
    assert np.exp(hardware["B200"] - hardware["H100"]) == pytest.approx(0.7, rel=0.05)
    models = law.scales["model_id"]
    assert np.exp(models["a/M-32B"] - models["a/L-70B"]) == pytest.approx(1.3 / 0.8, rel=0.25)
    frame = serving(noise=0.0)
    assert np.abs(law.predict(frame) / frame["energy_per_output_token_j"] - 1).mean() < 0.08


def test_an_unknown_model_gets_the_shared_law():
    law = fit_serving(serving())
    other = serving().assign(model_id="b/New")
    energy = law.predict(other)
    assert np.isfinite(energy).all()
    assert (energy > 0.0).all()


def test_terms_grow_and_fall_as_they_should():
    frame = serving().iloc[[0]]
    base = design(frame)[0]
    assert base.shape == (len(TERMS),)
    assert design(frame.assign(batch=32))[0][0] == pytest.approx(base[0] / 2)
    assert design(frame.assign(precision="fp8"))[0][0] == pytest.approx(base[0] / 2)
    assert design(frame.assign(num_gpus=2))[0][2] == pytest.approx(2 * base[2])


def test_too_few_rows_are_refused():
    with pytest.raises(FitError, match="too few"):
        fit_serving(serving().iloc[:5])


def test_evaluation_takes_the_serving_path_and_says_so():
    found = evaluate(serving(), classes=("S1", "S2", "S3"))
    assert any("energylens_serving stands in" in note for note in found.notes)
    assert any("S1 has no scenario" in note for note in found.notes)
    overall = found.scores[found.scores["group_kind"] == "all"].set_index(
        ["scenario_class", "method"]
    )
    assert overall.loc[("S2", "fewest_gpus"), "scenarios"] == 36
    assert overall.loc[("S3", "energylens_serving"), "scenarios"] == 18
    assert overall.loc[("S2", "energylens_serving"), "top1"] > 0.9
    assert overall.loc[("S3", "energylens_serving"), "top1"] > 0.9
    assert not found.predictions["fitted"].any()


def test_precision_variants_are_one_model():
    frame = serving()
    twin = frame[frame["model_id"] == "a/L-70B"].assign(model_id="a/L-70B-FP8", precision="fp8")
    both = pd.concat([frame, twin], ignore_index=True)
    found = evaluate(both, classes=("S1",), methods=("fewest_gpus",))
    overall = found.scores[found.scores["group_kind"] == "all"].iloc[0]
    assert overall["scenarios"] == 36


def test_generation_rows_without_tokens_are_left_out():
    images = serving().assign(energy_per_output_token_j=np.nan, output_tokens=np.nan)
    both = pd.concat([serving(), images], ignore_index=True)
    found = evaluate(both, classes=("S2",), methods=("fewest_gpus",))
    assert any(note.startswith(f"{len(images)} rows are left out") for note in found.notes)
    with pytest.raises(FitError, match="too few"):
        evaluate(images)


def test_a_fit_by_phase_refuses_them_with_the_reason():
    with pytest.raises(FitError, match="input_tokens"):
        fit_frame(serving())


def test_published_data_from_end_to_end(shared_data, tmp_path):
    from harness.importers import import_data
    from harness.store import read_measurements

    out = tmp_path / "run"
    import_data("mlenergy", shared_data / "mlenergy_v3", out)
    frame = read_measurements(out)
    found = evaluate(frame, classes=("S2",), methods=("energylens_serving", "fewest_gpus"))
    overall = found.scores[found.scores["group_kind"] == "all"].set_index("method")
    assert overall.loc["energylens_serving", "scenarios"] >= 50
    law, rule = overall.loc["energylens_serving"], overall.loc["fewest_gpus"]
    assert law["mean_regret"] < rule["mean_regret"]
    assert law["median_ape"] < 0.3
