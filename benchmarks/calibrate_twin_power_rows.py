"""Rows for the calibration of the operator power law: reading, splitting, work and utilisation."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.catalog import load_hardware
from harness.engines.twin.power import KindLaw, StateLaw, Use, key_of, law_name, peak_flops
from harness.engines.twin.work import TABLE_SHAPE_COLUMNS, work_of_table

Floats = npt.NDArray[np.float64]

DEFAULT_DATA = Path("../shared/data/aiconfigurator_ops")
SHORTEST_MS = 0.05
"""Shorter kernels are left out: two frameworks' power of one GEMM differs by 30-40 % there."""

HARDWARE = {"H200_SXM": "H200-SXM5-141GB", "B200_SXM": "B200-SXM6-180GB"}


@dataclass(frozen=True)
class Rows:
    """Rows of one law, ready to fit; arrays of shape (n,)."""

    use: Use
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
        return Rows(use=self.use.take(mask), **parts)


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
        peaks = np.array([peak_flops(h, p) for h, p in zip(facts, work.precision, strict=True)])
        bandwidths = np.array([h.memory_bandwidth_bytes_per_s for h in facts])
        use = Use(
            latency,
            work.flops / latency / peaks,
            work.bytes / latency / bandwidths,
            work.rows,
            work.blocks,
            work.bytes,
            work.flops,
            work.head_dim,
            work.window,
            work.sequences,
            work.heads,
        )
        columns = zip(hardware, group["framework"], work.number_format, strict=True)
        rows = Rows(
            use=use,
            floor_w=np.array([floors_w[h] for h in hardware]),
            limit_w=group["power_limit_w"].to_numpy(np.float64),
            power_w=group["power_w"].to_numpy(np.float64),
            hardware=hardware,
            key=np.array([key_of(*map(str, c), str(op)) for c in columns]),
            split=group["split"].to_numpy(str),
            operator=np.full(len(group), str(op)),
        )
        names = np.array([law_name(str(op), v) for v in work.variant])
        for name in np.unique(names):
            collected.setdefault(str(name), []).append(rows.take(names == name))
    return {name: join_rows(parts) for name, parts in collected.items()}


def join_rows(parts: Sequence[Rows]) -> Rows:
    """Put tables of rows one after the other."""
    use = Use(*(np.concatenate([getattr(p.use, f) for p in parts]) for f in Use.__slots__))
    rest = {
        name: np.concatenate([getattr(p, name) for p in parts])
        for name in Rows.__dataclass_fields__
        if name != "use"
    }
    return Rows(use=use, **rest)


def predict(law: KindLaw | StateLaw, rows: Rows) -> Floats:
    """Power of each row as the tables would read it, W, shape (n,)."""
    share = np.empty(rows.power_w.size)
    for key in set(rows.key.tolist()):
        at = rows.key == key
        share[at] = law.share(rows.use.take(at), key, settled=False)
    return np.asarray(rows.floor_w + (rows.limit_w - rows.floor_w) * share)


def relative_errors(law: KindLaw | StateLaw, rows: Rows) -> Floats:
    """|predicted / measured - 1| of each row."""
    return np.abs(predict(law, rows) / rows.power_w - 1.0)


def error_summary(law: KindLaw | StateLaw, rows: Rows) -> dict[str, dict[str, float]]:
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
