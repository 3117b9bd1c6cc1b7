"""Fitted laws of a table: one law a (model, hardware), pooled laws for the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from fitting.coverage import PooledPair, beyond
from fitting.domain import distance
from fitting.facts import Facts
from fitting.formula import formula_text
from fitting.laws import KINDS, PooledLaw
from fitting.pairfit import PairFit, gradient
from fitting.predict import codes_of, predict_totals
from harness.store import FitError

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    FactsSource = Callable[[pd.DataFrame], Facts]

WIDENING = 0.5
"""Outside the domain an interval is wider by this share of its width for each doubling."""

PHASE_COLUMNS = ("prefill_energy_j", "decode_energy_j", "total_energy_j")
"""What `Fit.predict_phases` returns, each also with `_lo` and `_hi`."""


class Fit:
    """Fitted laws of every (model, hardware) of a table, and pooled laws for others.

    A row is answered by the law of its own (model, hardware) where there is one, else by the
    first pooled law that covers it.

    Parameters
    ----------
    pair_fits
        One law a (model, hardware).
    form
        Name of the law that was asked for.
    notes
        Sentences that a reader of the fit should see: rows left out, smaller laws used.
    created_with
        Version of EnergyLens that made it.
    commit
        Git commit of that version; None if it is not known.
    pooled
        Laws shared over models and hardware, in the order in which they are asked.
    pooled_pairs
        Pairs whose rows only a pooled law was fitted to.
    facts
        Datasheets and architectures of the training rows.
    data
        What it was fitted to: rows, pairs, rows by provenance, fingerprint.

    Attributes
    ----------
    pairs
        The laws, sorted by model and hardware.
    facts_source
        Gives facts of models and GPU types that rows to predict name and `facts` does not
        hold; None if there is nowhere to look. It is not part of the file.
    """

    def __init__(
        self,
        pair_fits: list[PairFit],
        *,
        form: str,
        notes: list[str] | None = None,
        created_with: str | None = None,
        commit: str | None = None,
        pooled: Sequence[PooledLaw] = (),
        pooled_pairs: Sequence[PooledPair] = (),
        facts: Facts | None = None,
        data: dict[str, Any] | None = None,
    ) -> None:
        from harness.store import code_version

        known_version, known_commit = code_version()
        self.pairs = sorted(pair_fits, key=lambda p: (p.model_id, p.hardware))
        self.form = form
        self.notes = list(notes or [])
        self.created_with = created_with or known_version
        self.commit = commit if created_with else known_commit
        self.pooled = list(pooled)
        self.pooled_pairs = sorted(pooled_pairs, key=lambda p: (p.model_id, p.hardware))
        self.facts = facts or Facts()
        self.data = dict(data or {})
        self.facts_source: FactsSource | None = None
        self._index = {(p.model_id, p.hardware): i for i, p in enumerate(self.pairs)}

    @property
    def models(self) -> list[str]:
        """Models with training rows, sorted."""
        return sorted({model_id for model_id, _ in self.known})

    @property
    def known(self) -> list[tuple[str, str]]:
        """(model, hardware) of the pairs with training rows, those with laws of their own first."""
        own = [(p.model_id, p.hardware) for p in self.pairs]
        return own + [(p.model_id, p.hardware) for p in self.pooled_pairs]

    def pair(self, model_id: str, hardware: str) -> PairFit:
        """Return the law of a pair.

        Raises
        ------
        FitError
            If the pair has none of its own; it names the known pairs.
        """
        if (model_id, hardware) not in self._index:
            raise self._unknown(model_id, hardware)
        return self.pairs[self._index[model_id, hardware]]

    def predict(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        """Predict the total energy of each row.

        Parameters
        ----------
        frame
            Rows with model, deployment and workload columns of the measurement table.

        Returns
        -------
        ndarray
            total_energy_j, J, whole batch on all GPUs, shape (rows,), in row order.

        Raises
        ------
        FitError
            If a row is of a pair that was not fitted and that no pooled law covers.
        """
        codes = self._codes(frame)
        own = codes >= 0
        if own.all():
            return predict_totals(self.pairs, frame, codes)
        result = np.zeros(len(frame))
        rows = np.flatnonzero(own)
        if len(rows):
            result[rows] = predict_totals(self.pairs, frame.iloc[rows], codes[rows])
        for law, rows in self._shared(codes):
            part = frame.iloc[rows]
            result[rows] = law.predict(part, facts=self._facts_for(part))
        return result

    def predict_phases(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Predict the energies of both phases and their sum, with 95 % prediction intervals.

        An interval holds what a new measurement of the configuration would show: the error of
        the parameters (covariance) and the scatter of rows about the law, joined as a root of
        squares. Outside of the fitted domain it is wider, by half for each doubling. Pooled laws
        give intervals of their own; a phase that a law does not know is NaN.

        Returns
        -------
        DataFrame
            `prefill_energy_j`, `decode_energy_j`, `total_energy_j`, J, each with `_lo` and
            `_hi`; index of the frame.

        Raises
        ------
        FitError
            As `predict`.
        """
        import pandas as pd

        codes = self._codes(frame)
        out = {c + s: np.zeros(len(frame)) for c in PHASE_COLUMNS for s in ("", "_lo", "_hi")}
        for code in np.unique(codes[codes >= 0]):
            rows = np.flatnonzero(codes == code)
            for name, values in pair_phases(self.pairs[code], frame.iloc[rows]).items():
                out[name][rows] = values
        for law, rows in self._shared(codes):
            part = frame.iloc[rows]
            phases = law.predict_phases(part, facts=self._facts_for(part))
            for name in out:
                out[name][rows] = phases[name].to_numpy(dtype=np.float64)
        return pd.DataFrame(out, index=frame.index)

    def extrapolated(self, frame: pd.DataFrame) -> NDArray[np.bool_]:
        """Say which rows lie outside of what their law was fitted on, shape (rows,).

        A row of a (model, hardware) without any training row always does.
        """
        codes = self._codes(frame)
        result = np.zeros(len(frame), dtype=bool)
        for code in np.unique(codes[codes >= 0]):
            rows = np.flatnonzero(codes == code)
            result[rows] = distance(frame.iloc[rows], self.pairs[code].domain) > 0.0
        for _, rows in self._shared(codes):
            result[rows] = beyond(frame.iloc[rows], self.pooled_pairs)
        return result

    def law_names(self, frame: pd.DataFrame) -> list[str]:
        """Return the name of the law that answers for each row.

        Raises
        ------
        FitError
            As `predict`.
        """
        codes = self._codes(frame)
        return [
            self.pairs[code].form if code >= 0 else self.pooled[-1 - code].name
            for code in codes.tolist()
        ]

    def formula(self, model_id: str, hardware: str) -> str:
        """Return the law of a pair as text of at most 80 columns, with numbers and units.

        Raises
        ------
        FitError
            If the pair was not fitted and no pooled law covers it.
        """
        import pandas as pd

        if (model_id, hardware) in self._index:
            return formula_text(self.pair(model_id, hardware))
        texts = []
        for law in self.pooled:
            probe = {"model_id": model_id, "hardware": hardware, **KINDS[law.name].probe}
            if self._covers(law, pd.DataFrame([probe]))[0]:
                texts.append(law.formula())
        if not texts:
            raise self._unknown(model_id, hardware)
        return "\n\n".join(texts)

    def to_dict(self) -> dict[str, Any]:
        """Return the FIT file as plain values; floats survive JSON exactly."""
        from fitting.fitfile import fit_to_dict

        return fit_to_dict(self)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Fit:
        """Rebuild a fit from `to_dict`, of this version or an older one.

        Raises
        ------
        FitError
            If the version is unknown or a field is missing or no such value.
        """
        from fitting.fitfile import fit_from_dict

        return fit_from_dict(data)

    def save(self, path: str | Path) -> None:
        """Write the FIT file; a reader sees the old or the new file, never half of one."""
        from fitting.fitfile import save_fit

        save_fit(self, path)

    def _codes(self, frame: pd.DataFrame) -> NDArray[np.intp]:
        """Return the law of each row: position of a pair, or -1 - position of a pooled law."""
        codes = codes_of(frame, self._index)
        open_rows = np.flatnonzero(codes < 0)
        codes[open_rows] = _NOBODY
        for position, law in enumerate(self.pooled):
            if not len(open_rows):
                break
            answered = self._covers(law, frame.iloc[open_rows])
            codes[open_rows[answered]] = -1 - position
            open_rows = open_rows[~answered]
        if len(open_rows):
            row = frame.iloc[int(open_rows[0])]
            raise self._unknown(str(row["model_id"]), str(row["hardware"]))
        return codes

    def _shared(self, codes: NDArray[np.intp]) -> list[tuple[PooledLaw, NDArray[np.intp]]]:
        """Return each pooled law that answers for rows, with their positions."""
        found = ((law, np.flatnonzero(codes == -1 - i)) for i, law in enumerate(self.pooled))
        return [(law, rows) for law, rows in found if len(rows)]

    def _covers(self, law: PooledLaw, rows: pd.DataFrame) -> NDArray[np.bool_]:
        return law.covers(rows, self._facts_for(rows))

    def _facts_for(self, rows: pd.DataFrame) -> Facts:
        """Return the facts of the training rows, and those of new names where there is a source.

        What a law was fitted with stays, even if the source knows more today: a file predicts
        the same wherever it is read.
        """
        if self.facts_source is None:
            return self.facts
        found = self.facts_source(rows)
        models, hardware = set(self.models), {kind for _, kind in self.known}
        new = {
            f.name: {
                name: value
                for name, value in getattr(found, f.name).items()
                if name not in (hardware if f.name == "hardware" else models)
            }
            for f in fields(Facts)
        }
        return Facts(**new).joined(self.facts)

    def _unknown(self, model_id: str, hardware: str) -> FitError:
        pairs = self.known
        known = ", ".join(f"{model} on {kind}" for model, kind in pairs[:12])
        more = f" and {len(pairs) - 12} more" if len(pairs) > 12 else ""
        pooled = ", ".join(law.name for law in self.pooled)
        return FitError(
            f"No law was fitted for {model_id} on {hardware}"
            + (f", and the pooled law ({pooled}) does not cover it." if pooled else "."),
            where=f"known: {known}{more}",
            fix="Measure that pair and fit again, or choose a known one."
            if not pooled
            else "Use names that the catalog knows, give params_total and the workload columns "
            "that the law needs (docs/fit-files.md), or measure that pair and fit again.",
        )


