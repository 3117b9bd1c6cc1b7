"""Every term of the law behaves in its limits as physics says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitting.forms import get_form, n_parameters, phase_parts
from fitting.forms.energylens12 import EVERY_TERM
from fitting.traits import ModelTraits, traits_of
from harness.store import FitError

FORM = EVERY_TERM
NAMES = [c.name for c in FORM.coefficients]


def column(
    name,
    *,
    rho=0.25,
    exponent=0.2,
    factor=1.0,
    idle=0.0,
    cache=0.0,
    state=0.0,
    form=FORM,
    phase=None,
    **values,
):
    row = {"batch": 8, "input_tokens": 512, "output_tokens": 65, "precision": "bf16", **values}
    frame = pd.DataFrame([row])
    work = ModelTraits(idle_expert=idle, cache_share=cache, state_share=state).work_of(frame)
    phase = phase or next(c.phase for c in FORM.coefficients if c.name == name)
    i = phase_parts(FORM)[phase].index(NAMES.index(name))
    return float(form.columns(work, phase, [rho, exponent, factor])[i][0])


def test_compute_grows_with_tokens_where_they_are_many():
    few = column("prefill_compute", batch=16)
    assert column("prefill_compute", batch=32) == pytest.approx(2 * few, rel=0.01)


def test_attention_over_12_widths_of_input_doubles_the_compute():
    short = column("prefill_compute", batch=48, input_tokens=1024)
    long = column("prefill_compute", batch=1, input_tokens=12 * 4096)
    assert long == pytest.approx(2 * short / (1 + 1024 / (12 * 4096)), rel=0.01)


def test_compute_is_bounded_below_by_reading_the_weights():
    one = column("prefill_compute", batch=1, input_tokens=1)
    two = column("prefill_compute", batch=1, input_tokens=2)
    assert one == pytest.approx(two, rel=0.01)
    half = column("prefill_compute", batch=1, input_tokens=1, precision="fp8")
    assert half == pytest.approx(one / 2, rel=0.01)


def test_unused_experts_are_read_but_not_computed():
    sparse = 1 - 8 / 128
    few = column("prefill_compute", input_tokens=1024, batch=1, idle=sparse)
    assert few > 1.2 * column("prefill_compute", input_tokens=1024, batch=1)
    many = column("prefill_compute", input_tokens=65536, batch=1, idle=sparse)
    assert many == pytest.approx(column("prefill_compute", input_tokens=65536, batch=1), rel=0.01)


def test_sharding_and_sync_vanish_on_one_gpu():
    assert column("prefill_sharding", tensor_parallel=1) == 0.0
    assert column("decode_sync", tensor_parallel=1) == 0.0
    assert column("prefill_sharding", tensor_parallel=2) > 0.0
    assert column("decode_sync", tensor_parallel=2) > 0.0


def test_all_reduce_takes_two_rounds_for_large_messages():
    small = column("decode_sync", tensor_parallel=8, batch=16)
    large = column("decode_sync", tensor_parallel=8, batch=64)
    assert large == pytest.approx(2 * small)
    assert column("decode_sync", tensor_parallel=2, batch=512) == pytest.approx(
        column("decode_sync", tensor_parallel=2, batch=1)
    )


def test_more_than_two_gpus_share_a_bridge_in_both_phases():
    for phase, tokens in (("prefill", 8 * 512), ("decode", 64 * 8)):
        assert column("shared_bridge", phase=phase, tensor_parallel=2) == 0.0
        four = column("shared_bridge", phase=phase, tensor_parallel=4)
        latency = 2**14 / (2 * 4096)  # tokens that are as dear as a message's latency
        assert four == pytest.approx(12 * (tokens + (1 if phase == "prefill" else 64) * latency))
        assert column("shared_bridge", phase=phase, tensor_parallel=8) == pytest.approx(
            56 / 12 * four
        )


def test_reduced_precision_costs_its_factor_more_and_launches_extra():
    for name in ("decode_weights", "prefill_compute"):
        known = column(name, precision="fp8", input_tokens=1)
        assert column(name, precision="fp8", input_tokens=1, factor=3.0) == pytest.approx(
            3 * known, rel=1e-3
        )
        assert column(name, factor=3.0) == column(name)
    assert column("decode_launch_extra") == 0.0
    assert column("decode_launch_extra", precision="fp8", tensor_parallel=2) == pytest.approx(
        column("decode_launch", tensor_parallel=2)
    )


@pytest.mark.parametrize(
    ("precisions", "visual", "expected"),
    [
        (["bf16", "fp16"], 0, 10),
        (["fp8", "fp8"], 0, 10),
        (["bf16", "fp8"], 0, 12),
        (["bf16", "bf16"], 64, 11),
        (["bf16", "fp8"], 64, 12),
    ],
)
def test_rows_call_for_at_most_12_parameters(precisions, visual, expected):
    frame = pd.DataFrame(
        {
            "batch": 1,
            "input_tokens": 128,
            "output_tokens": 8,
            "precision": precisions,
            "visual_tokens": visual,
        }
    )
    law = get_form("energylens12").suited(ModelTraits().work_of(frame))
    assert n_parameters(law) == expected
    assert get_form("energylens6").suited(ModelTraits().work_of(frame)) == get_form("energylens6")


def test_encoder_counts_visual_tokens_only():
    assert column("prefill_encoder") == 0.0
    once = column("prefill_encoder", visual_tokens=100)
    assert column("prefill_encoder", visual_tokens=200) == pytest.approx(2 * once)


def test_launches_cost_on_every_gpu():
    for name in ("prefill_launch", "decode_launch"):
        assert column(name, tensor_parallel=4) == pytest.approx(4 * column(name))


def test_weights_are_read_once_a_step_however_many_tokens():
    assert column("decode_weights", batch=64) == pytest.approx(column("decode_weights", batch=1))
    assert column("decode_weights", precision="int4") == pytest.approx(column("decode_weights") / 4)
    assert column("decode_weights", exponent=0.0, tensor_parallel=8) == pytest.approx(
        column("decode_weights", exponent=0.0)
    )


def test_experts_are_covered_in_the_limit():
    dense = column("decode_weights", batch=64)
    one = column("decode_weights", batch=1, idle=1 - 8 / 128)
    assert one == pytest.approx(dense * 8 / 128)
    many = column("decode_weights", batch=10**6, idle=1 - 8 / 128)
    assert many == pytest.approx(dense, rel=1e-4)
    some = column("decode_weights", batch=16, idle=1 - 8 / 128)
    assert some == pytest.approx(dense * (16 / 16) / (1 + 15 / 16))
    sizes = [column("decode_weights", batch=b, idle=1 - 8 / 128) for b in (1, 2, 4, 64, 512)]
    assert sizes == sorted(sizes)
    # Favoured experts: fewer are reached than if all were alike.
    assert some < dense * (1 - (1 - 8 / 128) ** 16)


@given(st.floats(0.01, 0.99), st.lists(st.floats(1.0, 1e6), min_size=2, max_size=6), st.booleans())
def test_reached_experts_are_a_growing_share_from_k_of_e_to_all(chance, tokens, dense):
    frame = pd.DataFrame({"batch": 1, "input_tokens": 8, "output_tokens": 8}, index=range(2))
    work = ModelTraits(idle_expert=0.0 if dense else 1.0 - chance).work_of(frame)
    few = work.reached(np.array([1.0, 1e12]))
    assert few.tolist() == pytest.approx([1.0, 1.0] if dense else [chance, 1.0], rel=1e-6)
    low, high = sorted(tokens)[0], sorted(tokens)[-1]
    pair = work.reached(np.array([low, high]))
    assert chance - 1e-9 <= pair[0] <= pair[1] <= 1.0 + 1e-12


def test_a_recurrent_state_grows_with_sequences_and_not_with_context():
    none = column("decode_weights")
    state = column("decode_weights", state=1e-3) - none
    assert state == pytest.approx(64 * 2e-3 * 8)
    longer = column("decode_weights", state=1e-3, input_tokens=8192)
    assert longer - column("decode_weights", input_tokens=8192) == pytest.approx(state)
    assert column("decode_weights", state=1e-3, batch=16) - none == pytest.approx(2 * state)


def test_the_cache_grows_linearly_with_context():
    def cache(n):
        without = column("decode_weights", input_tokens=n)
        return column("decode_weights", cache=1e-5, input_tokens=n) - without

    assert cache(3000) - cache(2000) == pytest.approx(cache(2000) - cache(1000))
    assert column("decode_weights", cache=0.0, input_tokens=9) == column("decode_weights")


def test_one_gpu_has_neither_sharding_nor_sync_nor_bridge_nor_waiting():
    for name in ("prefill_sharding", "decode_sync"):
        assert column(name) == 0.0
    for phase in ("prefill", "decode"):
        assert column("shared_bridge", phase=phase) == 0.0
    for name in NAMES:
        if name != "shared_bridge":
            assert column(name, rho=0.0) == column(name, rho=1.0)


@pytest.mark.parametrize(
    ("precision", "share"),
    [("fp32", 2.0), ("bf16", 1.0), ("fp16", 1.0), ("fp8", 0.5), ("int8", 0.5), ("nvfp4", 0.25)],
)
def test_weight_bytes_follow_the_precision(precision, share):
    assert column("decode_weights", precision=precision) == pytest.approx(
        share * column("decode_weights")
    )


def test_one_output_token_needs_no_decode():
    for name in NAMES:
        phase = next(c.phase for c in FORM.coefficients if c.name == name)
        if phase != "prefill":
            assert column(name, phase="decode", output_tokens=1, tensor_parallel=4) == 0.0


def test_the_first_revision_keeps_its_columns():
    """FIT files of version 2 hold numbers for these."""
    from dataclasses import replace

    old = replace(EVERY_TERM, revision=1)
    sparse = {"idle": 1 - 8 / 128, "batch": 16, "form": old}
    dense = column("decode_weights", batch=16)
    assert column("decode_weights", **sparse) == pytest.approx(
        dense * (1 - (1 - 8 / 128) ** (16**0.8))
    )
    assert column("decode_tokens", batch=32, form=old) == pytest.approx(64 * np.sqrt(32))
    bridge = column("shared_bridge", phase="decode", tensor_parallel=4, form=old)
    assert bridge == pytest.approx(12 * 64 * 8)
    assert column("decode_weights", state=1.0, form=old) == column("decode_weights")
    assert get_form("energylens12@1").revision == 1


def test_tokens_and_cache_grow_with_the_micro_batch():
    assert column("decode_tokens", batch=32) == pytest.approx(4**0.4 * column("decode_tokens"))
    none = column("decode_weights")
    once = column("decode_weights", cache=1e-5) - none
    assert once == pytest.approx(1e-5 * 64 * 8 * (512 + 65 / 2))
    assert column("decode_weights", cache=1e-5, batch=16) - none == pytest.approx(2 * once)


def test_a_single_request_leaves_stages_waiting():
    for name in ("decode_weights", "decode_launch"):
        one = column(name, batch=1)
        assert column(name, batch=1, pipeline_parallel=8, rho=0.0) == pytest.approx(one)
        assert column(name, batch=1, pipeline_parallel=8, rho=1.0) == pytest.approx(8 * one)


def test_a_full_pipeline_does_not_wait_in_decode():
    idle = column("decode_launch", batch=64, pipeline_parallel=8, rho=0.0)
    assert column("decode_launch", batch=64, pipeline_parallel=8, rho=1.0) == pytest.approx(idle)
    fill = column("prefill_launch", batch=64, pipeline_parallel=8, rho=1.0)
    assert fill == pytest.approx(
        15 / 8 * column("prefill_launch", batch=64, pipeline_parallel=8, rho=0.0)
    )


def test_the_waiting_share_of_a_bubble_is_k_plus_rho_p_minus_1():
    base = column("prefill_launch", batch=3, pipeline_parallel=1, rho=0.3)
    assert column("prefill_launch", batch=3, pipeline_parallel=4, rho=0.3) == pytest.approx(
        base * (3 + 0.3 * 3)
    )


def test_replicas_multiply_the_energy_of_their_share():
    alone = column("decode_weights", batch=4)
    assert column("decode_weights", batch=8, data_parallel=2) == pytest.approx(2 * alone)


@given(
    rho=st.floats(0.01, 0.99),
    exponent=st.floats(0.01, 0.79),
    factor=st.floats(0.2, 5.0),
    precision=st.sampled_from(["bf16", "fp8", "nvfp4"]),
    t=st.sampled_from([1, 2, 4, 8]),
    p=st.sampled_from([1, 2, 4, 8]),
    batch=st.integers(1, 128),
)
def test_slopes_match_finite_differences(rho, exponent, factor, precision, t, p, batch):
    frame = pd.DataFrame(
        [
            {
                "batch": batch,
                "input_tokens": 300,
                "output_tokens": 9,
                "tensor_parallel": t,
                "pipeline_parallel": p,
                "precision": precision,
            }
        ]
    )
    work = ModelTraits(idle_expert=0.9).work_of(frame)
    for phase in ("prefill", "decode"):
        slopes = FORM.slopes(work, phase, [rho, exponent, factor])
        for j in range(3):
            up, down = [rho, exponent, factor], [rho, exponent, factor]
            up[j] += 1e-6
            down[j] -= 1e-6
            above, below = FORM.columns(work, phase, up), FORM.columns(work, phase, down)
            for slope, high, low in zip(slopes[j], above, below, strict=True):
                numeric = (high - low) / 2e-6
                given_slope = np.zeros(1) if slope is None else slope
                np.testing.assert_allclose(given_slope, numeric, rtol=1e-4, atol=1e-6)


def test_sparsity_is_inferred_without_expert_columns():
    base = {"family": "moe", "params_total": 30.5e9, "params_active": 3.3e9}
    inferred = traits_of(pd.DataFrame([base]))
    exact = traits_of(pd.DataFrame([{**base, "num_experts": 128, "experts_per_token": 8}]))
    assert exact.idle_expert == pytest.approx(1 - 8 / 128)
    assert inferred.idle_expert == pytest.approx(exact.idle_expert, abs=0.02)
    dense = traits_of(pd.DataFrame([{**base, "family": "dense"}]))
    assert dense.idle_expert == 0.0


@pytest.mark.parametrize(
    "bad",
    [
        {"batch": 0},
        {"batch": "many"},
        {"input_tokens": None},
        {"input_tokens": float("inf")},
        {"precision": "fp3"},
        {"output_tokens": 0},
        {"tensor_parallel": 0},
        {"pipeline_parallel": -2},
    ],
)
def test_rows_without_work_are_refused(bad):
    frame = pd.DataFrame(
        [{"batch": 1, "input_tokens": 8, "output_tokens": 8, "precision": "bf16", **bad}]
    )
    with pytest.raises(FitError):
        ModelTraits().work_of(frame)
