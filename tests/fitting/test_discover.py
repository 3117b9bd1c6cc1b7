"""The search finds what was planted, checks units, and keeps rows left out apart."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from fitting_data import grid, synthetic
from hypothesis import given
from hypothesis import strategies as st

from fitting.discover import Discovery, discover_frame, get_engine
from fitting.discover.engine import Deadline, require
from fitting.discover.expression import read
from fitting.discover.heldout import FOLDS, folds, held_out_rows, smallest_as_good
from fitting.discover.library import LIBRARIES, Library
from fitting.discover.problem import Problem, batch_problem, serving_problem
from fitting.discover.selection import Path, search_terms
from fitting.discover.structure import relative_error
from fitting.discover.termlaw import Solver, TermLaw, term_law
from fitting.discover.units import unit, violations
from harness.store import FitError

PLANTED = ("reading", "requests x bridge", "launch x each_gpu")
GPUS = ("A100-SXM4-80GB", "H100-SXM5-80GB", "L40S-48GB")


def frame_of(gpus=GPUS, **options) -> pd.DataFrame:
    return pd.concat(
        [
            synthetic(noise=0.02, seed=i, visual=False, scale=1.0 + i, hardware=gpu, **options)
            for i, gpu in enumerate(gpus)
        ],
        ignore_index=True,
    )


def planted(noise: float, seed: int = 0, *, reduced: bool = False) -> Problem:
    """Decode energies of three GPU types by one law of three terms, constants for each."""
    frame = frame_of()
    if reduced:
        frame["precision"] = np.where(np.arange(len(frame)) % 3 == 0, "fp8", "bf16")
    problem, _, _ = batch_problem(frame, "decode", samples=40)
    law = term_law(problem, "working and waiting", PLANTED)
    assert law.exponents == (("rho", "f") if reduced else ("rho",))
    rng = np.random.default_rng(seed)
    values = np.column_stack(
        [
            rng.uniform(4.0, 12.0, len(GPUS)),
            rng.uniform(0.02, 0.06, len(GPUS)),
            rng.uniform(0.5, 2.0, len(GPUS)),
            rng.uniform(0.15, 0.4, len(GPUS)),
            rng.uniform(0.7, 1.6, len(GPUS)),
        ]
    )[:, : len(law.constants)]
    energy = law.predict(problem, values) * np.exp(noise * rng.standard_normal(len(problem)))
    return replace(problem, energy=energy, weight=np.ones(len(problem)))


@pytest.fixture(scope="module")
def noisy_search() -> Discovery:
    return discover_frame(frame_of(GPUS[:2]), phase="decode", samples=40, draws=1, seed=1)


@pytest.fixture(scope="module")
def noisy_path() -> Path:
    return search_terms(planted(0.02, reduced=True))


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_the_shipped_law_of_the_library_is_the_shipped_form(phase):
    """Each term of the library's `shipped` is the column of the form that its name stands for."""
    from fitting.forms.energylens12 import EVERY_TERM
    from fitting.traits import traits_of

    frame = grid()
    frame["num_experts"], frame["experts_per_token"] = 64.0, 8.0
    frame["state_bytes_per_sequence"] = 3e6
    frame["precision"] = np.where(np.arange(len(frame)) % 3 == 0, "fp8", "bf16")
    for name in ("prefill_energy_j", "decode_energy_j", "total_energy_j"):
        frame[name] = 1.0 + np.arange(len(frame))
    problem, rows, _ = batch_problem(frame, phase, samples=None)
    law = term_law(problem, "working and waiting", problem.library.shipped)
    theta = {"rho": 0.3, "e": 0.2, "f": 1.4}
    columns = EVERY_TERM.columns(traits_of(rows).work_of(rows), phase, list(theta.values()))
    found = sorted(
        law.predict(problem, np.array([[*unit_row, *(theta[e] for e in law.exponents)]])).tolist()
        for unit_row in np.eye(len(law.terms))
    )
    expected = sorted(column.tolist() for column in columns)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_terms_find_the_planted_structure_in_exact_rows():
    check(search_terms(planted(0.0)))


def test_terms_find_the_planted_structure_in_noisy_rows(noisy_path):
    check(noisy_path)


