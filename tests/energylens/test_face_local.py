"""Rows with times and no energy, and rows of failures, at every command that meets them."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import face_data
import local_data
import numpy as np
import pandas as pd
import pytest

import energylens
from energylens.report import write_report
from energylens.report.times import times
from energylens.rowkinds import origins, time_only, without_numbers
from energylens.status import read_status
from fitting.rows import usable
from harness.errors import FitError

ROWS = 12
CODES = {0: "out_of_memory", 1: "pruned", 2: "timed_out"}


@pytest.fixture(scope="module")
def timed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a machine without a power meter."""
    return local_data.write(tmp_path_factory.mktemp("timed") / "run", local_data.timed())


@pytest.fixture(scope="module")
def failed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same where three tasks failed."""
    frame = local_data.failed(local_data.timed(), CODES)
    return local_data.write(tmp_path_factory.mktemp("failed") / "run", frame)


@pytest.fixture(scope="module")
def mixed(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of a power meter, 5 of them flagged, 4 without a meter, 2 of them failed."""
    frame = table.copy()
    energies = [name for name in frame.columns if name.endswith("_j")]
    frame.loc[10:15, energies] = np.nan
    frame.loc[14:15, ["total_latency_s", "ttft_s", "itl_s"]] = np.nan
    frame.loc[10:15, "valid"] = False
    for row in range(10, 16):
        frame.at[row, "reasons"] = ["no_power_meter"] if row < 14 else ["out_of_memory"]
    frame.loc[20:21, "valid"] = False
    for row in (20, 21):
        frame.at[row, "reasons"] = ["drift"]
    return frame


def test_kinds_of_rows_are_told_apart(mixed: pd.DataFrame) -> None:
    assert list(mixed.index[time_only(mixed)]) == [10, 11, 12, 13]
    assert list(mixed.index[without_numbers(mixed)]) == [14, 15]
    assert origins(mixed) == {"projected": len(mixed) - 6}


def test_status_counts_times_and_names_failures(timed_folder: Path, failed_folder: Path) -> None:
    whole = read_status(timed_folder)
    assert (whole.done, whole.time_only, whole.flagged, whole.failed) == (ROWS, ROWS, 0, 0)
    assert whole.energy_j is None
    assert whole.reasons == {}
    part = read_status(failed_folder)
    assert (part.done, part.time_only, part.failed, part.remaining) == (ROWS - 3, ROWS - 3, 3, 0)
    assert part.failures == dict.fromkeys(CODES.values(), 1)


def test_status_says_it_in_words(cli, failed_folder: Path) -> None:
    out = cli("status", failed_folder)
    assert out.exit_code == 0
    assert re.search(r"times only +9", out.stdout)
    assert re.search(r"energy of the work +no power meter", out.stdout)
    assert "out_of_memory" in out.stdout
    assert "NaN" not in out.stdout
    assert json.loads(cli("status", failed_folder, "--json").stdout)["energy_j"] is None


@pytest.mark.parametrize("command", ["fit", "evaluate", "extrapolate", "discover"])
def test_commands_about_energy_refuse_in_one_clear_error(
    cli, command: str, failed_folder: Path
) -> None:
    out = cli(command, failed_folder)
    assert out.exit_code == 2
    assert out.stdout == ""
    assert out.stderr.startswith("Error: No row has an energy")
    assert "no power meter" in out.stderr
    assert "9 measured without a power meter (times only)" in out.stderr
    assert "1 failed: out of memory" in out.stderr
    assert "energylens doctor" in out.stderr


def test_a_design_does_not_learn_from_times(cli, timed_folder: Path, tmp_path: Path) -> None:
    text = (local_data.REPOSITORY / "sweeps" / "local.yaml").read_text()
    more = text.replace("batch: [1, 1, 8]", "batch: [2, 1, 8]").replace(
        "hardware: local", f"hardware: {local_data.CPU}"
    )
    sweep = tmp_path / "sweeps" / "local.yaml"
    sweep.parent.mkdir()
    sweep.write_text(more)
    (sweep.parent / "models").symlink_to(local_data.REPOSITORY / "sweeps" / "models")
    out = cli("design", sweep, "--measured", timed_folder, "--budget", 1)
    assert out.exit_code == 2
    assert "no power meter" in out.stderr


def test_failures_alone_are_told_from_a_missing_meter(tmp_path: Path, cli) -> None:
    frame = local_data.failed(local_data.timed(), dict.fromkeys(range(ROWS), "crashed"))
    out = cli("fit", local_data.write(tmp_path / "run", frame))
    assert out.exit_code == 2
    assert "12 failed: crashed" in out.stderr
    assert "power meter" not in out.stderr


def test_a_mix_leaves_them_out_and_says_how_many(mixed: pd.DataFrame) -> None:
    rows, left = usable(mixed)
    assert not set(rows.index) & {0, 1, 2, *range(10, 16), 20, 21}
    assert len(rows) == len(mixed) - 11
    assert left.notes() == [
        "2 rows left out: failed: out of memory.",
        "4 rows left out: measured without a power meter (times only).",
        "5 rows left out: marked not valid.",
    ]


