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
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.catalog import load_hardware
from harness.engines.twin.power import DRIVERS, LAW_FILE, KindLaw, Use, law_name, peak_flops
from harness.engines.twin.work import TABLE_SHAPE_COLUMNS, work_of_table

Floats = npt.NDArray[np.float64]

DEFAULT_DATA = Path("../shared/data/aiconfigurator_ops")
SHORTEST_MS = 0.05
"""Shorter kernels are left out: two frameworks' power of one GEMM differs by 30-40 % there."""

HARDWARE = {"H200_SXM": "H200-SXM5-141GB", "B200_SXM": "B200-SXM6-180GB"}
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
    "conv1d": ("sequences", "blocks", "bytes"),
    "scan": ("sequences",),
}
"""Drivers of each law, chosen on the validation part (docs/twin.md says what was tried)."""


MEMORY_ONLY = frozenset({"conv1d", "generation_attention"})
"""Laws without a compute term: FLOPs are a fixed multiple of bytes there, or far too few."""


@dataclass(frozen=True)
class Rows:
    """Rows of one law, ready to fit; arrays of shape (n,)."""

    use: Use
    u_compute: Floats
    u_memory: Floats
    floor_w: Floats
    limit_w: Floats
    power_w: Floats
    hardware: npt.NDArray[np.str_]
    key: npt.NDArray[np.str_]
    split: npt.NDArray[np.str_]
    operator: npt.NDArray[np.str_]

    def take(self, mask: npt.NDArray[np.bool_]) -> Rows:
        """Keep the rows of a mask."""
        parts = {
            name: getattr(self, name)[mask] for name in self.__dataclass_fields__ if name != "use"
        }
        use = Use(*(getattr(self.use, field)[mask] for field in Use.__slots__))
        return Rows(use=use, **parts)


def shape_split(frame: pd.DataFrame) -> npt.NDArray[np.str_]:
    """Train, validation or test by a hash of operator and shape (not of GPU, format, latency)."""
    texts = [
        ["" if value is pd.NA else str(value) for value in frame[name].tolist()]
        for name in ("op", *TABLE_SHAPE_COLUMNS)
    ]
    keys = ["|".join(parts) for parts in zip(*texts, strict=True)]
    tenths = np.array([int(hashlib.sha256(k.encode()).hexdigest()[:8], 16) % 10 for k in keys])
    return np.select([tenths < 6, tenths < 8], ["train", "validation"], "test")


def load_operators(folder: Path) -> pd.DataFrame:
    """Read ops.parquet with canonical GPU names, the split, and without the short kernels."""
    frame = pd.read_parquet(folder / "ops.parquet")
    frame["hardware"] = frame["hardware"].map(HARDWARE)
    frame["split"] = shape_split(frame)
    return frame


def floors(frame: pd.DataFrame) -> dict[str, float]:
    """Lowest power under a running kernel by GPU: the 0.1st percentile of all training rows."""
    train = frame[frame["split"] == "train"]
    quantiles = train.groupby("hardware")["power_w"].quantile(0.001)
    return {str(name): round(float(value), 1) for name, value in quantiles.items()}


def law_rows(frame: pd.DataFrame, floors_w: Mapping[str, float]) -> dict[str, Rows]:
    """Work, utilisation and power of every long enough row, by law."""
    frame = frame[frame["latency_ms"] > SHORTEST_MS]
    collected: dict[str, list[Rows]] = {}
    for op, group in frame.groupby("op", sort=True):
        work = work_of_table(group, str(op))
        latency = group["latency_ms"].to_numpy(np.float64) / 1e3
        hardware = group["hardware"].to_numpy(str)
        facts = [load_hardware(name) for name in hardware]
        peaks = [peak_flops(h, p) for h, p in zip(facts, work.precision, strict=True)]
        use = Use(
            latency,
            work.rows,
            work.blocks,
            work.bytes,
            work.flops,
            work.head_dim,
            work.window,
            work.skew,
            work.sequences,
        )
        columns = zip(hardware, group["framework"], work.number_format, work.variant, strict=True)
        rows = Rows(
            use=use,
            u_compute=work.flops / latency / np.array(peaks),
            u_memory=work.bytes
            / latency
            / np.array([h.memory_bandwidth_bytes_per_s for h in facts]),
            floor_w=np.array([floors_w[h] for h in hardware]),
            limit_w=group["power_limit_w"].to_numpy(np.float64),
            power_w=group["power_w"].to_numpy(np.float64),
            hardware=hardware,
            key=np.array(["|".join(map(str, c)) for c in columns]),
            split=group["split"].to_numpy(str),
            operator=np.full(len(group), str(op)),
        )
        names = np.array([law_name(str(op), v) for v in work.variant])
        for name in np.unique(names):
            collected.setdefault(str(name), []).append(rows.take(names == name))
    return {name: _join(parts) for name, parts in collected.items()}


