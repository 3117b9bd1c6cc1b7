"""Which rows a fit may use: valid ones of one provenance, sampled the same way in any order."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.store import FitError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from numpy.typing import NDArray

CONFIGURATION = (
    "model_id",
    "hardware",
    "engine",
    "tensor_parallel",
    "pipeline_parallel",
    "expert_parallel",
    "data_parallel",
    "precision",
    "power_limit_w",
    "modality",
    "task",
    "batch",
    "input_tokens",
    "output_tokens",
    "visual_tokens",
    "images",
    "frames",
    "image_height",
    "image_width",
    "request_rate_per_s",
)
"""Columns that tell one configuration from another, as far as a table has them."""

NO_POWER_METER = "no_power_meter"
TIMES_ONLY = "measured without a power meter (times only)"

PHASE_ENERGIES = ("prefill_energy_j", "decode_energy_j")


@dataclass(frozen=True, slots=True)
class Left:
    """How many rows were left out of a fit, by reason."""

    counts: dict[str, int]

    def notes(self) -> list[str]:
        """Return one sentence a reason."""
        return [f"{n} rows left out: {reason}." for reason, n in self.counts.items() if n]


def usable(frame: pd.DataFrame, *, lengths: bool = True) -> tuple[pd.DataFrame, Left]:
    """Keep the rows that a law can be fitted to.

    Left out: rows without an energy (measured without a power meter, or failed), rows marked not
    valid, rows without a positive total energy, and (if `lengths`) rows without batch, input and
    output length. Rows that repeat another in configuration
    and energy count once.

    Parameters
    ----------
    frame
        Rows of the measurement table.
    lengths
        Whether the law needs the lengths of a request.

    Raises
    ------
    FitError
        If `model_id`, `hardware` or the energy is no column, if there are rows but none has an
        energy, or if one (model, hardware) mixes provenances.
    """
    for name in ("model_id", "hardware", "total_energy_j"):
        if name not in frame.columns:
            raise FitError(
                f"The table has no column {name!r}.",
                where="measurements",
                fix="Read a run folder, or give the columns of the measurement table.",
            )
    counts: dict[str, int] = {}
    keep = np.ones(len(frame), dtype=bool)

    def drop(mask: NDArray[np.bool_], reason: str) -> None:
        counts[reason] = int((keep & mask).sum())
        keep[mask] = False

    energy = frame["total_energy_j"].to_numpy(dtype=np.float64, na_value=np.nan)
    for reason, mask in without_energy(frame, energy):
        drop(mask, reason)
    if len(frame) and not np.isfinite(energy).any():
        raise _no_energies(counts, len(frame))
    if "valid" in frame.columns:
        invalid = (~frame["valid"].astype("boolean").fillna(True)).to_numpy(dtype=bool)
        drop(invalid, "marked not valid")
    drop(~(energy > 0.0) | ~np.isfinite(energy), "no positive total energy")
    if lengths:
        for name in ("batch", "input_tokens", "output_tokens"):
            if name not in frame.columns:
                drop(np.ones(len(frame), dtype=bool), f"no {name}")
                continue
            values = frame[name].to_numpy(dtype=np.float64, na_value=np.nan)
            drop(~(values >= 1.0), f"no {name}")
    rows = frame.loc[keep]
    identity = [c for c in CONFIGURATION if c in rows.columns] + ["total_energy_j"]
    repeated = rows.duplicated(subset=identity)
    counts["repeats another row"] = int(repeated.sum())
    rows = rows.loc[~repeated]
    _refuse_mixed(rows)
    return rows, Left(counts)


def without_energy(
    frame: pd.DataFrame, energy: NDArray[np.float64]
) -> list[tuple[str, NDArray[np.bool_]]]:
    """Sort the rows without an energy by what they say of it, in words; other rows are in none.

    Parameters
    ----------
    frame
        Rows of the measurement table; without a column `reasons` nothing is known.
    energy
        Their total energy, J, shape (rows,).
    """
    if "reasons" not in frame.columns:
        return []
    why = np.full(len(frame), "", dtype=object)
    for row in np.flatnonzero(~np.isfinite(energy)):
        codes = frame["reasons"].iloc[row]
        if codes is None or isinstance(codes, float) or not len(codes):
            continue
        why[row] = (
            TIMES_ONLY
            if NO_POWER_METER in codes
            else f"failed: {', '.join(str(code).replace('_', ' ') for code in codes)}"
        )
    return [(str(text), why == text) for text in sorted(set(why) - {""})]


def _no_energies(counts: dict[str, int], rows: int) -> FitError:
    """Make the error of a table in which no row has an energy."""
    told = "; ".join(f"{n} {reason}" for reason, n in counts.items() if n)
    if counts.get(TIMES_ONLY):
        return FitError(
            "No row has an energy: the machine that measured them has no power meter.",
            where=f"{rows} rows: {told}",
            fix="Times are there (energylens report, energylens query). For energies measure where "
            "a power sensor can be read: energylens doctor says what a machine has.",
        )
    return FitError(
        "No row has an energy.",
        where=f"{rows} rows: {told or 'total_energy_j is empty'}",
        fix="energylens status DIR names what failed; mend it and run the sweep again.",
    )


def _refuse_mixed(rows: pd.DataFrame) -> None:
    """Refuse to fit one law to measured, projected and imported rows together."""
    if "provenance" not in rows.columns or not len(rows):
        return
    kinds = rows.groupby(["model_id", "hardware"])["provenance"].nunique(dropna=False)
    mixed = kinds[kinds > 1]
    if len(mixed):
        model_id, hardware = mixed.index[0]
        found = rows[(rows["model_id"] == model_id) & (rows["hardware"] == hardware)]
        kinds_text = ", ".join(
            f"{n} {kind}"
            for kind, n in found["provenance"].fillna("unknown").value_counts().sort_index().items()
        )
        raise FitError(
            "Rows of different provenance must not share a law.",
            where=f"{model_id} on {hardware}: {kinds_text}",
            fix="Filter the rows on the column provenance first.",
        )


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of one (model, hardware), with a hash of each configuration, shape (rows,)."""

    model_id: str
    hardware: str
    rows: pd.DataFrame
    hashes: NDArray[np.uint64]

    def take(self, order: NDArray[np.intp]) -> Group:
        """Return the rows at the given positions."""
        return Group(self.model_id, self.hardware, self.rows.iloc[order], self.hashes[order])