def check(path: Path) -> None:
    assert path.front == "working and waiting"
    wanted = {path.twins.get(name, name) for name in PLANTED}
    assert set(path.sizes[len(PLANTED)][1]) == wanted
    assert path.sizes[2][0] > path.sizes[3][0]


def test_terms_of_lowest_bic_hold_what_was_planted(noisy_path):
    path = noisy_path
    assert len(path.best[1]) <= len(PLANTED) + 2
    assert path.best[0] - path.sizes[len(PLANTED)][0] > -60.0


def test_constants_of_each_group_return():
    problem = planted(0.0)
    law = term_law(problem, "working and waiting", PLANTED)
    values = law.fit(problem)
    assert np.abs(relative_error(problem, law.predict(problem, values))).max() < 0.01
    assert values.shape == (len(GPUS), 4)
    assert len(np.unique(np.round(values[:, 0], 3))) == len(GPUS)


def test_wrong_terms_are_rejected_in_most_draws():
    problem = planted(0.02)
    found = get_engine("terms").search(problem, seed=0, draws=5, deadline=Deadline())
    assert found.draws == 5
    share = found.inclusion[len(PLANTED)]
    assert share["reading"] >= 0.8
    assert share["launch x each_gpu"] >= 0.8
    wrong = [term.name for term in problem.library.terms if not term.plausible]
    assert wrong
    assert max(share.get(name, 0.0) for name in wrong) <= 0.2


def test_the_same_seed_gives_the_same_laws_in_any_order_of_rows(noisy_search):
    frame = frame_of(GPUS[:2]).sample(frac=1.0, random_state=3)
    problem, _, _ = batch_problem(frame, "decode", samples=40, seed=1)
    found = get_engine("terms").search(problem, seed=1, draws=1, deadline=Deadline())
    assert {law.text for law in found.structures} == {
        law.text for law in noisy_search.searches[0].front
    }
    once = {i.term: i.at_best for i in noisy_search.searches[0].inclusion}
    assert all(once[name] == share for name, share in found.inclusion[0].items())


def test_result_survives_json(noisy_search):
    data = json.loads(json.dumps(noisy_search.to_dict(), allow_nan=False))
    assert Discovery.from_dict(data).to_dict() == noisy_search.to_dict()
    with pytest.raises(FitError, match="version"):
        Discovery.from_dict({**data, "version": 99})


def test_result_says_what_was_searched(noisy_search):
    search = noisy_search.searches[0]
    assert search.phase == "decode"
    assert search.rows == 80
    assert search.hardware == tuple(sorted(GPUS[:2]))
    assert search.provenance == {"projected": 80}
    assert search.draws == 1
    assert search.shipped is not None
    assert search.shipped.held_out < 0.05
    assert search.front[search.chosen].held_out < 0.06
    assert {item.term for item in search.inclusion if item.shipped} == set(
        LIBRARIES["decode"].shipped
    )
    for law in search.front:
        assert law.units_consistent
        assert law.parameters == len(law.constants)
        assert set(law.values) == set(search.groups)


def test_laws_are_read_by_sympy(noisy_search):
    sympy = pytest.importorskip("sympy")
    for law in noisy_search.searches[0].front[:4]:
        found = sympy.sympify(law.text, locals={n: sympy.Symbol(n) for n in read(law.text).names})
        numbers = {name: 1.0 + 0.1 * i for i, name in enumerate(sorted(read(law.text).names))}
        assert float(found.subs(numbers)) == pytest.approx(float(read(law.text)(numbers)))


@pytest.mark.parametrize("phase", list(LIBRARIES))
def test_every_term_of_every_library_comes_out_in_joules(phase):
    library, problem = LIBRARIES[phase], empty(phase)
    for front in library.fronts:
        for term in library.terms:
            law = TermLaw(library, front.name, (term.name,), ())
            units = {**problem.units, "a1": unit(term.unit)} | dict.fromkeys("ef", unit("1"))
            assert violations(law.text, {**units, "rho": unit("1")}, unit("J")) == (), law.text


def empty(phase: str) -> Problem:
    none = np.zeros(0)
    return Problem(phase, none, none, none.astype(int), (), (), {}, none.astype(int))


