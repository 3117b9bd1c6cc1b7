"""Sentinels from night to night: false alarms, a card and a host that drift, what is left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import compare_data as data
import numpy as np
import pandas as pd
import pytest

from energylens.comparison import Comparison, compare_frames
from energylens.comparison.levels import Level, levels, shifts
from energylens.comparison.page import render
from energylens.comparison.places import level_findings
from energylens.comparison.words import headline, sentinel_line

ODD = data.gpu(3)
LAUNCHES = {"cards": data.fixed, "reps_of_launch": 6}
Factor = Callable[[pd.Series], float]


def same(row: pd.Series) -> float:
    return 1.0


def on_odd_card(by: float) -> Factor:
    return lambda row: 1 + by if ODD in row["gpu_uuids"] else 1.0


def records(
    frame: pd.DataFrame,
    seed: int,
    factor: Factor = same,
    *,
    noise: float = 0.01,
    launch_sd: float = 0.003,
    trials: int = 5,
) -> dict[str, Any]:
    """Launch records as real launches write them: a sentinel of one workload of each."""
    rng = np.random.default_rng(10_000 + seed)
    out = {}
    for launch, rows in frame.groupby("launch_id"):
        row = rows.iloc[0]
        level = 40.0 * row["batch"] * factor(row) * np.exp(launch_sd * rng.standard_normal())
        values = level * (1 + noise * rng.standard_normal(trials))
        out[f"{launch}-1"] = {
            "spec": {"launch_id": launch, "model_id": row["model_id"]},
            "measuring": {"sentinel": {"task_id": row["task_id"], "values": values.tolist()}},
        }
    return out


def two_nights(seed: int, factor: Factor = same, **both: Any) -> Comparison:
    """Compare two nights whose rows are alike; tonight's sentinels cost `factor` as much."""
    both = {**LAUNCHES, **both}
    old, new = data.night(2 * seed, **both), data.night(2 * seed + 1, **both)
    for frame in (old, new):
        frame["host"] = [f"node-{int(g[0][4:12]) // 4}" for g in frame["gpu_uuids"]]
    return compare_frames(
        old, new, records=(records(old, 2 * seed), records(new, 2 * seed + 1, factor))
    )


def worse(result: Comparison, kind: str) -> set[str]:
    return {f.name for f in result.findings("worse") if f.kind == kind}


def test_where_nothing_changed_the_sentinels_alarm_no_more_than_the_rate():
    results = [two_nights(seed) for seed in range(40)]
    assert all(len(r.levels) > 30 for r in results)
    assert sum(r.verdict == "regression" for r in results) <= 2  # 5 % of 40
    inside = [f.lo <= 0 <= f.hi for r in results for f in r.levels]
    assert 0.92 <= np.mean(inside) <= 0.995


def test_significance_alone_keeps_the_rate_too():
    """Without the smallest change of interest the p-values must do it."""
    alarms = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        nights = [
            [
                Level("t" + str(i), f"m{i % 3}", "H", "total", f"n{i % 2}", (f"g{i % 8}",),
                      f"l{i}", tuple(1 + 0.01 * rng.standard_normal(5)))
                for i in range(24)
            ]
            for _ in range(2)
        ]  # fmt: skip
        found = level_findings(shifts(*nights), min_change=0.0, share=0.05)
        alarms += any(f.verdict != "same" for f in found)
    assert alarms <= 15  # 5 % of 150, and two standard errors


def test_a_card_that_costs_5_percent_more_is_named_though_no_row_shows_it():
    results = [two_nights(500 + seed, on_odd_card(0.05)) for seed in range(20)]
    assert sum(r.verdict == "regression" for r in results) == 20
    assert sum(worse(r, "sentinel gpu") == {ODD} for r in results) >= 19
    finding = next(f for f in results[0].levels if f.kind == "sentinel gpu" and f.name == ODD)
    assert finding.lo < 0.05 < finding.hi
    assert "against its peers" in finding.note
    assert "worse: GPU GPU-00000003" in sentinel_line(results[0])
    assert headline(results[0]).startswith("Regression: 1 GPU")


def test_a_model_that_changed_everywhere_is_no_fault_of_a_card():
    def slower(row: pd.Series) -> float:
        return 1.08 if row["model_id"] == data.MODELS[0] else 1.0

    result = two_nights(3, slower)
    assert not worse(result, "sentinel gpu")
    assert len(worse(result, "sentinel launch")) == 12  # 2 layouts of 6 launches


def test_a_host_that_drifts_is_named():
    result = two_nights(4, lambda row: 1.05 if row["host"] == "node-1" else 1.0)
    assert worse(result, "sentinel host") == {"node-1"}