def pairs(rows: pd.DataFrame) -> Iterator[Group]:
    """Yield the rows of each (model, hardware), in sorted order of the names."""
    hashes = row_hash(rows)
    codes = rows.groupby(["model_id", "hardware"], sort=True).ngroup().to_numpy()
    order = np.argsort(codes, kind="stable")
    for positions in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
        part = rows.iloc[positions]
        first = part.iloc[0]
        yield Group(str(first["model_id"]), str(first["hardware"]), part, hashes[positions])


def row_hash(rows: pd.DataFrame) -> NDArray[np.uint64]:
    """Return a 64-bit hash a row that depends on nothing but its configuration."""
    import pandas as pd

    result = np.full(len(rows), 14695981039346656037, dtype=np.uint64)
    for name in CONFIGURATION:
        if name not in rows.columns:
            continue
        values = rows[name]
        if pd.api.types.is_numeric_dtype(values.dtype):
            values = pd.Series(values.to_numpy(dtype=np.float64, na_value=np.nan))
        else:
            values = pd.Series(values.astype(object).where(values.notna(), "").to_numpy())
        hashed = pd.util.hash_pandas_object(values, index=False).to_numpy().astype(np.uint64)
        result = _mix(result ^ hashed)
    return result


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a bijective scramble of 64-bit integers (splitmix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = values ^ (values >> np.uint64(31))
    return mixed


def sample_order(hashes: NDArray[np.uint64], samples: int | None, seed: int) -> NDArray[np.intp]:
    """Return the positions of the drawn rows, the same rows in whatever order they come.

    Rows are ranked by a hash of their configuration and the seed, and the first `samples` taken;
    so a larger budget of the same seed holds the smaller one.
    """
    salt = _mix(np.array(seed + 1).astype(np.uint64)[None])
    order = np.argsort(_mix(hashes ^ salt), kind="stable")
    return order if samples is None else order[:samples]


def fingerprint(group: Group) -> str:
    """Return 16 hex digits of a hash of the configurations and energies, in any order."""
    energy = group.rows["total_energy_j"].to_numpy(dtype=np.float64)
    order = np.lexsort((energy, group.hashes))
    digest = hashlib.sha256(group.hashes[order].tobytes())
    digest.update(energy[order].tobytes())
    return digest.hexdigest()[:16]


def task_hash(rows: pd.DataFrame) -> str | None:
    """Return 16 hex digits of a hash of the sorted task ids, or None without the column."""
    if "task_id" not in rows.columns:
        return None
    names = sorted(str(v) for v in rows["task_id"])
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def has_phases(rows: pd.DataFrame) -> bool:
    """Say whether every row has a prefill and a decode energy."""
    for name in PHASE_ENERGIES:
        if name not in rows.columns:
            return False
        values = rows[name].to_numpy(dtype=np.float64, na_value=np.nan)
        if np.isnan(values).any():
            return False
    return True
