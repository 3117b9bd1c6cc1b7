"""The engine `operon`: genetic programming in C++ on work terms and log energies (pyoperon)."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitting.discover.engine import Deadline, Found, Probe
from fitting.discover.freelaw import FreeLaw, distinct, from_log
from fitting.discover.problem import Problem
from fitting.discover.shortlist import shortlist
from harness.store import FitError

Array = NDArray[np.float64]

SYMBOLS = "add,mul,div,log,sqrt,constant,variable"
"""Operators of a formula. pyoperon 0.6.2 computes fmin as the maximum and fmax as the minimum, so
neither is asked for."""

SEARCHES = 3
"""Independent searches, each on a group of its own."""

NOISE = 0.03
"""Scatter of log energies that the description length is told of; without it, it picks a stub."""

SETTINGS: dict[str, Any] = {
    "allowed_symbols": SYMBOLS,
    "objectives": ["r2", "length"],
    "optimizer_iterations": 5,  # 0, the default, would leave all constants random
    "max_length": 25,
    "population_size": 300,
    "generations": 30,  # what ends a search, so that equal seeds give equal laws
    "max_evaluations": 10**8,
    "n_threads": 1,
    "uncertainty": [NOISE],
}

SETUP = "pip install 'energylens[operon]' (wheels for Linux x86-64 and macOS arm64 only)"


class OperonEngine:
    """Symbolic regression with pyoperon."""

    name = "operon"

    def probe(self) -> Probe:
        """Say whether pyoperon can be loaded."""
        from importlib.metadata import PackageNotFoundError, version

        if find_spec("pyoperon") is None:
            return Probe(False, reason="the package pyoperon is not installed", setup=SETUP)
        try:
            import_module("pyoperon")
            return Probe(True, version=version("pyoperon"))
        except (ImportError, PackageNotFoundError) as error:
            return Probe(False, reason=f"pyoperon does not load: {error}", setup=SETUP)

    def search(
        self,
        problem: Problem,
        *,
        seed: int,
        draws: int,
        deadline: Deadline,
        inputs: str = "inputs",
    ) -> Found:
        """Search a few groups each by itself, then keep what serves the groups together."""
        known = problem.inputs_of(problem.variables(inputs))
        matrix = np.column_stack(list(known.values()))
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(problem.names))
        slices, laws, searches = problem.slices(), [], []
        for i in range(SEARCHES):
            if deadline.passed:
                break
            rows = slices[order[i % len(order)]]
            found = self._once(
                list(known),
                matrix[rows],
                problem.energy[rows],
                seed * SEARCHES + i + 1,
                deadline,
                inputs,
            )
            laws += found
            searches.append(found)
        kept, poles = shortlist(problem, distinct(laws), seed=seed, deadline=deadline)
        share = (
            {
                name: float(
                    np.mean([any(name in law.terms for law in found) for found in searches])
                )
                for name in known
            }
            if searches
            else {}
        )
        notes = (
            [f"{poles} formulas dropped: a pole, or not positive, on some row."] if poles else []
        )
        if len(searches) < SEARCHES:
            notes.append(f"The time ended after {len(searches)} of {SEARCHES} searches.")
        return Found(kept, {0: share}, len(searches), {}, notes)

    def _once(
        self,
        names: list[str],
        matrix: Array,
        energy: Array,
        seed: int,
        deadline: Deadline,
        inputs: str,
    ) -> list[FreeLaw]:
        """Return the laws on the front of one search."""
        scale = np.abs(matrix).max(axis=0)
        used = np.flatnonzero(np.ptp(matrix, axis=0) > 1e-9 * np.maximum(scale, 1e-300))
        if not len(used) or len(energy) < 8:
            return []
        limit = deadline.left_s()
        search = import_module("pyoperon.sklearn").SymbolicRegressor(
            **SETTINGS,
            random_state=seed,
            max_time=None if np.isinf(limit) else max(int(limit), 1),
        )
        search.fit(matrix[:, used] / scale[used], np.log(energy))
        search.individuals_ = None  # what keeps a fitted object from being pickled
        known = [f"x{i}" for i in range(len(used))]
        laws: list[FreeLaw] = []
        for entry in search.pareto_front_:
            text = search.get_model_string(entry["tree"], 8, known)
            for i, column in reversed(list(enumerate(used))):
                text = text.replace(f"x{i}", f"({float(1.0 / scale[column])!r} * {names[column]})")
            try:
                laws += from_log(text, inputs)
            except (FitError, OverflowError):
                continue
        return laws
