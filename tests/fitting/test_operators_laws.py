from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from energylens.facts import hardware_facts
from fitting.facts import HardwareFacts
from fitting.operators import OPERATORS, OperatorLaws, fit_operators, from_dict
from fitting.operators.rates import START, energy
from fitting.operators.work import demand
from harness.store import FitError

NAMES = ("H200-SXM5-141GB", "B200-SXM6-180GB")


@pytest.fixture(scope="module")
def hardware() -> dict[str, HardwareFacts]:
    found = {name: hardware_facts(name) for name in NAMES}
    return {name: facts for name, facts in found.items() if facts is not None}


def calls(gpu: str, n: int, seed: int, hardware: dict[str, HardwareFacts]) -> pd.DataFrame:
    """GEMMs whose energy is that of known rates, with noise of 2 %."""
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame(
        {
            "op": "gemm",
            "hardware": gpu,
            "framework": "vllm",
            "dtype": rng.choice(["bfloat16", "fp8"], n),
            **{name: 2 ** rng.integers(low, 14, n) for name, low in (("m", 0), ("n", 7), ("k", 7))},
        }
    )
    rates = START + (0.2 if gpu == NAMES[0] else 0.0)
    promise, _ = demand("gemm", rows, hardware)
    return rows.assign(energy_j=np.exp(energy(promise, rates) + rng.normal(0.0, 0.02, n)))


@pytest.fixture(scope="module")
def laws(hardware: dict[str, HardwareFacts]) -> OperatorLaws:
    return fit_operators(calls(NAMES[0], 600, 0, hardware), hardware)


def test_known_truth_is_found(laws: OperatorLaws, hardware: dict[str, HardwareFacts]) -> None:
    fresh = calls(NAMES[0], 300, 1, hardware)
    assert np.median(np.abs(laws.predict(fresh) / fresh["energy_j"] - 1.0)) < 0.03


def test_few_calls_carry_it_to_another_gpu(
    laws: OperatorLaws, hardware: dict[str, HardwareFacts]
) -> None:
    fresh = calls(NAMES[1], 300, 2, hardware)
    before = np.median(np.abs(laws.predict(fresh) / fresh["energy_j"] - 1.0))
    moved = laws.adapted(calls(NAMES[1], 30, 3, hardware))
    after = np.median(np.abs(moved.predict(fresh) / fresh["energy_j"] - 1.0))
    assert after < min(0.05, before)
    old = calls(NAMES[0], 50, 4, hardware)
    np.testing.assert_allclose(moved.predict(old), laws.predict(old))


def test_round_trip_through_json(laws: OperatorLaws, hardware: dict[str, HardwareFacts]) -> None:
    moved = laws.adapted(calls(NAMES[1], 30, 3, hardware))
    back = from_dict(json.loads(json.dumps(moved.to_dict())))
    rows = pd.concat([calls(gpu, 20, 5, hardware) for gpu in NAMES])
    np.testing.assert_allclose(back.predict(rows), moved.predict(rows))


def test_latency_and_power_are_no_inputs(
    laws: OperatorLaws, hardware: dict[str, HardwareFacts]
) -> None:
    rows = calls(NAMES[0], 20, 6, hardware).drop(columns="energy_j")
    np.testing.assert_array_equal(
        laws.predict(rows), laws.predict(rows.assign(latency_ms=1e3, power_w=1.0))
    )


@pytest.mark.parametrize("axis", [1, 2])
def test_more_work_is_never_cheaper_at_the_roofline(axis: int) -> None:
    promise = np.array([[700.0, 1e-4, 1e-5], [700.0, 1e-7, 1e-7], [700.0, 1e-5, 1e-3]])
    more = promise.copy()
    more[:, axis] *= 2.0
    assert (energy(more, START) >= energy(promise, START)).all()
    np.testing.assert_allclose(
        energy(promise[:1] * [1, 10, 10], START)[0], np.log(700e-3 / 0.6), rtol=0.01
    )


def test_what_is_not_known_is_refused(
    laws: OperatorLaws, hardware: dict[str, HardwareFacts]
) -> None:
    rows = calls(NAMES[0], 5, 7, hardware)
    with pytest.raises(FitError, match="was not fitted"):
        laws.predict(rows.assign(op="moe"))
    with pytest.raises(FitError, match="number format"):
        laws.predict(rows.assign(dtype="int3"))
    with pytest.raises(FitError, match="datasheet"):
        laws.predict(rows.assign(hardware="GPU-X"))
    with pytest.raises(FitError, match="enough rows"):
        fit_operators(rows, hardware)


def test_published_calls_on_another_gpu(shared_data: Path) -> None:
    file = shared_data / "aiconfigurator_ops" / "ops.parquet"
    if not file.is_file():
        pytest.skip(f"operator tables not present: {file}")
    table = pd.read_parquet(file, filters=[("op", "==", "mla_context_module")])
    facts = {h: f for h in table["hardware"].unique() if (f := hardware_facts(str(h))) is not None}
    first, second = sorted(facts, reverse=True)
    rest = table[table["hardware"] == second].reset_index(drop=True)
    few = np.random.default_rng(0).permutation(len(rest)) < 0.05 * len(rest)
    moved = fit_operators(table[table["hardware"] == first], facts).adapted(rest[few])
    other = rest[~few]
    assert np.median(np.abs(moved.predict(other) / other["energy_j"] - 1.0)) < 0.25


def test_every_operator_counts_its_work() -> None:
    assert set(OPERATORS) >= {"gemm", "moe", "mamba2", "gdn", "encoder_attention"}
