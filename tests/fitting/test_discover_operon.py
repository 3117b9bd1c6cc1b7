"""Formulas of any shape, and what pyoperon finds where it is installed."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from fitting_data import synthetic
from hypothesis import given
from hypothesis import strategies as st

from fitting.discover import get_engine
from fitting.discover.engine import Deadline
from fitting.discover.expression import read
from fitting.discover.freelaw import FreeLaw, from_energy, from_log, sound
from fitting.discover.operon import SETTINGS, SYMBOLS
from fitting.discover.problem import Problem, batch_problem
from fitting.discover.residual import residual_search
from fitting.discover.structure import relative_error
from fitting.discover.termlaw import term_law


@pytest.fixture(scope="module")
def operon():
    engine = get_engine("operon")
    probe = engine.probe()
    if not probe.available:
        pytest.skip(probe.reason)
    return engine


def problem_of(rows: int = 40) -> Problem:
    frame = synthetic(noise=0.0, visual=False).sample(rows, random_state=0)
    return batch_problem(frame, "decode")[0]


def test_a_logarithm_becomes_the_law_inside():
    (law,) = from_log("(0.5 + (1.01 * log(((2.0 * weights) + (3.0 * launches)))))")
    assert law.text == "c1 * weights + c2 * launches"
    assert law.start == pytest.approx((2.0 * np.exp(0.5), 3.0 * np.exp(0.5)))
    (raised,) = from_log("(0.5 + (0.6 * log((2.0 * launches))))")
    assert raised.text == "(c1 * launches) ** c2"
    (other,) = from_log("(1.5 + (0.5 * (2.0 * weights)))")
    assert other.text == "exp(c1 + c2 * weights)"
    assert other.start == pytest.approx((1.5, 1.0))


numbers = st.floats(0.1, 10.0).map(lambda x: round(x, 3))
leaves = st.one_of(numbers.map(str), st.sampled_from(["weights", "launches", "tokens"]))
formulas = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+*/"), inner).map(lambda p: f"({p[0]} {p[1]} {p[2]})"),
        inner.map(lambda text: f"sqrt({text})"),
    ),
    max_leaves=8,
)


@given(formulas)
def test_naming_the_constants_changes_no_value(text):
    values = {"weights": 3.0, "launches": 5.0, "tokens": 7.0}
    for law in from_energy(text):
        named = {f"c{i + 1}": v for i, v in enumerate(law.start)}
        assert read(law.text)({**values, **named}) == pytest.approx(read(text)(values), rel=1e-9)


@given(formulas)
def test_laws_of_log_energies_are_their_exponential(text):
    values = {"weights": 3.0, "launches": 5.0, "tokens": 7.0}
    for law in from_log(f"(0.25 + (0.5 * log({text})))"):
        named = {f"c{i + 1}": v for i, v in enumerate(law.start)}
        expected = np.exp(0.25) * read(text)(values) ** 0.5
        assert read(law.text)({**values, **named}) == pytest.approx(expected, rel=1e-6)


def test_constants_are_fitted_to_each_group():
    problem = problem_of()
    inputs = problem.inputs_of(problem.inputs)
    problem = replace(problem, energy=700.0 * inputs["weights"] + 20.0 * inputs["launches"])
    law = FreeLaw("c1 * weights + c2 * launches", (1.0, 1.0))
    assert law.fit(problem)[0] == pytest.approx([700.0, 20.0], rel=1e-4)


def test_poles_are_found():
    problem = problem_of()
    launches = problem.inputs_of(problem.inputs)["launches"]
    law = FreeLaw("1/(launches - c1)", (float(np.median(launches)),))
    assert not sound(law, problem, np.array([[float(np.median(launches))]]))
    assert sound(FreeLaw("c1*launches", (1.0,)), problem, np.array([[1.0]]))


def test_settings_avoid_the_traps():
    assert SETTINGS["optimizer_iterations"] > 0
    assert SETTINGS["uncertainty"] != [1]
    assert "fmin" not in SYMBOLS
    assert "fmax" not in SYMBOLS


def test_asked_for_the_minimum_this_version_gives_the_maximum(operon):
    """If this fails, a later pyoperon has mended it: SYMBOLS may then hold both."""
    from pyoperon.sklearn import SymbolicRegressor

    rng = np.random.default_rng(0)
    x = rng.uniform(-1.0, 1.0, (200, 2))
    search = SymbolicRegressor(
        allowed_symbols="fmin,variable", max_length=3, population_size=30, generations=3,
        random_state=1, optimizer_iterations=0, uncertainty=[0.01],
    )  # fmt: skip
    search.fit(x, np.maximum(x[:, 0], x[:, 1]))
    text = search.get_model_string(search.model_, 3, ["a", "b"])
    predicted = search.predict(x)
    assert "max(" in text
    assert np.abs(predicted - np.maximum(x[:, 0], x[:, 1])).mean() < 0.1


def test_a_real_search_finds_the_planted_work(operon, monkeypatch):
    monkeypatch.setattr("fitting.discover.operon.SEARCHES", 1)
    problem = problem_of()
    inputs = problem.inputs_of(problem.inputs)
    problem = replace(problem, energy=700.0 * inputs["weights"] + 20.0 * inputs["launches"])
    found = operon.search(problem, seed=0, draws=0, deadline=Deadline())
    errors = []
    for law in found.structures:
        values = law.fit(problem)
        assert sound(law, problem, values)
        errors.append(np.abs(relative_error(problem, law.predict(problem, values))).mean())
    assert min(errors) < 0.02
    again = operon.search(problem, seed=0, draws=0, deadline=Deadline())
    assert [law.text for law in again.structures] == [law.text for law in found.structures]
    pickle.dumps(found)


class Correcting:
    """An engine that always offers the same correction."""

    def __init__(self, text: str, start: tuple[float, ...]):
        self.law = FreeLaw(text, start, "ratios")

    def search(self, problem, *, seed, draws, deadline, inputs="inputs"):
        from fitting.discover.engine import Found

        assert inputs == "ratios"
        return Found([self.law])


def test_a_correction_is_kept_only_if_rows_left_out_say_so():
    problem = problem_of(60)
    law = term_law(problem, "working and waiting", ["reading", "launch x each_gpu"])
    values = law.fit(problem)
    shards = problem.values["t"]
    noise = np.exp(0.02 * np.random.default_rng(0).standard_normal(len(problem)))
    curved = replace(problem, energy=law.predict(problem, values) * shards**0.4 * noise)
    real = residual_search(
        curved, law, Correcting("c1*shards**c2", (1.0, 0.1)), seed=0, deadline=Deadline()
    )
    assert real.kept
    assert real.gain > 0.0
    straight = replace(problem, energy=law.predict(problem, values) * noise)
    idle = residual_search(
        straight, law, Correcting("c1 + c2*sqrt(length)", (1.0, 0.1)), seed=0, deadline=Deadline()
    )
    assert not idle.kept
