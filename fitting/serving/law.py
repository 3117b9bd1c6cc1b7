"""The fitted serving law: predictions with intervals, its text, and its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fitting.facts import Facts
from fitting.serving.effects import (
    EFFECTS,
    design_of,
    estimate_deviations,
    levels_of,
    posterior,
)
from fitting.serving.shapes import shapes_of, text
from fitting.serving.solve import fit_shared
from fitting.serving.terms import PARAMETERS, Tasks, log_energy, task_values, values
from fitting.threads import one_thread
from fitting.work import column
from harness.store import FitError

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

NAME = "energylens_serving"

LEAST_ROWS = 2 * len(PARAMETERS)
"""Fewest rows that the law is fitted to."""

WIDTH = 1.96
"""Deviations on both sides that hold 95 % of a normal distribution."""

_STEP = 1e-4


@dataclass(frozen=True, slots=True)
class ServingLaw:
    """A fitted pooled law for serving rows without input lengths.

    Attributes
    ----------
    vector, covariance
        Shared parameters and numbers of tasks (`terms`), and their covariance.
    tasks
        Tasks that were fitted.
    deviations, noise
        Deviation of each family of random effects and of a single row, of the log energy.
    effects
        Family -> value -> mean and variance.
    facts
        Datasheets and architectures that it was fitted with.
    provenance
        Provenance -> rows it was fitted to.
    """

    vector: Array
    covariance: Array
    tasks: Tasks
    deviations: Array
    noise: float
    effects: dict[str, dict[str, tuple[float, float]]]
    facts: Facts = field(default_factory=Facts)
    provenance: dict[str, int] = field(default_factory=dict)
    name: str = NAME

    def covers(self, frame: pd.DataFrame, facts: Facts | None = None) -> NDArray[np.bool_]:
        """Say which rows it can answer for, shape (rows,).

        It needs a batch, a GPU type that facts know or that was fitted, and a model that facts
        know or a number of parameters. Rows with input lengths belong to laws that use them.
        """
        known = self._joined(facts)
        fitted = self.effects.get("hardware:scale", {})
        keep = column(frame, "batch", default=0.0) > 0.0
        keep &= ~(column(frame, "input_tokens", default=0.0) > 0.0)
        keep &= ~(column(frame, "diffusion_steps", default=0.0) > 0.0)
        keep &= np.array([h in known.hardware or h in fitted for h in text(frame, "hardware")])
        sized = (column(frame, "params_active", default=0.0) > 0.0) | (
            column(frame, "params_total", default=0.0) > 0.0
        )
        result: NDArray[np.bool_] = keep & (
            sized | np.array([m in known.models for m in text(frame, "model_id")])
        )
        return result

    def predict(self, frame: pd.DataFrame, facts: Facts | None = None) -> Array:
        """Return total_energy_j of each row, J, shape (rows,); NaN without output tokens."""
        result: Array = self.predict_per_token(frame, facts) * _tokens(frame)
        return result

    def predict_per_token(self, frame: pd.DataFrame, facts: Facts | None = None) -> Array:
        """Return energy_per_output_token_j of each row, J, shape (rows,).

        Raises
        ------
        FitError
            If a batch is missing, or a model is neither known nor has a size.
        """
        return np.asarray(np.exp(self._log_energy(frame, self._joined(facts))[0]))

    def interval_per_token(
        self, frame: pd.DataFrame, facts: Facts | None = None
    ) -> tuple[Array, Array]:
        """Return the 95 % prediction interval of the J per output token, each shape (rows,).

        It holds the errors of parameters and effects, the effects that values never seen may
        have, and the scatter of single rows.
        """
        known = self._joined(facts)
        log, variance = self._log_energy(frame, known)
        half = WIDTH * np.sqrt(variance + self._shared_variance(frame, known))
        return np.asarray(np.exp(log - half)), np.asarray(np.exp(log + half))

    def predict_phases(self, frame: pd.DataFrame, facts: Facts | None = None) -> pd.DataFrame:
        """Return the total with its 95 % prediction interval, J; phases are NaN."""
        import pandas as pd

        tokens = _tokens(frame)
        low, high = self.interval_per_token(frame, facts)
        out = pd.DataFrame(index=frame.index)
        for phase in ("prefill", "decode"):
            for end in ("", "_lo", "_hi"):
                out[f"{phase}_energy_j{end}"] = np.full(len(frame), np.nan)
        out["total_energy_j"] = self.predict_per_token(frame, facts) * tokens
        out["total_energy_j_lo"] = low * tokens
        out["total_energy_j_hi"] = high * tokens
        return out

    def formula(self) -> str:
        """Return the law as text, with numbers and units."""
        lines = [
            "J per output token = scale x step energy / running requests",
            "step = read (weights + cache) + compute (decode + prefill + visual) + layers "
            "+ quantised + requests   [J]; docs/serving.md",
        ]
        found = values(self.vector)
        lines += [
            f"  {p.name:<12}{found[p.name]:>11.4g} {p.unit:<7} {p.meaning}" for p in PARAMETERS
        ]
        for task, (context, prefill) in task_values(self.vector, self.tasks).items():
            lines.append(
                f"  task {task}: context {context:.0f} tokens, {prefill:.2g} input tokens "
                "per output token"
            )
        names = self._names()
        for family in ("hardware:scale", "_backbone:scale"):
            for value, (mean, _) in self.effects.get(family, {}).items():
                lines.append(f"  scale of {names.get(value, value)}: {np.exp(mean):.3f}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "name": self.name,
            "parameters": {p.name: float(v) for p, v in zip(PARAMETERS, self.vector, strict=False)},
            "vector": self.vector.tolist(),
            "covariance": self.covariance.tolist(),
            "tasks": list(self.tasks.names),
            "deviations": {e.name: float(d) for e, d in zip(EFFECTS, self.deviations, strict=True)},
            "noise": self.noise,
            "effects": {
                family: {value: list(pair) for value, pair in found.items()}
                for family, found in self.effects.items()
            },
            "facts": self.facts.to_dict(),
            "provenance": dict(self.provenance),
        }

    def _names(self) -> dict[str, str]:
        """Return for each backbone the shortest name of a model that has it."""
        names: dict[str, str] = {}
        for model in sorted(
            self.facts.models.values(), key=lambda m: (-len(m.model_id), m.model_id)
        ):
            names[model.backbone] = model.model_id
        return names

    def _joined(self, facts: Facts | None) -> Facts:
        return self.facts if facts is None else self.facts.joined(facts)

    def _log_energy(self, frame: pd.DataFrame, facts: Facts) -> tuple[Array, Array]:
        """Return log J per token, and the variance of effects and noise, each (rows,)."""
        shapes = shapes_of(frame, facts)
        log = log_energy(shapes, self.vector, self.tasks, self.tasks.indices(text(frame, "task")))
        variance = np.full(len(frame), self.noise**2)
        levels = levels_of(frame, facts)
        for i, effect in enumerate(EFFECTS):
            found = self.effects.get(effect.name, {})
            unknown = (0.0, float(self.deviations[i]) ** 2)
            pairs = np.array([found.get(str(v), unknown) for v in levels.values[i]])
            pairs = pairs.reshape(len(frame), 2)
            log = log + pairs[:, 0] * levels.slopes[i]
            variance += pairs[:, 1] * levels.slopes[i] ** 2
        return log, variance

    def _shared_variance(self, frame: pd.DataFrame, facts: Facts) -> Array:
        """Return the variance that parameters add, and the numbers of tasks never seen."""
        shapes = shapes_of(frame, facts)
        index = self.tasks.indices(text(frame, "task"))
        base = log_energy(shapes, self.vector, self.tasks, index)
        slopes = np.empty((len(frame), len(self.vector)))
        for i in range(len(self.vector)):
            moved = self.vector.copy()
            moved[i] += _STEP
            slopes[:, i] = (log_energy(shapes, moved, self.tasks, index) - base) / _STEP
        variance: Array = np.einsum("ij,jk,ik->i", slopes, self.covariance, slopes)
        # A whole deviation, not a slope: the law bends over the range of a task not known.
        for new in ((1.0, 0.0), (0.0, 1.0)):
            up = log_energy(shapes, self.vector, self.tasks, index, new) - base
            variance += up**2
        return variance


def serving_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Keep valid rows with an energy per output token, a batch and a size of the model."""
    keep = np.ones(len(frame), dtype=bool)
    for name in ("energy_per_output_token_j", "batch", "params_active"):
        keep &= column(frame, name, default=0.0) > 0.0
    if "valid" in frame.columns:
        keep &= frame["valid"].astype("boolean").fillna(True).to_numpy(dtype=bool)
    return frame.loc[keep]


