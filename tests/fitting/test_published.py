"""Each published law gives back its own numbers from rows made by it, and its limits hold."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fitting.facts import Facts, HardwareFacts, ModelFacts
from fitting.published import PUBLISHED
from fitting.published.counts import counts_of
from harness.store import FitError

MODEL = ModelFacts(
    model_id="a/M",
    family="moe",
    backbone="m",
    layers=32,
    attention_layers=32,
    state_layers=0,
    hidden_size=4096,
    heads=32,
    kv_heads=8,
    head_dim=128,
    vocab_size=32000,
    experts=8,
    experts_per_token=2,
    params_total=46e9,
    params_active=13e9,
    params_experts=45e9,
    params_lookup=0.1e9,
    params_vision=0.0,
    kv_bytes_per_token=131072.0,
    kv_window_tokens=0.0,
    kv_window_share=0.0,
    state_bytes_per_sequence=0.0,
    state_flops_per_token=0.0,
)
HARDWARE = HardwareFacts(
    hardware="H",
    architecture="Hopper",
    memory_bytes=80e9,
    memory_bandwidth_bytes_per_s=3.35e12,
    peak_flops={"bf16": 989e12, "fp8": 1979e12},
    power_limit_w=700.0,
    idle_power_w=70.0,
    loaded_idle_power_w=120.0,
    interconnect_bytes_per_s=450e9,
)
FACTS = Facts({"H": HARDWARE}, {"a/M": MODEL})


def rows(n: int = 120, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    tensor, stages = rng.choice([1, 2, 4], n), rng.choice([1, 2], n)
    return pd.DataFrame(
        {
            "model_id": "a/M",
            "hardware": "H",
            "precision": "bf16",
            "batch": rng.choice([1, 2, 4, 8, 16, 32, 64, 128], n),
            "input_tokens": rng.integers(64, 4096, n),
            "output_tokens": rng.integers(16, 512, n),
            "tensor_parallel": tensor,
            "pipeline_parallel": stages,
            "num_gpus": tensor * stages,
            "total_latency_s": rng.uniform(0.5, 20.0, n),
        }
    )


VALUES = {
    "wilkins": (0.5, 31.0, 4e-2),
    "wilkins_ols": (0.5, 31.0, 4e-2),
    "sweetspot": (30.0, 1e-4, 2e-3, 0.4, 5e-3, 20.0),
    "tokens_to_wh": (0.52, 11.68),
    "tokens_to_wh_refit": (0.9, 20.0),
    "llmcarbon": (0.31,),
    "power_utilisation": (0.02, 0.6),
    "power_logistic": (300.0, 600.0, 1.0, 4.2),
}


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_a_law_gives_back_its_own_numbers(name: str) -> None:
    law, truth = PUBLISHED[name], np.array(VALUES[name])
    frame = rows()
    frame["total_energy_j"] = law.predict(truth, frame, FACTS)
    assert (frame["total_energy_j"] > 0).all()
    found = law.fit(frame[:60], FACTS)
    np.testing.assert_allclose(found.values, truth, rtol=2e-3)
    energy = frame["total_energy_j"][60:]
    np.testing.assert_allclose(found.predict(frame[60:], FACTS), energy, rtol=2e-3)
    assert list(found.to_dict()) == [p.name for p in law.parameters]


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_a_law_says_what_it_is(name: str) -> None:
    law = PUBLISHED[name]
    assert law.name == name
    for text in (law.title, law.source, law.formula, law.latex):
        assert text
    for parameter in law.parameters:
        assert parameter.symbol in law.formula
        assert parameter.unit
        assert parameter.meaning
        assert parameter.lower < parameter.upper
    for values in law.published.values():
        assert set(values) == {p.name for p in law.parameters}


@pytest.mark.parametrize("model", list(PUBLISHED["wilkins"].published))
@pytest.mark.parametrize("name", ["wilkins", "wilkins_ols"])
def test_the_coefficients_of_wilkins_come_back(name: str, model: str) -> None:
    """The table of arXiv 2407.04014: rows made with it, of requests long enough to cost energy."""
    law = PUBLISHED[name]
    truth = np.array(list(law.published[model].values()))
    frame = rows()
    frame["output_tokens"] += 256
    frame["total_energy_j"] = law.predict(truth, frame, Facts())
    frame = frame[frame["total_energy_j"] > 0]
    np.testing.assert_allclose(law.fit(frame, Facts()).values, truth, rtol=1e-6)


def test_the_loss_of_wilkins_matters_for_small_requests() -> None:
    """Ordinary least squares serve the largest energies; the small ones are lost."""
    frame = rows(400).assign(batch=1)
    n, m = frame["input_tokens"], frame["output_tokens"]
    frame["total_energy_j"] = 40.0 + 0.3 * n + 10.0 * m + 1e-3 * n * m + 1e-4 * n**2
    error = {}
    for name in ("wilkins", "wilkins_ols"):
        predicted = PUBLISHED[name].fit(frame[:200], Facts()).predict(frame[200:], Facts())
        error[name] = np.abs(predicted / frame["total_energy_j"][200:] - 1.0).mean()
    assert error["wilkins"] < error["wilkins_ols"]


@pytest.mark.parametrize("name", [n for n, law in PUBLISHED.items() if law.needs_facts])
def test_without_facts_there_is_no_answer(name: str) -> None:
    frame = rows().assign(total_energy_j=1.0)
    law = PUBLISHED[name]
    with pytest.raises(FitError, match="known"):
        law.fit(frame, Facts()).predict(frame, Facts())


@pytest.mark.parametrize("name", ["wilkins", "wilkins_ols", "sweetspot", "llmcarbon"])
def test_laws_that_cannot_rank_parallelism_tie(name: str) -> None:
    law = PUBLISHED[name]
    frame = rows(9).assign(batch=8, input_tokens=512, output_tokens=64)
    found = law.predict(np.array(VALUES[name]), frame, FACTS)
    np.testing.assert_allclose(found, found[0])


def test_counts_have_their_limits() -> None:
    one = rows(1).assign(
        batch=1, input_tokens=1, output_tokens=1, tensor_parallel=1, pipeline_parallel=1
    )
    base = counts_of(one, FACTS)
    # One token: two operations a working parameter, and the weights of the experts it uses.
    assert base.flops[0] == pytest.approx(2.0 * (13e9 - 0.1e9), rel=1e-3)
    always = 46e9 - 45e9 - 0.1e9
    assert base.bits[0] == pytest.approx(16.0 * (always + 45e9 * 2 / 8), rel=1e-3)
    many = counts_of(one.assign(batch=4096), FACTS)
    assert many.flops[0] == pytest.approx(4096 * base.flops[0])
    assert many.bits[0] < 16.0 * (always + 45e9) * 1.02  # all experts, read once
    small = counts_of(one.assign(precision="fp8"), FACTS)
    assert small.peak_flops[0] == 1979e12
    assert small.bits[0] == pytest.approx(base.bits[0] / 2, rel=1e-3)
    deep = counts_of(one.assign(batch=8, pipeline_parallel=2, num_gpus=2), FACTS)
    flat = counts_of(one.assign(batch=8, num_gpus=1), FACTS)
    assert deep.flops[0] == flat.flops[0]
    assert flat.bits[0] < deep.bits[0] < 2.0 * flat.bits[0]  # each micro-batch reads its experts
    assert deep.gpus[0] == 2


def test_power_laws_are_between_their_ends_and_need_a_latency() -> None:
    frame = rows(50)
    for name, low, high in (("power_utilisation", 120.0, 700.0), ("power_logistic", 300.0, 600.0)):
        law = PUBLISHED[name]
        energy = law.predict(np.array(VALUES[name]), frame, FACTS)
        power = energy / frame["num_gpus"] / frame["total_latency_s"]
        assert power.between(low - 1e-6, high + 1e-6).all()
        assert law.knows_latency
        without = frame.assign(total_latency_s=np.nan)
        assert np.isnan(law.predict(np.array(VALUES[name]), without, FACTS)).all()
        with pytest.raises(FitError, match="latency"):
            law.fit(without.assign(total_energy_j=1.0), FACTS)
