"""Errors that rows share, and how sure a law is of a GPU type that is unlike the others."""

from __future__ import annotations

import json
import types

import numpy as np
import pytest
from pooling_data import FACTS, error, head, table

from fitting.pooling import fit_pooled, from_dict
from fitting.pooling.errors import Widening
from fitting.pooling.hierarchy import levels_of
from fitting.pooling.joint import joint_errors, pairs_covariance
from fitting.pooling.known import LEVELS, labels_of
from fitting.pooling.parameters import N_PARAMETERS
from fitting.threads import one_thread

NEW = "three"
PHASES = ("prefill_energy_j", "decode_energy_j")


@pytest.fixture(scope="module")
def rows():
    return table()


@pytest.fixture(scope="module")
def without_new(rows):
    return fit_pooled(head(rows[rows["hardware"] != NEW], 30), FACTS)


def test_shared_and_own_errors_are_those_of_the_intervals(rows, without_new):
    for law in (without_new, without_new.updated(head(rows[rows["hardware"] == NEW], 3))):
        shared, own = law.errors(rows)
        found = law.predict_phases(rows)
        reach = np.log(found["total_energy_j_hi"] / found["total_energy_j"])
        np.testing.assert_allclose(
            1.96 * np.sqrt((shared**2).sum(axis=1) + own**2), reach, rtol=1e-5
        )


def test_candidates_of_a_pair_without_rows_err_alike(rows, without_new):
    asked = rows[(rows["hardware"] == NEW) & (rows["model_id"] == "a/8B")]
    shared, own = without_new.errors(asked)
    covariance = shared @ shared.T
    apart = np.diag(covariance)[:, None] + np.diag(covariance) - 2.0 * covariance
    alone = np.diag(covariance)[:, None] + np.diag(covariance)
    off = ~np.eye(len(asked), dtype=bool)
    assert np.median(apart[off] / alone[off]) < 0.6
    assert (own < np.sqrt(np.diag(covariance))).mean() > 0.8


def test_joint_covariance_equals_a_dense_system(rows, without_new):
    """Pairs with rows, of an unseen GPU type, and of one with rows beside it."""
    law = without_new
    models = [law.facts.models[name] for name in ("a/8B", "d/8x7B", "c/70B")]
    asked = [(models[0], "one"), (models[1], "one"), (models[0], NEW), (models[2], NEW)]
    found = pairs_covariance(law, types.SimpleNamespace(pairs=asked, code=np.zeros(0)))

    names = [*law.pairs, *((m.model_id, h) for m, h in asked[2:])]
    levels = levels_of(LEVELS, [labels_of(law.facts.models[m], h) for m, h in names])
    n, groups, pairs = N_PARAMETERS, len(levels.groups), len(names)
    size = np.concatenate([law.wide_spread[levels.level], np.tile(law.wide_spread[-1], (pairs, 1))])
    picks = np.zeros((pairs, groups + pairs))
    for p in range(pairs):
        picks[p, [*levels.member[p], groups + p]] = 1.0
    seen = len(law.pairs)
    matrix = np.einsum(
        "pa,pij,pb->aibj", picks[:seen], law.information, picks[:seen], optimize=True
    )
    matrix = matrix.reshape(size.size, -1) + np.diag(size.ravel() ** -2.0)
    wide = np.linalg.inv(matrix).reshape(len(size), n, len(size), n)
    place = [names.index((m.model_id, h)) for m, h in asked]
    dense = np.einsum("pa,aibj,qb->piqj", picks[place], wide, picks[place], optimize=True)
    np.testing.assert_allclose(found, dense.reshape(len(asked) * n, -1), atol=1e-7)


def test_many_rows_are_answered_in_pieces(rows, without_new, monkeypatch):
    shared, own = without_new.errors(rows)
    monkeypatch.setattr("fitting.pooling.law.CHUNK", 100)
    again, alone = joint_errors(without_new, without_new._asked(rows, None))
    np.testing.assert_allclose(again, shared)
    np.testing.assert_allclose(alone, own)


