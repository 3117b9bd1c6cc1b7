"""Fitting the law of image and video generation: shared parameters and drawn-in effects at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fitting.diffusion.law import (
    HARDWARE_EFFECTS,
    MODEL_EFFECTS,
    PARAMETERS,
    DiffusionLaw,
    energies,
)
from fitting.diffusion.work import covered, diffusion_rows
from fitting.facts import Facts
from fitting.threads import one_thread
from fitting.work import column
from harness.store import FitError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

NAMES = tuple(name for name, *_ in PARAMETERS)

START: dict[str, float] = dict.fromkeys(NAMES, 1.0) | {
    "exchange": 10.0,
    "ring": 10.0,
    "launch": 100.0,
    "launch_parallel": 100.0,
    "launch_ring": 100.0,
    "pixels": 10.0,
}
"""Where the search begins, and towards what a term that no row has is drawn, very weakly."""

START_SPREAD = 1.0
"""Prior standard deviation of the logarithm of a shared parameter: a factor of 7 either way."""

NOISE = 0.1
"""Standard deviation of the log energy of rows about the law with its effects; the same
configuration measured twice differs by 5 to 19 % in published data of this kind."""

LEAST_ROWS = 2 * len(PARAMETERS)
LEVEL = 0.95


@one_thread()
def fit_diffusion(rows: pd.DataFrame, facts: Facts, *, intervals: bool = True) -> DiffusionLaw:
    """Fit the law to image and video rows of all models and GPU types together.

    Least squares on log energies, with a loss that grows linearly beyond 3 standard deviations;
    effects of models and GPU types drawn to none by their priors.

    Parameters
    ----------
    rows
        Rows of the measurement table; others than image and video rows are left out.
    facts
        Architectures (`diffusion`) and datasheets of what the rows name.
    intervals
        Whether to find how far the law is off for models and GPU types that it was not fitted
        on, by leaving each out in turn; without it the intervals are those of the priors.

    Raises
    ------
    FitError
        If there are too few rows.
    """
    rows = diffusion_rows(rows)
    if len(rows) < LEAST_ROWS:
        raise FitError(
            f"{len(rows)} rows are too few for the law of image and video generation.",
            where="rows with diffusion_steps, output_height and output_width",
            fix=f"It needs at least {LEAST_ROWS}.",
        )
    law = _fit(rows, facts)
    if not intervals:
        return law
    halves = dict(law.half_widths)
    datasheets = Facts(facts.hardware)
    for groups, asked in (
        (
            rows["model_id"].astype(str).map(facts.backbone),
            {"model": facts, "estimated": datasheets},
        ),
        (rows["hardware"].astype(str), {"hardware": facts}),
    ):
        for name, errors in _left_out(rows, groups.to_numpy(), facts, asked).items():
            halves[name] = max(quantile(errors), halves["known"])
    return replace(law, half_widths=halves)


def _left_out(
    rows: pd.DataFrame, groups: NDArray[Any], facts: Facts, asked: dict[str, Facts]
) -> dict[str, NDArray[np.float64]]:
    """Return absolute log errors on groups that were left out, for each set of facts asked with.

    Nothing with fewer than two groups.
    """
    names = sorted(set(groups.tolist()))
    errors: dict[str, list[NDArray[np.float64]]] = {}
    for name in names if len(names) > 1 else []:
        rest = rows[groups != name]
        part = rows[groups == name]
        if len(rest) < LEAST_ROWS:
            continue
        law = _fit(rest, facts)
        for kind, given in asked.items():
            if kind == "estimated" and not law.facts.diffusion:
                continue
            found = law.predict(part, given)
            errors.setdefault(kind, []).append(
                np.abs(np.log(found / column(part, "total_energy_j")))
            )
    return {kind: np.concatenate(parts) for kind, parts in errors.items()}


def quantile(errors: NDArray[np.float64]) -> float:
    """Return the half width that holds 95 % of new errors of that kind (conformal rank)."""
    rank = min(int(np.ceil((len(errors) + 1) * LEVEL)), len(errors))
    return float(np.sort(errors)[rank - 1])


def _fit(rows: pd.DataFrame, facts: Facts) -> DiffusionLaw:
    """Fit without leaving anything out for the intervals of unknown models and GPU types."""
    models = {str(m): dict.fromkeys(MODEL_EFFECTS, 0.0) for m in sorted(set(rows["model_id"]))}
    gpus = {str(h): dict.fromkeys(HARDWARE_EFFECTS, 0.0) for h in sorted(set(rows["hardware"]))}
    size = column(rows, "params_total", default=0.0)
    sizes = dict(zip(rows["model_id"].astype(str), size.tolist(), strict=True))
    blank = DiffusionLaw(
        parameters=START,
        models=models,
        hardware=gpus,
        params={name: value for name, value in sizes.items() if value > 0.0},
        facts=Facts(
            {k: v for k, v in facts.hardware.items() if k in gpus},
            {},
            {k: v for k, v in facts.diffusion.items() if k in models},
        ),
        half_widths={},
        provenance=_provenance(rows),
    )
    # What is not known is estimated like the known ones; so facts of other models are no input.
    law, residual, used = _solve(blank, rows, shared=True)
    leverage = len(rows) / max(len(rows) - used, 1)
    known = quantile(np.abs(residual)) * float(np.sqrt(leverage))
    wide = {
        "model": 1.96 * MODEL_EFFECTS["scale"],
        "estimated": 1.96 * MODEL_EFFECTS["scale"],
        "hardware": 1.96 * HARDWARE_EFFECTS["scale"],
    }
    halves = {"known": known} | {k: float(np.hypot(known, v)) for k, v in wide.items()}
    return replace(law, half_widths=halves)


def adapt(law: DiffusionLaw, rows: pd.DataFrame, facts: Facts) -> DiffusionLaw:
    """Fit the effects of models and GPU types that the law has not, to a few rows of them.

    Raises
    ------
    FitError
        If no row has what the law needs.
    """
    known = replace(law, facts=law.facts.joined(facts))
    rows = diffusion_rows(rows)
    if not len(rows) or not covered(rows).any():
        raise FitError(
            "None of the rows is of image or video generation with a positive energy.",
            fix="Give rows with diffusion_steps, output_height, output_width, total_energy_j.",
        )
    new_models = {str(m) for m in rows["model_id"]} - set(law.models)
    new_gpus = {str(h) for h in rows["hardware"]} - set(law.hardware)
    blank = replace(
        known,
        models={m: dict.fromkeys(MODEL_EFFECTS, 0.0) for m in sorted(new_models)}
        | dict(law.models),
        hardware={h: dict.fromkeys(HARDWARE_EFFECTS, 0.0) for h in sorted(new_gpus)}
        | dict(law.hardware),
    )
    free = (new_models, new_gpus)
    solved, _, _ = _solve(blank, rows, shared=False, free=free)
    added = dict(law.provenance)
    for kind, n in _provenance(rows).items():
        added[kind] = added.get(kind, 0) + n
    return replace(solved, provenance=added)


def _solve(
    law: DiffusionLaw,
    rows: pd.DataFrame,
    *,
    shared: bool,
    free: tuple[set[str], set[str]] | None = None,
) -> tuple[DiffusionLaw, NDArray[np.float64], int]:
    """Find the shared parameters and the effects; return the law, log residuals, free numbers.

    Unknowns are the logarithms of the parameters, then of the effects, in a fixed order.
    """
    from scipy.optimize import least_squares

    counted = law.work(rows)
    target = np.log(column(rows, "total_energy_j"))
    models, gpus = free if free is not None else (set(law.models), set(law.hardware))
    effects = _Effects.of(rows, sorted(models), sorted(gpus))
    start = np.log([law.parameters[n] for n in NAMES]) if shared else np.zeros(0)
    prior = np.log([START[n] for n in NAMES]) if shared else np.zeros(0)
    spread = np.r_[np.full(len(start), START_SPREAD), effects.spreads]
    fixed = [np.log(values) for values in law.effects(rows)]

    def both(x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        values = dict(zip(NAMES, np.exp(x[: len(start)]).tolist(), strict=True)) if shared else {}
        moved = effects.apply(x[len(start) :])
        total, by = energies(
            counted,
            values or law.parameters,
            *(np.exp(a + b) for a, b in zip(fixed, moved, strict=True)),
        )
        slopes = [by[:, : len(NAMES)]] if shared else []
        slopes.append(effects.slopes(np.column_stack([np.ones(len(by)), by[:, -2:]])))
        return np.log(total) - target, np.column_stack(slopes)

    def residual(x: NDArray[np.float64]) -> NDArray[np.float64]:
        result: NDArray[np.float64] = np.r_[both(x)[0] / NOISE, (x - centre) / spread]
        return result

    def jacobian(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.vstack([both(x)[1] / NOISE, np.diag(1.0 / spread)])

    centre = np.r_[prior, np.zeros(len(effects.spreads))]
    origin = np.r_[start, np.zeros(len(effects.spreads))]
    if not len(origin):
        return law, both(origin)[0], 0
    found = least_squares(
        residual, origin, jac=jacobian, loss="soft_l1", f_scale=3.0, ftol=1e-7, max_nfev=100
    ).x
    parameters: Mapping[str, float] = law.parameters
    if shared:
        parameters = dict(zip(NAMES, np.exp(found[: len(start)]).tolist(), strict=True))
    by_model, by_gpu = effects.named(found[len(start) :])
    solved = replace(
        law,
        parameters=parameters,
        models={**law.models, **by_model},
        hardware={**law.hardware, **by_gpu},
    )
    return solved, both(found)[0], len(found)


@dataclass(frozen=True, slots=True)
class _Effects:
    """Free effects of models and GPU types, and which rows each moves.

    Attributes
    ----------
    models, gpus
        Names, in order.
    members
        Indicator of each effect's rows, shape (rows, effects).
    kinds
        0 for `scale`, 1 for `traffic`, 2 for `launch`, shape (effects,).
    spreads
        Prior standard deviations, shape (effects,).
    """

    models: list[str]
    gpus: list[str]
    members: NDArray[np.float64]
    kinds: NDArray[np.intp]
    spreads: NDArray[np.float64]

    @staticmethod
    def of(rows: pd.DataFrame, models: list[str], gpus: list[str]) -> _Effects:
        order = list(MODEL_EFFECTS)
        members, kinds, spreads = [np.zeros((len(rows), 0))], [], []
        for name, values, known in (
            ("model_id", models, MODEL_EFFECTS),
            ("hardware", gpus, HARDWARE_EFFECTS),
        ):
            texts = rows[name].astype(str).to_numpy()
            for value in values:
                for effect, spread in known.items():
                    members.append((texts == value).astype(np.float64)[:, None])
                    kinds.append(order.index(effect))
                    spreads.append(spread)
        return _Effects(
            models, gpus, np.hstack(members), np.array(kinds, dtype=np.intp), np.array(spreads)
        )

    def apply(self, x: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """Return the logarithms of S, x and y of each row."""
        return [self.members @ np.where(self.kinds == kind, x, 0.0) for kind in range(3)]

    def slopes(self, by: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return derivatives by the effects from those by S, x, y, shape (rows, effects)."""
        result: NDArray[np.float64] = self.members * by[:, self.kinds]
        return result

    def named(
        self, x: NDArray[np.float64]
    ) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
        """Return the effects by model and by GPU type."""
        split = len(self.models) * len(MODEL_EFFECTS)
        by_model = x[:split].reshape(len(self.models), len(MODEL_EFFECTS)).tolist()
        by_gpu = x[split:].reshape(len(self.gpus), len(HARDWARE_EFFECTS)).tolist()
        return (
            {
                name: dict(zip(MODEL_EFFECTS, values, strict=True))
                for name, values in zip(self.models, by_model, strict=True)
            },
            {
                name: dict(zip(HARDWARE_EFFECTS, values, strict=True))
                for name, values in zip(self.gpus, by_gpu, strict=True)
            },
        )


def _provenance(rows: pd.DataFrame) -> dict[str, int]:
    if "provenance" not in rows.columns:
        return {"unknown": len(rows)}
    counts = rows["provenance"].fillna("unknown").value_counts()
    return {str(k): int(v) for k, v in counts.sort_index().items()}
