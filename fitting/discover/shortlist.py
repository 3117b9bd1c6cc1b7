"""From many formulas to few: those on the front of numbers against error, over all groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fitting.discover.engine import Deadline
from fitting.discover.freelaw import FreeLaw, distinct, sound
from fitting.discover.problem import Problem
from fitting.discover.structure import relative_error

TRIED_GROUPS = 6
"""Groups that a formula is first fitted to."""

LONGEST = 6
"""Most formulas that are kept."""


def shortlist(
    problem: Problem, laws: Sequence[FreeLaw], *, seed: int, deadline: Deadline
) -> tuple[list[FreeLaw], int]:
    """Return the formulas that no other beats with fewer constants, and how many had poles.

    Each is fitted to a few groups drawn by the seed; one that has a pole or a value that is not
    positive on any of their rows is dropped.
    """
    n = len(problem.names)
    rng = np.random.default_rng(seed)
    groups = np.sort(rng.choice(n, min(TRIED_GROUPS, n), replace=False))
    some = problem.keep_groups(groups)
    scored: list[tuple[int, float, FreeLaw]] = []
    poles = 0
    for law in distinct(laws):
        if deadline.passed and scored:
            break
        values = law.fit(some)
        if not sound(law, some, values):
            poles += 1
            continue
        error = float(np.abs(relative_error(some, law.predict(some, values))).mean())
        scored.append((len(law.start), error, law))
    kept: list[FreeLaw] = []
    best = np.inf
    for _, error, law in sorted(scored, key=lambda item: (item[0], item[1])):
        if error < 0.98 * best:
            best = error
            kept.append(law)
    return kept[-LONGEST:], poles