def _join(parts: Sequence[Rows]) -> Rows:
    use = Use(*(np.concatenate([getattr(p.use, f) for p in parts]) for f in Use.__slots__))
    rest = {
        name: np.concatenate([getattr(p, name) for p in parts])
        for name in Rows.__dataclass_fields__
        if name != "use"
    }
    return Rows(use=use, **rest)


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
    share = law.share(rows.u_compute, rows.u_memory, rows.use, scale)
    duty = rows.use.latency_s / (rows.use.latency_s + gap_s)
    return rows.floor_w + (rows.limit_w - rows.floor_w) * duty * share


def predict(law: KindLaw, rows: Rows) -> Floats:
    """Power of each row as the tables would read it, W, shape (n,)."""
    found = {key: law.scale_and_gap(key) for key in set(rows.key.tolist())}
    scale, gap = np.array([found[key] for key in rows.key]).T
    return _power(law, rows, scale, gap)


def relative_errors(law: KindLaw, rows: Rows) -> Floats:
    """|predicted / measured - 1| of each row."""
    return np.abs(predict(law, rows) / rows.power_w - 1.0)


def transfer_error(
    rows: Rows, drivers: Sequence[str], *, memory_only: bool = False
) -> float | None:
    """Median error on one GPU type of a law fitted on the other, the worse of both directions."""
    names = sorted(set(rows.hardware.tolist()))
    if len(names) < 2:
        return None
    worst = 0.0
    for name in names:
        law = fit_law(rows.take(rows.hardware != name), drivers, memory_only=memory_only)
        worst = max(worst, float(np.median(relative_errors(law, rows.take(rows.hardware == name)))))
    return worst


def error_summary(law: KindLaw, rows: Rows) -> dict[str, dict[str, float]]:
    """Median and 68th percentile of the relative error by GPU, and the number of rows."""
    errors = relative_errors(law, rows)
    summary = {}
    for name in sorted(set(rows.hardware.tolist())):
        part = errors[rows.hardware == name]
        summary[name] = {
            "median": float(np.median(part)),
            "p68": float(np.quantile(part, 0.68)),
            "mean": float(part.mean()),
            "rows": float(part.size),
        }
    return summary


def calibrate(folder: Path) -> dict[str, Any]:
    """Fit every law; return the document of power_law.json."""
    frame = load_operators(folder)
    floors_w = floors(frame)
    tables = law_rows(frame, floors_w)
    laws: dict[str, Any] = {}
    shares = []
    for name, drivers in LAW_DRIVERS.items():
        rows = tables[name]
        fitted = rows.take(rows.split != "test")
        law = fit_law(fitted, drivers, memory_only=name in MEMORY_ONLY)
        entry = {field: getattr(law, field) for field in KindLaw.__slots__}
        entry["domain"] = {key: list(value) for key, value in law.domain.items()}
        entry["errors"] = error_summary(law, rows.take(rows.split == "test"))
        entry["transfer_error"] = transfer_error(fitted, drivers, memory_only=name in MEMORY_ONLY)
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
    print("| law | k0 | kc | a | km | b | q | drivers g | other GPU |\n" + "|---" * 9 + "|")
    for name, entry in document["laws"].items():
        drivers = ", ".join(f"{key} {value:+.2f}" for key, value in entry["drivers"].items())
        carried = entry["transfer_error"]
        compute = entry["compute"]
        cells = [
            f"{entry['base']:.3g}",
            f"{compute:.3g}" if compute else "",
            f"{entry['compute_exponent']:.2f}" if compute else "",
            f"{entry['memory']:.3g}",
            f"{entry['memory_exponent']:.2f}",
            f"{entry['sharpness']:.1f}",
            drivers,
            "" if carried is None else f"{carried:.0%}",
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")
    print("\n| law | GPU, framework, format, kernel | S | G, us |\n|---|---|---|---|")
    for name, entry in document["laws"].items():
        for key, scale in entry["scales"].items():
            label = ", ".join(part for part in key.split("|") if part)
            print(f"| {name} | {label} | {scale:.2f} | {entry['gaps_s'][key] * 1e6:.0f} |")


if __name__ == "__main__":
    main()
