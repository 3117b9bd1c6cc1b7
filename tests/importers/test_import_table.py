"""Import of a CSV or Parquet table: what comes out, and every kind of bad file."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import ImportDataError
from harness.importers import import_data
from harness.importers.units import other_unit
from harness.store import RunFolder, read_measurements, task_id_of

HEADER = "model_id,family,hardware,batch,output_tokens,total_energy_j"
GOOD = f"{HEADER}\norg/a,dense,H100,8,128,100\norg/a,dense,H100,16,128,150\n"


def csv(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def frame(rows: int = 4) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "model_id": "org/a",
            "family": "dense",
            "hardware": "H100",
            "batch": np.arange(1, rows + 1),
            "output_tokens": 128,
            "total_energy_j": np.linspace(50.0, 90.0, rows),
        }
    )


def test_the_smallest_table_gets_its_defaults(tmp_path: Path):
    summary = import_data("table", csv(tmp_path / "lab.csv", GOOD), tmp_path / "run")
    assert summary.rows == 2
    assert summary.models == ["org/a"]
    assert summary.hardware == ["H100-SXM5-80GB"]
    assert summary.skipped == []
    assert summary.to_dict()["folder"] == str(tmp_path / "run")
    out = read_measurements(tmp_path / "run").sort_values("batch")
    one = out.iloc[0]
    assert one["provenance"] == "imported"
    assert one["source"] == "lab.csv"
    assert one["modality"] == "text"
    assert one["precision"] == "bf16"
    assert one["num_gpus"] == 1
    assert one["tensor_parallel"] == 1
    assert one["visual_tokens"] == 0
    assert bool(one["valid"]) is True
    assert one["energy_per_output_token_j"] == 100 / (8 * 128)
    assert pd.isna(one["input_tokens"])
    assert pd.isna(one["ttft_s"])
    assert pd.isna(one["measured_at"])
    assert one["task_id"] == task_id_of(
        {
            "model_id": "org/a",
            "hardware": "H100-SXM5-80GB",
            "batch": 8,
            "output_tokens": 128,
        }
    )


def test_energy_per_token_stands_in_for_the_total(tmp_path: Path):
    text = "model_id,family,hardware,batch,output_tokens,energy_per_output_token_j,task\n"
    import_data("table", csv(tmp_path / "t.csv", text + "m,moe,H100,4,10,0.3,a\n"), tmp_path / "r")
    row = read_measurements(tmp_path / "r").iloc[0]
    assert row["total_energy_j"] == pytest.approx(12.0)
    assert row["energy_per_output_token_j"] == 0.3


def test_all_kinds_of_columns_come_through(tmp_path: Path):
    text = (
        "model_id,Ignored,family,hardware,num_gpus,tensor_parallel,pipeline_parallel,batch,"
        "output_tokens,total_energy_j,total_energy_ci95_j,ttft_s,throttled,valid,reasons,"
        "measured_at,source,precision,modality,visual_tokens\n"
        'org/a,"x, y",MoE,b200,8,4,2,8,128,100,2,NaN,no,False,drift;throttled,'
        "2026-11-20T08:00:00+01:00,our lab,bfloat16,image,\n"
        "\n"
        "org/a,,moe,Unheard Of 3000/x,,4,,8,128,100,,0.5,true,1,,2026-11-20,,fp8,text,\n"
    )
    summary = import_data("table", csv(tmp_path / "t.csv", text), tmp_path / "r")
    assert summary.rows == 2
    notes = " ".join(summary.notes)
    assert "Unheard Of 3000/x" in notes
    assert "Ignored" in notes
    assert (tmp_path / "r/measurements/hardware=Unheard Of 3000%2Fx").is_dir()
    out = read_measurements(tmp_path / "r").set_index("hardware")
    first, second = out.loc["B200-SXM6-180GB"], out.loc["Unheard Of 3000/x"]
    assert first["family"] == "moe"
    assert first["precision"] == "bf16"
    assert first["total_energy_j_ci95_j"] == 2
    assert np.isnan(first["ttft_s"])
    assert (first["throttled"], first["valid"]) == (False, False)
    assert first["reasons"] == ["drift", "throttled"]
    assert first["measured_at"] == pd.Timestamp("2026-11-20 07:00", tz="UTC")
    assert first["source"] == "our lab"
    assert first["Ignored"] == "x, y"
    assert np.isnan(first["visual_tokens"]), "an image row without visual tokens: unknown, not 0"
    assert second["visual_tokens"] == 0
    assert second["num_gpus"] == 4
    assert second["source"] == "t.csv"
    assert second["reasons"] is None


def test_provenance_is_imported_whatever_the_file_says(tmp_path: Path):
    text = GOOD.replace("total_energy_j\n", "total_energy_j,provenance,task_id\n")
    text = text.replace("100\n", "100,measured,ab\n").replace("150\n", "150,measured,ac\n")
    summary = import_data("table", csv(tmp_path / "t.csv", text), tmp_path / "r")
    out = read_measurements(tmp_path / "r")
    assert set(out["provenance"]) == {"imported"}
    assert not {"ab", "ac"} & set(out["task_id"])
    assert len(summary.notes) == 2


def test_importing_again_changes_nothing(tmp_path: Path):
    path = csv(tmp_path / "t.csv", GOOD)
    import_data("table", path, tmp_path / "r")
    before = read_measurements(tmp_path / "r")
    manifest = (tmp_path / "r" / "manifest.json").read_bytes()
    assert import_data("table", path, tmp_path / "r").notes == []
    pd.testing.assert_frame_equal(read_measurements(tmp_path / "r"), before)
    assert (tmp_path / "r" / "manifest.json").read_bytes() == manifest


def test_a_second_source_is_noted_and_the_later_row_counts(tmp_path: Path):
    import_data("table", csv(tmp_path / "a.csv", GOOD), tmp_path / "r")
    other = csv(tmp_path / "b.csv", GOOD.replace("150", "160"))
    summary = import_data("table", other, tmp_path / "r")
    assert "2 configurations were imported before from 'a.csv'" in summary.notes[0]
    out = read_measurements(tmp_path / "r").sort_values("batch")
    assert out["total_energy_j"].tolist() == [100, 160]
    assert len(RunFolder.open(tmp_path / "r").manifest["imports"]) == 2


def test_import_never_covers_a_measured_row(tmp_path: Path):
    import_data("table", csv(tmp_path / "a.csv", GOOD), tmp_path / "r")
    rows = read_measurements(tmp_path / "r").assign(provenance="measured")
    run = RunFolder.create(tmp_path / "run", {})
    run.write_result("l", "H100-SXM5-80GB", rows)
    with pytest.raises(ImportDataError, match="2 of the configurations were measured"):
        import_data("table", tmp_path / "a.csv", tmp_path / "run")
    assert set(read_measurements(run)["provenance"]) == {"measured"}


def test_attempts_tell_repeats_apart(tmp_path: Path):
    text = f"{HEADER},attempt\nm,dense,H100,8,128,100,1\nm,dense,H100,8,128,110,2\n"
    summary = import_data("table", csv(tmp_path / "t.csv", text), tmp_path / "r")
    assert summary.rows == 2
    assert read_measurements(tmp_path / "r")["total_energy_j"].tolist() == [110]


@settings(max_examples=15)
@given(
    energies=st.lists(st.floats(1e-6, 1e12), min_size=1, max_size=5),
    kind=st.sampled_from(["csv", "parquet"]),
)
def test_joules_come_through_exactly(tmp_path_factory, energies, kind):
    folder = tmp_path_factory.mktemp("t")
    path = folder / f"t.{kind}"
    rows = frame(len(energies)).assign(total_energy_j=energies)
    rows.to_csv(path, index=False) if kind == "csv" else rows.to_parquet(path)
    import_data("table", path, folder / "r")
    out = read_measurements(folder / "r").sort_values("batch")
    assert out["total_energy_j"].tolist() == energies


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_that_we_wrote_comes_back_equal(tmp_path: Path, kind):
    import_data("table", csv(tmp_path / "t.csv", GOOD), tmp_path / "a")
    before = read_measurements(tmp_path / "a")
    before["reasons"] = [["drift", "throttled"], []]
    path = tmp_path / f"again.{kind}"
    before.to_csv(path, index=False) if kind == "csv" else before.to_parquet(path)
    assert import_data("table", path, tmp_path / "b").notes == []
    pd.testing.assert_frame_equal(read_measurements(tmp_path / "b"), before)


def edit(**columns: object) -> str:
    """Return four good rows as CSV, with columns replaced or (None) dropped."""
    rows = frame().astype(object)
    for name, values in columns.items():
        rows = rows.drop(columns=name) if values is None else rows.assign(**{name: values})
    return rows.to_csv(index=False)


BAD: dict[str, tuple[str, list[str]]] = {
    "missing column": (edit(family=None, batch=None), ["lacks", "family, batch"]),
    "misspelt column": (edit(output_tokens=None, output_token=1), ["output_token' meant"]),
    "no energy column": (
        edit(total_energy_j=None),
        ["total_energy_j or energy_per_output_token_j"],
    ),
    "semicolons": (edit().replace(",", ";"), ["commas"]),
    "negative joules": (edit(total_energy_j=[1, -2, 3, -4]), ["total_energy_j", "rows 2, 4"]),
    "zero joules": (edit(total_energy_j=[0, 2, 3, 4]), ["above 0", "row 1 "]),
    "NaN joules": (edit(total_energy_j=[1, "NaN", 3, 4]), ["no energy", "row 2 "]),
    "infinite joules": (edit(total_energy_j=[1, "inf", 3, 4]), ["infinite", "row 2 "]),
    "text for joules": (edit(total_energy_j=["1 J", 2, 3, 4]), ["'1 J'", "row 1 ", "no unit"]),
    "thousands": (edit(total_energy_j=["1_000", 2, 3, 4]), ["'1_000'"]),
    "kWh": (edit(total_energy_kwh=1), ["total_energy_kwh", "3.6e6", "total_energy_j"]),
    "kWh instead": (edit(total_energy_j=None, total_energy_kwh=1), ["total_energy_kwh", "3.6e6"]),
    "mJ beside": (edit(total_energy_mj=1), ["total_energy_mj", "0.001"]),
    "latency in ms": (edit(itl_ms=5), ["itl_ms", "0.001", "itl_s"]),
    "per token in mJ": (edit(energy_per_output_token_mj=5), ["energy_per_output_token_mj"]),
    "no unit": (edit(idle_power=5), ["idle_power", "idle_power_w"]),
    "inconsistent energies": (
        edit(energy_per_output_token_j=[50 / 128, 500.0, 500.0, 90 / 512]),
        ["energy_per_output_token_j", "rows 2, 3", "units"],
    ),
    "phase above total": (edit(prefill_energy_j=[1, 1, 99, 1]), ["prefill_energy_j", "row 3 "]),
    "negative phase": (edit(decode_energy_j=[1, 1, -1, 1]), ["decode_energy_j", "row 3 "]),
    "negative latency": (edit(ttft_s=-0.1), ["ttft_s", "rows 1, 2, 3, 4"]),
    "fraction of a batch": (edit(batch=[1.5, 2, 3, 4]), ["batch", "whole", "row 1 "]),
    "zero batch": (edit(batch=[1, 0, 3, 4]), ["batch", "above 0", "row 2 "]),
    "text for a flag": (edit(valid="perhaps"), ["valid", "'perhaps'"]),
    "text for a time": (edit(measured_at="yesterday"), ["measured_at", "'yesterday'"]),
    "number for a time": (edit(measured_at="17"), ["measured_at", "'17'"]),
    "broken list": (edit(reasons='["a'), ["reasons", "list"]),
    "duplicates": (edit(batch=[1, 2, 2, 2]), ["more than once", "rows 2, 3, 4", "attempt"]),
    "duplicate by alias": (
        edit(batch=[1, 1, 3, 4], hardware=["H100", "H100-SXM5-80GB", "H100", "H100"]),
        ["more than once", "rows 1, 2"],
    ),
    "unknown family": (
        edit(family=["dense", "transformer", "moe", "x"]),
        ["'transformer'", "2, 4"],
    ),
    "unknown modality": (edit(modality="audio"), ["'audio'", "text, image, video"]),
    "unknown precision": (edit(precision="fp7"), ["'fp7'", "bf16"]),
    "empty model": (edit(model_id=["a", "", "c", "null"]), ["model_id is required", "rows 2, 4"]),
    "no output tokens": (
        edit(output_tokens=[1, "", 3, 4]),
        ["output_tokens is required", "row 2 "],
    ),
    "GPUs without degrees": (edit(num_gpus=4), ["num_gpus", "product"]),
    "visual over input": (
        edit(modality="image", input_tokens=10, visual_tokens=11),
        ["visual_tokens", "rows 1, 2, 3, 4"],
    ),
    "a later schema": (edit(schema_version=2), ["schema version 2"]),
    "column twice": (edit().replace("family", "batch", 1), ["'batch' is there twice"]),
    "many bad rows": (
        frame(50).assign(total_energy_j=-1).to_csv(index=False),
        ["rows 1, 2, 3, 4, 5 and 45 more"],
    ),
    "only a header": (HEADER + "\n", ["no rows"]),
    "empty": ("", ["empty"]),
    "blank lines": ("\n\n", ["empty"]),
    "truncated line": (edit()[:-8].rsplit(",", 1)[0], ["truncated", "line 5", "row 4"]),
    "open quote": (edit() + '"org/a,dense,H100\n', ["CSV", "row 5"]),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_csv_file_is_refused(tmp_path: Path, case):
    text, expected = BAD[case]
    path = csv(tmp_path / "bad.csv", text)
    with pytest.raises(ImportDataError) as error:
        import_data("table", path, tmp_path / "r")
    message = str(error.value)
    for part in [*expected, str(path)]:
        assert part in message
    assert error.value.fix
    assert len(message) < 1500
    assert not (tmp_path / "r").exists(), "nothing is written unless the whole file is good"


def _half(path: Path) -> None:
    frame(500).to_parquet(path)
    path.write_bytes(path.read_bytes()[:2000])


def _text_as_parquet(path: Path) -> None:
    path.write_text(GOOD)


def _latin(path: Path) -> None:
    path.write_bytes(GOOD.replace("org/a", "org/ü").encode("latin-1"))


def _nul(path: Path) -> None:
    path.write_bytes(GOOD.encode() + b"\x00\x00\x00\n")


def _booleans(path: Path) -> None:
    frame().assign(total_energy_j=True).to_parquet(path)


def _structs(path: Path) -> None:
    frame().assign(total_energy_j=[{"a": 1}] * 4).to_parquet(path)


BAD_FILES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "truncated Parquet": ("x.parquet", _half, "truncated or damaged"),
    "CSV named Parquet": ("x.parquet", _text_as_parquet, "truncated or damaged"),
    "empty Parquet file": ("x.parquet", lambda p: p.touch(), "empty"),
    "Parquet without rows": ("x.parquet", lambda p: frame().head(0).to_parquet(p), "no rows"),
    "Parquet of truth values": ("x.parquet", _booleans, "not numbers"),
    "Parquet of structs": ("x.parquet", _structs, "not numbers"),
    "Latin-1": ("x.csv", _latin, "UTF-8"),
    "NUL bytes": ("x.csv", _nul, "1 fields|UTF-8|line"),
    "unknown extension": ("x.xlsx", lambda p: p.write_text(GOOD), r"\.csv or \.parquet"),
    "no extension": ("data", lambda p: p.write_text(GOOD), r"\.csv or \.parquet"),
    "a folder": ("folder", lambda p: p.mkdir(), r"\.csv or \.parquet"),
    "nothing": ("gone.csv", lambda p: None, "nothing to import"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_refused(tmp_path: Path, case):
    name, make, text = BAD_FILES[case]
    make(tmp_path / name)
    with pytest.raises(ImportDataError, match=text) as error:
        import_data("table", tmp_path / name, tmp_path / "r")
    assert name in str(error.value)
    assert not (tmp_path / "r").exists()


def test_parquet_categories_and_integers_are_read(tmp_path: Path):
    path = tmp_path / "t.parquet"
    frame().astype({"family": "category", "model_id": "category"}).to_parquet(path)
    assert import_data("table", path, tmp_path / "r").rows == 4


def test_a_saved_index_is_a_column_like_any_other(tmp_path: Path):
    named, filtered = tmp_path / "named.parquet", tmp_path / "filtered.parquet"
    frame().set_index("model_id").to_parquet(named)
    frame().query("batch > 2").to_parquet(filtered)
    assert import_data("table", named, tmp_path / "a").rows == 4
    assert import_data("table", filtered, tmp_path / "b").rows == 2
    assert not [c for c in read_measurements(tmp_path / "b") if c.startswith("__")]


MIXED = {
    "a column of units": ("energy_unit", ["J", "J", "kJ", ""], r"energy_unit.*row 3"),
    "power that no GPU draws": ("total_latency_s", [1, 1, 1e-3, 1], "W a GPU"),
    "power below any idle": ("total_latency_s", [1, 1, 1e3, 1], "W a GPU"),
    "phases in another unit": ("decode_energy_j", [50, 60, 0.07, 90], "less than half"),
}


@pytest.mark.parametrize("case", MIXED)
def test_rows_in_mixed_units_are_refused(tmp_path: Path, case: str):
    column, values, text = MIXED[case]
    table = frame().assign(prefill_energy_j=1.0, **{column: values})
    table.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ImportDataError, match=r"row 3 \(") as error:
        import_data("table", tmp_path / "t.csv", tmp_path / "r")
    assert re.search(text, str(error.value), re.DOTALL)
    assert not (tmp_path / "r").exists()


def test_units_that_are_ours_may_be_written_beside_the_rows(tmp_path: Path):
    frame().assign(unit=["J", "joules", "W", ""]).to_csv(tmp_path / "t.csv", index=False)
    assert import_data("table", tmp_path / "t.csv", tmp_path / "r").rows == 4


def test_an_unknown_format_is_refused(tmp_path: Path):
    with pytest.raises(ImportDataError, match="mlenergy, table"):
        import_data("excel", csv(tmp_path / "t.csv", GOOD), tmp_path / "r")


def test_names_in_other_units_are_found_and_our_own_are_not():
    assert other_unit("total_energy_kwh") == ("total_energy_j", "3.6e6 (kilowatt-hours)")
    assert other_unit("TTFT_ms") == ("ttft_s", "0.001")
    assert other_unit("total_latency") == ("total_latency_s", "1, if it is seconds")
    for name in ("total_energy_j", "total_energy_ci95_j", "samples", "note", "energy_mj"):
        assert other_unit(name) is None
