"""One kind of hold-out of one table: every name in turn, every method, every number of rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fitting.extrapolation.answers import Learnt, Method, Question
from fitting.extrapolation.scores import Outcome, Truth, joined, outcome, record
from fitting.extrapolation.splits import COUNTED, Cut, Split, cuts_of, draw
from fitting.extrapolation.tables import LAWS, SLOW, UNTAUGHT, Table
from fitting.extrapolation.verdicts import Thresholds, Verdict, enough_rows, verdict, words
from fitting.facts import Facts
from fitting.work import column
from harness.store import FitError

if TYPE_CHECKING:
    import pandas as pd

FEWEST_TRAIN = 12
"""Training rows below which nothing is asked: the parameters of one law."""

FEWEST_ASKED = 5
"""Held-out rows below which a name tells nothing."""

LEAST_LEFT = 0.1
"""Numbers of rows that leave less than this share of a name to ask about are not tried."""

LEAST_TOGETHER = 0.75
"""Share of the held-out rows whose names must allow a number of rows, for figures on all."""

ALL = "all"

Key = tuple[str, str, int]
"""Name that was held out, method, rows shown."""


@dataclass(slots=True)
class Found:
    """What one kind gave.

    Attributes
    ----------
    records
        Rows of the result table.
    verdicts, notes
        As in `Extrapolation`.
    sizes
        Held-out name -> held-out rows.
    most_rows
        Held-out name -> most rows that can be shown and leave enough to ask about.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    most_rows: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the caller asked for; runs one kind of one table."""

    facts: Facts
    budgets: tuple[int, ...]
    samples: int
    seeds: tuple[int, ...]
    methods: tuple[str, ...] | None
    in_total: bool
    thresholds: Thresholds

    def kind(self, table: Table, rows: pd.DataFrame, kind: str) -> Found:
        """Hold out every name of a kind in turn."""
        known = table.methods(kind)
        chosen = {k: m for k, m in known.items() if self.methods is None or k in self.methods}
        out = Found()
        outcomes: dict[Key, list[Outcome]] = {}
        fitted: dict[tuple[str, int, bytes], Learnt | None] = {}
        names = []
        for cut in cuts_of(rows, kind, self.facts):
            if int(cut.asked.sum()) < FEWEST_ASKED or int(cut.allowed.sum()) < FEWEST_TRAIN:
                out.notes.append(
                    f"{kind}, {cut.left_out}: not judged, {int(cut.asked.sum())} rows to ask "
                    f"about and {int(cut.allowed.sum())} to learn from."
                )
                continue
            names.append(cut.left_out)
            truth = _truth(table, rows, cut)
            for seed in self.seeds:
                split = draw(rows, kind, cut, self.samples, seed, in_total=self.in_total)
                out.sizes[cut.left_out] = len(split.asked)
                out.most_rows[cut.left_out] = self._most(split)
                question = Question(kind, table.target, self.facts, seed)
                for method, learn in chosen.items():
                    key = (method, seed, split.train.tobytes())
                    if key not in fitted:
                        fitted[key] = _learn(learn, rows, split, question, method, out.notes)
                    learnt = fitted[key]
                    if learnt is None:
                        continue
                    for budget, one in self._ask(learnt, method, rows, split, truth).items():
                        outcomes.setdefault((cut.left_out, method, budget), []).append(one)
        if not names:
            raise FitError(
                f"Nothing to hold out by {kind}: too few rows.",
                where=" ".join(out.notes),
                fix=f"A {COUNTED[kind]} needs {FEWEST_ASKED} rows, the rest {FEWEST_TRAIN}.",
            )
        self._judge(table, kind, chosen, outcomes, out)
        return out

    def _ask(
        self, learnt: Learnt, method: str, rows: pd.DataFrame, split: Split, truth: Truth
    ) -> dict[int, Outcome]:
        """Return how a method does with each number of rows shown."""
        asked = rows.iloc[split.asked]
        most = self._most(split)
        found = {}
        for budget in self.budgets:
            if budget and method in UNTAUGHT:
                continue
            if method in SLOW and budget not in (self.budgets[0], most):
                continue
            if budget > most:
                break
            shown = split.shots(budget)
            now = learnt.updated(asked.loc[shown]) if budget else learnt
            one = outcome(truth, now.answer(asked), shown)
            if len(one.errors) or len(one.top1):
                found[budget] = one
        return found

    def _most(self, split: Split) -> int:
        """Return the most rows that leave enough of a name to ask about."""
        least = max(FEWEST_ASKED, LEAST_LEFT * len(split.asked))
        fine = [k for k in self.budgets if int((~split.shots(k)).sum()) >= least]
        return max(fine, default=0)

    def _judge(
        self,
        table: Table,
        kind: str,
        methods: dict[str, Method],
        outcomes: dict[Key, list[Outcome]],
        out: Found,
    ) -> None:
        """Add the figures of each name and of all, and the verdicts."""
        by_key = {key: joined(several) for key, several in outcomes.items()}
        for method in methods:
            by_name = [
                self._record(table, kind, name, method, budget, [one])
                for (name, own, budget), one in by_key.items()
                if own == method
            ]
            together: dict[int, list[Outcome]] = {}
            for budget in self.budgets:
                allowed = [n for n, most in out.most_rows.items() if budget <= most]
                if sum(out.sizes[n] for n in allowed) < LEAST_TOGETHER * sum(out.sizes.values()):
                    continue
                several = [by_key.get((n, method, budget)) for n in allowed]
                known = [one for one in several if one is not None]
                if known:
                    together[budget] = known
            overall = [
                self._record(table, kind, ALL, method, budget, several)
                for budget, several in sorted(together.items())
            ]
            for group in (overall, *_split(by_name)):
                text = words(enough_rows(group, self.thresholds))
                for figures in group:
                    # A rule predicts no energy, so there is nothing that could hold.
                    figures["verdict"] = text if figures["n"] else None
            out.records += [*overall, *by_name]
            if overall and method in LAWS + table.lead(kind):
                out.verdicts.append(
                    verdict(overall, by_name, self.thresholds, in_total=self.in_total)
                )
        order = [*table.lead(kind), *LAWS]
        out.verdicts.sort(key=lambda v: order.index(v.method))

    def _record(
        self,
        table: Table,
        kind: str,
        name: str,
        method: str,
        budget: int,
        outcomes: list[Outcome],
    ) -> dict[str, Any]:
        one: dict[str, Any] = {
            "table": table.name,
            "hold_out": kind,
            "left_out": name,
            "method": method,
            "rows": budget,
            **record(outcomes),
        }
        one["passed"] = self.thresholds.passed(one)
        one["verdict"] = None
        return one


def _learn(
    learn: Method, rows: pd.DataFrame, split: Split, question: Question, name: str, notes: list[str]
) -> Learnt | None:
    """Return a method that has learnt, or None with a note where rows do not suffice."""
    try:
        return learn(rows.iloc[split.train], question)
    except FitError as error:
        notes.append(f"{split.kind}, {split.left_out}: {name} is not judged: {error.what}")
        return None


def _truth(table: Table, rows: pd.DataFrame, cut: Cut) -> Truth:
    """Return what was measured of the held-out rows, and the choices among them."""
    asked = rows.loc[cut.asked].reset_index(drop=True)
    return Truth(column(asked, table.target), table.half_widths(asked), table.scenarios(asked))


def _split(by_name: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the figures of each name apart."""
    names = dict.fromkeys(str(one["left_out"]) for one in by_name)
    return [[one for one in by_name if one["left_out"] == name] for name in names]
