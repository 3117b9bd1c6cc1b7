"""The twin engine: projections obey physics, and the sensor finds what was projected."""

from __future__ import annotations

import pytest

from harness.catalog import load_hardware, load_model
from harness.engines import load_engine
from harness.engines.twin.project import Projection, project, waiting_power_w
from harness.engines.twin.tables import NoKernelDataError
from harness.errors import EngineError
from harness.spec import Deployment, Workload

LLAMA = "meta-llama/Meta-Llama-3.1-8B"
H100 = "H100-SXM5-80GB"


def one(
    model: str = LLAMA,
    hardware: str = H100,
    *,
    batch: int = 8,
    input_tokens: int = 512,
    output_tokens: int = 64,
    **deployment: object,
) -> Projection:
    work = Workload(batch=batch, input_tokens=input_tokens, output_tokens=output_tokens)
    result = project(
        load_model(model),
        load_hardware(hardware),
        Deployment.model_validate({"hardware": hardware, **deployment}),
        [work],
    )[0]
    assert isinstance(result, Projection), result
    return result


def power_w(p: Projection, gpus: int) -> float:
    return (p.prefill_j + p.decode_j) / (p.prefill_s + p.decode_s) / gpus


@pytest.mark.parametrize("hardware", ["A100-SXM4-80GB", H100, "H200-SXM5-141GB", "L40S-48GB"])
def test_power_lies_between_idle_and_limit(hardware: str) -> None:
    gpu = load_hardware(hardware)
    for batch in (1, 16, 64):
        watts = power_w(one(hardware=hardware, batch=batch), 1)
        assert waiting_power_w(gpu) < watts <= gpu.power_limit_w


def test_more_work_takes_more_time_and_energy() -> None:
    small, more_requests = one(batch=4), one(batch=32)
    longer, later = one(input_tokens=2048), one(output_tokens=256)
    base = one()
    assert small.prefill_j < base.prefill_j < more_requests.prefill_j
    assert small.decode_j < more_requests.decode_j
    assert base.prefill_s < longer.prefill_s
    assert base.decode_j < later.decode_j
    assert base.prefill_j == pytest.approx(later.prefill_j)


def test_energy_per_token_falls_with_batch() -> None:
    per_token = [
        (p.prefill_j + p.decode_j) / (batch * 64)
        for batch in (1, 4, 16, 64)
        for p in [one(batch=batch)]
    ]
    assert per_token == sorted(per_token, reverse=True)


def test_tensor_parallelism_is_faster_and_costs_energy() -> None:
    results = [one(tensor_parallel=t) for t in (1, 2, 4, 8)]
    decode_s = [r.decode_s for r in results]
    total_j = [r.prefill_j + r.decode_j for r in results]
    assert decode_s == sorted(decode_s, reverse=True)
    assert total_j == sorted(total_j)


def test_a_lone_request_in_a_pipeline_pays_for_waiting_gpus() -> None:
    alone, piped = one(batch=1), one(batch=1, pipeline_parallel=4)
    wait_j = 3 * waiting_power_w(load_hardware(H100)) * (alone.prefill_s + alone.decode_s)
    extra = piped.prefill_j + piped.decode_j - alone.prefill_j - alone.decode_j
    assert extra == pytest.approx(wait_j, rel=0.05)


def test_pipeline_shares_memory() -> None:
    whole, halved = one(batch=16), one(batch=16, pipeline_parallel=2)
    assert 0.4 * whole.memory_bytes < halved.memory_bytes < 0.75 * whole.memory_bytes


def test_replicas_double_everything_but_time() -> None:
    single, double = one(batch=8), one(batch=16, data_parallel=2)
    assert double.prefill_s == pytest.approx(single.prefill_s)
    assert double.decode_j == pytest.approx(2 * single.decode_j)


def test_an_uneven_last_micro_batch_counts_with_its_own_energy() -> None:
    even, uneven = one(batch=6, pipeline_parallel=2), one(batch=5, pipeline_parallel=2)
    assert uneven.prefill_s == pytest.approx(even.prefill_s)
    assert uneven.prefill_j < even.prefill_j


def test_fp8_saves_energy_on_a_dense_model() -> None:
    assert one(precision="fp8").decode_j < one().decode_j


def test_every_family_and_modality_is_projected() -> None:
    gpu = load_hardware("H200-SXM5-141GB")
    for model in (
        "Qwen/Qwen3-30B-A3B",
        "nvidia/Nemotron-H-56B-Base-8K",
        "Qwen/Qwen3.5-27B",
        "mistralai/Mixtral-8x7B-v0.1",
    ):
        assert one(model, gpu.hardware, tensor_parallel=2).decode_j > 0
    vision = load_model("Qwen/Qwen3-VL-8B-Instruct")
    deployment = Deployment(hardware=gpu.hardware)
    tokens = vision.visual_tokens(672, 672)
    image = Workload(
        modality="image",
        batch=4,
        input_tokens=64 + tokens,
        visual_tokens=tokens,
        images=1,
        image_height=672,
        image_width=672,
        output_tokens=32,
    )
    frames = vision.video_tokens(16, 672, 672)
    video = Workload(
        modality="video",
        batch=4,
        input_tokens=64 + frames,
        visual_tokens=frames,
        frames=16,
        image_height=672,
        image_width=672,
        output_tokens=32,
    )
    text = Workload(batch=4, input_tokens=64, output_tokens=32)
    results = project(vision, gpu, deployment, [text, image, video])
    energies = [r.prefill_j for r in results if isinstance(r, Projection)]
    assert len(energies) == 3
    assert energies[0] < energies[1] < energies[2]


def test_what_the_tables_lack_is_an_answer_not_a_crash() -> None:
    refused = project(
        load_model(LLAMA),
        load_hardware("A100-SXM4-80GB"),
        Deployment(hardware="A100-SXM4-80GB", precision="nvfp4"),
        [Workload(batch=1, input_tokens=128, output_tokens=8)],
    )
    assert isinstance(refused[0], NoKernelDataError)


def test_an_unknown_engine_is_named_with_the_known_ones() -> None:
    with pytest.raises(EngineError, match="twin"):
        load_engine("warp")


def test_runs_of_a_session_follow_one_another_on_its_clock() -> None:
    engine = load_engine("twin", repeat_noise=0.0)
    session = engine.open(load_model(LLAMA), Deployment(hardware=H100), seed=1)
    work = Workload(batch=2, input_tokens=256, output_tokens=32)
    first = session.run(work, "full", 3)
    second = session.run(work, "prefill", 2)
    assert first.count == 3
    assert (first.starts_ns[1:] > first.ends_ns[:-1]).all()
    assert (first.first_tokens_ns < first.ends_ns).all()
    assert second.start_ns >= first.end_ns
    assert (second.first_tokens_ns == second.ends_ns).all()
    truth = one(batch=2, input_tokens=256, output_tokens=32)
    seconds = (first.ends_ns[0] - first.starts_ns[0]) / 1e9
    assert seconds == pytest.approx(truth.prefill_s + truth.decode_s, rel=1e-6)