def test_flagged_rows_and_times_do_not_move_a_fit(table: pd.DataFrame, mixed: pd.DataFrame) -> None:
    kept = table.drop(index=[0, 1, 2, *range(10, 16), 20, 21])
    spoilt = mixed.copy()
    spoilt.loc[[0, 1, 2, 20, 21], "total_energy_j"] *= 50
    pairs = energylens.fit(spoilt, pooled=False).pairs
    for pair, other in zip(pairs, energylens.fit(kept, pooled=False).pairs, strict=True):
        assert [p.value for p in pair.parameters] == [p.value for p in other.parameters]


def test_the_fit_command_says_what_it_left_out(cli, mixed: pd.DataFrame, tmp_path: Path) -> None:
    folder = face_data.write_run(tmp_path / "run", mixed)
    out = cli("fit", folder, "--no-pooled", "--samples", 40)
    assert out.exit_code == 0
    text = " ".join(out.stdout.split())
    assert "4 rows left out: measured without a power meter (times only)." in text
    assert "2 rows left out: failed: out of memory." in text


def test_an_empty_table_is_no_machine_without_a_meter() -> None:
    frame = face_data.measurements().iloc[:0]
    assert len(usable(frame)[0]) == 0
    with pytest.raises(FitError, match="No row can be fitted"):
        energylens.fit(frame, pooled=False)


def test_load_and_query_show_times_and_nulls(cli, timed_folder: Path) -> None:
    frame = energylens.load(timed_folder)
    assert frame["total_energy_j"].isna().all()
    assert (frame["total_latency_s"] > 0).all()
    assert set(frame["hardware"]) == {local_data.CPU}
    out = cli(
        "query",
        timed_folder,
        "SELECT batch, total_latency_s AS s, total_energy_j AS j FROM measurements",
    )
    assert out.exit_code == 0
    assert "nan" not in out.stdout.lower()
    found = cli("query", timed_folder, "SELECT total_energy_j FROM measurements", "--json").stdout
    assert {row["total_energy_j"] for row in json.loads(found)} == {None}


def page(folder: Path, out: Path) -> str:
    """The page without scripts."""
    html = write_report(folder, out=out).path.read_text(encoding="utf-8")
    return re.sub(r"<(script|style).*?</\1>", "", html, flags=re.S)


def test_the_report_shows_times_and_no_joules(failed_folder: Path, tmp_path: Path) -> None:
    text = page(failed_folder, tmp_path / "report.html")
    flat = " ".join(re.sub(r"<[^>]+>", " ", text).split())
    assert "Times without energies" in flat
    assert "9 rows, times only: the machine has no power meter" in flat
    assert "3 rows, no numbers" in flat
    assert flat.count("no meter") == ROWS - 3
    assert "read from a power sensor" not in flat
    assert "the workload does not fit into memory" in flat
    assert not re.search(r"\bnan\b", flat, re.IGNORECASE)
    assert not re.search(r"\d [mkMG]?J\b", flat)
    for section in ("tradeoff", "choice", "law", "check"):
        assert f'id="{section}"' not in text
        assert f'href="#{section}"' not in text
    for anchor in re.findall(r'href="#(\w+)"', text):
        assert f'id="{anchor}"' in text


def test_the_report_of_a_mix_shows_both(mixed: pd.DataFrame, tmp_path: Path) -> None:
    folder = face_data.write_run(tmp_path / "run", mixed)
    text = page(folder, tmp_path / "report.html")
    assert 'id="times"' in text
    assert 'id="law"' in text
    assert text.count("no meter") == 4


def test_a_run_with_energies_has_no_section_of_times(table: pd.DataFrame) -> None:
    assert times(table) is None


def test_rates_of_the_times_are_those_of_the_rows() -> None:
    frame = local_data.timed()
    found = times(frame)
    assert found is not None
    assert len(found["table"]) == ROWS
    first = frame[(frame["model_id"] == found["table"][0]["model"]) & (frame["batch"] == 8)].iloc[0]
    row = next(r for r in found["table"] if "batch 8" in r["workload"])
    tokens = first["batch"] * first["output_tokens"]
    assert float(row["rate"]) == pytest.approx(tokens / first["total_latency_s"], rel=5e-3)


def test_the_plan_of_this_machine_fits_80_columns(cli) -> None:
    out = cli("plan", local_data.REPOSITORY / "sweeps" / "local.yaml")
    assert out.exit_code == 0
    assert max(map(len, out.stdout.splitlines())) <= 80


def test_a_plan_says_which_numbers_are_assumptions(cli, tmp_path: Path) -> None:
    path = tmp_path / "cpu.yaml"
    path.write_text(
        "name: cpu\nengine: transformers\nmodels: Qwen/Qwen3-0.6B\n"
        f"hardware: {local_data.CPU}\nprecision: fp32\n"
        "blocks: [{batch: 1, input_tokens: 8, output_tokens: 2}]\n"
    )
    text = " ".join(cli("plan", path).stdout.split())
    assert f"{local_data.CPU}: no datasheet." in text
    assert "power limit of 10.0 W are assumptions" in text


@pytest.mark.browser
def test_the_page_of_times_opens_without_errors(timed_folder: Path, tmp_path: Path) -> None:
    import chromium

    found = chromium.find_chromium()
    if found is None:
        pytest.skip("no Chromium on this machine")
    written = write_report(timed_folder, out=tmp_path / "report.html")
    with chromium.Page(found) as browser:
        browser.size(420, 900)
        browser.open(written.path)
        assert browser.errors == []
        width = browser.evaluate("document.documentElement.scrollWidth")
        assert width <= 420
    assert os.path.getsize(written.path) < 8e6