def test_defined_symbols_have_the_units_of_their_formulas():
    for phase in LIBRARIES:
        problem = empty(phase)
        units = {**problem.units, "f": unit("1"), "b1": unit("request")}
        for name, variable in {**problem.table, **problem.inputs, **problem.ratios}.items():
            if variable.definition is not None:
                assert violations(variable.definition, units, unit(variable.unit)) == (), name


def test_a_wrong_unit_is_found():
    library = LIBRARIES["decode"]
    wrong = Library(
        tuple(replace(t, unit="J") if t.name == "requests" else t for t in library.terms),
        library.fronts,
        library.exponents,
        library.shipped_front,
        library.shipped,
    )
    law = TermLaw(wrong, "working passes", ("requests", "launch"), ())
    units = {**empty("decode").units, **{c.name: unit(str(c.unit)) for c in law.constants}}
    found = violations(law.text, units, unit("J"))
    assert found
    assert "J*request added to J" in found[0]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("c1*log(n)", "log of token"),
        ("c1*exp(n)", "exp of token"),
        ("c1*n**x", "a fitted power of token"),
        ("c1*2**n", "an exponent in token"),
        ("c1*(n + x)", "token/request added to 1"),
        ("n*x", "the law is in token/request, not in J"),
        ("c1*nothing", "nothing has no unit"),
    ],
)
def test_units_of_formulas(text, fault):
    units = {"n": unit("token/request"), "x": unit("1"), "c1": None}
    assert any(fault in found for found in violations(text, units, unit("J")))


def test_constants_of_open_unit_make_a_formula_right():
    units = {"n": unit("token"), "c1": None, "c2": None}
    assert violations("c1*log(c2*n) + c1*sqrt(n)", units, unit("J")) == ()


def test_terms_that_no_row_tells_apart_are_named():
    problem, _, _ = batch_problem(frame_of(), "decode", samples=40)
    path = search_terms(problem)
    assert path.twins["launch x each_gpu"] == "weights x each_gpu"
    assert not {name for _, names in path.sizes.values() for name in names} & set(path.twins)


@given(
    st.lists(
        st.tuples(st.sampled_from(["J", "token", "request"]), st.sampled_from([1, 2, 0.5, -1, -2])),
        max_size=3,
        unique_by=lambda item: item[0],
    )
)
def test_units_survive_their_text(powers):
    found = unit("1")
    for base, power in powers:
        found = found.times(unit(base), power)
    assert unit(str(found)) == found


@pytest.mark.parametrize(
    "text", ["__import__('os')", "a.b", "[1]", "a if b else c", "f(x)", "'a'", "a +", "x[0]"]
)
def test_what_is_no_arithmetic_is_refused(text):
    with pytest.raises(FitError, match="cannot be read"):
        read(text)


class Spy:
    """A structure that remembers which energies it was fitted to."""

    text, constants, terms = "a1", (), ()

    def __init__(self):
        self.seen: list[set[float]] = []

    def fit(self, problem):
        self.seen.append(set(problem.energy.tolist()))
        return np.zeros((len(problem.names), 1))

    def predict(self, problem, values):
        return np.ones(len(problem))

    def active(self, problem, values):
        return np.ones(len(problem.names), dtype=int)


def test_no_row_left_out_is_fitted():
    problem = planted(0.02)
    assert len(np.unique(problem.energy)) == len(problem)
    spy, part = Spy(), folds(problem, 5)
    held_out_rows(problem, spy, 5)
    assert len(spy.seen) == FOLDS
    for number, seen in enumerate(spy.seen):
        assert not seen & set(problem.energy[part == number].tolist())
        assert len(seen) == (part != number).sum()


class HardwareSpy:
    """An engine that remembers which GPU types it searched."""

    name = "spy"

    def __init__(self):
        self.seen: list[set[str]] = []

    def search(self, problem, *, seed, draws, deadline):
        from fitting.discover.engine import Found

        self.seen.append(set(problem.hardware))
        return Found([term_law(problem, "working passes", ["reading"])])


def test_held_out_hardware_has_no_say_in_the_structure():
    from fitting.discover.heldout import held_out_hardware

    engine = HardwareSpy()
    errors, notes = held_out_hardware(planted(0.02), engine, seed=0, deadline=Deadline())
    assert engine.seen == [set(GPUS) - {gpu} for gpu in sorted(GPUS)]
    assert not notes
    assert all(np.isfinite(found).all() for found in errors.values())