_NOBODY = np.iinfo(np.intp).min
"""Code of a row that no law answers for."""


def pair_phases(pair: PairFit, frame: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """Return the energies of a pair's rows, J, by the names of `PHASE_COLUMNS` with bounds."""
    energies, gradients = gradient(pair, frame)
    energies["total"] = energies["prefill"] + energies["decode"]
    gradients["total"] = gradients["prefill"] + gradients["decode"]
    stretch = 1.0 + WIDENING * distance(frame, pair.domain)
    out = {}
    for phase, energy in energies.items():
        half = _half_widths(pair, phase, energy, gradients[phase]) * stretch
        name = f"{phase}_energy_j"
        out[name] = energy
        out[f"{name}_lo"] = energy / (1.0 + half)
        out[f"{name}_hi"] = energy * (1.0 + half)
    return out


def _half_widths(
    pair: PairFit, phase: str, energy: NDArray[np.float64], gradients: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return relative half widths of 95 % prediction intervals."""
    variance = np.einsum("ij,jk,ik->i", gradients, pair.covariance, gradients)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(energy > 0.0, np.maximum(variance, 0.0) / energy**2, 0.0)
    spread = pair.spread.get(phase, pair.spread["total"])
    result: NDArray[np.float64] = np.sqrt(spread**2 + 1.96**2 * relative)
    return result
