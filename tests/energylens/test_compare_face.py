"""The command `compare`: what it says, its exit codes, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import compare_data as data
import numpy as np
import pytest

from energylens.comparison import Options, compare_frames
from energylens.comparison.page import write_page
from energylens.plain import plain
from harness.errors import EnergyLensError

COSTLY = {"factor": lambda row: 1.08 if row["model_id"] == data.MODELS[1] else 1.0}
SENTINEL = {"values": [10.0, 10.1, 10.2, 10.3], "change": 0.031, "stderr": 0.002}


def record(significant: bool, driver: str = "575") -> dict:
    return {
        "spec": {"model_id": data.MODELS[0], "deployment": {"hardware": data.HARDWARE}},
        "environment": {"versions": {"cuda": "12.8"}, "devices": [{"driver": driver}]},
        "measuring": {"sentinel": {**SENTINEL, "significant": significant}},
    }


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("nights")
    old = data.night(1, cards=data.fixed)
    new = data.night(2, cards=data.fixed, **COSTLY)
    new.loc[0, "valid"] = False
    new.at[0, "reasons"] = ["throttled"]
    new.loc[1, "valid"] = False
    new.at[1, "reasons"] = ["out_of_memory"]
    numbers = [c for c in new.columns if c.endswith(("_j", "_s"))]
    new.loc[1, numbers] = np.nan
    old, new = old.drop(index=5), new.drop(index=6)
    new["driver_version"] = "580.10.01"
    return (
        data.write(
            root / "monday",
            old,
            manifest={"git_commit": "a" * 40, "versions": {"numpy": "2.4.5"}},
            launches={"launch-0-1": record(False)},
        ),
        data.write(
            root / "tuesday",
            new,
            manifest={"git_commit": "b" * 40, "versions": {"numpy": "2.4.6"}},
            launches={"launch-0-1": record(True, "580"), "torn-1": {}},
        ),
    )


def test_a_regression_exits_1_and_says_what_and_why_on_one_screen(cli, folders):
    done = cli("compare", *folders)
    assert done.exit_code == 1
    lines = done.output.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 45
    for text in (
        "Regression: 1 group, ",
        "measured with a power sensor",
        f"model {data.MODELS[1]}",
        "1 failed tonight; 1 flagged tonight; 1 missing tonight; 1 new",
        "out_of_memory: ",
        "throttled: ",
        "tonight at most +3.1 %",
        "1 of 1 launches drifted",
        "driver_version 575.57.08 -> 580.10.01",
        "and 1 more setting: --json or --html FILE",
    ):
        assert text in done.output, text


def test_an_improvement_and_no_change_exit_0(cli, folders):
    assert cli("compare", *reversed(folders)).exit_code == 0
    same = cli("compare", folders[0], folders[0])
    assert same.exit_code == 0
    assert "No change" in same.output


def test_json_is_the_result_and_nothing_else(cli, folders):
    from energylens.comparison import compare_runs

    done = cli("compare", *folders, "--json")
    assert done.exit_code == 1
    printed = json.loads(done.stdout)
    assert printed == plain(compare_runs(*folders).to_dict())
    assert printed["verdict"] == "regression"
    assert {row["provenance"] for row in printed["configurations"]} == {"measured"}
    assert {s["significant"] for s in printed["sentinels"]} == {True, False}
    changed = {v["what"] for v in printed["versions"]}
    assert {"git_commit", "numpy", "driver", "driver_version"} <= changed


def test_options_set_what_counts(cli, folders):
    assert cli("compare", *folders, "--min-change", 20).exit_code == 0
    by_batch = cli("compare", *folders, "--group", "batch", "--json", "--metric", "ttft")
    printed = json.loads(by_batch.stdout)
    assert {g["name"] for g in printed["groups"]} == {"1", "8", "32"}
    assert printed["judged"] == ["ttft"]


def test_many_changes_are_counted_and_not_listed(cli, tmp_path):
    rng = np.random.default_rng(0)
    models = tuple(f"lab/model-{i}" for i in range(12))
    old = data.night(1, models=models, noise=0.001)
    shift = dict(zip(models, rng.uniform(1.05, 1.3, len(models)), strict=True))
    new = data.night(2, models=models, noise=0.001, factor=lambda row: shift[row["model_id"]])
    done = cli("compare", data.write(tmp_path / "a", old), data.write(tmp_path / "b", new))
    assert done.exit_code == 1
    assert "more: --json or --html FILE" in done.output
    assert len(done.output.splitlines()) <= 45
    listed = [line for line in done.output.splitlines() if "model lab/" in line]
    worst = max(shift, key=lambda name: shift[name])
    assert worst in listed[0] or worst in listed[1]


def test_times_alone_are_compared_where_there_is_no_power_meter():
    old, new = data.night(1), data.night(2, **COSTLY)
    for frame in (old, new):
        frame[[c for c in frame.columns if "energy" in c]] = np.nan
        frame["valid"] = False
        frame["reasons"] = [["no_power_meter"]] * len(frame)
    result = compare_frames(old, new)
    assert result.judged == ("latency",)
    assert set(result.configurations["metric"]) == {"latency", "ttft", "itl"}
    assert result.verdict == "regression"
    assert {f.name for f in result.findings("worse")} == {data.MODELS[1]}


def test_null_phases_leave_the_total_to_compare():
    old, new = data.night(1), data.night(2)
    new.loc[:3, ["prefill_energy_j", "decode_energy_j"]] = np.nan
    counts = compare_frames(old, new).configurations["metric"].value_counts()
    assert counts["total"] == 36
    assert counts["prefill"] == counts["decode"] == 32


def test_rows_without_an_interval_take_the_scatter_of_their_pairs():
    old, new = data.night(1), data.night(2, **COSTLY)
    for frame in (old, new):
        frame[[c for c in frame.columns if c.endswith("_ci95_j")]] = np.nan
    result = compare_frames(old, new)
    assert {f.name for f in result.findings("worse")} == {data.MODELS[1]}
    own = result.configurations[result.configurations["metric"] == "total"]
    half = (np.log1p(own["hi"]) - np.log1p(own["change"])).median()
    assert 0.02 < half < 0.05  # 1 % noise in both nights: 1.96 x 1.4 % = 2.8 %


def test_flagged_rows_are_left_out():
    old, new = data.night(1), data.night(2)
    new.loc[0, "total_energy_j"] *= 3
    assert compare_frames(old, new).verdict == "regression"
    new.loc[0, "valid"] = False
    new.at[0, "reasons"] = ["meter_disagreement"]
    result = compare_frames(old, new)
    assert result.verdict == "no change"
    assert [(u.kind, u.reasons) for u in result.unpaired] == [("flagged", ("meter_disagreement",))]


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda old, new: (old, new.assign(provenance="projected")), "different provenance"),
        (lambda old, new: (old, new.assign(task_id=new["task_id"] + "x")), "no task in common"),
        (lambda old, new: (old, new.assign(valid=False)), "no task in common"),
        (lambda old, new: (old.iloc[:0], new.iloc[:0]), "no rows"),
    ],
    ids=["provenance", "nothing in common", "all flagged", "empty"],
)
def test_what_cannot_be_compared_exits_2(cli, tmp_path, spoil, text):
    old, new = spoil(data.night(1), data.night(2))
    done = cli("compare", data.write(tmp_path / "a", old), data.write(tmp_path / "b", new))
    assert done.exit_code == 2
    assert text in " ".join(done.stderr.split())
    assert "what to do" in done.stderr


def test_bad_folders_exit_2(cli, folders, tmp_path):
    assert cli("compare", folders[0], tmp_path / "nowhere").exit_code == 2
    file = tmp_path / "file"
    file.write_text("x")
    assert cli("compare", file, folders[0]).exit_code == 2
    other = Path(shutil.copytree(folders[0], tmp_path / "other"))
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps({**manifest, "schema_version": 99}))
    done = cli("compare", other, folders[1])
    assert done.exit_code == 2
    assert "99" in done.stderr


@pytest.mark.parametrize(
    "options",
    [{"min_change": -0.1}, {"rate": 0.0}, {"groups": ("colour",)}, {"metrics": ("carbon",)}],
)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(EnergyLensError):
        compare_frames(data.night(1), data.night(2), Options(**options))


def test_the_page_tells_all_and_escapes_names(cli, folders, tmp_path):
    page = tmp_path / "page.html"
    cli("compare", *folders, "--html", page)
    text = page.read_text()
    assert "built-in method" not in text
    for part in ("Regression: 1 group", data.MODELS[1], "out_of_memory", "580.10.01", "Measured"):
        assert part in text
    evil = "lab/<script>alert(1)</script>"
    models = (evil, data.MODELS[0])
    result = compare_frames(data.night(1, models=models), data.night(2, models=models))
    assert "<script" not in write_page(result, tmp_path / "evil.html").read_text()
    done = cli("compare", *folders, "--html", tmp_path / "no" / "where.html")
    assert done.exit_code == 2


@pytest.mark.browser
def test_the_page_is_quiet_and_fits_every_width(folders, tmp_path):
    from chromium import Page, find_chromium

    from energylens.comparison import compare_runs

    executable = find_chromium()
    if executable is None:
        pytest.skip("no Chromium on this machine (set ENERGYLENS_CHROMIUM to its path)")
    path = write_page(compare_runs(*folders), tmp_path / "page.html")
    with Page(executable) as page:
        for width in (1440, 768, 360):
            page.size(width, 900)
            page.open(path, settle_s=0.2)
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, width
        assert not page.errors
        assert all(url.startswith("file:") for url in page.requests)
        assert page.evaluate("document.querySelectorAll('tr.worse').length") > 0