@one_thread()
def fit_serving(
    rows: pd.DataFrame, facts: Facts | None = None, *, shared: ServingLaw | None = None
) -> ServingLaw:
    """Fit the shared law and the random effects.

    Parameters
    ----------
    rows
        Serving rows of the measurement table with `energy_per_output_token_j`.
    facts
        Datasheets and architectures; what they do not hold is estimated from columns.
    shared
        A law whose shared parameters and deviations are kept; only the effects are fitted. With
        its training rows and a few of a new model this adapts it to that model.

    Raises
    ------
    FitError
        If there are fewer rows than twice the shared parameters, or a row has no energy.
    """
    known = facts if facts is not None else Facts()
    if shared is not None:
        known = shared.facts.joined(known)
    elif len(rows) < LEAST_ROWS:
        raise FitError(
            f"{len(rows)} rows are too few for {NAME}.",
            fix=f"It needs at least {LEAST_ROWS} rows with an energy per output token.",
        )
    energy = column(rows, "energy_per_output_token_j")
    if not (energy > 0.0).all():
        raise FitError(
            "A row has no energy per output token.",
            where="column energy_per_output_token_j",
            fix="Keep the rows that `serving_rows` keeps.",
        )
    shapes, levels = shapes_of(rows, known), levels_of(rows, known)
    names = text(rows, "task")
    tasks = shared.tasks if shared is not None else Tasks(tuple(sorted(set(names))))
    index = tasks.indices(names)
    weight = np.ones(len(rows))
    if shared is None:
        vector, covariance, weight = fit_shared(
            shapes, np.log(energy), tasks, index, levels.values[0], levels.values[-1]
        )
    else:
        vector, covariance = shared.vector, shared.covariance
    design = design_of(levels)
    residual = np.log(energy) - log_energy(shapes, vector, tasks, index)
    if shared is None:
        deviations, noise = estimate_deviations(design, residual, weight)
    else:
        deviations, noise = shared.deviations, shared.noise
    mean, variance = posterior(design, residual, weight, deviations, noise)
    effects: dict[str, dict[str, tuple[float, float]]] = {}
    for family, value, m, v in zip(design.family, design.value, mean, variance, strict=True):
        effects.setdefault(EFFECTS[family].name, {})[str(value)] = (float(m), float(v))
    return ServingLaw(
        vector, covariance, tasks, deviations, noise, effects, _used(known, rows), _counts(rows)
    )


