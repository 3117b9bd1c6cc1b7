"""The engine `terms`: which physical terms a law needs, by BIC, with bootstrap frequencies."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fitting.discover.engine import Deadline, Found, Probe
from fitting.discover.problem import Problem
from fitting.discover.selection import Path, search_terms
from fitting.discover.termlaw import term_law

MOST_GROUPS = 16
"""Groups of a bootstrap draw at most, so that many draws of a large table stay quick."""


class TermEngine:
    """Searches the library of physical terms. Needs no extra package."""

    name = "terms"

    def probe(self) -> Probe:
        """Return that it is always available, and the version of the library of terms."""
        return Probe(available=True, version="1")

    def search(self, problem: Problem, *, seed: int, draws: int, deadline: Deadline) -> Found:
        """Find the best law of every size, and how often each term is in those of redrawn rows."""
        path = search_terms(problem)
        counts: dict[int, dict[str, int]] = {}
        done = 0
        rng = np.random.default_rng(seed)
        for _ in range(draws):
            if deadline.passed:
                break
            drawn, kept = redraw(problem, rng)
            fixed = Path(
                path.front,
                path.sizes,
                {name: value[kept] for name, value in path.theta.items()},
                path.fronts,
                path.twins,
            )
            again = search_terms(drawn, fixed=fixed)
            done += 1
            for size, (_, names) in [*again.sizes.items(), (0, again.best)]:
                alike = [twin for twin, name in path.twins.items() if name in names]
                for name in [*names, *alike]:
                    counts.setdefault(size, {}).setdefault(name, 0)
                    counts[size][name] += 1
        notes = [f"No row tells {twin} from {name}." for twin, name in path.twins.items()]
        if done < draws:
            notes.append(f"The time ended after {done} of {draws} draws.")
        return Found(
            structures=[term_law(problem, path.front, names) for _, names in path.sizes.values()],
            inclusion={
                size: {name: count / done for name, count in sorted(found.items())}
                for size, found in sorted(counts.items())
            },
            draws=done,
            alternatives=path.fronts,
            notes=notes,
        )


def redraw(problem: Problem, rng: np.random.Generator) -> tuple[Problem, NDArray[np.intp]]:
    """Return a bootstrap draw: groups with replacement (each once), then rows within each.

    Returns
    -------
    problem
        The draw.
    groups
        Which groups are in it, ascending.
    """
    n = len(problem.names)
    groups = np.unique(rng.integers(0, n, min(n, MOST_GROUPS))) if n > 2 else np.arange(n)
    chosen = problem.keep_groups(groups)
    rows = [rng.integers(part.start, part.stop, part.stop - part.start) for part in chosen.slices()]
    return chosen.take(np.concatenate(rows)), groups
