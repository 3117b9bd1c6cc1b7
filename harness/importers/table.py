"""Import of our own columns from a CSV or Parquet file, with every check that a row needs."""

from __future__ import annotations

import difflib
from pathlib import Path

import numpy as np
import pandas as pd

from harness.errors import ImportDataError
from harness.importers.base import Imported, canonical_hardware, unknown_hardware_note
from harness.importers.columns import read_columns
from harness.importers.units import foreign_unit, other_unit
from harness.importers.values import missing, parse, refuse, row_list
from harness.store.identity import IDENTITY_DEFAULTS, task_id_of
from harness.store.schema import (
    ALIASES,
    BY_NAME,
    COLUMNS,
    ENERGY_CHOICE,
    FAMILIES,
    MODALITIES,
    PRECISIONS,
    SCHEMA_VERSION,
    VISUAL,
)

_PRECISION_NAMES = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32"}
_TOLERANCE = 0.01
_LEAST_PHASES = 0.5
"""Prefill and decode together are at least this share of the whole, or the units differ."""
_POWER_W = (1.0, 3000.0)
"""No GPU draws less or more on average over a run: beyond it, joules or seconds are not such."""
_DEGREES = (
    "tensor_parallel",
    "pipeline_parallel",
    "data_parallel",
    "ulysses_degree",
    "ring_degree",
)


def read_table_file(path: Path) -> Imported:
    """Read and check a CSV or Parquet file in the columns of the measurement table.

    Parameters
    ----------
    path
        A file that ends in .csv, .parquet or .pq.

    Returns
    -------
    Imported
        Rows with defaults filled in, provenance `imported`, and their task_id.

    Raises
    ------
    ImportDataError
        For the first thing that is wrong: names file, column and rows, and what to do.
    """
    raw = read_columns(path)
    if not len(raw):
        raise ImportDataError(
            "The file holds no rows.", where=str(path), fix="give a file with at least one row"
        )
    raw = raw.rename(columns={a: b for a, b in ALIASES.items() if a in raw and b not in raw})
    _check_names(raw, path)
    _check_unit_columns(raw, path)
    frame = pd.DataFrame(
        {c.name: parse(raw[c.name], c, path) for c in COLUMNS if c.name in raw.columns}
    )
    notes: list[str] = []
    _check_required(frame, path)
    _check_labels(frame, path)
    _defaults(frame, path, notes)
    _check_gpus(frame, path)
    _energy(frame, path)
    _check_phases(frame, path)
    _check_power(frame, path)
    _hardware(frame, notes)
    _identity(frame, path, notes)
    extras = [name for name in raw.columns if name not in BY_NAME]
    if extras:
        notes.append(f"columns that the table does not know were kept: {', '.join(extras)}")
        frame = pd.concat([frame, raw[extras].map(_extra)], axis=1)
    return Imported(frame=frame, notes=notes)


def _check_names(raw: pd.DataFrame, path: Path) -> None:
    """Check the header: doubled names, other units, missing columns."""
    names = [str(name) for name in raw.columns]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise refuse(
            f"Column {doubled[0]!r} is there twice.", path, doubled[0], "remove or rename one"
        )
    for name in names:
        if name not in BY_NAME and (found := other_unit(name)) is not None:
            ours, factor = found
            raise refuse(
                f"Column {name} is not in the unit of the table.",
                path,
                name,
                f"multiply by {factor} and name the column {ours}",
            )
    diffusion = "output_images" in names or "output_frames" in names
    lacking = [
        c.name
        for c in COLUMNS
        if c.required
        and c.name not in names
        and c.name not in ENERGY_CHOICE
        and not (c.name == "output_tokens" and diffusion)
    ]
    if not any(name in names for name in ENERGY_CHOICE):
        lacking.append(" or ".join(ENERGY_CHOICE))
    if lacking:
        hint = ""
        for name in lacking:
            close = difflib.get_close_matches(name, [n for n in names if n not in BY_NAME], 1, 0.7)
            hint = hint or (f"; is {close[0]!r} meant to be {name!r}?" if close else "")
        if len(names) == 1 and (";" in names[0] or "\t" in names[0]):
            hint = "; separate the fields by commas"
        raise ImportDataError(
            f"The file lacks required columns: {', '.join(lacking)}.",
            where=f"{path}, header: {', '.join(names)[:300]}",
            fix=f"add them (docs/data.md says what they mean){hint}",
        )


def _check_unit_columns(raw: pd.DataFrame, path: Path) -> None:
    """Refuse a column that gives some rows a unit of their own."""
    for name in raw.columns:
        if str(name).lower().rpartition("_")[2] not in {"unit", "units"}:
            continue
        bad = raw[name].map(foreign_unit).astype(bool)
        if bad.any():
            raise refuse(
                f"Column {name} gives rows in another unit, {raw.loc[bad, name].iloc[0]!r}.",
                path,
                str(name),
                "convert every row to the units in the column names (joules, seconds, watts) and "
                "remove this column",
                bad,
            )