def from_dict(data: Mapping[str, Any]) -> ServingLaw:
    """Rebuild a law from `to_dict`."""
    tasks = Tasks(tuple(data["tasks"]))
    vector = np.array(data["vector"], dtype=np.float64)
    if len(vector) != tasks.size:
        raise FitError(
            f"The law {NAME} of this FIT file has {len(vector)} numbers, not {tasks.size}.",
            where="FIT file, key pooled",
            fix="Fit again with `energylens fit`.",
        )
    return ServingLaw(
        vector=vector,
        covariance=np.array(data["covariance"], dtype=np.float64),
        tasks=tasks,
        deviations=np.array([float(data["deviations"][e.name]) for e in EFFECTS]),
        noise=float(data["noise"]),
        effects={
            family: {value: (float(m), float(v)) for value, (m, v) in found.items()}
            for family, found in data["effects"].items()
        },
        facts=Facts.from_dict(data["facts"]),
        provenance=dict(data["provenance"]),
    )


def _tokens(frame: pd.DataFrame) -> Array:
    """Return the output tokens of the whole batch; NaN where they are not known."""
    tokens = column(frame, "output_tokens", default=np.nan)
    result: Array = column(frame, "batch") * np.where(tokens > 0.0, tokens, np.nan)
    return result


def _used(facts: Facts, rows: pd.DataFrame) -> Facts:
    """Return the facts that the rows name."""
    models, hardware = set(text(rows, "model_id")), set(text(rows, "hardware"))
    return Facts(
        {k: v for k, v in facts.hardware.items() if k in hardware},
        {k: v for k, v in facts.models.items() if k in models},
    )


def _counts(rows: pd.DataFrame) -> dict[str, int]:
    if "provenance" not in rows.columns:
        return {}
    found = rows["provenance"].fillna("unknown").value_counts().sort_index()
    return {str(kind): int(n) for kind, n in found.items()}
