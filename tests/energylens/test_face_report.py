"""The report as a file: whole, honest about provenance, and safe to open."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import face_data
import pytest

from energylens.report import write_report
from energylens.report.tradeoff import tradeoffs
from energylens.units import percent

METHODS = ("energylens12", "fewest_gpus", "lowest_latency")


@pytest.fixture(scope="module")
def reported(run_folder: Path, fit_file: Path, tmp_path_factory, table) -> Path:
    """A run with fit, evaluation and report, as the quickstart leaves it."""
    from energylens.evaluation import evaluate_run

    copy = Path(shutil.copytree(run_folder, tmp_path_factory.mktemp("report") / "run"))
    evaluate_run(copy, methods=METHODS)
    written = write_report(copy)
    assert written.fit_source == "law: read from fit.json"
    assert written.evaluation_source == "evaluation: read from evaluation.json"
    return copy


@pytest.fixture(scope="module")
def html(reported: Path) -> str:
    return (reported / "report.html").read_text(encoding="utf-8")


def own_part(html: str) -> str:
    """The page without the plotting library, which holds many addresses it never opens."""
    return html[: html.index("<script>/**")] + html[html.rindex("<script>") :]


def data(html: str) -> dict:
    text = re.search(r'<script type="application/json" id="data-json">(.*?)</script>', html, re.S)
    assert text
    return json.loads(text[1])


def test_the_page_is_whole_and_small_enough(reported: Path, html: str) -> None:
    assert html.startswith("<!doctype html>")
    assert html.rstrip().endswith("</html>")
    assert (reported / "report.html").stat().st_size < 8e6
    assert not list(reported.glob("*.partial"))


def test_nothing_is_loaded_from_anywhere(html: str) -> None:
    part = own_part(html)
    assert not re.findall(r"https?://", part)
    assert not re.findall(r"<(?:script|img|iframe)[^>]+src=|@import|url\(", part)
    assert re.findall(r"<link[^>]*>", part) == ['<link rel="icon" href="data:,">']
    assert "default-src 'none'" in part


def test_every_table_and_plot_says_where_its_numbers_come_from(html: str) -> None:
    part = own_part(html)
    captions = re.findall(r'<p class="caption">.*?</p>|<figcaption>.*?</figcaption>', part, re.S)
    assert len(captions) >= 6
    for caption in captions:
        assert "badge projected" in caption or 'id="t-origin"' in caption, caption
    assert part.count("<table") == len(re.findall(r'class="caption"', part))


def test_headings_do_not_call_projected_energy_measured(html: str) -> None:
    assert "The law against the projected energies" in html
    assert "Predicted against measured" not in own_part(html)
    assert "Projected rows are not measurements." in html
    assert data(html)["truth"] == "Energy in the data (projected)"


def test_the_numbers_are_those_of_the_evaluation(reported: Path, html: str) -> None:
    saved = json.loads((reported / "evaluation.json").read_text())
    row = next(
        row
        for row in saved["scores"]
        if (row["scenario_class"], row["group_kind"], row["method"])
        == ("S1", "all", "energylens12")
    )
    text = percent(row["top1"]).replace(" ", "\N{NO-BREAK SPACE}")
    assert html.count(text) >= 2  # the headline and the table
    assert "957 of 960 rows are valid" in html
    assert "<code>throttled</code>" in html


def test_scatter_and_scenarios_hold_what_the_rows_hold(html: str, table) -> None:
    values = data(html)
    points = values["points"]
    assert len(points["measured"]) == 957
    assert sum(points["fitted"]) == 200
    scenario = values["tradeoff"]["scenarios"][values["tradeoff"]["first"]]
    rows = table[
        table["model_id"].eq(scenario["model"])
        & table["hardware"].eq(scenario["hardware"])
        & table["batch"].eq(scenario["batch"])
    ]
    assert set(scenario["energy"]) <= {float(f"{v:.4g}") for v in rows["total_energy_j"]}
    assert len({len(scenario[k]) for k in ("layout", "gpus", "energy", "latency")}) == 1


def test_a_large_run_is_thinned_evenly(table) -> None:
    import pandas as pd

    from energylens.report.law import MOST_POINTS, _points

    many = pd.concat([table] * 12, ignore_index=True)
    energy = many["total_energy_j"].to_numpy()
    points = _points(many, energy, energy, None)
    assert len(points["measured"]) == MOST_POINTS
    assert set(points["label"][-3:]) <= set(
        _points(table, energy[:960], energy[:960], None)["label"]
    )


def test_at_most_a_dozen_workloads_a_pair_can_be_chosen(table) -> None:
    found = tradeoffs(table)
    assert found is not None
    pairs = [(s["model"], s["hardware"]) for s in found["scenarios"]]
    assert max(pairs.count(pair) for pair in pairs) == 12
    assert found["all"] == 96
    assert tradeoffs(table.assign(total_latency_s=None, itl_s=None)) is None
    assert tradeoffs(table[table["num_gpus"].eq(1)]) is None


def test_a_hostile_name_stays_text(tmp_path: Path, table) -> None:
    name = "</script><script>alert(1)</script>"
    rows = table[table["model_id"].eq(face_data.MODELS[0])].assign(model_id=name, sweep=name)
    run = face_data.write_run(tmp_path / "run", rows)
    page = write_report(run)
    text = page.path.read_text(encoding="utf-8")
    assert "<script>alert(1)" not in text
    assert data(text)["laws"][0]["model"] == name


def test_stale_results_are_not_shown(reported: Path, tmp_path: Path, table) -> None:
    copy = Path(shutil.copytree(reported, tmp_path / "run"))
    from harness.store import RunFolder

    folder = RunFolder.open(copy)
    row = table[table["hardware"].eq("H100-SXM5-80GB")].iloc[[5]]
    folder.write_result("again", "H100-SXM5-80GB", row.assign(attempt=2, total_energy_j=1.0))
    written = write_report(copy)
    assert written.evaluation_source == "evaluation: computed now"


def test_a_fit_of_other_measurements_is_not_shown(reported: Path, tmp_path: Path, table) -> None:
    from energylens.fitfile import is_of, save_fit
    from fitting import fit_frame

    law = fit_frame(table, samples=30)
    path = tmp_path / "fit.json"
    save_fit(law, path, table)
    assert is_of(path, table)
    assert not is_of(path, table.drop(index=9))
    law.save(path)  # no stamp: the pairs decide
    assert is_of(path, table.drop(index=9))
    assert not is_of(path, table[table["hardware"].eq("H100-SXM5-80GB")])
    path.write_text("[]")
    assert not is_of(path, table)
    assert not is_of(tmp_path / "none.json", table)


def test_imported_rows_without_phases_or_input_lengths_say_what_is_missing(
    tmp_path: Path, table
) -> None:
    rows = table[table["input_tokens"].eq(1024) & table["output_tokens"].eq(256)].assign(
        provenance="imported",
        input_tokens=None,
        prefill_energy_j=None,
        decode_energy_j=None,
        total_energy_j_ci95_j=None,
        task="chat",
    )
    run = face_data.write_run(tmp_path / "run", rows)
    page = write_report(run).path.read_text(encoding="utf-8")
    part = own_part(page)
    assert "No law was fitted: " in part
    assert "badge imported" in part
    assert "badge projected" not in part
    assert "rows do not tell prefill from decode energy" in part
    assert "Imported rows were measured by somebody else" in part
    assert data(page)["tradeoff"]["scenarios"][0]["energy_name"] == "Energy per output token"


def test_the_command_says_what_it_reused(cli, reported: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    result = cli("report", reported, "--out", out)
    assert result.exit_code == 0
    assert "read from evaluation.json" in result.output
    assert out.is_file()
    values = json.loads(cli("report", reported, "--out", out, "--json").output)
    assert values["size_bytes"] == out.stat().st_size


def test_problems_exit_2(cli, reported: Path, tmp_path: Path) -> None:
    from harness.store import RunFolder

    RunFolder.create(tmp_path / "empty", {})
    result = cli("report", tmp_path / "empty")
    assert result.exit_code == 2
    assert "no measurements yet" in result.stderr
    result = cli("report", reported, "--out", tmp_path / "no" / "such" / "place.html")
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr
    result = cli("report", reported, "--fit", tmp_path / "none.json")
    assert result.exit_code == 2
