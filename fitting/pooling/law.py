"""The pooled law: one hierarchy over models and GPU types, for pairs with many, few or no rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fitting.facts import Facts, ModelFacts
from fitting.pooling.columns import Columns, columns_of
from fitting.pooling.errors import KINDS, NORMAL_95, Widening, spread_of
from fitting.pooling.hierarchy import Levels, Posterior, posterior
from fitting.pooling.known import Known, label_rows, labels_of
from fitting.pooling.parameters import N_PARAMETERS
from fitting.pooling.sizes import Machine
from fitting.pooling.terms import Phases, energies
from fitting.predict import CHUNK
from fitting.threads import one_thread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fitting.pooling.describe import PairParameter

    Array = NDArray[np.float64]
    Index = NDArray[np.intp]

NAME = "energylens_pooled"
FORM = "energylens12"


@dataclass(frozen=True)
class PooledLaw:
    """One law over models and GPU types; see `fit_pooled`.

    Attributes
    ----------
    provenance
        Provenance -> rows fitted.
    facts
        Datasheets and architectures that the law knows, estimated ones among them.
    machines
        GPU type -> rates and powers that its rows were fitted with.
    levels
        Groups whose effects the pairs share.
    pairs
        (model, hardware) of each pair that has rows.
    rows
        Rows of each pair, shape (pairs,).
    information, pull
        What the rows of each pair say of its parameters; see `posterior`.
    spread
        Standard deviation of the effects of each level, shape (levels + 1, parameters).
    scatter
        Kind of energy -> model -> relative scatter of rows; "" stands for any other model.
    widening
        Factors on errors.
    """

    provenance: dict[str, int]
    facts: Facts
    machines: dict[str, Machine]
    levels: Levels
    pairs: tuple[tuple[str, str], ...]
    rows: tuple[int, ...]
    information: Array
    pull: Array
    spread: Array
    scatter: dict[str, dict[str, float]]
    widening: Widening

    @property
    def name(self) -> str:
        """Name in the registry of pooled laws."""
        return NAME

    @cached_property
    def known(self) -> Known:
        """What is known of models and GPU types."""
        return Known(self.facts, self.machines)

    @cached_property
    def found(self) -> Posterior:
        """Effects of all groups, without their covariance."""
        prior = self.spread[self.levels.level]
        return posterior(
            self.information,
            self.pull,
            self.levels.member,
            prior,
            self.spread[-1],
            covariance=False,
        )

    @cached_property
    def wide_spread(self) -> Array:
        """Spreads of the levels as intervals count them."""
        factor = {
            "family": self.widening.model,
            "model": self.widening.model,
            "hardware": self.widening.hardware,
            "family on hardware": self.widening.hardware,
        }
        widened = [factor.get(name, 1.0) for name in self.levels.names]
        result: Array = self.spread * np.array([*widened, 1.0])[:, None]
        return result

    @cached_property
    def unsure(self) -> Posterior:
        """Effects with their covariance, for intervals."""
        spread = self.wide_spread
        prior = spread[self.levels.level]
        return posterior(self.information, self.pull, self.levels.member, prior, spread[-1])

    @cached_property
    def table(self) -> Array:
        """Parameters of the pairs that have rows, shape (pairs, parameters)."""
        return self.found.of_pairs(self.levels.member)

    def parameters_of(self, model: ModelFacts, hardware: str) -> Array:
        """Return the parameters of any pair, with rows or without, shape (parameters,)."""
        pair = (model.model_id, hardware)
        if pair in self.pairs:
            result: Array = self.table[self.pairs.index(pair)]
            return result
        groups = self.levels.find(labels_of(model, hardware))
        shared: Array = self.found.effects[groups[groups >= 0]].sum(axis=0)
        return shared

    def covariance_of(self, model: ModelFacts, hardware: str) -> Array:
        """Return the covariance of the parameters of any pair, as intervals count it."""
        prior = self.wide_spread[:-1]
        groups = self.levels.find(labels_of(model, hardware))
        pair = (model.model_id, hardware)
        if pair in self.pairs:
            return self.unsure.pair_covariance(self.pairs.index(pair), groups, prior)
        own = np.diag(self.wide_spread[-1] ** 2)
        result: Array = self.unsure.shared_covariance(groups, prior) + own
        return result

    def covers(self, frame: pd.DataFrame, facts: Facts | None = None) -> NDArray[np.bool_]:
        """Say which rows the law can answer for, shape (rows,).

        Those with batch and lengths, a GPU type that has a datasheet or was fitted, and a model
        that has facts, was fitted, or has `params_total` in its rows.
        """
        return self.known.joined(facts).covers(frame)

    def predict(self, frame: pd.DataFrame, facts: Facts | None = None) -> Array:
        """Return total_energy_j of each row, J, shape (rows,).

        Parameters
        ----------
        frame
            Rows of the measurement table.
        facts
            Facts of models and GPU types that were not fitted; the law's own come first.

        Raises
        ------
        FitError
            If a GPU type has neither a datasheet nor rows, or a length is missing.
        """
        asked = self._asked(frame, facts)
        result = np.zeros(len(frame))
        for piece in asked.pieces():
            phases = energies(asked.columns.take(piece), asked.table, asked.code[piece])
            result[piece] = phases.prefill + phases.decode
        return result

    @one_thread()
    def predict_phases(self, frame: pd.DataFrame, facts: Facts | None = None) -> pd.DataFrame:
        """Return the energies of both phases and their sum with 95 % prediction intervals.

        The intervals join the error of the parameters, what is not known of a model or GPU type
        without rows, and the scatter of rows.

        Returns
        -------
        DataFrame
            `prefill_energy_j`, `decode_energy_j`, `total_energy_j`, J, each with `_lo` and
            `_hi`; index of the frame.
        """
        asked = self._asked(frame, facts)
        covariance = self._covariances(asked)
        out = {
            f"{kind}_energy_j{end}": np.zeros(len(frame))
            for kind in KINDS
            for end in ("", "_lo", "_hi")
        }
        for piece in asked.pieces():
            phases = energies(
                asked.columns.take(piece), asked.table, asked.code[piece], slopes=True
            )
            for kind, (energy, error) in self._errors(phases, covariance, asked, piece).items():
                reach = np.exp(NORMAL_95 * error)
                out[f"{kind}_energy_j"][piece] = energy
                out[f"{kind}_energy_j_lo"][piece] = energy / reach
                out[f"{kind}_energy_j_hi"][piece] = energy * reach
        return pd.DataFrame(out, index=frame.index)

    def errors(self, frame: pd.DataFrame, facts: Facts | None = None) -> tuple[Array, Array]:
        """Return what rows share of the errors of ln(total energy), and what is their own.

        Candidates of one model on one GPU type err alike: what all of them cost too much does not
        change which one costs least.

        Returns
        -------
        shared
            Loadings, shape (rows, factors); the covariance of the errors is
            `shared @ shared.T + diag(own**2)`.
        own
            Standard deviation of what each row has for itself, shape (rows,). The intervals of
            `predict_phases` are those of both together.

        Raises
        ------
        FitError
            As `predict`.
        """
        from fitting.pooling.joint import joint_errors

        return joint_errors(self, self._asked(frame, facts))

    def _covariances(self, asked: Asked) -> Array:
        """Return the covariance of the parameters of each pair that is asked for."""
        result = np.zeros((len(asked.pairs), N_PARAMETERS, N_PARAMETERS))
        for i, pair in enumerate(asked.pairs):
            result[i] = self.covariance_of(*pair)
        return result

    def _errors(
        self, phases: Phases, covariance: Array, asked: Asked, piece: slice
    ) -> dict[str, tuple[Array, Array]]:
        """Return energy and standard deviation of its logarithm, for each kind of energy."""
        code = asked.code[piece]
        factor = np.array([self.widening.factor(m.model_id, h) for m, h in asked.pairs])[code]
        scatter = self.scatter_of(asked, piece)
        found = spread_of(phases, covariance, code, scatter, self.widening.rows)
        return {kind: (energy, factor * error) for kind, (energy, error) in found.items()}

    def scatter_of(self, asked: Asked, piece: slice) -> dict[str, Array]:
        """Return the scatter of each row of a piece, widened, for each kind of energy."""
        return {
            kind: self.widening.rows[kind]
            * np.array([known.get(m.model_id, known[""]) for m, _ in asked.pairs])[
                asked.code[piece]
            ]
            for kind, known in self.scatter.items()
        }

    def pair_parameters(self, model_id: str, hardware: str) -> list[PairParameter]:
        """Return the parameters of a pair with units and 95 % intervals.

        Raises
        ------
        FitError
            If nothing is known of the model or the GPU type.
        """
        from fitting.pooling.describe import pair_parameters

        return pair_parameters(self, model_id, hardware)

    def formula(self) -> str:
        """Return the law as text of at most 80 columns, with what all pairs share."""
        from fitting.pooling.describe import formula

        return formula(self)

    def updated(self, rows: pd.DataFrame, facts: Facts | None = None) -> PooledLaw:
        """Return the law with more rows: what it knew becomes the prior of what they say.

        Much cheaper than a new fit: spreads and scatters stay as they are.

        Raises
        ------
        FitError
            If no row is usable, or the provenance differs from that of the fitted rows.
        """
        from fitting.pooling.update import updated

        return updated(self, rows, facts)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; floats survive JSON exactly."""
        from fitting.pooling.stored import to_dict

        return to_dict(self)

    def _asked(self, frame: pd.DataFrame, facts: Facts | None) -> Asked:
        """Read what a prediction needs from rows."""
        known = self.known.joined(facts)
        labelled = label_rows(frame)
        models = labelled.facts(known)
        machines = [known.machine(name) for name in labelled.hardware]
        columns = columns_of(frame, models, machines, labelled.model, labelled.machine)
        pairs = [(models[i], labelled.hardware[j]) for i, j in labelled.pairs]
        table = np.zeros((len(pairs), N_PARAMETERS))
        for i, pair in enumerate(pairs):
            table[i] = self.parameters_of(*pair)
        return Asked(columns, table, labelled.code, pairs)


@dataclass(frozen=True, slots=True)
class Asked:
    """Rows to predict: sizes, parameters of their pairs, pair of each row."""

    columns: Columns
    table: Array
    code: Index
    pairs: list[tuple[ModelFacts, str]]

    def pieces(self) -> list[slice]:
        """Return slices of at most `CHUNK` rows."""
        return [slice(i, i + CHUNK) for i in range(0, len(self.code), CHUNK)]
