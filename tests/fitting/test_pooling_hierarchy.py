"""The hierarchy against a dense solution, and the terms against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from pooling_data import FACTS, GPUS, MODELS, head, table

from fitting.pooling.calibration import _left, _Setup
from fitting.pooling.columns import columns_of
from fitting.pooling.fit import prepared
from fitting.pooling.hierarchy import levels_of, posterior
from fitting.pooling.known import label_rows
from fitting.pooling.parameters import N_PARAMETERS, PARAMETERS
from fitting.pooling.sizes import machine_of
from fitting.pooling.terms import energies
from fitting.pooling.training import observed


def test_posterior_equals_the_dense_solution():
    """Three pairs, two parameters, two levels: the same as one large normal system."""
    rng = np.random.default_rng(0)
    levels = levels_of(("all", "kind"), [("", "x"), ("", "x"), ("", "y")])
    n, groups = 2, len(levels.groups)
    root = rng.standard_normal((3, 4, n))
    information = root.transpose(0, 2, 1) @ root
    pull = rng.standard_normal((3, n))
    prior = rng.uniform(0.5, 2.0, (groups, n))
    prior[1, 0] = 0.0
    own = np.array([0.3, 0.0])
    found = posterior(information, pull, levels.member, prior, own)

    picks = np.zeros((3, n, (groups + 3) * n))
    for p in range(3):
        for g in [*levels.member[p], groups + p]:
            picks[p, :, g * n : (g + 1) * n] = np.eye(n)
    size = np.concatenate([prior, np.tile(own, (3, 1))]).ravel()
    matrix = np.einsum("pia,pij,pjb->ab", picks, information, picks)
    right = np.einsum("pia,pi->a", picks, pull)
    wide = np.linalg.inv(size[:, None] * matrix * size + np.eye(len(size)))
    wide = size[:, None] * wide * size
    effects = (wide @ right).reshape(-1, n)
    np.testing.assert_allclose(found.effects, effects[:groups], atol=1e-10)
    np.testing.assert_allclose(found.own, effects[groups:], atol=1e-10)
    for p in range(3):
        np.testing.assert_allclose(
            found.pair_covariance(p, levels.member[p], prior[:2]),
            picks[p] @ wide @ picks[p].T,
            atol=1e-10,
        )


def test_unknown_groups_add_their_prior():
    levels = levels_of(("all", "kind"), [("", "x")])
    prior = np.array([[1.0], [0.5]])
    found = posterior(np.array([[[4.0]]]), np.array([[2.0]]), levels.member, prior, np.zeros(1))
    assert levels.find(("", "z")).tolist() == [0, -1]
    known = found.covariance[0, 0, 0, 0]
    assert found.shared_covariance(levels.find(("", "z")), prior)[0, 0] == pytest.approx(
        known + 0.25
    )


def test_the_last_level_is_eliminated_exactly():
    """Four levels that cross, the last one finer: effects and spreads as in one dense system."""
    rng = np.random.default_rng(4)
    labels = [("", m, h, f"{m[0]} on {h}") for m in ("ab", "ac", "d") for h in "xyz"][:-1]
    levels = levels_of(("all", "model", "gpu", "cell"), labels)
    n, groups, pairs = 2, len(levels.groups), len(labels)
    root = rng.standard_normal((pairs, 3, n))
    information = root.transpose(0, 2, 1) @ root
    pull = rng.standard_normal((pairs, n))
    prior, own = rng.uniform(0.2, 1.0, (groups, n)), np.array([0.3, 0.2])
    found = posterior(information, pull, levels.member, prior, own)
    picks = np.zeros((pairs, n, (groups + pairs) * n))
    for p in range(pairs):
        for g in [*levels.member[p], groups + p]:
            picks[p, :, g * n : (g + 1) * n] = np.eye(n)
    size = np.concatenate([prior, np.tile(own, (pairs, 1))]).ravel()
    matrix = np.einsum("pia,pij,pjb->ab", picks, information, picks) + np.diag(size**-2.0)
    wide = np.linalg.inv(matrix)
    effects = (wide @ np.einsum("pia,pi->a", picks, pull)).reshape(-1, n)
    np.testing.assert_allclose(found.effects, effects[:groups], atol=1e-10)
    np.testing.assert_allclose(found.own, effects[groups:], atol=1e-10)
    variance = np.diag(wide).reshape(-1, n)
    first = len(found.covariance)
    for g in range(first, groups):
        np.testing.assert_allclose(found.last_variance(g), variance[g], atol=1e-10)
    for p in range(pairs):
        np.testing.assert_allclose(
            found.pair_covariance(p, levels.member[p], prior[:4]),
            picks[p] @ wide @ picks[p].T,
            atol=1e-10,
        )


def _prepared():
    rows = prepared(head(table(seed=2), 8)).assign(precision="fp8", visual_tokens=64)
    named = label_rows(rows)
    models = [FACTS.models[name] for name in named.models]
    machines = [machine_of(FACTS.hardware[name]) for name in named.hardware]
    return rows, named, columns_of(rows, models, machines, named.model, named.machine)


def test_slopes_are_the_derivatives():
    _, named, columns = _prepared()
    rng = np.random.default_rng(1)
    point = 0.1 * rng.standard_normal((len(named.pairs), N_PARAMETERS))
    found = energies(columns, point, named.code, slopes=True)
    step = 1e-5
    for j, parameter in enumerate(PARAMETERS):
        up, down = point.copy(), point.copy()
        up[:, j] += step
        down[:, j] -= step
        high, low = energies(columns, up, named.code), energies(columns, down, named.code)
        for name in ("prefill", "decode"):
            slope = np.log(getattr(high, name) / getattr(low, name)) / (2.0 * step)
            expected = getattr(found, f"{name}_slope")[:, j]
            np.testing.assert_allclose(slope, expected, atol=2e-6, err_msg=parameter.name)


def test_at_zero_terms_are_what_the_datasheet_says():
    """One GPU, one long prompt: FLOPs over peak rate, times the power limit."""
    rows = (
        table()
        .head(1)
        .assign(batch=1, input_tokens=4096, output_tokens=2, tensor_parallel=1, pipeline_parallel=1)
    )
    model, gpu = MODELS[0], GPUS[0]
    nothing = np.zeros(1, dtype=np.intp)
    columns = columns_of(rows, [model], [machine_of(gpu)], nothing, nothing)
    flops = 2.0 * model.params_active * 4096
    energy = flops / gpu.peak_flops["bf16"] * gpu.power_limit_w
    assert columns.prefill_compute[0] == pytest.approx(energy)
    read = 2.0 * model.params_total / gpu.memory_bandwidth_bytes_per_s * gpu.power_limit_w
    assert columns.dense[0] == pytest.approx(read)
    assert columns.experts[0] == 0.0
    assert columns.prefill_reduce[0] == columns.decode_sync[0] == 0.0


def test_left_out_groups_share_no_row_with_what_is_kept():
    rows, named, columns = _prepared()
    member = np.array([[0, j] for _, j in named.pairs])

    class Law:
        class levels:  # noqa: N801
            names = ("all", "hardware")

    Law.levels.member = member
    starts = np.searchsorted(named.code, np.arange(len(named.pairs)))
    place = np.arange(len(rows)) - starts[named.code]
    setup = _Setup(Law, columns, observed(rows), [], named.code, named.model, place, {}, {})
    seen = np.zeros(len(rows), dtype=int)
    for kept in _left(setup, "hardware", 0):
        left = set(rows["hardware"][~kept])
        assert left.isdisjoint(rows["hardware"][kept])
        seen += ~kept
    assert (seen == 1).all()
    for kept in _left(setup, "hardware", 3):
        few = rows[kept].groupby(["model_id", "hardware"]).size()
        assert set(few) == {3, 8}
