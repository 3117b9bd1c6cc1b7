"""Fit the twin's operator power law on measured operator power and write power_law.json.

    python benchmarks/calibrate_twin_power.py [DATA_FOLDER] [--out FILE]

DATA_FOLDER holds ops.parquet (operator latency and mean board power of H200 and B200, from the
aiconfigurator project, Apache-2.0); default ../shared/data/aiconfigurator_ops. Rows are split
60/20/20 into train, validation and test by a hash of the operator's shape, so that no shape is
in two parts. Structure was chosen on validation; the errors written into the file are those of
the test part, by a law fitted on train and validation.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from calibrate_twin_power_rows import (
    DEFAULT_DATA,
    SHORTEST_MS,
    Floats,
    Rows,
    error_summary,
    floors,
    law_rows,
    load_operators,
    relative_errors,
)
from calibrate_twin_power_state import CLOSENESS, fit_state_law, state_transfer_error

from harness.engines.twin.power import DRIVERS, LAW_FILE, KindLaw, StateLaw

LAW_DRIVERS: dict[str, tuple[str, ...]] = {
    "gemm": ("rows", "fill"),
    "moe": ("rows", "fill"),
    "context_attention": ("head_dim", "fill"),
    "generation_attention": ("window", "intensity"),
    "encoder_attention": ("head_dim", "length"),
    "mla_context": ("sequences", "rows"),
    "mla_generation": ("rows", "fill", "bytes"),
    "mla_context_module": ("latency", "sequences", "bytes"),
    "mla_generation_module": ("blocks",),
}
"""Drivers of each law, chosen on the validation part (docs/twin.md says what was tried)."""

MEMORY_ONLY = frozenset({"generation_attention"})
"""Laws without a compute term: too few FLOPs."""


_FIRST = 6  # sharpness, base, compute, its exponent, memory, its exponent


def fit_law(rows: Rows, drivers: Sequence[str], *, memory_only: bool = False) -> KindLaw:
    """Fit one law's coefficients by least squares on log power with a robust loss.

    Loss: soft L1 of ln(predicted / measured) beyond 5 %. A weak pull (1e-2 of a residual) of
    every coefficient to its start keeps those that the data cannot tell apart from running away.
    Exponents stay in 0.25 to 2, sharpness in 1 to 8. The scales have a geometric mean of 1.
    """
    from scipy.optimize import least_squares

    keys = sorted(set(rows.key.tolist()))
    index = np.searchsorted(keys, rows.key)
    features = [DRIVERS[name](rows.use) for name in drivers]
    domain = {
        name: (float(np.quantile(values, 0.005)), float(np.quantile(values, 0.995)))
        for name, values in zip(drivers, features, strict=True)
    }
    count, many = len(drivers), len(keys)
    start = np.concatenate(
        [[0.7, -2.0, 0.0, 0.6, 0.0, 0.6], np.zeros(count), np.full(many, -3.0), np.zeros(many)]
    )
    measured = np.log(rows.power_w)

    def build(theta: Floats) -> KindLaw:
        gaps, logs = np.split(theta[_FIRST + count :], 2)
        middle = float(np.mean(logs))
        return KindLaw(
            sharpness=float(np.exp(theta[0])),
            base=float(np.exp(theta[1] + middle)),
            compute=0.0 if memory_only else float(np.exp(theta[2] + middle)),
            compute_exponent=float(theta[3]),
            memory=float(np.exp(theta[4] + middle)),
            memory_exponent=float(theta[5]),
            drivers=dict(zip(drivers, map(float, theta[_FIRST : _FIRST + count]), strict=True)),
            domain=domain,
            scales=dict(zip(keys, map(float, np.exp(logs - middle)), strict=True)),
            gaps_s=dict(zip(keys, map(float, 1e-3 * np.exp(gaps)), strict=True)),
            errors={},
            transfer_error=None,
        )

    def residuals(theta: Floats) -> Floats:
        law = build(theta)
        scale, gap = (np.array(list(part.values()))[index] for part in (law.scales, law.gaps_s))
        log_error = np.log(_power(law, rows, scale, gap)) - measured
        return np.concatenate([log_error, 1e-2 * (theta - start)])

    lower, upper = np.full(start.size, -9.0), np.full(start.size, 9.0)
    lower[0], upper[0] = 0.0, np.log(8.0)
    lower[[3, 5]], upper[[3, 5]] = 0.25, 2.0
    lower[_FIRST : _FIRST + count], upper[_FIRST : _FIRST + count] = -2.0, 2.0
    solution = least_squares(
        residuals, start, bounds=(lower, upper), loss="soft_l1", f_scale=0.05, max_nfev=300
    )
    return build(solution.x)


def _power(law: KindLaw, rows: Rows, scale: Floats, gap_s: Floats) -> Floats:
    share = law.settled_share(rows.use, scale)
    duty = rows.use.latency_s / (rows.use.latency_s + gap_s)
    return np.asarray(rows.floor_w + (rows.limit_w - rows.floor_w) * duty * share)


def fit_named(rows: Rows, name: str) -> KindLaw | StateLaw:
    """Fit the law of that name, with the structure that was chosen for it."""
    if name in CLOSENESS:
        return fit_state_law(rows, name)
    return fit_law(rows, LAW_DRIVERS[name], memory_only=name in MEMORY_ONLY)


def transfer_error(rows: Rows, name: str) -> float | None:
    """Median error on one GPU type of a law fitted on the other, the worse of both directions."""
    if name in CLOSENESS:
        return state_transfer_error(rows, name)
    names = sorted(set(rows.hardware.tolist()))
    if len(names) < 2:
        return None
    worst = 0.0
    for hardware in names:
        law = fit_named(rows.take(rows.hardware != hardware), name)
        asked = rows.take(rows.hardware == hardware)
        worst = max(worst, float(np.median(relative_errors(law, asked))))
    return worst


def entry_of(law: KindLaw | StateLaw) -> dict[str, Any]:
    """Coefficients of a law as the file holds them."""
    return {key: value for key, value in asdict(law).items() if not key.startswith("_")}


def calibrate(folder: Path) -> dict[str, Any]:
    """Fit every law; return the document of power_law.json."""
    frame = load_operators(folder)
    floors_w = floors(frame)
    tables = law_rows(frame, floors_w)
    laws: dict[str, Any] = {}
    shares = []
    for name in (*LAW_DRIVERS, *CLOSENESS):
        rows = tables[name]
        fitted = rows.take(rows.split != "test")
        law = fit_named(fitted, name)
        entry = entry_of(law)
        entry["errors"] = error_summary(law, rows.take(rows.split == "test"))
        entry["transfer_error"] = transfer_error(fitted, name)
        laws[name] = entry
        shares.append((fitted.power_w - fitted.floor_w) / (fitted.limit_w - fitted.floor_w))
    document = {
        "provenance": {
            "command": "python benchmarks/calibrate_twin_power.py",
            "data": "ai-dynamo/aiconfigurator operator tables with power, Apache-2.0",
            "commit": "095f58a51c4ca8e61b66ec108d86f223f8d559ce",
            "rows": int(sum(share.size for share in shares)),
            "shortest_kernel_ms": SHORTEST_MS,
            "errors": "relative error of board power on the test fifth of the shapes",
        },
        "floors_w": floors_w,
        "other_share": float(np.median(np.concatenate(shares))),
        "communication": COMMUNICATION,
        "laws": laws,
    }
    rounded: dict[str, Any] = _round(document)
    return rounded


COMMUNICATION = {
    "share": 0.3,
    "relative_error": 0.5,
    "source": "estimate: no public per-operator measurement; exchange phases of large training"
    " draw far less than compute phases (arXiv 2508.14318)",
}


def _round(value: Any) -> Any:
    """Keep five significant digits: readable, and far finer than the errors."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {key: _round(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_round(item) for item in value]
    return value


