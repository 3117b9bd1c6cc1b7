"""The pooled law for serving rows, on known truths and on imported data."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fitting import evaluate, fit_frame, load_fit
from fitting.facts import Facts
from fitting.serving import fit_serving, from_dict, serving_rows
from fitting.serving.shapes import REFERENCE, estimate, shapes_of
from fitting.serving.splits import choices, few_rows, groups, leave_one_out
from fitting.serving.terms import PARAMETERS, Tasks, log_energy, priors, step_energy, values
from harness.store import FitError

SCALE = {"a/S-8B": 1.0, "a/M-32B": 1.3, "a/L-70B": 0.8}
SIZE = {"a/S-8B": 8e9, "a/M-32B": 32e9, "a/L-70B": 70e9}
TASKS = Tasks(("chat", "qa"))


def truth():
    """A vector of parameters away from the centre of the priors."""
    vector = priors(TASKS)[0]
    moved = {"read": 0.3, "compute": -0.3, "request": 0.4}
    for i, parameter in enumerate(PARAMETERS):
        vector[i] += moved.get(parameter.name, 0.0)
    vector[-4:] = (0.5, -0.5, -0.3, 0.4)
    return vector


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
    law = log_energy(shapes_of(frame, Facts()), truth(), TASKS, TASKS.indices(list(frame["task"])))
    frame["energy_per_output_token_j"] = (
        np.exp(law) * scale * np.exp(noise * rng.standard_normal(len(frame)))
    )
    frame["total_energy_j"] = frame["energy_per_output_token_j"] * frame["batch"] * 500
    return frame.assign(
        provenance="imported",
        valid=True,
        input_tokens=np.nan,
        task_id=[f"{i}" for i in range(len(frame))],
    )


@pytest.fixture(scope="module")
def law():
    return fit_serving(serving())


@pytest.fixture(scope="module")
def published(shared_data, tmp_path_factory):
    from harness.importers import import_data
    from harness.store import read_measurements

    out = tmp_path_factory.mktemp("mlenergy") / "run"
    import_data("mlenergy", shared_data / "mlenergy_v3", out)
    frame = read_measurements(out)
    return frame


def test_scales_of_models_and_hardware_come_back(law):
    hardware = {k: m for k, (m, _) in law.effects["hardware:scale"].items()}
    pair = {k: m for k, (m, _) in law.effects["_backbone+hardware:scale"].items()}
    told = hardware["B200"] - hardware["H100"]
    told += np.mean([pair[f"{m} | B200"] - pair[f"{m} | H100"] for m in SIZE])
    assert np.exp(told) == pytest.approx(0.7, rel=0.1)
    frame = serving(noise=0.0)
    error = law.predict_per_token(frame) / frame["energy_per_output_token_j"] - 1
    assert np.abs(error).mean() < 0.05


def test_intervals_hold_new_measurements_of_known_configurations(law):
    frame = serving(seed=1)
    low, high = law.interval_per_token(frame)
    inside = (low <= frame["energy_per_output_token_j"]) & (
        frame["energy_per_output_token_j"] <= high
    )
    assert inside.mean() > 0.9


def test_unknown_names_get_the_shared_law_and_wider_intervals(law):
    frame = serving()
    low, high = law.interval_per_token(frame)
    for change in ({"model_id": "b/New"}, {"task": "new"}, {"hardware": "X100"}):
        other = frame.assign(**change)
        energy = law.predict_per_token(other)
        assert np.isfinite(energy).all()
        assert (energy > 0.0).all()
        wide_low, wide_high = law.interval_per_token(other)
        assert (wide_high / wide_low > high / low).all()


def test_what_it_covers(law):
    frame = serving()
    assert law.covers(frame).all()
    assert not law.covers(frame.assign(hardware="X100")).any()
    facts = Facts({"X100": replace(REFERENCE, hardware="X100")})
    assert law.covers(frame.assign(hardware="X100"), facts).all()
    assert not law.covers(frame.assign(input_tokens=100)).any()
    assert not law.covers(frame.drop(columns=["params_total", "params_active"])).any()
    assert not law.covers(frame.drop(columns="batch")).any()


def test_totals_and_phases(law):
    frame = serving().iloc[:4]
    phases = law.predict_phases(frame)
    assert phases.index.equals(frame.index)
    assert phases["prefill_energy_j"].isna().all()
    assert np.allclose(phases["total_energy_j"], law.predict(frame))
    assert np.allclose(law.predict(frame), law.predict_per_token(frame) * frame["batch"] * 500)
    assert (phases["total_energy_j_lo"] < phases["total_energy_j"]).all()
    assert (phases["total_energy_j"] < phases["total_energy_j_hi"]).all()
    assert np.isnan(law.predict(frame.drop(columns="output_tokens"))).all()


def test_outcomes_are_no_inputs(law):
    frame = serving()
    other = frame.assign(output_tokens=7.0, itl_s=9.0, total_energy_j=1.0)
    other["energy_per_output_token_j"] = 1.0
    assert np.array_equal(law.predict_per_token(frame), law.predict_per_token(other))


def test_json_round_trip(law):
    text = json.dumps(law.to_dict(), allow_nan=False)
    again = from_dict(json.loads(text))
    frame = serving()
    assert np.allclose(again.predict(frame), law.predict(frame))
    assert np.allclose(again.interval_per_token(frame), law.interval_per_token(frame))
    assert again.formula() == law.formula()
    assert again.provenance == {"imported": len(frame)}
    assert json.dumps(again.to_dict()) == text
    with pytest.raises(FitError, match="numbers"):
        from_dict({**json.loads(text), "vector": [1.0]})


def test_the_formula_names_every_parameter_with_its_unit(law):
    text = law.formula()
    for parameter in PARAMETERS:
        assert parameter.name in text
        assert parameter.meaning in text


def test_limits_of_the_shared_law():
    frame = pd.concat([serving().iloc[[0]]] * 8, ignore_index=True)
    frame["batch"] = 2.0 ** np.arange(8)
    vector = truth()
    index = TASKS.indices(list(frame["task"]))

    def energy(rows):
        return np.exp(log_energy(shapes_of(rows, Facts()), vector, TASKS, index))

    by_batch = energy(frame)
    assert (np.diff(by_batch) < 0.0).all()
    shapes = shapes_of(frame, Facts())
    parts, running = step_energy(shapes, vector, np.zeros(8), np.zeros(8))
    floor = sum(parts[k] for k in ("cache", "decode", "prefill", "requests")) / running
    assert (by_batch > 0.5 * floor).all()
    by_gpus = energy(frame.assign(batch=64, num_gpus=2.0 ** np.arange(8), tensor_parallel=1))
    assert (np.diff(by_gpus) > 0.0).all()
    assert (energy(frame.assign(precision="fp8")) < by_batch).all()


def test_a_mixture_of_experts_reads_more_experts_with_more_requests():
    frame = serving().iloc[[0, 0, 0]].assign(params_total=30e9, params_active=3e9)
    frame["batch"] = [1, 32, 4096]
    shapes = shapes_of(frame, Facts())
    parts, _ = step_energy(shapes, truth(), np.zeros(3), np.zeros(3))
    p = values(truth())
    full = p["read"] * 1e-9 * 2.0 * (shapes.dense + p["grouped"] * shapes.expert)
    assert parts["weights"][0] < 0.5 * full[0]
    assert parts["weights"][0] < parts["weights"][1] < parts["weights"][2]
    assert parts["weights"][2] == pytest.approx(full[2], rel=0.05)


def test_architectures_are_estimated_from_sizes():
    dense, experts = estimate("x", 8e9, 8e9), estimate("y", 30e9, 3e9)
    assert 28 <= dense.layers <= 40
    assert dense.experts == 0
    assert experts.experts > experts.experts_per_token > 0
    assert estimate("z", 30e9, float("nan")).experts == 0
    with pytest.raises(FitError, match="size"):
        estimate("w", float("nan"), float("nan"))


def test_few_rows_of_a_new_model_move_its_scale():
    frame = serving(noise=0.02)
    new = frame["model_id"] == "a/M-32B"
    shared = fit_serving(frame[~new])
    picked = frame.index[few_rows(frame, Facts(), "a/M-32B", 5, seed=0)]
    adapted = fit_serving(frame.loc[[*frame.index[~new], *picked]], shared=shared)
    rest = frame[new].drop(index=picked)
    target = rest["energy_per_output_token_j"]
    before = np.abs(shared.predict_per_token(rest) / target - 1).mean()
    after = np.abs(adapted.predict_per_token(rest) / target - 1).mean()
    assert after < 0.6 * before
    assert np.array_equal(adapted.vector, shared.vector)


def test_splits_keep_siblings_together():
    known = estimate("a/S-8B", 8e9, 8e9)
    facts = Facts(models={m: replace(known, backbone="one") for m in ("a/S-8B", "a/M-32B")})
    frame = serving()
    twin = frame[frame["model_id"] == "a/L-70B"].assign(model_id="a/L-70B-FP8")
    rows = pd.concat([frame, twin], ignore_index=True)
    for kind in ("model", "hardware", "task"):
        names = groups(rows, kind, facts)
        seen = np.zeros(len(rows), dtype=int)
        for split in leave_one_out(rows, kind, facts):
            assert not (split.train & split.test).any()
            assert not set(names[split.train]) & set(names[split.test])
            seen += split.test
        assert (seen == 1).all()
    assert len(set(groups(rows, "model", facts))) == 2
    with pytest.raises(FitError, match="Unknown split"):
        groups(rows, "moon", facts)
    found = choices(rows)
    assert found.shape == (36, 6)


def test_bad_rows_are_refused():
    with pytest.raises(FitError, match="too few"):
        fit_serving(serving().iloc[:5])
    with pytest.raises(FitError, match="no energy"):
        fit_serving(serving().assign(energy_per_output_token_j=np.nan))
    with pytest.raises(FitError, match="no batch"):
        fit_serving(serving().assign(batch=np.nan))


def test_evaluation_takes_the_serving_path_and_says_so():
    found = evaluate(
        serving(), classes=("S1", "S2", "S3"), methods=("energylens_serving", "fewest_gpus")
    )
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


def test_a_fit_file_keeps_the_law(tmp_path):
    frame = serving()
    fit = fit_frame(frame)
    assert [law.name for law in fit.pooled] == ["energylens_serving"]
    fit.save(tmp_path / "fit.json")
    again = load_fit(tmp_path / "fit.json")
    assert np.allclose(again.predict(frame), fit.predict(frame))


def test_published_data_from_end_to_end(published):
    found = evaluate(published, classes=("S2",), methods=("energylens_serving", "fewest_gpus"))
    overall = found.scores[found.scores["group_kind"] == "all"].set_index("method")
    assert overall.loc["energylens_serving", "scenarios"] >= 50
    law, rule = overall.loc["energylens_serving"], overall.loc["fewest_gpus"]
    assert law["mean_regret"] < rule["mean_regret"]
    assert law["median_ape"] < 0.3


def test_published_gpu_types_are_foretold(published):
    from energylens.facts import facts_for

    rows = serving_rows(published).reset_index(drop=True)
    facts = facts_for(rows)
    target = rows["energy_per_output_token_j"].to_numpy(dtype=float)
    errors, inside = [], []
    for split in leave_one_out(rows, "hardware", facts):
        law = fit_serving(rows[split.train], facts)
        low, high = law.interval_per_token(rows[split.test], facts)
        energy = law.predict_per_token(rows[split.test], facts)
        errors.append(np.abs(energy / target[split.test] - 1))
        inside.append((low <= target[split.test]) & (target[split.test] <= high))
    assert np.concatenate(errors).mean() < 0.19
    assert np.concatenate(inside).mean() > 0.9
