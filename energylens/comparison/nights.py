"""Compare two runs: match, measure the changes, pool them, judge.

    rows of both nights -> pairs -> log ratios -> configurations, groups, GPUs -> verdict

The probability of a regression where nothing changed is split between configurations, groups,
GPUs and sentinels, so it stays below the stated rate over all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from energylens.comparison.history import night, sentinels, version_changes
from energylens.comparison.levels import levels, shifts
from energylens.comparison.matching import Matched, match
from energylens.comparison.metrics import ENERGIES, METRICS, named
from energylens.comparison.pairs import Pairs
from energylens.comparison.places import level_findings
from energylens.comparison.result import Comparison, Options

if TYPE_CHECKING:
    import pandas as pd


def compare_runs(old: Path | str, new: Path | str, options: Options | None = None) -> Comparison:
    """Compare two run folders.

    Parameters
    ----------
    old, new
        Run folders, last night's and tonight's.
    options
        What counts as a change.

    Raises
    ------
    StoreError
        If one is not a run folder, or of another schema.
    EnergyLensError
        If nothing can be compared, or provenances are mixed.
    """
    from harness.store import RunFolder, read_measurements

    folders = [RunFolder.open(Path(path)) for path in (old, new)]
    frames = [read_measurements(folder) for folder in folders]
    return compare_frames(
        frames[0],
        frames[1],
        options,
        names=(str(old), str(new)),
        manifests=(folders[0].manifest, folders[1].manifest),
        records=(_launch_records(folders[0].path), _launch_records(folders[1].path)),
    )


def compare_frames(
    old: pd.DataFrame,
    new: pd.DataFrame,
    options: Options | None = None,
    *,
    names: tuple[str, str] = ("old", "new"),
    manifests: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {}),
    records: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {}),
) -> Comparison:
    """Compare two measurement tables.

    Parameters
    ----------
    old, new
        Measurement tables, one row a task.
    options
        What counts as a change.
    names
        What the runs are called.
    manifests
        Their manifests: versions and commit.
    records
        Their launch records by name: sentinels and environments.

    Raises
    ------
    EnergyLensError
        If nothing can be compared, provenances are mixed, or an option makes no sense.
    """
    options = options or Options()
    matched = match(old, new)
    judged = _judged(options, matched)
    stayed = shifts(levels(records[0], old), levels(records[1], new))
    watched = any(shift.level.metric in judged for shift in stayed)
    pairs = Pairs(matched, options, judged, families=int(watched))
    groups, cards = pairs.groups(), pairs.cards()
    found = level_findings(stayed, min_change=options.min_change, share=pairs.share)
    odd = [*cards, *(replace(f, kind="gpu") for f in found if f.kind == "sentinel gpu")]
    return Comparison(
        old=night(names[0], old),
        new=night(names[1], new),
        options=options,
        provenance=matched.provenance,
        hardware=tuple(sorted(map(str, matched.new["hardware"].unique()))),
        pairs=len(matched.new),
        judged=judged,
        configurations=pairs.configurations(groups, odd),
        drift=tuple(pairs.drift()),
        groups=tuple(groups),
        cards=tuple(cards),
        cards_note=pairs.cards_note,
        unpaired=matched.unpaired,
        sentinels=tuple(sentinels("old", records[0]) + sentinels("new", records[1])),
        versions=tuple(version_changes((old, new), manifests, records)),
        inflation={name: one.inflation for name, one in pairs.found.items()},
        levels=found,
    )


def _launch_records(path: Path) -> dict[str, Any]:
    """Read launches/*.json; a torn record is passed over."""
    import json

    found: dict[str, Any] = {}
    for file in sorted((path / "launches").glob("*.json")):
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(record, dict):
            found[file.stem] = record
    return found


def _judged(options: Options, matched: Matched) -> tuple[str, ...]:
    if options.metrics:
        return tuple(metric.name for metric in named(options.metrics))
    energies = [METRICS[name].column for name in ENERGIES]
    known = matched.new[energies].notna() & matched.old[energies].notna()
    return ENERGIES if bool(known.to_numpy().any()) else ("latency",)
