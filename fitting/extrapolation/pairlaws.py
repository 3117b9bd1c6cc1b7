"""Laws of single (model, hardware) pairs: one a pair, and those of the nearest kin.

`energylens12` answers where a pair has rows of its own. `kin` is what a careful person would do
for a new platform: take the law of the nearest pair, measure a few rows, and rescale each phase
by the median of what they show. `datasheet` measures nothing: it scales the kin's law by ratios
of datasheet figures.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from fitting.extrapolation.answers import Answer, Method, Question
from fitting.extrapolation.nearness import Nearness, phase_ratios
from fitting.fitted import Fit
from fitting.forms import PHASES, get_form, phase_parts
from fitting.pairfit import PairFit, fit_pair
from fitting.rows import Group, has_phases, pairs
from fitting.work import column
from harness.store import FitError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

Pair = tuple[str, str]
Phases = dict[str, "NDArray[np.float64]"]

FORM, SMALLER = "energylens12", "energylens6"


def law_of(group: Group) -> PairFit | None:
    """Return the largest law that the rows of a pair carry; None if they carry none."""
    for name in (FORM, SMALLER):
        form = get_form(name)
        if len(group.rows) >= form.most_parameters:
            return fit_pair(group, form)
    return None


class Laws:
    """Laws of pairs by their training rows, so that a pair that stays the same is fitted once."""

    def __init__(self) -> None:
        self._known: dict[bytes, PairFit | None] = {}

    def of(self, rows: pd.DataFrame) -> dict[Pair, PairFit]:
        """Return the law of each pair that has rows enough."""
        found = {}
        for group in pairs(rows):
            energy = column(group.rows, "total_energy_j")
            key = group.hashes.tobytes() + energy.tobytes()
            if key not in self._known:
                self._known[key] = law_of(group)
            law = self._known[key]
            if law is not None:
                found[group.model_id, group.hardware] = law
        return found


@dataclass(frozen=True)
class Individual:
    """One law a pair; a pair without rows enough has no answer."""

    laws: Laws
    train: pd.DataFrame
    fits: dict[Pair, PairFit]

    def updated(self, rows: pd.DataFrame) -> Individual:
        """Fit again, with the rows that were added."""
        import pandas as pd

        train = pd.concat([self.train, rows])
        return Individual(self.laws, train, self.laws.of(train))

    def answer(self, frame: pd.DataFrame) -> Answer:
        """Predict rows of the pairs that have a law."""
        known = _keys(frame)
        own = np.array([key in self.fits for key in known], dtype=bool)
        out = {name: np.full(len(frame), np.nan) for name in ("", "_lo", "_hi")}
        if own.any():
            table = Fit(list(self.fits.values()), form=FORM).predict_phases(frame.loc[own])
            for name, values in out.items():
                values[own] = column(table, f"total_energy_j{name}")
        return Answer(out[""], out[""], out["_lo"], out["_hi"])


@dataclass(frozen=True)
class Kin:
    """The law of the nearest pair, rescaled per phase by the rows measured since.

    Attributes
    ----------
    fits, near, question
        Laws of the training pairs, how near pairs are, what is asked.
    train
        Training rows: the widths of intervals come from predicting their pairs from kin.
    by_facts
        Whether datasheet ratios scale a phase before anything is measured.
    shots
        Rows measured since.
    """

    fits: dict[Pair, PairFit]
    near: Nearness
    question: Question
    train: pd.DataFrame
    by_facts: bool = False
    shots: pd.DataFrame | None = None
    _widths: dict[int, float] = field(default_factory=dict, repr=False)
    _inner: list[tuple[pd.DataFrame, Phases]] = field(default_factory=list, repr=False)

    def updated(self, rows: pd.DataFrame) -> Kin:
        """Keep the rows, to rescale by."""
        return replace(self, shots=rows)

    def answer(self, frame: pd.DataFrame) -> Answer:
        """Predict each pair of the frame from its kin."""
        n = len(frame)
        energy, half = np.full(n, np.nan), np.full(n, np.nan)
        keys = _keys(frame)
        counts = {} if self.shots is None else _positions(_keys(self.shots))
        everywhere = None if self.shots is None else self._scale_of_all(counts)
        for pair, rows in _positions(keys).items():
            part = frame.iloc[rows]
            kin = self.near.nearest(pair, part, self.fits)
            phases = self._phases(kin, pair, part)
            own = counts.get(pair)
            if own is not None and self.shots is not None:
                shots = self.shots.iloc[own]
                scale = _scales(self._phases(kin, pair, shots), shots)
            else:
                scale = everywhere or dict.fromkeys(PHASES, 1.0)
            energy[rows] = sum(scale[phase] * phases[phase] for phase in PHASES)
            half[rows] = self._width(0 if own is None else len(own))
        return Answer(energy, energy, energy / np.exp(half), energy * np.exp(half))

    def _phases(self, kin: Pair, pair: Pair, frame: pd.DataFrame) -> Phases:
        """Return what the kin's law says of both phases, J."""
        phases = phases_of(self.fits[kin], frame)
        if self.by_facts:
            ratios = phase_ratios(self.question.facts, kin, pair, frame)
            phases = {p: ratios[p] * phases[p] for p in PHASES}
        return phases

    def _scale_of_all(self, counts: dict[Pair, NDArray[np.intp]]) -> dict[str, float]:
        """Return the median over the measured pairs, for pairs that none of the rows is of."""
        assert self.shots is not None
        found = []
        for pair, rows in counts.items():
            part = self.shots.iloc[rows]
            kin = self.near.nearest(pair, part, self.fits)
            found.append(_scales(self._phases(kin, pair, part), part))
        return {p: float(np.median([scale[p] for scale in found])) for p in PHASES}

    def _width(self, shots: int) -> float:
        """Return the half width of the log interval after so many rows of a pair.

        Each training pair is predicted from its own kin in the same way, a pair that shares
        what is held out is no kin there; 95 % of the errors lie within the width.
        """
        if shots not in self._widths:
            errors = []
            for rows, phases in self._trained():
                scale = dict.fromkeys(PHASES, 1.0)
                if shots:
                    scale = _scales({p: v[:shots] for p, v in phases.items()}, rows.iloc[:shots])
                total = sum(scale[p] * phases[p] for p in PHASES)
                errors.append(np.log(column(rows, "total_energy_j") / total)[shots:])
            together = np.abs(np.concatenate(errors)) if errors else np.zeros(0)
            known = together[np.isfinite(together)]
            self._widths[shots] = float(np.quantile(known, 0.95)) if len(known) else float("nan")
        return self._widths[shots]

    def _trained(self) -> list[tuple[pd.DataFrame, Phases]]:
        """Return the training rows of each pair, with what its kin's law says of them."""
        if not self._inner:
            for pair, rows in _positions(_keys(self.train)).items():
                others = self.near.unlike(pair, self.fits, self.question.kind)
                if others:
                    part = self.train.iloc[rows]
                    kin = self.near.nearest(pair, part, others)
                    self._inner.append((part, self._phases(kin, pair, part)))
        return self._inner


