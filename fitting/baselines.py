"""What the law is compared with: rules that need no fit, and learners from scikit-learn."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from fitting.published.base import gpus_of
from fitting.work import WEIGHT_BYTES, column
from harness.store import FitError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from fitting.facts import Facts

TREES_FOREST = 64
TREES_EXTRA = 64
TREES_BOOSTING = 200
STEPS_PROCESS = 30
"""Most steps of the search for the length scales of the Gaussian process."""

_MODEL_FACTS = (
    "params_total",
    "params_active",
    "layers",
    "attention_layers",
    "hidden_size",
    "experts",
    "kv_bytes_per_token",
    "params_vision",
)
_HARDWARE_FACTS = (
    "memory_bandwidth_bytes_per_s",
    "power_limit_w",
    "interconnect_bytes_per_s",
)

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
    """Score by the rule "fewest GPUs that fit".

    Among equals the larger batch, where batches differ, then the fewest pipeline stages.

    Returns
    -------
    ndarray
        Number of GPUs plus a tie-break below one, shape (rows,). The rule predicts no energy.
    """
    batch = column(frame, "batch", default=1.0)
    stages = column(frame, "pipeline_parallel", default=1.0)
    return gpus_of(frame) + 0.5 / batch + stages / 2.0**20


def lowest_latency(frame: pd.DataFrame) -> NDArray[np.float64]:
    """Score by the measured latency of the whole batch, s: an oracle of latency, not of energy.

    Where `total_latency_s` is not known, the time between output tokens stands in for it.
    """
    score = column(frame, "total_latency_s", default=np.nan)
    between = column(frame, "itl_s", default=np.nan)
    return np.where(np.isnan(score), between, score)


def highest_throughput(frame: pd.DataFrame) -> NDArray[np.float64]:
    """Score by measured GPU-seconds per output token: an oracle of throughput per GPU.

    Where `total_latency_s` is not known, the time between output tokens stands in for that of an
    output token of all requests.
    """
    batch = column(frame, "batch", default=1.0)
    tokens = column(frame, "output_tokens", default=1.0)
    each = column(frame, "total_latency_s", default=np.nan) / tokens
    between = column(frame, "itl_s", default=np.nan)
    return gpus_of(frame) * np.where(np.isnan(each), between, each) / batch


RULES = {
    "fewest_gpus": fewest_gpus,
    "lowest_latency": lowest_latency,
    "highest_throughput": highest_throughput,
}
"""Methods that rank without being fitted. The last two know what was measured."""


def wilkins(train: pd.DataFrame, test: pd.DataFrame) -> NDArray[np.float64]:
    """Fit Wilkins et al. with relative loss and predict, J; see `fitting.published.tokens`."""
    from fitting.facts import Facts
    from fitting.published import PUBLISHED

    return PUBLISHED["wilkins"].fit(train, Facts()).predict(test, Facts())


def features(frame: pd.DataFrame) -> NDArray[np.float64]:
    """Return the inputs of the learners, shape (rows, features): logarithms and precision."""
    columns = [np.log2(column(frame, name, default=v) + 1.0) for name, v in _FEATURES.items()]
    if "precision" in frame.columns:
        names = frame["precision"].map(WEIGHT_BYTES)
        columns.append(names.to_numpy(dtype=np.float64, na_value=2.0))
    return np.column_stack(columns)


def fact_features(frame: pd.DataFrame, facts: Facts) -> NDArray[np.float64]:
    """Return logarithms of facts of model and GPU type, for learners of all pairs together.

    Names that are not known have zeros.
    """
    models = {k: [getattr(v, n) for n in _MODEL_FACTS] for k, v in facts.models.items()}
    kinds = {k: [getattr(v, n) for n in _HARDWARE_FACTS] for k, v in facts.hardware.items()}
    peaks = {k: max(v.peak_flops.get("bf16") or 0.0, 0.0) for k, v in facts.hardware.items()}
    no_model, no_kind = [0.0] * len(_MODEL_FACTS), [0.0] * len(_HARDWARE_FACTS)
    rows = [
        [*models.get(m, no_model), *kinds.get(h, no_kind), peaks.get(h, 0.0)]
        for m, h in zip(frame["model_id"].astype(str), frame["hardware"].astype(str), strict=True)
    ]
    values: NDArray[np.float64] = np.log2(np.nan_to_num(np.array(rows, dtype=np.float64)) + 1.0)
    return values


def learner(name: str, seed: int) -> object:
    """Return an unfitted learner of the logarithm of the energy.

    Parameters
    ----------
    name
        One of `LEARNERS`, or its name with `_pooled` at the end.
    seed
        Seed of its randomness.

    Raises
    ------
    FitError
        If there is no learner of that name.
    """
    from sklearn.ensemble import (
        ExtraTreesRegressor,
        GradientBoostingRegressor,
        RandomForestRegressor,
    )

    kind = name.removesuffix("_pooled")
    if kind == "random_forest":
        return RandomForestRegressor(TREES_FOREST, random_state=seed, n_jobs=1)
    if kind == "extra_trees":
        return ExtraTreesRegressor(TREES_EXTRA, random_state=seed, n_jobs=1)
    if kind == "gradient_boosting":
        depth = 6 if name.endswith("_pooled") else 3
        return GradientBoostingRegressor(
            n_estimators=TREES_BOOSTING, learning_rate=0.1, max_depth=depth, random_state=seed
        )
    if kind == "gaussian_process":
        return _gaussian_process(seed)
    known = (*RULES, *LEARNERS, *POOLED_LEARNERS)
    raise FitError(f"Unknown method {name!r}.", fix=f"Use some of {', '.join(known)}.")


def _gaussian_process(seed: int) -> object:
    """Return a Gaussian process: Matern 5/2, one length for each feature, and noise."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_selection import VarianceThreshold
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    class Process(GaussianProcessRegressor):  # type: ignore[misc]
        """One length scale a feature; how many there are is known when it is fitted."""

        def fit(self, X: Any, y: Any) -> Any:  # noqa: N803
            """Fit with as many length scales as features."""
            smooth = Matern(np.full(X.shape[1], 2.0), (0.1, 100.0), nu=2.5)
            noise = WhiteKernel(1e-3, (1e-6, 0.1))
            self.kernel = ConstantKernel(1.0, (0.01, 1000.0)) * smooth + noise
            with warnings.catch_warnings():
                # A feature that does not matter drives its length to the bound, as it should.
                warnings.simplefilter("ignore", ConvergenceWarning)
                return super().fit(X, y)

    process = Process(normalize_y=True, random_state=seed, optimizer=_few_steps)
    return make_pipeline(VarianceThreshold(), StandardScaler(), process)


