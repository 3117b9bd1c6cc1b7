"""What every method offers: learn from rows, take a few more, answer for rows not seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fitting.work import column

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from fitting.facts import Facts


@dataclass(frozen=True, slots=True)
class Answer:
    """What a method says about rows; every array has shape (rows,), NaN where it cannot say.

    Attributes
    ----------
    score
        What the method minimises when it chooses.
    energy
        Predicted energy, J; None for a rule that only ranks.
    lo, hi
        95 % prediction interval, J; None for a method that gives none.
    """

    score: NDArray[np.float64]
    energy: NDArray[np.float64] | None = None
    lo: NDArray[np.float64] | None = None
    hi: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """What a method is told before it learns.

    Attributes
    ----------
    kind
        What is held out.
    target
        Column of the energy that is asked for.
    facts
        Datasheets and architectures of all names, the held-out ones too: they are public
        before anything is measured.
    seed
        Seed of learners.
    """

    kind: str
    target: str
    facts: Facts = field(hash=False)
    seed: int = 0


class Learnt(Protocol):
    """A method that has learnt."""

    def updated(self, rows: pd.DataFrame) -> Learnt:
        """Return the method after a few rows of what was held out."""
        ...

    def answer(self, frame: pd.DataFrame) -> Answer:
        """Answer for rows."""
        ...


Method = Callable[["pd.DataFrame", Question], Learnt]
"""Learn from training rows. Raises FitError where they do not suffice."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that ranks and is not fitted."""

    score: Callable[[pd.DataFrame], NDArray[np.float64]]

    def updated(self, rows: pd.DataFrame) -> Rule:
        """Return the rule: it learns nothing."""
        return self

    def answer(self, frame: pd.DataFrame) -> Answer:
        """Return the score of each row."""
        return Answer(self.score(frame))


Ask = Callable[[Any, "pd.DataFrame", "Facts"], Answer]
"""Ask a law about rows that it covers, with the facts of names that it has not seen."""

Update = Callable[[Any, "pd.DataFrame", "pd.DataFrame", Question], Any]
"""Return a law after a few rows: (law, training rows, few rows, question) -> law."""


def ask_total(law: Any, frame: pd.DataFrame, facts: Facts) -> Answer:
    """Return the total energy of rows with its interval, J."""
    table = law.predict_phases(frame, facts)
    energy, low, high = (column(table, f"total_energy_j{end}") for end in ("", "_lo", "_hi"))
    return Answer(energy, energy, low, high)


@dataclass(frozen=True, slots=True)
class Shared:
    """A law shared over models and hardware.

    Attributes
    ----------
    law
        A fitted law.
    train
        Rows it was fitted to.
    question
        What is asked.
    ask, update
        How it is asked, and how it takes a few rows more.
    """

    law: Any
    train: pd.DataFrame
    question: Question
    ask: Ask
    update: Update

    def updated(self, rows: pd.DataFrame) -> Shared:
        """Return the law after a few rows more."""
        return replace(self, law=self.update(self.law, self.train, rows, self.question))

    def answer(self, frame: pd.DataFrame) -> Answer:
        """Predict the rows that the law covers."""
        facts = self.question.facts
        covered = np.asarray(self.law.covers(frame, facts), dtype=bool)
        if covered.all():
            return self.ask(self.law, frame, facts)
        energy, low, high = (np.full(len(frame), np.nan) for _ in range(3))
        if covered.any():
            part = self.ask(self.law, frame.loc[covered], facts)
            energy[covered], low[covered], high[covered] = part.score, part.lo, part.hi
        return Answer(energy, energy, low, high)


def shared(
    fit: Callable[[pd.DataFrame, Facts], Any],
    update: Update,
    ask: Ask = ask_total,
) -> Method:
    """Return the method of a shared law.

    Parameters
    ----------
    fit
        Takes rows and facts, returns the law.
    update, ask
        As in `Shared`.
    """

    def learn(train: pd.DataFrame, question: Question) -> Shared:
        return Shared(fit(train, question.facts), train, question, ask, update)

    return learn