def main(arguments: Iterable[str] | None = None) -> None:
    """Calibrate and write."""
    parser = argparse.ArgumentParser(description="Fit the twin's operator power law.")
    parser.add_argument("data", nargs="?", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--out", type=Path, default=LAW_FILE)
    options = parser.parse_args(None if arguments is None else list(arguments))
    document = calibrate(options.data)
    options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print_tables(document)


def print_tables(document: Mapping[str, Any]) -> None:
    """Print coefficients, scales and gaps as the Markdown tables of docs/twin.md."""
    laws = document["laws"]
    kinds = {name: entry for name, entry in laws.items() if "kernels" not in entry}
    _print_kinds(kinds)
    _print_kernels({name: entry for name, entry in laws.items() if "kernels" in entry})
    print("\n| law | GPU, framework, format | S | G, us |\n|---|---|---|---|")
    for name, entry in kinds.items():
        for key, scale in entry["scales"].items():
            print(f"| {name} | {_label(key)} | {scale:.2f} | {entry['gaps_s'][key] * 1e6:.0f} |")


def _label(key: str) -> str:
    return ", ".join(part for part in key.split("|") if part)


def _share_text(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _print_kinds(laws: Mapping[str, Any]) -> None:
    print("| law | k0 | kc | a | km | b | q | drivers g | other GPU |\n" + "|---" * 9 + "|")
    for name, entry in laws.items():
        compute = entry["compute"]
        cells = [
            f"{entry['base']:.3g}",
            f"{compute:.3g}" if compute else "",
            f"{entry['compute_exponent']:.2f}" if compute else "",
            f"{entry['memory']:.3g}",
            f"{entry['memory_exponent']:.2f}",
            f"{entry['sharpness']:.1f}",
            ", ".join(f"{key} {value:+.2f}" for key, value in entry["drivers"].items()),
            _share_text(entry["transfer_error"]),
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")


def _print_kernels(laws: Mapping[str, Any]) -> None:
    columns = "e | c | Y | gb | gl | gh | gt | L0 | N | m | ct | ch | G, us | w1 | w2"
    print(f"\n| law | GPU, framework, kind | {columns} | other GPU |")
    print("|---" * 18 + "|")
    for name, entry in laws.items():
        for key, kernel in entry["kernels"].items():
            values = {**kernel, "gap_s": kernel["gap_s"] * 1e6}
            cells = " | ".join(f"{value:.2g}" for value in values.values())
            carried = _share_text(entry["transfer_error"])
            label = _label(key.replace("|bfloat16", ""))
            print(f"| {name} | {label} | {cells} | {carried} |")


if __name__ == "__main__":
    main()