def _makes_media(frame: pd.DataFrame) -> pd.Series:
    """Tell the diffusion rows: they make images or frames, no tokens."""
    media = pd.Series(False, index=frame.index)
    for name in ("output_images", "output_frames"):
        if name in frame:
            media |= frame[name].fillna(0) > 0
    return media


def _check_required(frame: pd.DataFrame, path: Path) -> None:
    media = _makes_media(frame)
    for column in COLUMNS:
        if not column.required or column.name in ENERGY_CHOICE:
            continue
        if column.name not in frame:
            bad = ~media
        else:
            bad = missing(frame[column.name])
            if column.name == "output_tokens":
                bad &= ~media
        if bad.any():
            raise refuse(
                f"{column.name} is required and is empty.",
                path,
                column.name,
                "fill it in, or remove these rows",
                bad,
            )


def _check_labels(frame: pd.DataFrame, path: Path) -> None:
    """Check columns that hold one of a few words; accept their letter case and long names."""
    for name, allowed in (
        ("family", FAMILIES),
        ("modality", MODALITIES),
        ("precision", PRECISIONS),
    ):
        if name not in frame:
            continue
        words = frame[name].map(lambda v: v.lower() if isinstance(v, str) else v)
        if name == "precision":
            words = words.map(lambda v: _PRECISION_NAMES.get(v, v) if isinstance(v, str) else v)
        bad = words.notna() & ~words.isin(allowed)
        if bad.any():
            raise refuse(
                f"Unknown {name} {frame.loc[bad, name].iloc[0]!r}.",
                path,
                name,
                f"use one of: {', '.join(allowed)}",
                bad,
            )
        frame[name] = words
    if "schema_version" in frame:
        bad = frame["schema_version"].notna() & (frame["schema_version"] != SCHEMA_VERSION)
        if bad.any():
            raise refuse(
                f"The file has schema version {frame.loc[bad, 'schema_version'].iloc[0]:g}; "
                f"this EnergyLens reads version {SCHEMA_VERSION}.",
                path,
                "schema_version",
                "export it again in this version",
                bad,
            )


def _defaults(frame: pd.DataFrame, path: Path, notes: list[str]) -> None:
    """Fill in what the table says a missing value means."""
    for column in COLUMNS:
        if column.default is None:
            continue
        if column.name not in frame:
            frame[column.name] = np.nan if column.type == "int" else None
        applies = frame[column.name].isna()
        if column.name in VISUAL:
            applies &= ~frame["modality"].isin(VISUAL[column.name])
        frame[column.name] = frame[column.name].where(~applies, column.default)
    if "provenance" in frame and (frame["provenance"].fillna("imported") != "imported").any():
        notes.append("provenance is 'imported' in every row, whatever the file says")
    frame["schema_version"] = SCHEMA_VERSION
    frame["provenance"] = "imported"
    if "source" not in frame:
        frame["source"] = path.name
    frame["source"] = frame["source"].where(frame["source"].notna(), path.name)


def _check_gpus(frame: pd.DataFrame, path: Path) -> None:
    """Fill in the number of GPUs, or check that it agrees with the degrees."""
    product = pd.Series(1.0, index=frame.index)
    for name in _DEGREES:
        if name in frame:
            product *= frame[name].astype(float).fillna(1.0)
    if "num_gpus" not in frame:
        frame["num_gpus"] = product
        return
    given = frame["num_gpus"].astype(float)
    bad = given.notna() & (given != product)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise refuse(
            f"num_gpus is {given.iloc[first]:g}, but the parallel degrees make "
            f"{product.iloc[first]:g} GPUs.",
            path,
            "num_gpus",
            "give tensor_parallel, pipeline_parallel and data_parallel so that their product "
            "is num_gpus (a missing one counts as 1)",
            bad,
        )
    frame["num_gpus"] = given.fillna(product)


