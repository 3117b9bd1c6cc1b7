"""FIT files: versions, pooled laws in them, what happens to rows without a law of their own."""

from __future__ import annotations

import json
import sys
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from fitting_data import grid, synthetic

from fitting import Fit, fit_frame, load_fit
from fitting import laws as registry
from fitting.facts import Facts
from fitting.forms import get_form
from fitting.laws import KINDS, PooledKind, law_from_dict
from fitting.pairfit import fit_pair
from fitting.rows import pairs
from harness.store import FitError


class FakeLaw:
    """Joules in proportion to output tokens; covers GPU types whose name starts with G."""

    def __init__(self, name: str, joules: float, provenance: dict[str, int]) -> None:
        self.name, self.joules, self.provenance = name, joules, provenance
        self.asked: list[Facts | None] = []

    def covers(self, frame: pd.DataFrame, facts: object = None) -> np.ndarray:
        known = frame["hardware"].str.startswith("G").to_numpy(dtype=bool)
        return known & frame["output_tokens"].notna().to_numpy(dtype=bool)

    def predict(self, frame: pd.DataFrame, facts: Facts | None = None) -> np.ndarray:
        self.asked.append(facts)
        return self.joules * frame["output_tokens"].to_numpy(dtype=np.float64)

    def predict_phases(self, frame: pd.DataFrame, facts: Facts | None = None) -> pd.DataFrame:
        total = self.predict(frame, facts)
        out = pd.DataFrame(index=frame.index)
        for name in ("prefill_energy_j", "decode_energy_j"):
            for end in ("", "_lo", "_hi"):
                out[name + end] = np.nan
        for end, factor in (("", 1.0), ("_lo", 0.8), ("_hi", 1.25)):
            out["total_energy_j" + end] = factor * total
        return out

    def formula(self) -> str:
        return f"{self.joules:.3g} J x m"

    def to_dict(self) -> dict:
        return {"name": self.name, "joules": self.joules, "provenance": self.provenance}


def module(name: str, fewest: int = 4) -> ModuleType:
    made = ModuleType(f"fake_{name}")

    def fit(rows: pd.DataFrame, facts: Facts) -> FakeLaw:
        if len(rows) < fewest:
            raise FitError(f"{len(rows)} rows are too few for {name}.")
        each = rows["total_energy_j"] / rows["output_tokens"]
        kinds = {str(k): int(n) for k, n in rows["provenance"].value_counts().items()}
        return FakeLaw(name, float(each.median()), kinds)

    made.fit = fit
    made.from_dict = lambda data: FakeLaw(data["name"], data["joules"], data["provenance"])
    return made


@pytest.fixture(autouse=True)
def fakes(monkeypatch):
    """Stand-ins for the pooled laws of batches and of serving rows."""
    kinds = {}
    for name in ("energylens_pooled", "energylens_serving"):
        made = module(name)
        monkeypatch.setitem(sys.modules, made.__name__, made)
        old = KINDS[name]
        kinds[name] = PooledKind(name, made.__name__, "fit", old.rows, old.what, old.probe)
    monkeypatch.setattr(registry, "KINDS", kinds)
    monkeypatch.setattr("fitting.fit.KINDS", kinds)
    monkeypatch.setattr("fitting.fitted.KINDS", kinds)


def batches(few: int = 5) -> pd.DataFrame:
    """One pair with rows enough, one with few."""
    large = synthetic(noise=0.02, hardware="G1").iloc[::4]
    small = synthetic(noise=0.02, seed=1, hardware="G2").iloc[:few]
    return pd.concat([large, small], ignore_index=True)


