"""The short report of an acceptance run, in Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from harness.gpucheck.results import SIZE_LIMIT_BYTES
from harness.gpucheck.slices import ENOUGH_ROWS
from harness.measuring.reasons import REASONS

EXAMPLE_ROWS = 12


def write_report(summary: dict[str, Any], rows: pd.DataFrame, folder_bytes: int) -> str:
    """Return the report.

    Parameters
    ----------
    summary
        What `results.summarise` gave.
    rows
        The measurement table of the run.
    folder_bytes
        Size of the run folder.
    """
    counts = summary["rows"]
    parts = [
        "# GPU check",
        _verdict(summary),
        "## Machine",
        _machine(summary),
        "## Sensor",
        _sensor(summary["sensor"]),
        "## Rows",
        _table(
            ["model", "rows", "with energy", "valid"],
            [
                [name, part["rows"], part["with_energy"], part["valid"]]
                for name, part in counts["by_model"].items()
            ],
        ),
        _spreads(summary),
        "### Reasons",
        _reasons(summary["reasons"]),
        f"## {min(EXAMPLE_ROWS, len(rows))} of {len(rows)} rows",
        _examples(rows),
        "## What failed or was left out",
        _failures(summary),
        "## Time and size",
        f"Launches took {summary['launches']['seconds'] / 60:.1f} min; "
        f"{summary['launches']['ended']} ended, {summary['launches']['left']} are left. "
        f"The folder takes {folder_bytes / 1e6:.2f} MB of {SIZE_LIMIT_BYTES / 1e6:.0f} MB.",
    ]
    return "\n\n".join(parts) + "\n"


def _verdict(summary: dict[str, Any]) -> str:
    counts = summary["rows"]
    text = (
        f"{counts['there']} of {counts['planned']} rows, {counts['with_energy']} with energies, "
        f"{counts['valid']} valid ({ENOUGH_ROWS} are wanted)."
    )
    if summary["simulated"]:
        text += (
            " **The driver is a scripted one: no GPU took part, and every row is projected, "
            "not measured.**"
        )
    return text


def _machine(summary: dict[str, Any]) -> str:
    machine = summary["machine"]
    lines = [
        f"- {machine['name']} ({machine['hardware']}), {machine['memory_bytes'] / 2**30:.0f} GiB",
        f"- driver {machine['driver']}",
    ]
    versions = summary["versions"] or {}
    found = ", ".join(f"{name} {value}" for name, value in versions.items() if value)
    return "\n".join([*lines, f"- {found or 'no launch told its versions'}"])


def _sensor(sensor: dict[str, Any] | None) -> str:
    if sensor is None:
        return "It could not be characterised: documentation is assumed."
    trusted = "trusted" if sensor["trusted"] else f"not trusted: {', '.join(sensor['reasons'])}"
    return "\n".join(
        [
            f"- {trusted}",
            f"- counter every {_number(sensor['counter_period_s'], 1e3)} ms, power every "
            f"{_number(sensor['power_period_s'], 1e3)} ms, lag {_number(sensor['lag_s'], 1e3)} ms, "
            f"{_number(sensor['sampled_fraction'], 100)} % of the time sampled",
            f"- shortest window {_number(sensor['shortest_window_s'])} s",
            f"- idle {_number(sensor['bare_w'])} W, with a context "
            f"{_number(sensor['context_w'])} W, steady load {_number(sensor['load_w'])} W",
            f"- counter over integral under steady load {_number(sensor['agreement'], 100)} %",
            *[f"- {note}" for note in sensor["notes"]],
        ]
    )


def _spreads(summary: dict[str, Any]) -> str:
    named = {
        "additivity residual": summary["additivity"],
        "counter against integral": summary["counter_vs_integral"],
        **{f"CI of {phase}": found for phase, found in summary["ci95_share"].items()},
    }
    return _table(
        ["share, %", "median", "90th percentile", "largest"],
        [
            [name, *(_number(found[key], 100) for key in ("median", "p90", "largest"))]
            for name, found in named.items()
            if found is not None
        ],
    )


def _reasons(reasons: dict[str, int]) -> str:
    if not reasons:
        return "None."
    rows = []
    for code, count in sorted(reasons.items(), key=lambda item: (-item[1], item[0])):
        known = REASONS.get(code)
        hard = known is None or known.hard
        rows.append([code, count, "no" if hard else "yes", known.text if known else ""])
    return _table(["code", "rows", "still valid", "meaning"], rows)


def _examples(rows: pd.DataFrame) -> str:
    step = max(1, len(rows) // EXAMPLE_ROWS)
    ordered = rows.sort_values(["model_id", "modality", "batch", "input_tokens"])
    shown = ordered.iloc[::step].head(EXAMPLE_ROWS)
    return _table(
        ["model", "input", "batch", "in", "out", "prefill J", "decode J", "total J", "+-", "valid"],
        [
            [
                row["model_id"],
                row["modality"],
                row["batch"],
                row["input_tokens"],
                row["output_tokens"],
                *(_number(row[f"{p}_energy_j"]) for p in ("prefill", "decode", "total")),
                _number(row["total_energy_j_ci95_j"]),
                "yes" if row["valid"] else "no",
            ]
            for _, row in shown.iterrows()
        ],
    )


def _failures(summary: dict[str, Any]) -> str:
    lines = [f"- {f['launch']}: {f['class']}: {f['detail']}" for f in summary["failures"]]
    launches = summary["launches"]
    lines += [f"- launch {key} ended with an error" for key in launches["failed"]]
    lines += [f"- launch {key} was ended from outside twice" for key in launches["given_up"]]
    lines += [f"- left out: {text}" for text in summary["left_out"]]
    lines += [f"- {note}" for note in summary["notes"]]
    return "\n".join(lines) or "Nothing."


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _number(value: Any, factor: float = 1.0) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value * factor:.3g}"