def _energy(frame: pd.DataFrame, path: Path) -> None:
    """Derive one of the two energies from the other; where both are given they must agree."""
    for name in (*ENERGY_CHOICE, "output_tokens"):
        if name not in frame:
            frame[name] = np.nan
    total = frame["total_energy_j"].astype(float)
    per_token = frame["energy_per_output_token_j"].astype(float)
    tokens = frame["batch"].astype(float) * frame["output_tokens"].astype(float)
    bad = total.isna() & (per_token.isna() | tokens.isna())
    if bad.any():
        raise refuse(
            "These rows have no energy: neither total_energy_j nor energy_per_output_token_j.",
            path,
            "total_energy_j",
            "give joules of the whole batch, or remove rows that were not measured",
            bad,
        )
    expected = total / tokens
    # output_tokens is a rounded mean: half a token of slack beside the 1 %.
    slack = _TOLERANCE + 0.5 / frame["output_tokens"].astype(float)
    bad = ((per_token - expected).abs() > slack * expected).fillna(False)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise refuse(
            f"energy_per_output_token_j ({per_token.iloc[first]:g}) is not total_energy_j / "
            f"(batch x output_tokens) ({expected.iloc[first]:g}).",
            path,
            "energy_per_output_token_j",
            "total_energy_j is joules of the whole batch over all GPUs; check the units of both, "
            "or give only one of them",
            bad,
        )
    frame["total_energy_j"] = total.fillna(per_token * tokens)
    frame["energy_per_output_token_j"] = per_token.fillna(frame["total_energy_j"] / tokens)


def _check_phases(frame: pd.DataFrame, path: Path) -> None:
    """Check that no phase used more energy than the whole."""
    for name in ("prefill_energy_j", "decode_energy_j"):
        if name not in frame:
            continue
        bad = frame[name].astype(float) > 1.05 * frame["total_energy_j"]
        if bad.any():
            raise refuse(
                f"{name} is more than total_energy_j.",
                path,
                name,
                "give both in joules of the whole batch over all GPUs",
                bad,
            )
    if "prefill_energy_j" in frame and "decode_energy_j" in frame:
        both = frame["prefill_energy_j"].astype(float) + frame["decode_energy_j"].astype(float)
        bad = (both < _LEAST_PHASES * frame["total_energy_j"]) & frame["valid"].astype(bool)
        if bad.any():
            raise refuse(
                "prefill_energy_j and decode_energy_j together are less than half of "
                "total_energy_j.",
                path,
                "decode_energy_j",
                "give all three in joules of the whole batch over all GPUs",
                bad,
            )
    if "input_tokens" in frame:
        bad = frame["visual_tokens"].astype(float) > frame["input_tokens"].astype(float)
        if bad.any():
            raise refuse(
                "visual_tokens is more than input_tokens.",
                path,
                "visual_tokens",
                "input_tokens counts the visual tokens too",
                bad,
            )


def _check_power(frame: pd.DataFrame, path: Path) -> None:
    """Check that energy over time is a power that a GPU can draw: finds rows in other units."""
    if "total_latency_s" not in frame:
        return
    seconds = frame["total_latency_s"].astype(float)
    power_w = frame["total_energy_j"] / (seconds * frame["num_gpus"].astype(float))
    low, high = _POWER_W
    bad = ((power_w < low) | (power_w > high)) & frame["valid"].astype(bool)
    if "request_rate_per_s" in frame:  # there the latency may be that of one request
        bad &= frame["request_rate_per_s"].isna()
    if bad.any():
        raise refuse(
            f"total_energy_j over total_latency_s is {power_w[bad].iloc[0]:g} W a GPU, which no "
            "GPU draws.",
            path,
            "total_energy_j",
            "give every row in joules and seconds, of the whole batch over all GPUs",
            bad,
        )


def _hardware(frame: pd.DataFrame, notes: list[str]) -> None:
    names: dict[str, str] = {}
    for name in sorted(frame["hardware"].unique()):
        names[name], known = canonical_hardware(name)
        if not known:
            notes.append(unknown_hardware_note(name))
    frame["hardware"] = frame["hardware"].map(names)


def _identity(frame: pd.DataFrame, path: Path, notes: list[str]) -> None:
    """Give each row its task_id and refuse a configuration that is there twice."""
    columns = [name for name in IDENTITY_DEFAULTS if name in frame.columns]
    values = zip(*(frame[name].tolist() for name in columns), strict=True)
    ids = pd.Series(
        [task_id_of(dict(zip(columns, row, strict=True))) for row in values], index=frame.index
    )
    if "task_id" in frame and (frame["task_id"].notna() & (frame["task_id"] != ids)).any():
        notes.append("task_id was computed anew from the configuration")
    frame["task_id"] = ids
    doubled = frame.duplicated(["task_id", "attempt"], keep=False)
    if not doubled.any():
        return
    first = frame.loc[doubled].iloc[0]
    same = (frame["task_id"] == first["task_id"]) & (frame["attempt"] == first["attempt"])
    sets = frame.loc[doubled].groupby(["task_id", "attempt"]).ngroups
    raise ImportDataError(
        f"The same configuration is there more than once ({sets} in all), "
        f"first in {row_list(same)}.",
        where=f"{path}, {row_list(doubled)} (row 1 is the first row of data)",
        fix="give an `attempt` column (1, 2, ...; the highest counts), or average the rows and "
        "give `repeats`; rows of different benchmarks need a `task` column",
    )


def _extra(value: object) -> object:
    return None if isinstance(value, str) and not value.strip() else value
