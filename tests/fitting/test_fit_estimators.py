"""The laws as scikit-learn regressors."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from fitting_data import synthetic
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.utils.estimator_checks import check_estimator

from fitting import fit_frame
from fitting.estimators import FEATURES, EnergyLawRegressor, PooledEnergyLawRegressor

DESIGN = [
    "batch",
    "input_tokens",
    "output_tokens",
    "tensor_parallel",
    "pipeline_parallel",
    "visual_tokens",
    "precision",
    "modality",
    "params_total",
    "params_active",
    "hidden_size",
    "kv_bytes_per_token",
]
NUMBERS = DESIGN[:6]

CHECKED = EnergyLawRegressor(form="auto", clip=True, constants={"output_tokens": 128})
"""The checks of scikit-learn give arrays of 1 to 10 columns with numbers from 0: such rows are
requests only if counts below 1 are taken as 1 and a lacking output length is given."""

NOT_APPLICABLE: dict[str, str] = {}
"""Checks that cannot hold, each with the reason. There is none."""


@pytest.fixture(scope="module")
def table():
    frame = synthetic(noise=0.02, seed=4)
    return frame.sample(n=160, random_state=0).reset_index(drop=True)


def test_scikit_learn_finds_no_fault():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(
            CHECKED, expected_failed_checks=NOT_APPLICABLE, on_fail=None, on_skip=None
        )
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    assert failed == {}
    assert sum(r["status"] == "passed" for r in results) > 45


def test_it_is_the_law_of_a_fit_on_totals(table):
    regressor = EnergyLawRegressor().fit(table[DESIGN], table["total_energy_j"])
    alone = fit_frame(table.drop(columns=["prefill_energy_j", "decode_energy_j"]), pooled=False)
    np.testing.assert_allclose(regressor.predict(table[DESIGN]), alone.predict(table), rtol=0.02)
    assert regressor.score(table[DESIGN], table["total_energy_j"]) > 0.99
    assert "rho" in regressor.formula()
    assert regressor.feature_names_in_.tolist() == DESIGN
    band = regressor.predict_interval(table[DESIGN])
    inside = (band[:, 0] <= table["total_energy_j"]) & (table["total_energy_j"] <= band[:, 1])
    assert inside.mean() > 0.9


def test_answers_in_the_table_are_never_inputs(table):
    named = EnergyLawRegressor().fit(table, table["total_energy_j"])
    blind = EnergyLawRegressor().fit(table[DESIGN], table["total_energy_j"])
    assert not named.law_.by_phase
    np.testing.assert_allclose(named.predict(table), blind.predict(table[DESIGN]), rtol=1e-3)


def test_arrays_are_read_by_feature_names(table):
    values = table[NUMBERS].to_numpy(dtype=float)
    frame = EnergyLawRegressor().fit(table[NUMBERS], table["total_energy_j"])
    array = EnergyLawRegressor(feature_names=NUMBERS).fit(values, table["total_energy_j"])
    assert np.array_equal(frame.predict(table[NUMBERS]), array.predict(values))
    assert list(FEATURES[:5]) == NUMBERS[:5]
    bare = EnergyLawRegressor().fit(values[:, :5], table["total_energy_j"])
    assert bare.n_features_in_ == 5


def test_parameters_clone_and_pickle(table):
    regressor = EnergyLawRegressor(form="energylens6", feature_names=NUMBERS)
    assert regressor.get_params() == {
        "clip": False,
        "constants": None,
        "feature_names": NUMBERS,
        "form": "energylens6",
    }
    assert clone(regressor.set_params(form="auto")).form == "auto"
    values = table[NUMBERS].to_numpy(dtype=float)
    regressor.fit(values, table["total_energy_j"])
    again = pickle.loads(pickle.dumps(regressor))
    assert np.array_equal(again.predict(values), regressor.predict(values))


def test_cross_validation(table):
    scores = cross_val_score(
        EnergyLawRegressor(),
        table[DESIGN],
        table["total_energy_j"],
        cv=4,
        scoring="neg_mean_absolute_percentage_error",
    )
    assert (scores > -0.06).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch": 0}, "batch"),
        ({"batch": -1}, "Negative"),
        ({"batch": "many"}, "no number"),
        ({"precision": "fp3"}, "precision"),
    ],
)
def test_rows_that_are_no_requests_are_refused(table, change, words):
    with pytest.raises(ValueError, match=words):
        EnergyLawRegressor().fit(table[DESIGN].assign(**change), table["total_energy_j"])


def test_bad_input_is_refused(table):
    energy = table["total_energy_j"]
    with pytest.raises(ValueError, match="output_tokens"):
        EnergyLawRegressor().fit(table[["batch", "input_tokens"]], energy)
    with pytest.raises(ValueError, match="not above zero"):
        EnergyLawRegressor().fit(table[DESIGN], -energy)
    with pytest.raises(ValueError, match="n_samples=5"):
        EnergyLawRegressor(form="auto").fit(table[DESIGN].iloc[:5], energy.iloc[:5])
    with pytest.raises(ValueError, match="feature_names"):
        EnergyLawRegressor(feature_names=["batch"]).fit(np.ones((9, 3)), np.ones(9))
    with pytest.raises(ValueError, match="11 columns"):
        EnergyLawRegressor().fit(np.ones((9, 11)), np.ones(9))
    with pytest.raises(NotFittedError):
        EnergyLawRegressor().predict(table[DESIGN])


def test_the_pooled_regressor_answers_for_unseen_models():
    """The groups are backbones: no sibling of a test model is in the training rows."""
    pytest.importorskip("fitting.pooling")
    sizes = {"a/M-8B": 8.0e9, "a/M-14B": 14.0e9, "a/M-32B": 32.0e9}
    parts = []
    for i, (model, size) in enumerate(sizes.items()):
        part = synthetic(noise=0.02, seed=i, visual=False, scale=size / 8e9, model_id=model)
        parts.append(part.assign(params_total=size, params_active=size).iloc[::3])
    table = pd.concat(parts, ignore_index=True)
    inputs = table.drop(columns=["prefill_energy_j", "decode_energy_j", "total_energy_j"])
    energy = table["total_energy_j"]
    regressor = PooledEnergyLawRegressor()
    scores = cross_val_score(
        regressor,
        inputs,
        energy,
        groups=table["model_id"],
        cv=GroupKFold(3),
        scoring="neg_mean_absolute_percentage_error",
    )
    assert len(scores) == 3
    assert np.isfinite(scores).all()
    known = clone(regressor).fit(inputs, energy)
    assert np.abs(known.predict(inputs) / energy - 1).mean() < 0.05
    with pytest.raises(ValueError, match="DataFrame"):
        known.predict(inputs.to_numpy())
    with pytest.raises(ValueError, match="does not cover"):
        known.predict(inputs.assign(hardware="Z9"))


def test_the_example_of_the_docs_runs(repository, capsys):
    text = (repository / "docs" / "fit-files.md").read_text()
    blocks = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    example = next(block for block in blocks if "EnergyLawRegressor" in block)
    names: dict[str, object] = {}
    exec(compile(example, "docs/fit-files.md", "exec"), names)
    assert "prefill energy [J]" in capsys.readouterr().out
    assert (names["low"] <= names["high"]).all()


def test_every_key_of_the_file_is_documented(repository):
    text = (repository / "docs" / "fit-files.md").read_text()
    fit = fit_frame(synthetic(noise=0.02), samples=30, pooled=False)
    data = fit.to_dict()
    for key in (*data, *data["pairs"][0], *data["pairs"][0]["parameters"][0], *data["data"]):
        assert key in text, key
    for key in (*data["pairs"][0]["traits"], *data["pairs"][0]["identifiability"]):
        assert key in text, key
