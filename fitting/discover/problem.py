"""What a search works on: energies of rows, their variables, and the groups that share a law."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fitting.discover.expression import read
from fitting.discover.library import LIBRARIES, Library, Variable
from fitting.discover.symbols import INPUTS, RATIOS, SERVING_TABLE, TABLE
from fitting.discover.units import Unit, unit
from fitting.forms.energylens12 import ALWAYS_USED, LATENCY_BYTES, ROOFLINE_TOKENS
from fitting.residuals import row_weights
from fitting.rows import pairs, sample_order, usable
from fitting.traits import traits_of
from fitting.work import Work, column
from harness.store import FitError

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

FEWEST_ROWS = 12
"""Fewest rows of a group that a structure is sought on."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Rows of one phase, sorted by group.

    Attributes
    ----------
    phase
        `prefill`, `decode`, `total` or `serving`.
    energy, weight
        Energy, J (serving: J for one output token), and weight of its relative residual, shape
        (rows,).
    group
        Index of the group of each row, not decreasing, shape (rows,).
    names, hardware
        For each group its name and GPU type.
    values
        Variable -> its value, shape (rows,).
    fold
        Number of each row for holding out, shape (rows,).
    siblings
        True if rows of equal number in `fold` are of sibling models and stay together.
    """

    phase: str
    energy: Array
    weight: Array
    group: NDArray[np.intp]
    names: tuple[str, ...]
    hardware: tuple[str, ...]
    values: Mapping[str, Array]
    fold: NDArray[np.intp]
    siblings: bool = False

    def __len__(self) -> int:
        return len(self.energy)

    @property
    def library(self) -> Library:
        """Terms that this phase may be built from."""
        return LIBRARIES[self.phase]

    @property
    def table(self) -> dict[str, Variable]:
        """Symbols of the rows, those that a formula defines last."""
        return SERVING_TABLE if self.phase == "serving" else TABLE

    @property
    def inputs(self) -> dict[str, Variable]:
        """Work terms for symbolic regression."""
        return INPUTS[self.phase]

    @property
    def ratios(self) -> dict[str, Variable]:
        """Pure numbers for symbolic regression on what a law leaves."""
        return RATIOS["serving" if self.phase == "serving" else "batch"]

    @property
    def units(self) -> dict[str, Unit | None]:
        """Unit of every symbol, work term and ratio."""
        known = {**self.table, **self.inputs, **self.ratios}
        return {name: unit(variable.unit) for name, variable in known.items()}

    def slices(self) -> list[slice]:
        """Return where the rows of each group lie."""
        edges = np.searchsorted(self.group, np.arange(len(self.names) + 1))
        return [slice(int(a), int(b)) for a, b in pairwise(edges)]

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Problem:
        """Return some of the rows; the groups keep their numbers."""
        index = np.flatnonzero(rows) if rows.dtype == bool else np.asarray(rows)
        index = index[np.argsort(self.group[index], kind="stable")]
        return replace(
            self,
            energy=self.energy[index],
            weight=self.weight[index],
            group=self.group[index],
            values={name: value[index] for name, value in self.values.items()},
            fold=self.fold[index],
        )

    def keep_groups(self, groups: NDArray[np.intp]) -> Problem:
        """Return the rows of some groups, which are numbered anew in the given order."""
        parts, slices = [], self.slices()
        for g in groups:
            parts.append(np.arange(slices[g].start, slices[g].stop))
        index = np.concatenate(parts) if parts else np.zeros(0, dtype=np.intp)
        number = np.concatenate(
            [np.full(len(part), i, dtype=np.intp) for i, part in enumerate(parts)]
        )
        return replace(
            self,
            energy=self.energy[index],
            weight=self.weight[index],
            group=number,
            names=tuple(self.names[g] for g in groups),
            hardware=tuple(self.hardware[g] for g in groups),
            values={name: value[index] for name, value in self.values.items()},
            fold=self.fold[index],
        )

    def known(self, constants: Mapping[str, Array | float]) -> dict[str, Array | float]:
        """Return values of all symbols for given constants, those defined by formulas too."""
        found: dict[str, Array | float] = {"f": 1.0, "b1": 1.0, **self.values, **constants}
        for name, variable in self.table.items():
            if variable.definition is not None:
                found[name] = read(variable.definition)(found)
        return found

    def variables(self, inputs: str) -> Mapping[str, Variable]:
        """Return what a free search may use: work terms (`inputs`) or pure numbers (`ratios`)."""
        return self.inputs if inputs == "inputs" else self.ratios

    def inputs_of(self, variables: Mapping[str, Variable]) -> dict[str, Array]:
        """Return work terms or ratios, with reduced precision at its known factors."""
        known = self.known({})
        return {name: read(str(variable.definition))(known) for name, variable in variables.items()}


def batch_problem(
    frame: pd.DataFrame, phase: str, *, samples: int | None = None, seed: int = 0
) -> tuple[Problem, pd.DataFrame, list[str]]:
    """Build the problem of one phase from batch rows; groups are the (model, hardware).

    Parameters
    ----------
    frame
        Rows of the measurement table.
    phase
        `prefill`, `decode` or `total`.
    samples
        Rows drawn for each group, as `fit` draws them; None takes all.
    seed
        Seed of the draw.

    Returns
    -------
    problem
        The problem.
    rows
        The rows used.
    notes
        What was left out.

    Raises
    ------
    FitError
        If no group has enough rows, or rows lack the energy of the phase.
    """
    rows, left = usable(frame)
    parts, works, names, hardware, notes = [], [], [], [], left.notes()
    for group in pairs(rows) if len(rows) else ():
        part = group.take(sample_order(group.hashes, samples, seed)).rows
        energy = column(part, f"{phase}_energy_j", default=np.nan)
        part = part.loc[energy > 0.0]
        if len(part) < FEWEST_ROWS:
            notes.append(
                f"{group.model_id} on {group.hardware} left out: {len(part)} rows with a "
                f"{phase} energy, fewer than {FEWEST_ROWS}."
            )
            continue
        parts.append(part)
        works.append(traits_of(part).work_of(part))
        names.append(f"{group.model_id} on {group.hardware}")
        hardware.append(group.hardware)
    if not parts:
        raise _too_few(frame, rows, phase)
    import pandas as pd

    used = pd.concat(parts)
    total = column(used, "total_energy_j")
    energy = column(used, f"{phase}_energy_j")
    values = [_values(work, phase) for work in works]
    merged = {name: np.concatenate([part[name] for part in values]) for name in values[0]}
    problem = Problem(
        phase=phase,
        energy=energy,
        weight=row_weights(used, phase, energy, total),
        group=np.repeat(np.arange(len(parts)), [len(part) for part in parts]),
        names=tuple(names),
        hardware=tuple(hardware),
        values=merged,
        fold=np.concatenate([np.arange(len(part)) for part in parts]),
    )
    return problem, used, notes


def _too_few(frame: pd.DataFrame, rows: pd.DataFrame, phase: str) -> FitError:
    name = f"{phase}_energy_j"
    if len(rows) and (name not in rows.columns or not rows[name].notna().any()):
        return FitError(
            f"No row has a {phase} energy.",
            where=f"column {name}",
            fix="Search --phase total, or measure with a meter that tells the phases apart.",
        )
    return FitError(
        f"Too few rows to search for a structure: no (model, hardware) has {FEWEST_ROWS} rows "
        f"with a {phase} energy.",
        where=f"{len(frame)} rows, {len(rows)} usable",
        fix="Measure more configurations of a model on a GPU type (about 50 serve well), or "
        "raise --samples.",
    )


def _values(work: Work, phase: str) -> dict[str, Array]:
    """Return the variables of batch rows of one model."""
    tokens = work.micro_batch * work.input_tokens
    passing = work.micro_batch if phase == "decode" else tokens
    used = ALWAYS_USED + (1.0 - ALWAYS_USED) * (1.0 - work.idle_expert)
    values = {
        "t": work.tensor,
        "p": work.stages,
        "d": work.replicas,
        "k": work.passes,
        "b": work.micro_batch,
        "n": work.input_tokens,
        "v": work.visual_tokens,
        "s": work.steps,
        "w": work.weight_bytes,
        "c": work.compute_cost,
        "q": work.reduced,
        "n0": 12.0 * work.hidden_size,
        "kv": work.cache_share,
        "state": work.state_share,
        "ctx": work.input_tokens + 0.5 * (work.steps + 1.0),
        "multi": (work.tensor > 1.0).astype(np.float64),
        "bridge": (work.tensor > 2.0).astype(np.float64),
        "two": work.two_shot,
        "late": LATENCY_BYTES / (2.0 * work.hidden_size),
        "lag": LATENCY_BYTES / (2.0 * work.hidden_size),
        "cover": work.reached(passing),
        "spare": 1.0 / used,
        "T0": np.full(len(work), ROOFLINE_TOKENS),
    }
    return values


def serving_problem(
    frame: pd.DataFrame, backbones: Mapping[str, str]
) -> tuple[Problem, pd.DataFrame, list[str]]:
    """Build the problem of serving rows: J for one output token, no lengths.

    Groups are (task, hardware), because the lengths that a task sends are not in the table.

    Parameters
    ----------
    frame
        Rows of the measurement table with `energy_per_output_token_j`.
    backbones
        Model id -> what siblings have in common; siblings are held out together.

    Raises
    ------
    FitError
        If no group has enough rows.
    """
    from fitting.work import COMPUTE_COST, WEIGHT_BYTES

    rows, left = usable(frame, lengths=False)
    notes = left.notes()
    energy = column(rows, "energy_per_output_token_j", default=np.nan)
    batch = column(rows, "batch", default=np.nan)
    size = column(rows, "params_total", default=np.nan)
    keep = (energy > 0.0) & (batch >= 1.0) & (size > 0.0) & rows["precision"].isin(WEIGHT_BYTES)
    rows = rows.loc[np.asarray(keep, dtype=bool)]
    task = (
        rows["task"].astype(object).where(rows["task"].notna(), "task") if "task" in rows else None
    )
    label = rows["hardware"] if task is None else task.astype(str) + " on " + rows["hardware"]
    rows = rows.assign(_group=label)
    sizes = rows.groupby("_group").size()
    for name in sizes[sizes < FEWEST_ROWS].index:
        notes.append(f"{name} left out: {sizes[name]} rows, fewer than {FEWEST_ROWS}.")
    rows = rows[rows["_group"].isin(sizes[sizes >= FEWEST_ROWS].index)].sort_values(
        ["_group", "model_id"], kind="stable"
    )
    if not len(rows):
        raise _too_few(frame, rows, "total")
    codes, names = _codes(rows["_group"])
    total = column(rows, "params_total") / 1e9
    active = np.minimum(column(rows, "params_active", default=np.nan) / 1e9, total)
    active = np.where(np.isnan(active), total, active)
    batch = column(rows, "batch")
    first = rows.drop_duplicates("_group").set_index("_group")["hardware"]
    precision = rows["precision"].astype(str)
    values = {
        "B": batch,
        "G": column(rows, "num_gpus", default=1.0),
        "w": precision.map(WEIGHT_BYTES).to_numpy(dtype=np.float64) / 2.0,
        "c": precision.map(COMPUTE_COST).to_numpy(dtype=np.float64),
        "total": total,
        "active": active,
        "read": total * active * batch / (total + active * (batch - 1.0)),
        "vision": rows["modality"].isin(["image", "video"]).to_numpy(dtype=np.float64),
    }
    families = rows["model_id"].map(lambda m: backbones.get(str(m), str(m)))
    fold, _ = _codes(families)
    problem = Problem(
        phase="serving",
        energy=column(rows, "energy_per_output_token_j"),
        weight=np.ones(len(rows)),
        group=codes,
        names=tuple(names),
        hardware=tuple(str(first[name]) for name in names),
        values=values,
        fold=fold,
        siblings=True,
    )
    return problem, rows, notes


def _codes(values: pd.Series) -> tuple[NDArray[np.intp], list[str]]:
    names, codes = np.unique(
        values.astype(str).to_numpy(dtype=object).astype(str), return_inverse=True
    )
    return codes.astype(np.intp), [str(name) for name in names]
