"""Recommendations where a pooled law answers: models and GPU types without measurements."""

from __future__ import annotations

import face_data
import numpy as np
import pandas as pd
import pytest

from energylens.recommendation import Limits, Request, recommend
from energylens.recommendation.defaults import fill_request
from fitting import Fit
from harness.errors import FitError

SMALL, LARGE = face_data.MODELS
NEW = "Qwen/Qwen3-14B"
HOPPER = "H100-SXM5-80GB"


class Shared:
    """A pooled law: joules by tokens and GPUs, with 40 % intervals."""

    provenance: dict[str, int] = {"projected": 99}  # noqa: RUF012

    def __init__(self, name: str = "energylens_pooled") -> None:
        self.name = name

    def covers(self, frame: pd.DataFrame, facts: object = None) -> np.ndarray:
        return frame["hardware"].ne("Z9").to_numpy(dtype=bool)

    def predict(self, frame: pd.DataFrame, facts=None) -> np.ndarray:
        tokens = frame["batch"] * frame["output_tokens"]
        return (tokens * (1.0 + 0.1 * frame["num_gpus"])).to_numpy(dtype=np.float64)

    def predict_phases(self, frame: pd.DataFrame, facts=None) -> pd.DataFrame:
        total = self.predict(frame)
        shares = {"prefill": 0.3, "decode": 0.7, "total": 1.0}
        return pd.DataFrame(
            {
                f"{phase}_energy_j{end}": share * factor * total
                for phase, share in shares.items()
                for end, factor in (("", 1.0), ("_lo", 1 / 1.4), ("_hi", 1.4))
            },
            index=frame.index,
        )

    def formula(self) -> str:
        return "tokens"

    def to_dict(self) -> dict:
        return {"name": self.name}


@pytest.fixture(scope="module")
def pooled(law) -> Fit:
    return Fit(law.pairs, form=law.form, pooled=[Shared()])


def request(model: str = NEW, **more) -> Request:
    limits = Limits(max_gpus=more.pop("max_gpus", None))
    return Request(
        model_id=model, batch=(16,), input_tokens=1024, output_tokens=256, limits=limits, **more
    )


def test_a_model_of_the_catalog_is_chosen_for_on_the_known_gpu_types(pooled, table) -> None:
    answer = recommend(pooled, request(), table)
    assert answer.met
    assert {c.hardware for c in answer.candidates} == set(face_data.HARDWARE)
    assert all(c.extrapolated for c in answer.candidates)
    assert answer.best.num_gpus == 1
    assert answer.provenance == "projected"
    assert any("no law of its own on H100" in note for note in answer.notes)
    assert any(note.startswith("extrapolated") for note in answer.notes)
    width = answer.best.total_energy_hi_j / answer.best.total_energy_j
    assert width == pytest.approx(1.4)
    assert 0.0 < answer.best.probability_best < 0.9
    assert answer.regret_bound > 0.0
    # 40 heads are not shared by 16 GPUs, and a node has 8.
    assert {c.tensor_parallel for c in answer.candidates} == {1, 2, 4, 8}
    assert max(c.num_gpus for c in answer.candidates) == 8


class Silent:
    """The same law, which does not say what its rows share."""

    def __init__(self, law) -> None:
        self.law = law

    def __getattr__(self, name: str):
        return getattr(self.law, name)


def test_candidates_that_err_alike_have_a_smaller_regret_bound(table) -> None:
    from energylens.facts import facts_for
    from fitting.pooling import fit_pooled

    rows = table.groupby(["model_id", "hardware"]).head(80)
    shared = fit_pooled(rows, facts_for(rows))
    told, silent = (
        recommend(Fit([], form="energylens12", pooled=[law]), request(hardware=(HOPPER,)), table)
        for law in (shared, Silent(shared))
    )
    assert told.regret_bound < 0.5 * silent.regret_bound
    assert told.best.probability_best > silent.best.probability_best
    assert told.best.total_energy_hi_j == pytest.approx(silent.best.total_energy_hi_j)


def test_a_gpu_type_of_the_catalog_is_one_if_asked_for(pooled, table) -> None:
    both = ("H100-SXM5-80GB", "L40S-48GB")
    answer = recommend(pooled, request(LARGE, hardware=both), table)
    kinds = {c.hardware: c.extrapolated for c in answer.candidates}
    assert kinds == {"H100-SXM5-80GB": False, "L40S-48GB": True}
    # 66 GB of weights do not fit on one or with few on 48 GB.
    layouts = {c.parallelism for c in answer.candidates if c.hardware == "L40S-48GB"}
    assert "TP1" not in layouts
    assert "TP2" in layouts
    without = recommend(pooled, request(LARGE), table)
    assert {c.hardware for c in without.candidates} == set(face_data.HARDWARE)


def test_limits_and_precisions_hold_for_unseen_models(pooled, table) -> None:
    answer = recommend(pooled, request(max_gpus=2, precision=("fp8",)), table)
    assert {c.num_gpus for c in answer.candidates} <= {1, 2}
    assert {c.precision for c in answer.candidates} == {"fp8"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "nobody/knows"}, "catalog does not know"),
        ({"model": NEW, "hardware": ("Z9",)}, "Z9"),
    ],
)
def test_what_nobody_knows_is_refused(pooled, table, change, words) -> None:
    with pytest.raises(FitError, match=words):
        recommend(pooled, request(**change), table)


def test_without_a_pooled_law_a_new_model_is_refused(law, table) -> None:
    with pytest.raises(FitError, match="no law for model"):
        recommend(law, request(), table)


def test_a_fit_of_serving_rows_says_what_to_use_instead() -> None:
    fit = Fit([], form="energylens12", pooled=[Shared("energylens_serving")])
    for call in (
        lambda: recommend(fit, request()),
        lambda: fill_request(
            fit, None, model_id=None, batch=(), input_tokens=None, output_tokens=None
        ),
    ):
        with pytest.raises(FitError, match="without input lengths") as error:
            call()
        assert "load_fit" in error.value.fix
