"""Learners from scikit-learn that see what a shared law sees: the work and the facts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fitting.extrapolation.answers import Answer, Method, Question
from fitting.work import COMPUTE_COST, WEIGHT_BYTES, column

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from fitting.facts import Facts

TREES_FOREST = 32
TREES_BOOSTING = 200

WORK = (
    "tensor_parallel",
    "pipeline_parallel",
    "data_parallel",
    "expert_parallel",
    "ulysses_degree",
    "ring_degree",
    "num_gpus",
    "batch",
    "input_tokens",
    "output_tokens",
    "visual_tokens",
    "images",
    "frames",
    "params_active",
    "params_total",
    "diffusion_steps",
    "output_images",
    "output_frames",
    "output_height",
    "output_width",
)
"""Columns of a row that learners see, as log2(1 + x); those that a table has not are 0."""

_HARDWARE = (
    "memory_bytes",
    "memory_bandwidth_bytes_per_s",
    "power_limit_w",
    "interconnect_bytes_per_s",
)
_MODEL = (
    "layers",
    "attention_layers",
    "state_layers",
    "hidden_size",
    "heads",
    "kv_heads",
    "vocab_size",
    "experts",
    "experts_per_token",
    "params_vision",
    "kv_bytes_per_token",
    "state_bytes_per_sequence",
)


def features(frame: pd.DataFrame, facts: Facts) -> NDArray[np.float64]:
    """Return the inputs of the learners, shape (rows, features): logarithms and precision."""
    columns = [np.log2(column(frame, name, default=0.0) + 1.0) for name in WORK]
    precision = frame["precision"] if "precision" in frame.columns else None
    for known, default in ((WEIGHT_BYTES, 2.0), (COMPUTE_COST, 1.0)):
        if precision is not None:
            columns.append(precision.map(known).fillna(default).to_numpy(dtype=np.float64))
    for name, known_facts, fields in (
        ("hardware", facts.hardware, _HARDWARE),
        ("model_id", facts.models, _MODEL),
    ):
        texts = frame[name].astype(str)
        table = {text: _logarithms(known_facts.get(text), fields) for text in set(texts)}
        columns += list(np.array([table[text] for text in texts]).T)
    peak = {
        name: np.log2(value.peak_flops.get("bf16", 0.0) + 1.0)
        for name, value in facts.hardware.items()
    }
    columns.append(frame["hardware"].astype(str).map(peak).fillna(0.0).to_numpy(dtype=np.float64))
    return np.column_stack(columns)


def _logarithms(facts: Any, fields: tuple[str, ...]) -> list[float]:
    return [float(np.log2(1.0 + (getattr(facts, name, 0.0) or 0.0))) for name in fields]


@dataclass(frozen=True, slots=True)
class Learner:
    """A learner of the logarithm of the energy, over all models and hardware."""

    name: str
    question: Question
    train: pd.DataFrame
    model: Any

    def updated(self, rows: pd.DataFrame) -> Learner:
        """Learn again from all rows."""
        import pandas as pd

        return _learn(self.name, pd.concat([self.train, rows]), self.question)

    def answer(self, frame: pd.DataFrame) -> Answer:
        """Predict rows; learners give no interval."""
        from sklearn import config_context

        with config_context(skip_parameter_validation=True, assume_finite=True):
            found = self.model.predict(features(frame, self.question.facts))
        energy = np.exp(np.asarray(found, dtype=np.float64))
        return Answer(energy, energy)


def _learn(name: str, train: pd.DataFrame, question: Question) -> Learner:
    from sklearn import config_context

    model: Any
    if name == "random_forest":
        from sklearn.ensemble import RandomForestRegressor

        model = RandomForestRegressor(
            TREES_FOREST, max_features=0.5, random_state=question.seed, n_jobs=1
        )
    else:
        from sklearn.ensemble import HistGradientBoostingRegressor

        model = HistGradientBoostingRegressor(
            max_iter=TREES_BOOSTING, max_leaf_nodes=15, random_state=question.seed
        )
    target = np.log(column(train, question.target))
    with config_context(skip_parameter_validation=True, assume_finite=True):
        model.fit(features(train, question.facts), target)
    return Learner(name, question, train, model)


def learner(name: str) -> Method:
    """Return the method of a learner: `random_forest` or `gradient_boosting`."""

    def learn(train: pd.DataFrame, question: Question) -> Learner:
        return _learn(name, train, question)

    return learn
