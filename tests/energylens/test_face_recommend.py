"""Recommendation on a run whose best configuration is known."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import face_data
import numpy as np
import pandas as pd
import pytest

import energylens
from energylens.recommendation import Limits, Recommendation, Request, recommend
from energylens.recommendation.command import checkpoint_note, vllm_command
from harness.errors import EnergyLensError, FitError

SMALL, LARGE = face_data.MODELS
WORKLOADS = [(1, 256, 32), (16, 1024, 256), (64, 4096, 256), (10, 700, 99), (32, 3000, 200)]


def ask(law, table, workload=(16, 1024, 256), *, model: str = LARGE, **more) -> Recommendation:
    batch, n, m = workload
    limits = Limits(**{k: more.pop(k) for k in ("max_gpus", "ttft_s", "tpot_s") if k in more})
    request = Request(
        model_id=model, batch=(batch,), input_tokens=n, output_tokens=m, limits=limits, **more
    )
    return recommend(law, request, table)


def truth(workload, *, model: str = LARGE, hardware: str | None = None) -> pd.DataFrame:
    """Every layout with its noise-free energy and latency."""
    batch, n, m = workload
    frames = [
        face_data.configurations(model, name)
        .drop_duplicates(["tensor_parallel", "pipeline_parallel"])
        .assign(batch=batch, input_tokens=n, output_tokens=m)
        for name in face_data.HARDWARE
        if hardware in (None, name)
    ]
    frame = pd.concat(frames, ignore_index=True)
    energy = face_data.energies(frame).sum(axis=1)
    return frame.assign(energy_j=energy).join(face_data.latencies(frame))


def same(choice, row) -> bool:
    return (choice.hardware, choice.tensor_parallel, choice.pipeline_parallel) == (
        row["hardware"],
        row["tensor_parallel"],
        row["pipeline_parallel"],
    )


@pytest.mark.parametrize("workload", WORKLOADS)
def test_the_true_best_is_chosen_or_one_within_the_regret_bound(law, table, workload) -> None:
    answer = ask(law, table, workload)
    rows = truth(workload)
    chosen = rows[[same(answer.best, row) for _, row in rows.iterrows()]].iloc[0]
    regret = chosen["energy_j"] / rows["energy_j"].min() - 1
    assert regret <= max(answer.regret_bound, 0.01)
    assert answer.best.total_energy_j == pytest.approx(chosen["energy_j"], rel=0.1)


def test_the_intervals_hold_the_truth_about_as_often_as_they_say(law, table) -> None:
    held = []
    for workload in WORKLOADS:
        rows = truth(workload)
        for choice in ask(law, table, workload).candidates:
            energy = next(row["energy_j"] for _, row in rows.iterrows() if same(choice, row))
            held.append(choice.total_energy_lo_j <= energy <= choice.total_energy_hi_j)
    assert np.mean(held) >= 0.9


@pytest.mark.parametrize("workload", WORKLOADS)
def test_limits_are_met_by_the_best_of_those_that_meet_them(law, table, workload) -> None:
    rows = truth(workload)
    limit = float(rows["itl_s"].quantile(0.3)) * 1.001
    answer = ask(law, table, workload, tpot_s=limit, max_gpus=4)
    allowed = rows[(rows["itl_s"] <= limit) & (rows["num_gpus"] <= 4)]
    assert answer.met is bool(len(allowed))
    if answer.met:
        best = allowed.loc[allowed["energy_j"].idxmin()]
        chosen = rows[[same(answer.best, row) for _, row in rows.iterrows()]].iloc[0]
        assert chosen["energy_j"] <= 1.01 * best["energy_j"]
        assert answer.best.tpot_s <= limit
        assert answer.best.num_gpus <= 4
        assert all(c.over_limits for c in answer.candidates[len(allowed) :])


def test_the_fastest_choice_and_its_penalty_are_told(law, table) -> None:
    answer = ask(law, table)
    rows = truth((16, 1024, 256))
    fastest = rows.loc[rows["total_latency_s"].idxmin()]
    assert same(answer.fastest, fastest)
    wanted = fastest["energy_j"] / rows["energy_j"].min() - 1
    assert answer.latency_penalty == pytest.approx(wanted, rel=0.1)


def test_probabilities_sum_to_one_and_follow_the_energies(law, table) -> None:
    answer = ask(law, table)
    shares = [c.probability_best for c in answer.candidates]
    assert sum(shares) == pytest.approx(1.0)
    assert answer.best.probability_best == max(shares)
    energies = [c.energy_per_output_token_j for c in answer.candidates]
    assert energies == sorted(energies)
    assert answer.runner_up == answer.candidates[1]


def test_an_error_that_all_candidates_share_does_not_blur_the_choice(law, table) -> None:
    """Independent errors as wide as the intervals would leave the ranking more open."""
    answer = ask(law, table, hardware=("H100-SXM5-80GB",))
    choices = answer.candidates
    sigma = [np.log(c.total_energy_hi_j / c.total_energy_j) / 1.96 for c in choices]
    rng = np.random.default_rng(0)
    drawn = np.log([c.total_energy_j for c in choices]) + rng.standard_normal(
        (4000, len(choices))
    ) * np.array(sigma)
    independent = (drawn.argmin(axis=1) == 0).mean()
    assert answer.best.probability_best >= independent - 0.02


def test_hopeless_limits_name_what_binds_and_the_nearest_miss(law, table) -> None:
    rows = truth((16, 1024, 256))
    answer = ask(law, table, tpot_s=float(rows["itl_s"].min()) * 0.9, ttft_s=1e3)
    assert (answer.met, answer.best, answer.command) == (False, None, None)
    assert answer.binding_limit == "tpot"
    assert same(answer.nearest_miss, rows.loc[rows["itl_s"].idxmin()])
    assert answer.nearest_miss.over_limits == {"tpot": pytest.approx(1 / 0.9)}


def test_outside_the_domain_it_answers_says_so_and_is_less_sure(law, table) -> None:
    inside = ask(law, table, (64, 4096, 256), model=SMALL)
    outside = ask(law, table, (256, 4096, 256), model=SMALL)
    assert not inside.best.extrapolated
    assert outside.best.extrapolated
    assert any("extrapolated" in note for note in outside.notes)

    def width(choice) -> float:
        return choice.total_energy_hi_j / choice.total_energy_j

    assert width(outside.best) > width(inside.best)


def test_what_does_not_fit_in_memory_is_no_candidate(law, table) -> None:
    whole = ask(law, table, (512, 4096, 256))
    one_gpu = [c for c in whole.candidates if c.num_gpus == 1]
    assert not one_gpu
    assert any("do not fit in memory" in note for note in whole.notes)
    with pytest.raises(FitError, match="none fits in memory"):
        ask(law, table, (100_000, 4096, 256))


def test_a_batch_spread_over_replicas_does_not_prove_that_it_fits_on_one(law, table) -> None:
    workload = (512, 4096, 256)
    large = {"batch": 512, "input_tokens": 4096, "output_tokens": 256, "tensor_parallel": 1}
    run = table[table["model_id"].eq(LARGE) & table["pipeline_parallel"].eq(1)].iloc[[0]]
    spread = pd.concat([table, run.assign(**large, data_parallel=8, num_gpus=8)])
    answer = ask(law, spread, workload)
    layouts = [c.parallelism for c in answer.candidates]
    assert "TP1 DP8" in layouts
    assert "TP1" not in layouts


def test_batches_are_compared_per_output_token(law, table) -> None:
    request = Request(model_id=SMALL, batch=(1, 16, 64), input_tokens=256, output_tokens=32)
    answer = recommend(law, request, table)
    assert answer.best.batch == 64
    assert {c.batch for c in answer.candidates} == {1, 16, 64}


def test_without_a_run_candidates_come_from_the_domain(law) -> None:
    answer = ask(law, None)
    assert len(answer.candidates) > 10
    assert answer.best.latency_source == "unknown"
    assert answer.fastest is None
    with pytest.raises(FitError, match="no latency of this model is known"):
        ask(law, None, tpot_s=1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "a/b"}, "no law for model 'a/b'"),
        ({"hardware": ("L4-24GB",)}, "on L4-24GB"),
        ({"precision": ("int4",)}, "no configuration is left"),
        ({"modality": "smell"}, "unknown modality"),
        ({"visual_tokens": 5000}, "do not fit in 1024 input"),
        ({"tpot_s": -1.0}, "--tpot-ms must be above zero"),
    ],
)
def test_impossible_questions_are_refused(law, table, change, message: str) -> None:
    with pytest.raises(EnergyLensError, match=message) as caught:
        ask(law, table, **change)
    assert caught.value.fix


def test_an_alias_of_a_gpu_type_is_understood(law, table) -> None:
    answer = ask(law, table, hardware=("h200",))
    assert {c.hardware for c in answer.candidates} == {"H200-SXM5-141GB"}


def test_the_python_face_finds_the_run_beside_the_fit(fit_file: Path) -> None:
    answer = energylens.recommend(
        fit_file, model=LARGE, batch=16, input_tokens=1024, output_tokens=256, tpot_s=1.0
    )
    assert answer.best.latency_source == "run"


def test_vllm_command() -> None:
    line = vllm_command(
        "a/b c",
        tensor_parallel=4,
        pipeline_parallel=2,
        expert_parallel=4,
        data_parallel=2,
        precision="fp8",
        batch=32,
        input_tokens=1000,
        output_tokens=24,
        images=2,
    )
    assert shlex.split(line) == [
        *("vllm", "serve", "a/b c", "--tensor-parallel-size", "4"),
        *("--pipeline-parallel-size", "2", "--data-parallel-size", "2"),
        *("--enable-expert-parallel", "--quantization", "fp8"),
        *("--max-num-seqs", "32", "--max-model-len", "1024"),
        *("--limit-mm-per-prompt", '{"image": 2}'),
    ]
    assert "--tensor-parallel-size" not in vllm_command("a/b")
    assert "--dtype bfloat16" in vllm_command("a/b")
    assert checkpoint_note("bf16") is None
    assert "AWQ" in str(checkpoint_note("int4"))


class TestCommand:
    """The same through the command line."""

    WORKLOAD = (
        *("--model", LARGE, "--batch", 16),
        *("--input-tokens", 1024, "--output-tokens", 256),
    )

    def test_the_answer_fits_80_columns(self, cli, fit_file: Path) -> None:
        result = cli("recommend", fit_file, *self.WORKLOAD, "--tpot", 60, "--ttft-ms", 2000)
        assert result.exit_code == 0, result.output
        for part in (
            "projected",
            "probability of being best",
            "regret bound",
            "runner-up",
            "fastest",
            "(as in the run)",
            "vllm serve Qwen/Qwen3-32B",
        ):
            assert part in result.output
        body = result.output.split("Serve it")[0]
        assert max(map(len, body.splitlines())) <= 80

    def test_names_and_numbers_are_not_cut(self, cli, fit_file: Path) -> None:
        text = cli("recommend", fit_file, *self.WORKLOAD).output
        assert "…" not in text
        lines = [line for line in text.splitlines() if line.startswith(" H200-SXM5-141GB ")]
        assert lines
        assert all("kJ" in line and "ms" in line and "%" in line for line in lines)

    def test_batches_and_precisions_together_are_not_cut(
        self, cli, law, table, tmp_path: Path
    ) -> None:
        reduced = table.assign(precision="fp8", task_id="f" + table["task_id"].str[1:])
        both = pd.concat([table, reduced], ignore_index=True)
        face_data.write_run(tmp_path / "run", both)
        law.save(tmp_path / "run" / "fit.json")
        arguments = ("--model", LARGE, "--batch", "1,64", "--input-tokens", 1024)
        result = cli("recommend", tmp_path / "run" / "fit.json", *arguments, "--output-tokens", 256)
        assert result.exit_code == 0, result.output
        listed = result.output.split("Candidates")[1].split("Serve it")[0]
        lines = [line for line in listed.splitlines() if line.startswith(" H")]
        assert len(lines) == 8
        pattern = (
            r" H[12]00-SXM5-(80|141)GB +TP\d( PP\d)? (bf16|fp8) +(1|64) +[\d.]+ m?J .* m?s .*%"
        )
        assert [line for line in lines if not re.match(pattern, line)] == []
        assert max(map(len, listed.splitlines())) <= 80

    def test_json(self, cli, fit_file: Path) -> None:
        values = json.loads(cli("recommend", fit_file, *self.WORKLOAD, "--json").output)
        assert values["met"] is True
        assert values["command"].startswith("vllm serve ")
        assert values["best"]["total_energy_lo_j"] < values["best"]["total_energy_j"]
        assert values["provenance"] == "projected"

    def test_unmet_limits_exit_1_in_both_forms(self, cli, fit_file: Path) -> None:
        result = cli("recommend", fit_file, *self.WORKLOAD, "--tpot", 0.1)
        assert result.exit_code == 1
        assert "No configuration meets the limits." in result.output
        assert "--tpot-ms" in result.output
        assert "nearest miss" in result.output
        result = cli("recommend", fit_file, *self.WORKLOAD, "--tpot", 0.1, "--json")
        assert result.exit_code == 1
        assert json.loads(result.output)["binding_limit"] == "tpot"

    def test_what_is_left_open_is_taken_from_the_run_and_told(self, cli, fit_file: Path) -> None:
        result = cli("recommend", fit_file)
        assert result.exit_code == 0
        assert "Not given, so taken from the run: --model" in result.output
        values = json.loads(cli("recommend", fit_file, "--json").output)
        assert len(values["assumed"]) == 4

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--model", "a/b", "--batch", "1"], "a/b"),
            (["--batch", "many"], "whole numbers"),
            (["--batch", "0"], "at least 1"),
            (["--max-gpus", "0"], "max-gpus"),
            (["--hardware", "TPU"], "TPU"),
            (["--run", "nowhere"], "no such run folder"),
            (["--modality", "image", "--batch", "1"], "no image workload"),
            (
                ["--input-tokens", "9", "--output-tokens", "9", "--batch", "1", "--images", "2"],
                "without their size",
            ),
        ],
    )
    def test_bad_questions_exit_2(self, cli, fit_file: Path, arguments, message: str) -> None:
        result = cli("recommend", fit_file, *arguments)
        assert result.exit_code == 2
        assert message in result.stderr
        assert result.stdout == ""

    def test_a_fit_alone_needs_the_whole_workload(self, cli, law, tmp_path: Path) -> None:
        law.save(tmp_path / "fit.json")
        result = cli("recommend", tmp_path / "fit.json")
        assert result.exit_code == 2
        assert "--input-tokens" in result.stderr
        assert cli("recommend", tmp_path / "fit.json", *self.WORKLOAD).exit_code == 0
