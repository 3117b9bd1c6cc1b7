"""What the law is compared with: rules, a published form, and learners from scikit-learn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fitting.work import WEIGHT_BYTES, column
from harness.store import FitError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

TREES_FOREST = 64
TREES_BOOSTING = 200

_FEATURES: dict[str, float] = {
    "tensor_parallel": 1.0,
    "pipeline_parallel": 1.0,
    "data_parallel": 1.0,
    "batch": 1.0,
    "input_tokens": 1.0,
    "output_tokens": 1.0,
    "visual_tokens": 0.0,
    "images": 0.0,
    "frames": 0.0,
}


def fewest_gpus(frame: pd.DataFrame) -> NDArray[np.float64]:
    """Score by the rule "fewest GPUs that fit"; among equals the fewest pipeline stages.

    Returns
    -------
    ndarray
        Number of GPUs plus a tie-break below one, shape (rows,). The rule predicts no energy.
    """
    if "num_gpus" in frame.columns:
        gpus = column(frame, "num_gpus")
    else:
        gpus = np.ones(len(frame))
        for name in ("tensor_parallel", "pipeline_parallel", "data_parallel"):
            gpus = gpus * column(frame, name, default=1.0)
    return gpus + column(frame, "pipeline_parallel", default=1.0) / 1024.0


def lowest_latency(frame: pd.DataFrame) -> NDArray[np.float64]:
    """Score by the measured latency of the whole batch, s: an oracle of latency, not of energy.

    Where `total_latency_s` is not known, the time between output tokens stands in for it.
    """
    score = column(frame, "total_latency_s", default=np.nan)
    between = column(frame, "itl_s", default=np.nan)
    return np.where(np.isnan(score), between, score)


RULES = {"fewest_gpus": fewest_gpus, "lowest_latency": lowest_latency}
"""Methods that rank without being fitted."""


def wilkins(train: pd.DataFrame, test: pd.DataFrame) -> NDArray[np.float64]:
    """Fit and predict e = a0 n + a1 m + a2 n m (Wilkins et al., arXiv 2407.04014).

    One fit a (model, system), energy of a request, with relative least squares instead of the
    ordinary ones of the paper, which serves the form better. It knows neither parallelism nor
    batch, so all candidates of a scenario tie on one GPU type.

    Returns
    -------
    ndarray
        total_energy_j of the test rows, J.
    """

    def terms(frame: pd.DataFrame) -> NDArray[np.float64]:
        n, m = column(frame, "input_tokens"), column(frame, "output_tokens")
        return np.column_stack([n, m, n * m])

    energy = column(train, "total_energy_j") / column(train, "batch")
    matrix = terms(train) / energy[:, None]
    norm = np.linalg.norm(matrix, axis=0)
    found = np.linalg.lstsq(matrix / norm, np.ones(len(train)), rcond=None)[0] / norm
    result: NDArray[np.float64] = terms(test) @ found * column(test, "batch")
    return result


def features(frame: pd.DataFrame) -> NDArray[np.float64]:
    """Return the inputs of the learners, shape (rows, features): logarithms and precision."""
    columns = [np.log2(column(frame, name, default=v) + 1.0) for name, v in _FEATURES.items()]
    if "precision" in frame.columns:
        names = frame["precision"].map(WEIGHT_BYTES)
        columns.append(names.to_numpy(dtype=np.float64, na_value=2.0))
    return np.column_stack(columns)


def learner(name: str, seed: int) -> object:
    """Return an unfitted learner of the logarithm of the energy.

    Raises
    ------
    FitError
        If there is no learner of that name.
    """
    from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor

    if name == "random_forest":
        return RandomForestRegressor(TREES_FOREST, random_state=seed, n_jobs=1)
    if name == "gradient_boosting":
        return GradientBoostingRegressor(
            n_estimators=TREES_BOOSTING, learning_rate=0.1, max_depth=3, random_state=seed
        )
    raise FitError(
        f"Unknown method {name!r}.", fix=f"Use some of {', '.join((*RULES, *LEARNERS))}."
    )


LEARNERS = ("random_forest", "gradient_boosting")
"""Methods from scikit-learn."""


def learn(name: str, train: pd.DataFrame, test: pd.DataFrame, seed: int) -> NDArray[np.float64]:
    """Fit a learner to the logarithm of the total energy and predict it, J."""
    from sklearn import config_context

    model = learner(name, seed)
    target = np.log(column(train, "total_energy_j"))
    # The checks that scikit-learn makes for every tree take longer than trees of 50 rows.
    with config_context(skip_parameter_validation=True, assume_finite=True):
        model.fit(features(train), target)  # type: ignore[attr-defined]
        return np.exp(np.asarray(model.predict(features(test))))  # type: ignore[attr-defined]