def serving(n: int = 12) -> pd.DataFrame:
    """Serving rows: no input length."""
    tokens = np.linspace(100, 900, n)
    return pd.DataFrame(
        {
            "model_id": "b/S",
            "hardware": "G1",
            "task": "chat",
            "batch": np.tile([8, 32], n // 2),
            "output_tokens": tokens,
            "total_energy_j": 3.0 * tokens,
            "energy_per_output_token_j": 0.1,
            "provenance": "imported",
            "num_gpus": 1,
        }
    )


def test_pairs_with_few_rows_borrow_the_pooled_law():
    table = batches()
    fit = fit_frame(table, facts=Facts())
    assert [p.hardware for p in fit.pairs] == ["G1"]
    assert [(p.hardware, p.n_rows, p.law) for p in fit.pooled_pairs] == [
        ("G2", 5, "energylens_pooled")
    ]
    assert any("partial pooling" in note for note in fit.notes)
    names = fit.law_names(table)
    assert set(names) == {"energylens12", "energylens_pooled"}
    own = table["hardware"].eq("G1").to_numpy()
    alone = fit_frame(table[own], pooled=False)
    assert np.array_equal(fit.predict(table)[own], alone.predict(table[own]))
    assert fit.predict_phases(table[own]).equals(alone.predict_phases(table[own]))
    phases = fit.predict_phases(table)
    assert phases.index.equals(table.index)
    assert phases.loc[~own, "prefill_energy_j"].isna().all()
    assert not phases.loc[own].isna().any().any()
    np.testing.assert_allclose(phases["total_energy_j"], fit.predict(table))


def test_without_pooled_laws_few_rows_are_an_error():
    with pytest.raises(FitError, match="5 usable rows are too few"):
        fit_frame(batches(), pooled=False, facts=Facts())
    with pytest.raises(FitError, match="5 usable rows are too few"):
        fit_frame(batches())


def test_unknown_pairs_are_answered_if_covered_and_are_extrapolated():
    table = batches()
    fit = fit_frame(table, facts=Facts())
    new = table.iloc[:3].assign(model_id="never/Seen", hardware="G9")
    assert (fit.predict(new) > 0).all()
    assert fit.extrapolated(new).all()
    few = table[table["hardware"] == "G2"]
    assert not fit.extrapolated(few).any()
    assert fit.extrapolated(few.assign(batch=4096)).all()
    assert "J x m" in fit.formula("never/Seen", "G9")
    assert "rho" in fit.formula("a/Model-8B", "G1")
    with pytest.raises(KeyError, match="does not cover"):
        fit.predict(new.assign(hardware="Z"))
    with pytest.raises(FitError, match="does not cover"):
        fit.formula("never/Seen", "Z")
    mixed = pd.concat([table.iloc[:2], new, few.iloc[:1]])
    assert fit.law_names(mixed) == ["energylens12"] * 2 + ["energylens_pooled"] * 4
    single = [float(fit.predict(mixed.iloc[[i]])[0]) for i in range(len(mixed))]
    np.testing.assert_allclose(fit.predict(mixed), single)


def test_serving_tables_give_a_fit_of_pooled_laws_only(tmp_path):
    table = serving()
    fit = fit_frame(table, facts=Facts())
    assert fit.pairs == []
    assert [law.name for law in fit.pooled] == ["energylens_serving"]
    assert fit.models == ["b/S"]
    np.testing.assert_allclose(fit.predict(table), table["total_energy_j"])
    fit.save(tmp_path / "fit.json")
    again = load_fit(tmp_path / "fit.json")
    assert again.to_dict() == fit.to_dict()
    unseen = table.drop(columns=["total_energy_j", "energy_per_output_token_j"]).assign(
        model_id="c/New", hardware="G7", task="code"
    )
    assert np.array_equal(again.predict(unseen), fit.predict(unseen))
    assert again.extrapolated(unseen).all()
    assert not again.extrapolated(table).any()
    assert again.extrapolated(table.assign(task="code")).all()


def test_tables_of_both_kinds_get_both_laws():
    fit = fit_frame(pd.concat([batches(), serving()], ignore_index=True), facts=Facts())
    assert [law.name for law in fit.pooled] == ["energylens_pooled", "energylens_serving"]
    assert fit.data["rows"] == len(batches()) + 12
    assert fit.data["provenance"] == {"imported": 12, "projected": len(batches())}


def test_serving_rows_too_few_are_told():
    with pytest.raises(FitError, match="No law could be fitted") as error:
        fit_frame(serving(2))
    assert "2 rows are too few" in (error.value.where or "")
    with pytest.raises(FitError, match="2 rows are too few"):
        fit_frame(serving(2), pooled=True)


def test_a_pooled_law_never_mixes_provenances():
    table = batches(60)
    table.loc[table["hardware"] == "G2", "provenance"] = "measured"
    fit = fit_frame(table, facts=Facts())
    assert fit.pooled == []
    assert any("different provenance" in note for note in fit.notes)
    assert len(fit.pairs) == 2
    with pytest.raises(FitError, match="different provenance"):
        fit_frame(table, facts=Facts(), pooled=True)


def test_rows_that_no_law_is_for_are_counted():
    table = pd.concat([batches(60), serving().assign(output_tokens=np.nan)], ignore_index=True)
    fit = fit_frame(table, facts=Facts())
    assert "12 rows left out: no input_tokens." in fit.notes


def test_the_pooled_law_sees_drawn_rows_only():
    fit = fit_frame(batches(60), samples=20, facts=Facts())
    assert fit.pooled[0].provenance == {"projected": 40}


def test_a_source_gives_facts_of_new_names():
    fit = fit_frame(batches(), facts=Facts())
    asked: list[list[str]] = []

    def source(frame: pd.DataFrame) -> Facts:
        asked.append(sorted(set(frame["model_id"])))
        return Facts(dict.fromkeys(frame["hardware"], 1), dict.fromkeys(frame["model_id"], 2))

    fit.facts_source = source
    fit.predict(batches().assign(model_id="x/New", hardware="G3"))
    assert asked
    assert all(names == ["x/New"] for names in asked)
    given = fit.pooled[0].asked[-1]
    assert (dict(given.hardware), dict(given.models)) == ({"G3": 1}, {"x/New": 2})
    # What a law was fitted without stays so: the same file predicts the same everywhere.
    fit.predict(batches().assign(model_id="x/New", hardware="G2"))
    given = fit.pooled[0].asked[-1]
    assert (dict(given.hardware), dict(given.models)) == ({}, {"x/New": 2})


def test_the_file_says_code_data_and_facts(tmp_path):
    table = batches()
    fit = fit_frame(table, facts=Facts())
    fit.save(tmp_path / "fit.json")
    data = json.loads((tmp_path / "fit.json").read_text())
    assert data["fit_version"] == 3
    assert set(data) == {
        "fit_version",
        "form",
        "created_with",
        "commit",
        "data",
        "notes",
        "facts",
        "pairs",
        "pooled",
        "pooled_pairs",
    }
    assert data["data"]["rows"] == len(table)
    assert data["data"]["pairs"] == 2
    again = load_fit(tmp_path / "fit.json")
    assert (again.created_with, again.commit, again.data) == (
        fit.created_with,
        fit.commit,
        fit.data,
    )
    shuffled = fit_frame(table.sample(frac=1.0, random_state=2), facts=Facts())
    assert shuffled.data == fit.data
    other = fit_frame(table.assign(total_energy_j=2 * table["total_energy_j"]), facts=Facts())
    assert other.data["fingerprint"] != fit.data["fingerprint"]


def test_files_of_version_2_still_load(tmp_path):
    """They were fitted with the first revision of the law, and predict with it."""
    table = synthetic(noise=0.02, hardware="G1")
    group = next(pairs(table))
    pair = fit_pair(group, get_form("energylens12@1")).to_dict()
    old = {k: v for k, v in pair.items() if k not in ("intervals", "identifiability")}
    del old["traits"]["state_share"]
    old["form"] = "energylens12"
    file = {"fit_version": 2, "form": "energylens12", "created_with": "0.1.0", "notes": []}
    (tmp_path / "old.json").write_text(json.dumps({**file, "pairs": [old]}))
    again = load_fit(tmp_path / "old.json")
    own = Fit([fit_pair(group, get_form("energylens12@1"))], form="energylens12")
    assert np.array_equal(again.predict(table), own.predict(table))
    assert again.predict_phases(table).equals(own.predict_phases(table))
    assert not np.array_equal(again.predict(table), fit_frame(table).predict(table))
    assert again.pairs[0].identifiability is None
    assert "rho" in again.formula("a/Model-8B", "G1")
    assert again.to_dict()["fit_version"] == 3
    assert Fit.from_dict(again.to_dict()).to_dict() == again.to_dict()


@pytest.mark.parametrize(
    "change",
    [
        {"pooled": [{"name": "unheard_of"}]},
        {"pooled": [{"name": "energylens_pooled"}]},
        {"pooled": 3},
        {"pooled_pairs": [{"model_id": "a"}]},
        {"facts": {"hardware": {}}},
        {"pairs": [{}]},
        {"pairs": None},
        {"fit_version": "3"},
        {"fit_version": 4},
    ],
)
def test_damaged_files_are_refused_with_their_place(change, tmp_path):
    path = tmp_path / "fit.json"
    path.write_text(json.dumps({**fit_frame(batches(), facts=Facts()).to_dict(), **change}))
    with pytest.raises(FitError) as error:
        load_fit(path)
    assert error.value.where


def test_unknown_pooled_laws_are_named():
    with pytest.raises(FitError, match="unheard_of"):
        law_from_dict({"name": "unheard_of"})


def test_rows_to_predict_need_their_names():
    fit = fit_frame(batches(), facts=Facts())
    for name in ("model_id", "hardware"):
        with pytest.raises(FitError, match=name):
            fit.predict(grid().drop(columns=[name]))


@pytest.mark.parametrize("name", ["total_energy", "energy", "Energy_Wh", "total_energy_kj"])
def test_an_energy_without_joules_in_its_name_is_refused(name):
    table = batches().rename(columns={"total_energy_j": name})
    with pytest.raises(FitError, match=name) as error:
        fit_frame(table)
    assert "3600" in error.value.fix
