"""Fit laws to a measurement table, and predict with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fitting.domain import distance
from fitting.forms import Form, get_form
from fitting.formula import formula_text
from fitting.pairfit import PairFit, fit_pair, gradient
from fitting.predict import codes_of, predict_totals
from fitting.rows import pairs, sample_order, usable
from harness.store import FitError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

FIT_VERSION = 2
"""Version of the FIT file; it grows when a field changes its meaning."""

WIDENING = 0.5
"""Outside the domain an interval is wider by this share of its width for each doubling."""

SMALLER = "energylens6"
"""The law that `form="auto"` falls back to where rows are few."""

_COLUMNS = ("prefill_energy_j", "decode_energy_j", "total_energy_j")


class Fit:
    """Fitted laws of every (model, hardware) of a table.

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

    Attributes
    ----------
    pairs
        The laws, sorted by model and hardware.
    """

    def __init__(
        self,
        pair_fits: list[PairFit],
        *,
        form: str,
        notes: list[str] | None = None,
        created_with: str | None = None,
    ) -> None:
        self.pairs = sorted(pair_fits, key=lambda p: (p.model_id, p.hardware))
        self.form = form
        self.notes = list(notes or [])
        self.created_with = created_with or _version()
        self._index = {(p.model_id, p.hardware): i for i, p in enumerate(self.pairs)}

    def pair(self, model_id: str, hardware: str) -> PairFit:
        """Return the law of a pair.

        Raises
        ------
        FitError
            If there is none; it names the known pairs.
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
            If a row is of a pair that was not fitted.
        """
        return predict_totals(self.pairs, frame, self._codes(frame))

    def predict_phases(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Predict the energies of both phases and their sum, with 95 % prediction intervals.

        An interval holds what a new measurement of the configuration would show: the error of
        the parameters (covariance) and the scatter of rows about the law, joined as a root of
        squares. Outside of the fitted domain it is wider, by half for each doubling.

        Returns
        -------
        DataFrame
            `prefill_energy_j`, `decode_energy_j`, `total_energy_j`, J, each with `_lo` and
            `_hi`; index of the frame.
        """
        import pandas as pd

        codes = self._codes(frame)
        out = {c + s: np.zeros(len(frame)) for c in _COLUMNS for s in ("", "_lo", "_hi")}
        for code in np.unique(codes):
            rows = np.flatnonzero(codes == code)
            pair, part = self.pairs[code], frame.iloc[rows]
            energies, gradients = gradient(pair, part)
            energies["total"] = energies["prefill"] + energies["decode"]
            gradients["total"] = gradients["prefill"] + gradients["decode"]
            stretch = 1.0 + WIDENING * distance(part, pair.domain)
            for phase, energy in energies.items():
                half = _half_widths(pair, phase, energy, gradients[phase]) * stretch
                name = f"{phase}_energy_j"
                out[name][rows] = energy
                out[f"{name}_lo"][rows] = energy / (1.0 + half)
                out[f"{name}_hi"][rows] = energy * (1.0 + half)
        return pd.DataFrame(out, index=frame.index)

    def extrapolated(self, frame: pd.DataFrame) -> NDArray[np.bool_]:
        """Say which rows lie outside of the domain that their law was fitted on, shape (rows,)."""
        codes = self._codes(frame)
        result = np.zeros(len(frame), dtype=bool)
        for code in np.unique(codes):
            rows = np.flatnonzero(codes == code)
            result[rows] = distance(frame.iloc[rows], self.pairs[code].domain) > 0.0
        return result

    def formula(self, model_id: str, hardware: str) -> str:
        """Return the law of a pair as text of at most 80 columns, with numbers and units."""
        return formula_text(self.pair(model_id, hardware))

    def to_dict(self) -> dict[str, Any]:
        """Return the FIT file as plain values; floats survive JSON exactly."""
        return {
            "fit_version": FIT_VERSION,
            "form": self.form,
            "created_with": self.created_with,
            "notes": self.notes,
            "pairs": [pair.to_dict() for pair in self.pairs],
        }

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Fit:
        """Rebuild a fit from `to_dict`.

        Raises
        ------
        FitError
            If the version is unknown or a field is missing.
        """
        version = data.get("fit_version")
        if version != FIT_VERSION:
            raise FitError(
                f"This FIT file has version {version!r}; this EnergyLens reads {FIT_VERSION}.",
                fix="Fit again with `energylens fit`.",
            )
        try:
            return Fit(
                [PairFit.from_dict(pair) for pair in data["pairs"]],
                form=data["form"],
                notes=data["notes"],
                created_with=data["created_with"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise FitError(
                f"This FIT file is damaged: {error}.", fix="Fit again with `energylens fit`."
            ) from error

    def save(self, path: str | Path) -> None:
        """Write the FIT file; a reader sees the old or the new file, never half of one."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(target.name + ".tmp")
        temporary.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
        temporary.replace(target)

    def _codes(self, frame: pd.DataFrame) -> NDArray[np.intp]:
        return codes_of(frame, self._index, self._unknown)

    def _unknown(self, model_id: str, hardware: str) -> FitError:
        known = ", ".join(f"{p.model_id} on {p.hardware}" for p in self.pairs[:12])
        more = f" and {len(self.pairs) - 12} more" if len(self.pairs) > 12 else ""
        return FitError(
            f"No law was fitted for {model_id} on {hardware}.",
            where=f"known: {known}{more}",
            fix="Measure that pair and fit again, or choose a known one.",
        )


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


def fit_frame(
    frame: pd.DataFrame, *, form: str = "energylens12", samples: int | None = None, seed: int = 0
) -> Fit:
    """Fit one law to each (model, hardware) of a measurement table.

    Parameters
    ----------
    frame
        Rows of the measurement table; not valid ones and ones without energy are left out.
    form
        Name of a law, or `auto`: energylens12 where a pair has rows enough, else energylens6.
    samples
        Rows drawn from each pair; all of them if None.
    seed
        Seed of the draw.

    Raises
    ------
    FitError
        If no row is usable, a pair has fewer rows than parameters, or provenances are mixed.
    """
    if samples is not None and samples < 1:
        raise FitError(f"samples must be at least 1, not {samples}.")
    law: Form | None = None if form == "auto" else get_form(form)
    rows, left = usable(frame)
    if not len(rows):
        reasons = " ".join(left.notes()) or "The table is empty."
        raise FitError(
            "No row can be fitted.",
            where=reasons,
            fix="Check `energylens query DIR` for invalid rows and missing lengths.",
        )
    fits, notes = [], left.notes()
    for group in pairs(rows):
        drawn = group.take(sample_order(group.hashes, samples, seed))
        n_rows = len(drawn.rows)
        own = law or _largest(n_rows)
        fits.append(fit_pair(drawn, own))
        if law is None and own.name == SMALLER:
            notes.append(
                f"{drawn.model_id} on {drawn.hardware}: {n_rows} rows, "
                f"so the smaller law {SMALLER}."
            )
    return Fit(fits, form=form, notes=notes)


def _largest(n_rows: int) -> Form:
    """Return the largest law that so many rows carry, with two rows a parameter to spare."""
    full = get_form("energylens12")
    return full if n_rows >= 2 * full.most_parameters else get_form(SMALLER)


def load_fit(path: str | Path) -> Fit:
    """Read a FIT file.

    Raises
    ------
    FitError
        If the file is missing, is no JSON, or has an unknown version.
    """
    source = Path(path)
    try:
        data = json.loads(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise FitError(
            "The FIT file cannot be read.",
            where=str(source),
            fix="Make one with `energylens fit DIR --out FIT`.",
        ) from error
    except ValueError as error:
        raise FitError(
            f"The FIT file is no JSON: {error}.",
            where=str(source),
            fix="Fit again with `energylens fit`.",
        ) from error
    if not isinstance(data, dict):
        raise FitError("The FIT file holds no law.", where=str(source))
    return Fit.from_dict(data)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("energylens")
    except PackageNotFoundError:
        return "unknown"