def phases_of(law: PairFit, frame: pd.DataFrame) -> Phases:
    """Return the energies of both phases by the law of a pair, of whatever pair rows are, J."""
    form, work = law.law, law.traits.work_of(frame)
    theta = [float(value) for value in law.exponents]
    return {
        phase: np.column_stack(form.columns(work, phase, theta)) @ law.coefficients[own]
        for phase, own in phase_parts(form).items()
    }


def _scales(predicted: Phases, rows: pd.DataFrame) -> dict[str, float]:
    """Return the median of measured over predicted, by phase where rows have phases."""
    if has_phases(rows):
        scales = {}
        for phase in PHASES:
            measured = column(rows, f"{phase}_energy_j")
            known = (measured > 0.0) & (predicted[phase] > 0.0)
            ratio = measured[known] / predicted[phase][known]
            scales[phase] = float(np.median(ratio)) if known.any() else 1.0
        return scales
    total = column(rows, "total_energy_j") / sum(predicted.values())
    return dict.fromkeys(PHASES, float(np.median(total)))


def individual(laws: Laws) -> Method:
    """Return the method of one law a pair."""

    def learn(train: pd.DataFrame, question: Question) -> Individual:
        return Individual(laws, train, laws.of(train))

    return learn


def kin(laws: Laws, *, by_facts: bool = False) -> Method:
    """Return the method of the nearest kin, scaled by datasheet figures if `by_facts`."""

    def learn(train: pd.DataFrame, question: Question) -> Kin:
        fits = laws.of(train)
        if not fits:
            raise FitError(f"No (model, hardware) has {SMALLER}'s 6 training rows.")
        return Kin(fits, Nearness(question.facts), question, train, by_facts)

    return learn


def _keys(frame: pd.DataFrame) -> list[Pair]:
    """Return (model, hardware) of each row."""
    return list(zip(frame["model_id"].astype(str), frame["hardware"].astype(str), strict=True))


def _positions(keys: list[Pair]) -> dict[Pair, NDArray[np.intp]]:
    """Return the positions of each pair, in sorted order of the names."""
    found: dict[Pair, list[int]] = {}
    for i, key in enumerate(keys):
        found.setdefault(key, []).append(i)
    return {key: np.array(found[key], dtype=np.intp) for key in sorted(found)}