def serving_frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        (f"org/M{size}-{sibling}", gpu, batch, gpus, size)
        for size in (8, 14, 32, 70, 120)
        for sibling in "ab"
        for gpu in ("H100-SXM5-80GB", "B200-SXM6-180GB")
        for batch in (8, 64, 256)
        for gpus in (1, 2, 4)
    ]
    frame = pd.DataFrame(rows, columns=["model_id", "hardware", "batch", "num_gpus", "size"])
    frame["params_total"] = frame["params_active"] = frame["size"] * 1e9
    energy = 0.5 * frame["size"] / frame["batch"] + 0.03 * frame["num_gpus"]
    frame["energy_per_output_token_j"] = energy * np.exp(0.02 * rng.standard_normal(len(frame)))
    return frame.assign(
        total_energy_j=frame["energy_per_output_token_j"] * 1e3,
        precision="bf16",
        modality="text",
        task="chat",
        provenance="imported",
        valid=True,
        input_tokens=np.nan,
    )


def test_serving_rows_are_searched_by_token_and_siblings_stay_together():
    frame = serving_frame()
    backbones = {name: name[:-2] for name in frame["model_id"].unique()}
    problem, rows, _ = serving_problem(frame, backbones)
    part = folds(problem, 0)
    family = rows["model_id"].map(backbones).to_numpy()
    for name in np.unique(family):
        assert len(np.unique(part[family == name])) == 1
    found = discover_frame(frame, draws=2, backbones=backbones).searches[0]
    assert found.phase == "serving"
    assert set(found.front[found.chosen].terms) == {"weights", "token x gpus"}
    assert found.front[found.chosen].held_out < 0.05


def test_the_smallest_law_within_one_standard_error_is_chosen():
    problem = planted(0.0)
    rng = np.random.default_rng(0)
    base = np.abs(0.05 * rng.standard_normal(len(problem)))
    errors = [base + 0.5, base + 1e-4, base]
    assert smallest_as_good(problem, [1, 4, 9], errors) == 1


def test_exponents_count_only_where_rows_tell_them():
    frame = grid(visual=False)
    frame["prefill_energy_j"] = frame["decode_energy_j"] = 1.0
    frame["total_energy_j"] = np.linspace(1.0, 2.0, len(frame))
    single = frame[(frame["tensor_parallel"] == 1) & (frame["pipeline_parallel"] == 1)]
    problem, _, _ = batch_problem(single, "decode")
    assert Solver(problem).exponents("working and waiting", ["reading x sharded"]) == ()


def test_total_energies_are_searched_where_phases_are_missing():
    frame = frame_of(GPUS[:1]).drop(columns=["prefill_energy_j", "decode_energy_j"])
    frame = frame.sample(24, random_state=0)
    found = discover_frame(frame, draws=0).searches[0]
    assert found.phase == "total"
    assert found.front[found.chosen].held_out < 0.25
    assert any("One GPU type" in note for note in found.notes)
    with pytest.raises(FitError, match="No row has a prefill energy"):
        discover_frame(frame, phase="prefill")


def test_bad_requests_are_told_clearly():
    frame = frame_of(GPUS[:1])
    with pytest.raises(FitError, match="no engine 'magic'"):
        discover_frame(frame, engine="magic")
    with pytest.raises(FitError, match="no phase 'warmup'"):
        discover_frame(frame, phase="warmup")
    with pytest.raises(FitError, match="Too few rows"):
        discover_frame(frame.head(5))
    with pytest.raises(FitError, match="Too few rows"):
        discover_frame(frame, samples=5)
    with pytest.raises(FitError, match="ended before any law"):
        discover_frame(frame, timeout_s=0.0)


def test_an_engine_that_is_not_there_says_how_to_set_it_up():
    class Missing:
        name = "missing"

        def probe(self):
            from fitting.discover.engine import Probe

            return Probe(False, reason="it is not installed", setup="install it")

    with pytest.raises(FitError, match="unavailable: it is not installed") as error:
        require(Missing())
    assert "install it" in str(error.value)
