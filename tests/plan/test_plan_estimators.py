"""Estimators: the roofline's laws, the fallback, and the twin's tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.catalog.hardware import Hardware, load_hardware
from harness.catalog.models import ModelFacts, load_model
from harness.plan import (
    FallbackEstimator,
    Refusal,
    RooflineEstimator,
    SkipReason,
    TaskEstimate,
    TwinEstimator,
    default_estimator,
)
from harness.plan.estimator import USABLE_MEMORY
from harness.plan.roofline import BANDWIDTH_EFFICIENCY, COMPUTE_EFFICIENCY, memory_bytes
from harness.spec import Deployment, Workload

LLAMA = load_model("meta-llama/Meta-Llama-3.1-8B")
MIXTURE = load_model("Qwen/Qwen3-30B-A3B")
H100 = load_hardware("H100")
ROOFLINE = RooflineEstimator()


def deployment(**change: object) -> Deployment:
    return Deployment.model_validate({"hardware": "H100-SXM5-80GB", **change})


def one(model: ModelFacts, workload: Workload, **change: object) -> TaskEstimate:
    return ROOFLINE.estimate(model, H100, deployment(**change), [workload])[0]


def test_prefill_is_bound_by_arithmetic() -> None:
    workload = Workload(batch=8, input_tokens=2048, output_tokens=2)
    expected = (
        8 * 2048 * LLAMA.flops_per_token(1024) / (H100.peak_flops["bf16"] * COMPUTE_EFFICIENCY)
    )
    assert one(LLAMA, workload).prefill_s == pytest.approx(expected)


def test_decoding_is_bound_by_memory() -> None:
    workload = Workload(batch=1, input_tokens=128, output_tokens=11)
    moved = LLAMA.weight_bytes("bf16") + LLAMA.kv_bytes_per_sequence(128 + 5.5)
    expected = 10 * moved / (H100.memory_bandwidth_bytes_per_s * BANDWIDTH_EFFICIENCY)
    assert one(LLAMA, workload).decode_s == pytest.approx(expected)


def test_a_pipeline_overlaps_micro_batches() -> None:
    def times(batch: int, stages: int) -> tuple[float, float]:
        workload = Workload(batch=batch, input_tokens=2048, output_tokens=9)
        estimate = one(LLAMA, workload, pipeline_parallel=stages)
        return estimate.prefill_s, estimate.decode_s

    assert times(1, 4) == pytest.approx(times(1, 1))
    assert times(4, 4)[0] == pytest.approx(times(1, 1)[0] * (1 + 3 / 4))
    assert times(4, 4)[1] == pytest.approx(times(1, 1)[1])
    assert times(8, 4)[0] == pytest.approx(times(2, 1)[0] * (1 + 3 / 4))


def test_heads_that_cannot_be_split_are_copied() -> None:
    def cache_bytes(ranks: int) -> float:
        where = deployment(tensor_parallel=ranks)
        short, long = (
            Workload(batch=1, input_tokens=64, output_tokens=tokens) for tokens in (1, 1001)
        )
        return memory_bytes(MIXTURE, where, long) - memory_bytes(MIXTURE, where, short)

    assert MIXTURE.kv_heads == 4
    assert cache_bytes(1) == pytest.approx(1000 * MIXTURE.kv_bytes_per_token())
    assert cache_bytes(4) == pytest.approx(cache_bytes(1) / 4)
    assert cache_bytes(8) == pytest.approx(cache_bytes(1) / 4)


def test_one_token_has_no_decode_phase() -> None:
    assert one(LLAMA, Workload(batch=1, input_tokens=128, output_tokens=1)).decode_s == 0


def test_energy_is_at_the_power_limit() -> None:
    workload = Workload(batch=4, input_tokens=128, output_tokens=8)
    estimate = one(LLAMA, workload, tensor_parallel=2, pipeline_parallel=2)
    seconds = estimate.prefill_s + estimate.decode_s
    assert estimate.energy_j == pytest.approx(4 * H100.power_limit_w * seconds)
    limited = one(LLAMA, workload, power_limit_w=350.0)
    assert limited.energy_j == pytest.approx(350 * (limited.prefill_s + limited.decode_s))


@given(
    batch=st.integers(1, 64),
    tokens=st.integers(1, 4096),
    output=st.integers(1, 512),
    ranks=st.sampled_from([1, 2, 4]),
    stages=st.sampled_from([1, 2, 4]),
)
def test_more_work_takes_longer_and_more_memory(
    batch: int, tokens: int, output: int, ranks: int, stages: int
) -> None:
    where = deployment(tensor_parallel=ranks, pipeline_parallel=stages)
    small = Workload(batch=batch, input_tokens=tokens, output_tokens=output)
    for model in (LLAMA, MIXTURE):
        base = ROOFLINE.estimate(model, H100, where, [small])[0]
        for change in ({"input_tokens": 2 * tokens}, {"output_tokens": 2 * output}):
            large = small.model_copy(update=change)
            more = ROOFLINE.estimate(model, H100, where, [large])[0]
            assert more.prefill_s + more.decode_s >= base.prefill_s + base.decode_s
            assert memory_bytes(model, where, large) >= memory_bytes(model, where, small)


@given(ranks=st.sampled_from([2, 4, 8]), stages=st.sampled_from([2, 4]))
def test_memory_is_shared_by_ranks_and_stages(ranks: int, stages: int) -> None:
    workload = Workload(batch=8, input_tokens=512, output_tokens=64)
    alone = memory_bytes(LLAMA, deployment(), workload)
    spread = deployment(tensor_parallel=ranks, pipeline_parallel=stages)
    shared = memory_bytes(LLAMA, spread, workload)
    assert alone / (ranks * stages) <= shared < alone / ranks


def test_weights_must_fit() -> None:
    workload = Workload(batch=1, input_tokens=128, output_tokens=8)
    large = load_model("meta-llama/Meta-Llama-3.1-70B")
    refusals = [
        ROOFLINE.fits(large, H100, deployment(tensor_parallel=ranks), [workload])[0]
        for ranks in (1, 2, 4)
    ]
    assert [refusal is None for refusal in refusals] == [False, True, True]
    assert refusals[0] is not None
    assert refusals[0][0] is SkipReason.DOES_NOT_FIT_IN_MEMORY
    assert "72 of 80 GiB" in refusals[0][1]
    roomy = replace(H100, memory_bytes=large.weight_bytes("bf16") / USABLE_MEMORY * 1.05)
    assert ROOFLINE.fits(large, roomy, deployment(), [workload]) == [None]


def test_a_small_batch_reads_few_experts() -> None:
    def step_s(batch: int) -> float:
        workload = Workload(batch=batch, input_tokens=8, output_tokens=2)
        return one(MIXTURE, workload).decode_s

    assert step_s(1) < 0.3 * step_s(64)


def test_weights_in_four_bits_are_multiplied_at_sixteen() -> None:
    workload = Workload(batch=64, input_tokens=2048, output_tokens=1)
    assert one(LLAMA, workload, precision="int4").prefill_s == one(LLAMA, workload).prefill_s
    assert one(LLAMA, workload, precision="fp8").prefill_s < one(LLAMA, workload).prefill_s


class Partial:
    """Knows odd batches only."""

    def fits(
        self,
        model: ModelFacts,
        hardware: Hardware,
        deployment: Deployment,
        workloads: Sequence[Workload],
    ) -> list[Refusal | None]:
        no_data = (SkipReason.NO_KERNEL_DATA, "even batch")
        return [None if workload.batch % 2 else no_data for workload in workloads]

    def estimate(
        self,
        model: ModelFacts,
        hardware: Hardware,
        deployment: Deployment,
        workloads: Sequence[Workload],
    ) -> list[TaskEstimate]:
        assert all(workload.batch % 2 for workload in workloads)
        return [TaskEstimate(1.0, 1.0, 1.0, "partial") for _ in workloads]


def test_the_fallback_stands_in_only_where_data_is_missing() -> None:
    both = FallbackEstimator(Partial(), ROOFLINE)
    workloads = [Workload(batch=b, input_tokens=8, output_tokens=8) for b in (1, 2, 3, 4)]
    assert both.fits(LLAMA, H100, deployment(), workloads) == [None] * 4
    sources = [x.source for x in both.estimate(LLAMA, H100, deployment(), workloads)]
    assert sources == ["partial", "roofline", "partial", "roofline"]
    huge = load_model("meta-llama/Meta-Llama-3.1-405B")
    codes = [refusal and refusal[0] for refusal in both.fits(huge, H100, deployment(), workloads)]
    assert codes == [None, SkipReason.DOES_NOT_FIT_IN_MEMORY] * 2


def test_the_twin_knows_its_tables_and_says_what_they_lack() -> None:
    twin = TwinEstimator()
    workloads = [Workload(batch=b, input_tokens=256, output_tokens=32) for b in (1, 8)]
    assert twin.fits(LLAMA, H100, deployment(), workloads) == [None, None]
    first, second = twin.estimate(LLAMA, H100, deployment(), workloads)
    assert first.source == "twin"
    assert 0 < first.energy_j < second.energy_j
    assert 0 < first.prefill_s < second.prefill_s
    v100 = load_hardware("V100-SXM2-32GB")
    where = deployment(hardware="V100-SXM2-32GB", precision="fp16")
    refusals = twin.fits(LLAMA, v100, where, workloads)
    assert {refusal and refusal[0] for refusal in refusals} == {SkipReason.NO_KERNEL_DATA}


def test_twin_and_roofline_agree_in_size() -> None:
    workloads = [
        Workload(batch=b, input_tokens=n, output_tokens=m)
        for b in (1, 32)
        for n in (512, 2048)
        for m in (16, 256)
    ]
    pairs = zip(
        TwinEstimator().estimate(LLAMA, H100, deployment(), workloads),
        ROOFLINE.estimate(LLAMA, H100, deployment(), workloads),
        strict=True,
    )
    for twin, roofline in pairs:
        assert 1 / 3 < roofline.prefill_s / twin.prefill_s < 3
        assert 1 / 3 < roofline.decode_s / twin.decode_s < 3


def test_default_estimators() -> None:
    assert isinstance(default_estimator("twin"), TwinEstimator)
    assert isinstance(default_estimator("vllm"), FallbackEstimator)
