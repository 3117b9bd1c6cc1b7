"""The laws as scikit-learn regressors: `fit(X, y)`, `predict(X)`, pipelines, cross-validation.

`EnergyLawRegressor` is the law of one (model, hardware). `PooledEnergyLawRegressor` takes rows
of many, with pooled laws for pairs that training rows do not hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from fitting.rows import PHASE_ENERGIES, Group, row_hash
from harness.store import FitError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from fitting.facts import Facts
    from fitting.pairfit import PairFit

FEATURES = (
    "batch",
    "input_tokens",
    "output_tokens",
    "tensor_parallel",
    "pipeline_parallel",
    "data_parallel",
    "visual_tokens",
    "images",
    "frames",
    "expert_parallel",
)
"""What the columns of an array are, in this order, unless `feature_names` says otherwise."""

COUNTS = (
    "batch",
    "input_tokens",
    "output_tokens",
    "tensor_parallel",
    "pipeline_parallel",
    "data_parallel",
    "expert_parallel",
)
"""Columns that must hold at least 1."""

_ANSWERS = (*PHASE_ENERGIES, "total_energy_j", "energy_per_output_token_j")


class EnergyLawRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """The energy law of one (model, hardware), fitted to total energies.

    Parameters
    ----------
    form : str, default="energylens12"
        Name of the law; `auto` takes the smaller one where rows are few.
    feature_names : sequence of str or None, default=None
        Columns of the measurement table that the columns of X stand for. Without it a DataFrame
        is read by its own names, and an array in the order of `FEATURES`.
    constants : mapping of str to value or None, default=None
        Columns that X has not -> the value that all rows have, such as `{"output_tokens": 128}`.
    clip : bool, default=False
        Take counts from 0 to 1 (batch, lengths, parallel degrees) as 1. By default such rows
        are refused.

    Attributes
    ----------
    law_ : PairFit
        The fitted law: parameters with errors, domain, what is not identifiable.
    n_features_in_ : int
        Columns of X.
    feature_names_in_ : ndarray
        Their names, if X was a DataFrame.

    Examples
    --------
    >>> import pandas as pd
    >>> from fitting.estimators import EnergyLawRegressor
    >>> rows = pd.DataFrame(
    ...     {"batch": [1, 2, 4, 8, 16, 32, 64, 64], "input_tokens": 512, "output_tokens": 128}
    ... )
    >>> joules = 50.0 * rows["batch"] ** 0.5 + 8.0 * rows["batch"]
    >>> law = EnergyLawRegressor(form="energylens6").fit(rows, joules)
    >>> law.predict(rows).shape
    (8,)

    References
    ----------
    docs/law.md.
    """

    def __init__(
        self,
        form: str = "energylens12",
        feature_names: Sequence[str] | None = None,
        constants: Mapping[str, Any] | None = None,
        clip: bool = False,
    ) -> None:
        self.form = form
        self.feature_names = feature_names
        self.constants = constants
        self.clip = clip

    def fit(self, X: Any, y: Any) -> EnergyLawRegressor:  # noqa: N803
        """Fit the law.

        Parameters
        ----------
        X : DataFrame or array, shape (rows, columns)
            Deployment and workload columns of the measurement table.
        y : array, shape (rows,)
            total_energy_j, J, positive.

        Raises
        ------
        ValueError
            If a column is missing or unknown, a count is below 1, an energy is not positive, or
            rows are fewer than parameters.
        """
        from fitting.fit import law_for
        from fitting.pairfit import fit_pair

        frame, energy = self._frame(X, y, fitting=True)
        if not (energy > 0.0).all():
            raise ValueError("y holds energies that are not above zero.")
        rows = frame.assign(total_energy_j=energy)
        try:
            form = law_for(self.form, len(rows))
            self.law_: PairFit = fit_pair(Group("X", "X", rows, row_hash(rows)), form)
        except FitError as error:
            raise ValueError(f"n_samples={len(rows)}: {error}") from error
        return self

    def predict(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        """Return total_energy_j of each row, J, shape (rows,).

        Raises
        ------
        ValueError
            As `fit`.
        """
        return self._answers(X)["total_energy_j"]

    def predict_interval(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        """Return the 95 % prediction interval of each row, J, shape (rows, 2)."""
        answers = self._answers(X)
        return np.column_stack([answers["total_energy_j_lo"], answers["total_energy_j_hi"]])

    def formula(self) -> str:
        """Return the fitted law as text, with numbers and units."""
        from fitting.formula import formula_text

        check_is_fitted(self, "law_")
        return formula_text(self.law_)

    def _answers(self, X: Any) -> dict[str, NDArray[np.float64]]:  # noqa: N803
        from fitting.fitted import pair_phases

        check_is_fitted(self, "law_")
        frame, _ = self._frame(X)
        try:
            return pair_phases(self.law_, frame)
        except FitError as error:
            raise ValueError(str(error)) from error

    def _frame(
        self,
        X: Any,  # noqa: N803
        y: Any = None,
        *,
        fitting: bool = False,
    ) -> tuple[pd.DataFrame, NDArray[np.float64]]:
        """Return X as columns of the table, and y as floats (empty unless fitting)."""
        import pandas as pd

        energy = np.zeros(0)
        named = isinstance(X, pd.DataFrame) and all(isinstance(c, str) for c in X.columns)
        if named and self.feature_names is None:
            validate_data(self, X, reset=fitting, skip_check_array=True)
            energy = _energies(self, y, len(X)) if fitting else energy
            frame = X.reset_index(drop=True)
        elif fitting:
            values, energy = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
            frame = pd.DataFrame(values, columns=self._names(values.shape[1]))
        else:
            values = validate_data(self, X, dtype=np.float64, reset=False)
            frame = pd.DataFrame(values, columns=self._names(values.shape[1]))
        for name, value in (self.constants or {}).items():
            if name not in frame.columns:
                frame[name] = value
        missing = [name for name in FEATURES[:3] if name not in frame.columns]
        if missing:
            raise ValueError(
                f"X with {self.n_features_in_} feature(s) has no {', '.join(missing)}; batch, "
                "input_tokens and output_tokens are needed."
            )
        frame = frame.drop(columns=[c for c in _ANSWERS if c in frame.columns])
        return _checked(frame, type(self).__name__, clip=self.clip), energy

    def _names(self, n: int) -> list[str]:
        """Return the names of the columns of an array."""
        if self.feature_names is None:
            if n > len(FEATURES):
                raise ValueError(
                    f"X has {n} columns; without feature_names at most {len(FEATURES)} are known: "
                    f"{', '.join(FEATURES)}."
                )
            return list(FEATURES[:n])
        names = [str(name) for name in self.feature_names]
        if len(names) != n or len(set(names)) != n:
            raise ValueError(f"X has {n} columns, but feature_names are {', '.join(names)}.")
        return names

    def __sklearn_tags__(self) -> Any:
        """Say to scikit-learn that X and y are positive."""
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        tags.target_tags.positive_only = True
        # Only energies of inference follow the law; on other numbers it scores badly.
        tags.regressor_tags.poor_score = True
        return tags


class PooledEnergyLawRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Laws of many models and GPU types, with pooled laws for those that were not fitted.

    Parameters
    ----------
    facts : Facts or None, default=None
        Datasheets and architectures; `energylens.facts.facts_for(X)` takes them from the
        catalog. Without them pooled laws estimate from the columns of the rows.
    form : str, default="auto"
        Law of pairs with rows enough; pairs with fewer are answered by the pooled law.

    Attributes
    ----------
    fit_ : Fit
        The fitted laws.

    Notes
    -----
    X is a DataFrame with model_id, hardware, deployment and workload columns; y is
    total_energy_j, J. To test on unseen models, split by `facts.backbone(model_id)` with
    scikit-learn's GroupKFold.
    """

    def __init__(self, facts: Facts | None = None, form: str = "auto") -> None:
        self.facts = facts
        self.form = form

    def fit(self, X: pd.DataFrame, y: Any) -> PooledEnergyLawRegressor:  # noqa: N803
        """Fit the laws.

        Raises
        ------
        ValueError
            If a column is missing, an energy is not positive, or rows are too few for any law.
        """
        from fitting.fit import fit_frame

        frame = self._frame(X, reset=True)
        energy = _energies(self, y, len(frame))
        if not (energy > 0.0).all():
            raise ValueError("y holds energies that are not above zero.")
        try:
            self.fit_ = fit_frame(
                frame.assign(total_energy_j=energy), form=self.form, facts=self.facts, pooled=True
            )
        except FitError as error:
            raise ValueError(f"n_samples={len(frame)}: {error}") from error
        self.fit_.facts_source = None
        return self

    def predict(self, X: pd.DataFrame) -> NDArray[np.float64]:  # noqa: N803
        """Return total_energy_j of each row, J, shape (rows,).

        Raises
        ------
        ValueError
            If a row is of a pair that no law covers.
        """
        check_is_fitted(self, "fit_")
        try:
            return self.fit_.predict(self._frame(X, reset=False))
        except FitError as error:
            raise ValueError(str(error)) from error

    def _frame(self, X: pd.DataFrame, *, reset: bool) -> pd.DataFrame:  # noqa: N803
        import pandas as pd

        if not isinstance(X, pd.DataFrame):
            raise ValueError("X must be a DataFrame with model_id, hardware and workload columns.")
        validate_data(self, X, reset=reset, skip_check_array=True)
        return X.drop(columns=[c for c in _ANSWERS if c in X.columns]).reset_index(drop=True)


def _checked(frame: pd.DataFrame, name: str, *, clip: bool) -> pd.DataFrame:
    """Refuse negative numbers; take counts below 1 as 1 if so wished."""
    own = [c for c in FEATURES if c in frame.columns]
    try:
        negative = (frame[own] < 0.0).to_numpy().any()
    except TypeError as error:
        raise ValueError(f"X holds what is no number in {', '.join(own)}: {error}") from error
    if negative:
        raise ValueError(f"Negative values in data passed to {name}: X holds counts.")
    if clip:
        counts = [c for c in COUNTS if c in frame.columns]
        frame[counts] = frame[counts].clip(lower=1.0)
    return frame


def _energies(estimator: BaseEstimator, y: Any, n: int) -> NDArray[np.float64]:
    """Return y as floats of shape (n,)."""
    from sklearn.utils.validation import column_or_1d

    if y is None:
        raise ValueError(
            f"{type(estimator).__name__} requires y to be passed, but the target y is None."
        )
    values: NDArray[np.float64] = np.asarray(column_or_1d(y), dtype=np.float64)
    if len(values) != n:
        raise ValueError(f"X has {n} rows, but y has {len(values)}.")
    if not np.isfinite(values).all():
        raise ValueError("y holds NaN or infinity.")
    return values
