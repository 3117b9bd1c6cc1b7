"""The engine `pysr`: PySR in a process of its own, ended when its time is over."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fitting.discover.engine import Deadline, Found, Probe
from fitting.discover.freelaw import FreeLaw, from_energy
from fitting.discover.halloffame import read_hall_of_fame
from fitting.discover.julia import probe_julia, run_bounded
from fitting.discover.problem import Problem
from fitting.discover.shortlist import shortlist
from harness.store import FitError

LONGEST_S = 600.0
"""Time of one search if no other is given, s."""

SPARE_S = 20.0
"""What PySR is given less than its process, so that it can end by itself, s."""

GROUPS = 6
"""Groups that one search sees; each is a category with parameters of its own."""

PARAMETERS = ("a1", "a2")
"""Parameters of a category that a formula may use."""

CATEGORY = "category"


class PysrEngine:
    """Symbolic regression with PySR (Julia)."""

    name = "pysr"

    def probe(self) -> Probe:
        """Say whether pysr, Julia and its packages are there; starts no Julia."""
        return probe_julia()

    def search(
        self,
        problem: Problem,
        *,
        seed: int,
        draws: int,
        deadline: Deadline,
        inputs: str = "inputs",
    ) -> Found:
        """Search a few groups at once: one structure, parameters for each."""
        known = problem.inputs_of(problem.variables(inputs))
        names = list(known)
        n = len(problem.names)
        drawn = np.random.default_rng(seed).choice(n, min(GROUPS, n), replace=False)
        some = problem.keep_groups(np.sort(drawn))
        columns = np.column_stack(list(some.inputs_of(problem.variables(inputs)).values()))
        scale = np.maximum(np.abs(columns).max(axis=0), 1e-300)
        with tempfile.TemporaryDirectory(prefix="energylens-pysr-") as text:
            folder = Path(text)
            _write_job(folder, some, columns / scale, names, seed, deadline)
            limit_s = min(deadline.left_s(), LONGEST_S)
            status, output = run_bounded(
                [sys.executable, "-m", "fitting.discover.pysr_worker", str(folder)], limit_s
            )
            entries = read_hall_of_fame(
                folder, [f"({1.0 / s!r} * {m})" for s, m in zip(scale.tolist(), names, strict=True)]
            )
        laws: list[FreeLaw] = []
        for entry in entries:
            try:
                laws += from_energy(entry.text, inputs)
            except (FitError, OverflowError):
                continue
        notes = [] if status == 0 else [_ended(status, output, len(entries))]
        kept, poles = shortlist(problem, laws, seed=seed, deadline=Deadline())
        if poles:
            notes.append(f"{poles} formulas dropped: a pole, or not positive, on some row.")
        share = {name: float(any(name in law.terms for law in kept)) for name in names}
        return Found(kept, {0: share}, 1 if kept else 0, {}, notes)


def _ended(status: int | None, output: str, entries: int) -> str:
    if status is None:
        return f"PySR was ended when its time was over; {entries} formulas were there by then."
    last = next((line for line in reversed(output.splitlines()) if line.strip()), "no message")
    return f"PySR ended with status {status}: {last.strip()[:160]}"


def _write_job(
    folder: Path,
    problem: Problem,
    columns: np.ndarray[Any, Any],
    names: Sequence[str],
    seed: int,
    deadline: Deadline,
) -> None:
    """Write what the worker reads: arrays, and arguments as JSON."""
    centre = np.array([np.exp(np.log(problem.energy[rows]).mean()) for rows in problem.slices()])
    target = problem.energy / centre[problem.group]
    np.savez(
        folder / "job.npz",
        X=np.column_stack([columns, problem.group + 1.0]),
        y=target,
        weights=(problem.weight / target) ** 2,
    )
    limit_s = min(deadline.left_s(), LONGEST_S)
    job = {
        "regressor": regressor_arguments(str(folder), seed, max(limit_s - SPARE_S, 1.0)),
        "template": template_arguments(names, len(problem.names)),
        "variable_names": [*names, CATEGORY],
    }
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")


def regressor_arguments(folder: str, seed: int, timeout_s: float) -> dict[str, Any]:
    """Return the arguments of `PySRRegressor`, apart from the template.

    Equal seeds give equal laws only in one thread; the weights make the loss relative.
    """
    return {
        "binary_operators": ["+", "*", "/"],
        "unary_operators": ["sqrt"],
        "niterations": 60,
        "populations": 12,
        "population_size": 30,
        "maxsize": 30,
        "model_selection": "accuracy",
        "precision": 64,
        "random_state": seed,
        "deterministic": True,
        "parallelism": "serial",
        "timeout_in_seconds": int(timeout_s),
        "output_directory": folder,
        "run_id": "search",
        "progress": False,
        "verbosity": 0,
    }


def template_arguments(names: Sequence[str], categories: int) -> dict[str, Any]:
    """Return the arguments of `TemplateExpressionSpec`: one f, parameters for each category.

    The last column holds the number of the category, from 1 as Julia counts.
    """
    inside = [*names, *(f"{parameter}[{CATEGORY}]" for parameter in PARAMETERS)]
    return {
        "combine": f"f({', '.join(inside)})",
        "expressions": ["f"],
        "variable_names": [*names, CATEGORY],
        "parameters": dict.fromkeys(PARAMETERS, categories),
    }
