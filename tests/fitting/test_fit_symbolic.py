"""The laws as sympy expressions: same values, same derivatives, joules in every term."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fitting.forms import ENERGYLENS6, ENERGYLENS12, PHASES, get_form, phase_parts
from fitting.forms.energylens12 import EVERY_TERM
from fitting.traits import ModelTraits

sympy = pytest.importorskip("sympy")

from fitting.forms import symbolic  # noqa: E402

FORMS = {"every term": EVERY_TERM, "energylens12": ENERGYLENS12, "energylens6": ENERGYLENS6}
TRAITS = (
    ModelTraits(),
    ModelTraits(idle_expert=1 - 8 / 128, hidden_size=2048.0, cache_share=3e-6),
    ModelTraits(idle_expert=0.75, hidden_size=8192.0, cache_share=1e-5, state_share=2e-3),
)


def rows(seed: int, n: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "batch": rng.integers(1, 129, n),
            "input_tokens": rng.integers(1, 5000, n),
            "output_tokens": rng.integers(2, 600, n),
            "visual_tokens": rng.integers(0, 300, n),
            "tensor_parallel": rng.choice([1, 2, 4, 8], n),
            "pipeline_parallel": rng.choice([1, 2, 4, 8], n),
            "data_parallel": rng.choice([1, 2], n),
            "precision": rng.choice(["bf16", "fp8", "int4", "nvfp4"], n),
        }
    )


def values(frame: pd.DataFrame, work, theta: dict[str, float]) -> dict[str, object]:
    batch = frame["batch"].to_numpy(dtype=np.float64)
    replicas = frame["data_parallel"].to_numpy(dtype=np.float64)
    return {**symbolic.values_of(work, batch, replicas), **theta}


THETA = {"rho": 0.3, "e": 0.2, "f": 1.7}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("phase", PHASES)
def test_expressions_have_the_values_of_the_columns(name, phase):
    form = FORMS[name]
    theta = [THETA[symbolic.LETTERS[e.name]] for e in form.exponents]
    terms = symbolic.expressions(form, phase)
    own = [form.coefficients[i].name for i in phase_parts(form)[phase]]
    assert list(terms) == own
    for seed, traits in enumerate(TRAITS):
        frame = rows(seed)
        work = traits.work_of(frame)
        given = values(frame, work, THETA)
        for term, column in zip(terms.values(), form.columns(work, phase, theta), strict=True):
            np.testing.assert_allclose(symbolic.evaluate(term, given), column, rtol=1e-10)


@pytest.mark.parametrize("phase", PHASES)
def test_slopes_are_the_derivatives_of_the_expressions(phase):
    frame = rows(7)
    work = TRAITS[1].work_of(frame)
    given = values(frame, work, THETA)
    slopes = EVERY_TERM.slopes(work, phase, list(THETA.values()))
    for letter, columns in zip(THETA, slopes, strict=True):
        symbol = symbolic.symbols()[letter]
        for term, slope in zip(
            symbolic.expressions(EVERY_TERM, phase).values(), columns, strict=True
        ):
            exact = symbolic.evaluate(sympy.diff(term, symbol), given)
            np.testing.assert_allclose(0.0 if slope is None else slope, exact, rtol=1e-9)


@pytest.mark.parametrize("phase", PHASES)
def test_every_term_times_its_coefficient_is_joules(phase):
    frame = rows(11).assign(visual_tokens=100, tensor_parallel=4, precision="fp8")
    given = values(frame, TRAITS[1].work_of(frame), THETA)
    units = {c.name: c.unit for c in EVERY_TERM.coefficients}
    for name, term in symbolic.expressions(EVERY_TERM, phase).items():
        found = symbolic.unit_of(term, given)
        assert units[name] == ("J/token" if found == {"token": 1} else "J"), (name, found)
        assert found in ({}, {"token": 1})


def test_a_sum_of_unlike_units_is_found_out():
    frame = rows(3)
    given = values(frame, TRAITS[0].work_of(frame), THETA)
    s = symbolic.symbols()
    with pytest.raises(ValueError, match="unlike"):
        symbolic.unit_of(s["n"] + s["B"], given)


def test_the_sum_is_linear_in_the_coefficients_and_names_every_parameter():
    s = symbolic.symbols()
    for phase in PHASES:
        total = symbolic.expression(EVERY_TERM, phase)
        for i in phase_parts(EVERY_TERM)[phase]:
            letter = s[symbolic.LETTERS[EVERY_TERM.coefficients[i].name]]
            assert sympy.diff(total, letter, 2) == 0
    every = {*EVERY_TERM.coefficients, *EVERY_TERM.exponents}
    assert {p.name for p in every} == set(symbolic.LETTERS)


@pytest.mark.parametrize("name", ["energylens12", "energylens6"])
def test_latex_names_the_parameters_of_the_form_and_no_others(name):
    form = get_form(name)
    text = form.latex()
    assert text == symbolic.latex(form)
    assert text.count("{") == text.count("}")
    for parameter in form.coefficients:
        assert symbolic.LETTERS[parameter.name] in text
    assert ("t^{e}" in text) == any(e.name == "weight_shard_exponent" for e in form.exponents)
    assert "f\\," not in text
    assert "f\\,w" in EVERY_TERM.latex()
    assert len(form.expression("decode").free_symbols) > 5