def test_times_are_watched_where_there_is_no_power_meter():
    old, new = data.night(1, **LAUNCHES), data.night(2, **LAUNCHES)
    for frame in (old, new):
        frame[[c for c in frame.columns if "energy" in c]] = np.nan
        frame["gpu_uuids"] = None
        frame["host"] = "lab-cpu"
        frame["valid"] = False
        frame["reasons"] = [["no_power_meter"]] * len(frame)
    kept = (records(old, 1), records(new, 2, lambda row: 1.06))
    result = compare_frames(old, new, records=kept)
    assert {f.metric for f in result.levels} == {"latency"}
    assert worse(result, "sentinel host") == {"lab-cpu"}


def test_a_metric_that_is_not_judged_does_not_fail_the_night():
    from energylens.comparison import Options

    old, new = data.night(1, **LAUNCHES), data.night(2, **LAUNCHES)
    kept = (records(old, 1), records(new, 2, on_odd_card(0.08)))
    judged = compare_frames(old, new, Options(metrics=("itl",)), records=kept)
    assert judged.verdict == "no change"
    assert any(f.verdict == "worse" for f in judged.levels)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda f: f.assign(gpu_uuids=[[data.gpu(9)]] * len(f)), "another GPU"),
        (lambda f: f.assign(host="elsewhere"), "another host"),
        (lambda f: f.assign(launch_id="another"), "no row of the launch"),
        (lambda f: f.assign(valid=False, reasons=[["foreign_process"]] * len(f)), "not alone"),
        (lambda f: f.assign(total_energy_j=np.nan), "energies on one night, times on the other"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_held_against_itself_is_left_out(spoil, why):
    night = data.night(1, **LAUNCHES)
    kept = records(night, 1)
    before, after = levels(kept, night), levels(kept, spoil(night))
    assert len(before) == 36
    assert shifts(before, before)
    assert shifts(before, after) == [], why


def test_a_launch_that_drifted_still_says_how_the_night_was():
    night = data.night(1, **LAUNCHES)
    flagged = night.assign(valid=False, reasons=[["drift"]] * len(night))
    assert len(levels(records(night, 1), flagged)) == 36


def test_parts_of_one_launch_are_averaged():
    whole = Level("t", "m", "H", "total", "n", ("g",), "l", (10.0, 10.2, 9.8))
    parts = [replace(whole, launch="l1", values=(10.0, 10.2)), replace(whole, launch="l2")]
    found = shifts([whole], parts)
    assert len(found) == 1
    assert found[0].log_change == pytest.approx(
        np.log([10, 10.2, 10, 10.2, 9.8]).mean() - np.log([10, 10.2, 9.8]).mean()
    )


def test_torn_records_and_odd_values_are_passed_over():
    night = data.night(1, **LAUNCHES)
    task, launch = night[["task_id", "launch_id"]].iloc[0]
    odd = [
        {},
        {"spec": None, "measuring": []},
        *(
            {
                "spec": {"launch_id": launch},
                "measuring": {"sentinel": {"task_id": task, "values": values}},
            }
            for values in ([], [1.0], [1.0, None], [1.0, "x"], [1.0, -1.0], None, "12")
        ),
    ]
    assert levels({str(i): record for i, record in enumerate(odd)}, night) == []


def test_the_table_the_page_and_the_json_show_them(cli, tmp_path: Path):
    old, new = data.night(1, **LAUNCHES), data.night(2, **LAUNCHES)
    paths = [
        data.write(tmp_path / name, frame, launches=kept)
        for name, frame, kept in (
            ("monday", old, records(old, 1)),
            ("tuesday", new, records(new, 2, on_odd_card(0.06))),
        )
    ]
    done = cli("compare", *paths, "--html", tmp_path / "page.html")
    assert done.exit_code == 1
    assert "sentinel of GPU-00000003" in " ".join(done.output.split())
    assert "36 in the same place both nights" in done.output
    assert max(map(len, done.output.splitlines())) <= 80
    page = (tmp_path / "page.html").read_text()
    assert "Sentinels between the nights" in page
    assert "sentinel of GPU-00000003" in page
    printed = json.loads(cli("compare", *paths, "--json").stdout)
    named = {(f["kind"], f["name"], f["verdict"]) for f in printed["levels"]}
    assert ("sentinel gpu", ODD, "worse") in named
    back = cli("compare", *reversed(paths))
    assert back.exit_code == 0
    assert "better" in back.output.lower()


def test_without_sentinels_nothing_of_them_is_shown():
    result = compare_frames(data.night(1), data.night(2))
    assert result.levels == ()
    assert "Sentinels between the nights" not in render(result)
    assert "none recorded" in sentinel_line(result)