def test_a_gpu_type_unlike_the_others_gets_wider_intervals():
    """Its prefill costs thrice, its decode a third of what any other would let expect."""
    rows = table(seed=7)
    odd = rows["hardware"] == NEW
    law = fit_pooled(head(rows[~odd], 30), FACTS)
    rows.loc[odd, "prefill_energy_j"] *= 3.0
    rows.loc[odd, "decode_energy_j"] /= 3.0
    rows["total_energy_j"] = rows["prefill_energy_j"] + rows["decode_energy_j"]
    own = rows[odd]
    unlike = law.updated(head(own, 3))
    assert unlike.widening.factor("a/8B", NEW) > 1.5
    assert unlike.widening.factor("a/8B", "one") == law.widening.factor("a/8B", "one")
    test = own.drop(head(own, 3).index)
    found = unlike.predict_phases(test)
    energy = test["total_energy_j"]
    inside = (energy >= found["total_energy_j_lo"]) & (energy <= found["total_energy_j_hi"])
    assert inside.mean() > 0.87
    assert error(unlike.predict(test), test) < error(law.predict(test), test)
    again = from_dict(json.loads(json.dumps(unlike.to_dict())))
    assert again.widening == unlike.widening


def test_a_gpu_type_like_the_others_keeps_its_intervals(rows, without_new):
    like = without_new.updated(head(rows[rows["hardware"] == NEW], 3))
    assert set(like.widening.unlike) == {NEW}
    assert like.widening.factor("a/8B", NEW) < 1.3


def test_rows_added_in_two_steps_count_as_in_one(rows, without_new):
    own = rows[rows["hardware"] == NEW]
    once = without_new.updated(head(own, 6))
    twice = without_new.updated(head(own, 3))
    twice = twice.updated(head(own, 6).drop(head(own, 3).index))
    (chi, n), (both, count) = once.widening.unlike[NEW], twice.widening.unlike[NEW]
    assert n == count
    assert both == pytest.approx(chi, rel=0.25)


def test_rows_of_known_names_say_nothing_of_how_unlike_they_are(rows, without_new):
    assert not without_new.updated(rows[rows["hardware"] == "one"].tail(5)).widening.unlike


def test_factor_is_the_worse_of_model_and_gpu_type():
    widening = Widening(few=2.0).with_rows(["x"], 8.0, 4).with_rows(["y"], 1.0, 100)
    assert widening.factor("x", "y") == pytest.approx(2.0 * np.sqrt(2.0))
    assert widening.factor("z", "y") == 1.0
    assert widening.with_rows(["x"], 2.0, 6).unlike["x"] == (10.0, 10)


def test_one_thread_ends_with_the_block():
    from threadpoolctl import threadpool_info

    def threads():
        return [x["num_threads"] for x in threadpool_info() if x["user_api"] == "blas"]

    with one_thread():
        assert set(threads()) <= {1}
        inside = threads()
    before = threads()

    @one_thread()
    def nested():
        with one_thread():
            pass
        return threads()

    assert nested() == inside
    assert threads() == before


def test_a_gpu_type_whose_rows_scatter_more_has_wider_intervals():
    rows = table(seed=11)
    odd = (rows["hardware"] == NEW).to_numpy()
    rng = np.random.default_rng(0)
    for name in PHASES:
        rows.loc[odd, name] *= np.exp(0.15 * rng.standard_normal(odd.sum()))
    rows["total_energy_j"] = rows["prefill_energy_j"] + rows["decode_energy_j"]
    law = fit_pooled(head(rows, 30), FACTS)
    assert law.widening.platforms[NEW] > 1.2
    test = rows.drop(head(rows, 30).index)
    test = test[test["hardware"] == NEW]
    found = law.predict_phases(test)
    energy = test["total_energy_j"]
    inside = (energy >= found["total_energy_j_lo"]) & (energy <= found["total_energy_j_hi"])
    assert inside.mean() > 0.85
