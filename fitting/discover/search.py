"""The whole search: problem, engine, errors on rows left out, units, choice."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fitting.discover.engine import Deadline, Engine, Found, get_engine, require
from fitting.discover.expression import read
from fitting.discover.heldout import (
    clustered,
    held_out_hardware,
    held_out_rows,
    smallest_as_good,
)
from fitting.discover.problem import Problem, batch_problem, serving_problem
from fitting.discover.residual import residual_search
from fitting.discover.result import (
    Discovery,
    Inclusion,
    Law,
    NamedConstant,
    PhaseSearch,
    Residual,
)
from fitting.discover.structure import Structure, bic, relative_error
from fitting.discover.termlaw import term_law
from fitting.discover.units import unit, violations
from fitting.threads import one_thread
from harness.store import FitError

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

PHASES = ("prefill", "decode", "total")
DRAWS = 20
"""Bootstrap draws for inclusion frequencies."""


@one_thread()
def discover_frame(
    frame: pd.DataFrame,
    *,
    engine: str = "terms",
    phase: str | None = None,
    samples: int | None = 50,
    seed: int = 0,
    timeout_s: float | None = None,
    draws: int | None = None,
    backbones: Mapping[str, str] | None = None,
) -> Discovery:
    """Search for the structure of energy laws in a measurement table.

    Parameters
    ----------
    frame
        Rows of the measurement table. Batch rows with lengths are searched by phase; rows that
        only have an energy per output token as serving rows.
    engine
        `terms`, `operon` or `pysr`.
    phase
        `prefill`, `decode` or `total`; None takes the phases that the rows have.
    samples
        Rows drawn for each (model, hardware); None takes all.
    seed
        Seed of all draws.
    timeout_s
        Time for the whole search, s; None for none.
    draws
        Bootstrap draws for inclusion frequencies; None takes 20.
    backbones
        Model id -> what siblings have in common, for serving rows.

    Raises
    ------
    FitError
        If the engine is unknown or unavailable, rows are too few or have no such phase, or the
        time ends before any law was found.
    """
    began_s = time.perf_counter()
    found = get_engine(engine)
    if phase is not None and phase not in PHASES:
        raise FitError(
            f"There is no phase {phase!r}.",
            where=f"--phase {phase}",
            fix=f"Use one of {', '.join(PHASES)}.",
        )
    probe = require(found)
    deadline = Deadline.after(timeout_s)
    searches: list[PhaseSearch] = []
    for problem, rows, notes in _problems(frame, phase, samples, seed, backbones or {}):
        if deadline.passed:
            if searches:
                break
            raise _no_time(timeout_s)
        searches.append(
            _search(
                problem,
                rows,
                notes,
                found,
                seed=seed,
                draws=DRAWS if draws is None else draws,
                deadline=deadline,
            )
        )
    return Discovery(
        engine=engine,
        engine_version=probe.version,
        seed=seed,
        samples=samples,
        seconds=time.perf_counter() - began_s,
        searches=tuple(searches),
    )


def _no_time(timeout_s: float | None) -> FitError:
    return FitError(
        f"The time of {timeout_s:g} s ended before any law was found.",
        where=f"--timeout {timeout_s:g}",
        fix="Give more time, or fewer rows with --samples.",
    )


def _problems(
    frame: pd.DataFrame,
    phase: str | None,
    samples: int | None,
    seed: int,
    backbones: Mapping[str, str],
) -> list[tuple[Problem, pd.DataFrame, list[str]]]:
    """Return the problems that a table poses."""
    has_lengths = "input_tokens" in frame and bool(frame["input_tokens"].notna().any())
    per_token = "energy_per_output_token_j" in frame and bool(
        frame["energy_per_output_token_j"].notna().any()
    )
    if not has_lengths and per_token:
        if phase in ("prefill", "decode"):
            raise FitError(
                f"Serving rows have no {phase} energy.",
                where=f"--phase {phase}",
                fix="Leave --phase out: the energy of an output token is searched.",
            )
        return [serving_problem(frame, backbones)]
    if phase is None:
        known = all(
            f"{name}_energy_j" in frame and bool(frame[f"{name}_energy_j"].notna().any())
            for name in ("prefill", "decode")
        )
        phases: Sequence[str] = ("prefill", "decode") if known else ("total",)
    else:
        phases = (phase,)
    return [batch_problem(frame, name, samples=samples, seed=seed) for name in phases]


def _search(
    problem: Problem,
    rows: pd.DataFrame,
    notes: list[str],
    engine: Engine,
    *,
    seed: int,
    draws: int,
    deadline: Deadline,
) -> PhaseSearch:
    found = engine.search(problem, seed=seed, draws=draws, deadline=deadline)
    if not found.structures:
        if deadline.passed:
            raise (
                _no_time(None)
                if deadline.at_s is None
                else FitError(
                    "The time ended before any law was found.",
                    where="--timeout",
                    fix="Give more time, or fewer rows with --samples.",
                )
            )
        raise FitError(
            f"The engine {engine.name} found no law without a pole.",
            where=f"{problem.phase}: {len(problem)} rows",
            fix="Use another --seed, more rows, or --engine terms.",
        )
    by_hardware, more = held_out_hardware(problem, engine, seed=seed, deadline=deadline)
    notes = [*notes, *found.notes, *more]
    judged = [_judge(problem, s, seed, by_hardware) for s in found.structures]
    judged.sort(key=lambda item: (item[0].parameters, item[0].error))
    front = [law for law, _ in judged]
    errors = [left_out for _, left_out in judged]
    chosen = smallest_as_good(problem, [law.parameters for law in front], errors)
    best = min(range(len(front)), key=lambda i: front[i].bic)
    shipped, residual = None, None
    if problem.library.shipped:
        shipped = _shipped(problem, seed)
    else:
        notes.append("The law that EnergyLens ships for these rows is no sum of such terms.")
    if shipped is not None and engine.name != "terms" and not deadline.passed:
        notes.append("The correction is sought on the law that EnergyLens ships.")
        residual = _residual(problem, engine, seed, deadline)
    provenance = {}
    if "provenance" in rows.columns:
        provenance = {str(k): int(v) for k, v in rows["provenance"].value_counts().items()}
    known = {**problem.table, **(problem.inputs if engine.name != "terms" else {})}
    return PhaseSearch(
        phase=problem.phase,
        rows=len(problem),
        groups=problem.names,
        hardware=tuple(sorted(set(problem.hardware))),
        provenance=provenance,
        symbols={k: (v.unit, v.meaning, v.definition) for k, v in known.items()},
        front=tuple(front),
        chosen=chosen,
        best_bic=best,
        shipped=shipped,
        inclusion=_inclusion(problem, found, front[chosen]),
        draws=found.draws,
        alternatives={k: float(v) for k, v in found.alternatives.items()},
        residual=residual,
        notes=tuple(notes),
    )


def _residual(problem: Problem, engine: Engine, seed: int, deadline: Deadline) -> Residual:
    library = problem.library
    law = term_law(problem, library.shipped_front, library.shipped)
    return residual_search(problem, law, engine, seed=seed, deadline=deadline)  # type: ignore[arg-type]


def _judge(
    problem: Problem, structure: Structure, seed: int, by_hardware: Mapping[int, Array]
) -> tuple[Law, Array]:
    """Fit a structure to all rows and to parts of them; return it as a law, with its errors."""
    values = structure.fit(problem)
    predicted = structure.predict(problem, values)
    errors = held_out_rows(problem, structure, seed)
    rows = clustered(problem, errors)
    size = len(structure.constants)
    fitting = [known for known in by_hardware if known <= size]
    hardware = clustered(
        problem, by_hardware[max(fitting)] if fitting else np.full(len(problem), np.nan)
    )
    units = {
        **problem.units,
        **{c.name: None if c.unit is None else unit(c.unit) for c in structure.constants},
    }
    law = Law(
        text=structure.text,
        terms=tuple(structure.terms),
        constants=tuple(NamedConstant(c.name, c.unit, c.meaning) for c in structure.constants),
        values={name: tuple(float(v) for v in values[g]) for g, name in enumerate(problem.names)},
        complexity=read(structure.text).complexity,
        parameters=size,
        error=float(np.abs(relative_error(problem, predicted)).mean()),
        held_out=rows.value,
        held_out_se=rows.error,
        held_out_hardware=hardware.value,
        held_out_hardware_se=hardware.error,
        bic=bic(problem, predicted, structure.active(problem, values)),
        unit_faults=violations(structure.text, units, unit(problem.library.unit)),
    )
    return law, errors


def _shipped(problem: Problem, seed: int) -> Law:
    """Return the law that EnergyLens ships, judged as the others.

    Its structure is fixed, so leaving a GPU type out of the search changes nothing: its error
    by hardware is that by rows.
    """
    library = problem.library
    structure = term_law(problem, library.shipped_front, library.shipped)
    errors = held_out_rows(problem, structure, seed)
    return _judge(problem, structure, seed, {len(structure.constants): errors})[0]


def _inclusion(problem: Problem, found: Found, chosen: Law) -> tuple[Inclusion, ...]:
    """Return all terms of the library, or all work terms, with how often they are kept."""
    if not found.draws:
        return ()
    at_best = found.inclusion.get(0, {})
    at_chosen = found.inclusion.get(len(chosen.terms), {})
    library = problem.library
    known = {term.name: term for term in library.terms}
    free = any(constant.unit is None for constant in chosen.constants)
    names = list(problem.inputs) if free else list(known)
    return tuple(
        sorted(
            (
                Inclusion(
                    term=name,
                    at_chosen=float(at_chosen.get(name, 0.0))
                    if at_chosen
                    else float(at_best.get(name, 0.0)),
                    at_best=float(at_best.get(name, 0.0)),
                    chosen=name in chosen.terms,
                    shipped=not free and name in library.shipped,
                    plausible=free or known[name].plausible,
                )
                for name in names
            ),
            key=lambda item: (-item.at_chosen, -item.at_best, item.term),
        )
    )