def _few_steps(objective: Any, start: Any, bounds: Any) -> tuple[Any, float]:
    """Maximise the likelihood in at most `STEPS_PROCESS` steps."""
    from scipy.optimize import minimize

    options = {"maxiter": STEPS_PROCESS}
    found = minimize(objective, start, method="L-BFGS-B", jac=True, bounds=bounds, options=options)
    return found.x, float(found.fun)


LEARNERS = ("random_forest", "extra_trees", "gradient_boosting", "gaussian_process")
"""Methods from scikit-learn, one fit for each (model, hardware)."""

POOLED_LEARNERS = ("extra_trees_pooled", "gradient_boosting_pooled")
"""The same with one fit for all rows, given facts of models and GPU types too."""


def learn(
    name: str,
    train: pd.DataFrame,
    test: pd.DataFrame,
    seed: int,
    facts: Facts | None = None,
) -> NDArray[np.float64]:
    """Fit a learner to the logarithm of the total energy and predict it, J.

    With `facts`, those of models and GPU types are features too.
    """
    from sklearn import config_context

    def inputs(frame: pd.DataFrame) -> NDArray[np.float64]:
        own = features(frame)
        return own if facts is None else np.column_stack([own, fact_features(frame, facts)])

    model: Any = learner(name, seed)
    target = np.log(column(train, "total_energy_j"))
    # The checks that scikit-learn makes for every tree take longer than trees of 50 rows.
    with config_context(skip_parameter_validation=True, assume_finite=True):
        model.fit(inputs(train), target)
        return np.exp(np.asarray(model.predict(inputs(test)), dtype=np.float64))
