"""The kinds of tables that can be asked, each as one value: columns, scenarios, methods.

A table of another kind plugs in as one more `Table` in `TABLES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fitting.baselines import fewest_gpus
from fitting.extrapolation.answers import Answer, Method, Question, Rule, shared
from fitting.extrapolation.learners import learner
from fitting.extrapolation.pairlaws import Laws, individual, kin
from fitting.extrapolation.splits import base_names
from fitting.rows import usable
from fitting.scenarios import Scenarios, build, rectangle
from fitting.work import column

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from fitting.facts import Facts

POOLED, OWN, SERVING, DIFFUSION = (
    "energylens_pooled",
    "energylens12",
    "energylens_serving",
    "energylens_diffusion",
)
LAWS = (POOLED, OWN, SERVING, DIFFUSION)
"""Laws of this project; everything else is what they are compared with."""

UNTAUGHT = ("datasheet", "fewest_gpus")
"""Methods that a few rows teach nothing: they are asked once."""

SLOW = ("gradient_boosting", "random_forest")
"""Methods that learn all rows again: they are asked with no rows and with the most."""


@dataclass(frozen=True, slots=True)
class Table:
    """One kind of table.

    Attributes
    ----------
    name, about
        What it is called, and what its rows are.
    target
        Column of the energy that is predicted, J.
    kinds
        What can be held out of it.
    rows
        Picks its usable rows of a measurement table; may be none.
    scenarios
        Groups usable rows into choices.
    choice
        The choice, for people.
    methods
        Kind -> name -> method; the laws first.
    leads
        Kind -> the law that the verdict is about, the first that answers; `""` for any other.
    """

    name: str
    about: str
    target: str
    kinds: tuple[str, ...]
    rows: Callable[[pd.DataFrame], pd.DataFrame] = field(hash=False)
    scenarios: Callable[[pd.DataFrame], Scenarios] = field(hash=False)
    choice: str
    methods: Callable[[str], dict[str, Method]] = field(hash=False)
    leads: Mapping[str, tuple[str, ...]] = field(hash=False)

    def half_widths(self, rows: pd.DataFrame) -> NDArray[np.float64]:
        """Return half widths of the 95 % measurement intervals of the target, J; 0 if unknown."""
        total = column(rows, "total_energy_j", default=1.0)
        relative = column(rows, "total_energy_j_ci95_j", default=0.0) / total
        return np.nan_to_num(relative) * column(rows, self.target)

    def lead(self, kind: str) -> tuple[str, ...]:
        """Return the laws that a verdict may be about, the first choice first."""
        return self.leads.get(kind, self.leads[""])


def _rule() -> Method:
    return lambda train, question: Rule(fewest_gpus)


def _baselines() -> dict[str, Method]:
    return {
        "gradient_boosting": learner("gradient_boosting"),
        "random_forest": learner("random_forest"),
        "fewest_gpus": _rule(),
    }


def _workload_rows(frame: pd.DataFrame) -> pd.DataFrame:
    return usable(frame)[0]


def _workload_scenarios(rows: pd.DataFrame) -> Scenarios:
    return build(rows, "S1")


def _fit_pooled(rows: pd.DataFrame, facts: Facts) -> Any:
    from fitting.pooling import fit_pooled

    return fit_pooled(rows, facts)


def _update_pooled(law: Any, train: pd.DataFrame, rows: pd.DataFrame, question: Question) -> Any:
    return law.updated(rows)


def _workload_methods(kind: str) -> dict[str, Method]:
    laws = Laws()
    found: dict[str, Method] = {POOLED: shared(_fit_pooled, _update_pooled), OWN: individual(laws)}
    # Past a batch or a length every pair is its own nearest kin: the same law, twice.
    if kind not in ("batch", "length"):
        found |= {"kin": kin(laws), "datasheet": kin(laws, by_facts=True)}
    return found | _baselines()


def _serving_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Pick rows with an energy per output token that no law of lengths can use."""
    keep = _valid(frame) & np.isnan(column(frame, "input_tokens", default=np.nan))
    for name in ("energy_per_output_token_j", "total_energy_j", "batch", "params_active"):
        keep &= column(frame, name, default=0.0) > 0.0
    return frame.loc[keep]


def _serving_scenarios(rows: pd.DataFrame) -> Scenarios:
    """Fix model, task, GPU type and batch; choose GPU count, parallelism and precision."""
    named = rows.assign(_base=base_names(rows))
    return _grouped(named, ("_base", "task", "hardware", "batch"))


def _fit_serving(rows: pd.DataFrame, facts: Facts) -> Any:
    from fitting.serving import fit_serving

    return fit_serving(rows, facts)


def _update_serving(law: Any, train: pd.DataFrame, rows: pd.DataFrame, question: Question) -> Any:
    """Keep the shared parameters, and fit the effects of names to all rows."""
    import pandas as pd

    from fitting.serving import fit_serving

    return fit_serving(pd.concat([train, rows]), question.facts, shared=law)


def _ask_serving(law: Any, frame: pd.DataFrame, facts: Facts) -> Answer:
    """Return the energy of an output token with its interval, J."""
    energy = law.predict_per_token(frame, facts)
    low, high = law.interval_per_token(frame, facts)
    return Answer(energy, energy, low, high)


def _serving_methods(kind: str) -> dict[str, Method]:
    return {SERVING: shared(_fit_serving, _update_serving, _ask_serving)} | _baselines()


def _diffusion_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Pick rows of image and video generation."""
    keep = _valid(frame)
    for name in ("diffusion_steps", "total_energy_j", "batch"):
        keep &= column(frame, name, default=0.0) > 0.0
    return frame.loc[keep]


def _diffusion_scenarios(rows: pd.DataFrame) -> Scenarios:
    """Fix model, task, GPU type, batch and size; choose GPU count and parallelism."""
    size = ("diffusion_steps", "output_images", "output_frames", "output_height", "output_width")
    return _grouped(rows, ("model_id", "task", "hardware", "batch", "precision", *size))


def _fit_diffusion(rows: pd.DataFrame, facts: Facts) -> Any:
    from fitting.diffusion import fit_diffusion

    return fit_diffusion(rows, facts)


def _update_diffusion(law: Any, train: pd.DataFrame, rows: pd.DataFrame, question: Question) -> Any:
    """Adapt to a new model or GPU type; what else is new moves the shared parameters too."""
    import pandas as pd

    if question.kind in ("hardware", "model"):
        return law.adapted(rows, question.facts)
    return _fit_diffusion(pd.concat([train, rows]), question.facts)


def _diffusion_methods(kind: str) -> dict[str, Method]:
    return {DIFFUSION: shared(_fit_diffusion, _update_diffusion)} | _baselines()


def _valid(frame: pd.DataFrame) -> NDArray[np.bool_]:
    if "valid" not in frame.columns:
        return np.ones(len(frame), dtype=bool)
    # A copy: the array may share its memory with the caller's frame.
    return frame["valid"].astype("boolean").fillna(True).to_numpy(dtype=bool, copy=True)


def _grouped(rows: pd.DataFrame, keys: tuple[str, ...]) -> Scenarios:
    """Group rows that agree in the keys that the table has."""
    known = [key for key in keys if key in rows.columns]
    codes = rows.groupby(known, dropna=False, sort=True).ngroup().to_numpy().astype(np.intp)
    return Scenarios("S1", rectangle(codes, np.ones(len(rows), dtype=bool)))


TABLES = (
    Table(
        name="workloads",
        about="batches with known lengths",
        target="total_energy_j",
        kinds=("hardware", "batch", "length", "precision", "model", "family", "modality"),
        rows=_workload_rows,
        scenarios=_workload_scenarios,
        choice="model, hardware, workload and GPU count given: choose (t, p)",
        methods=_workload_methods,
        leads={"": (POOLED, "kin"), "batch": (OWN, POOLED), "length": (OWN, POOLED)},
    ),
    Table(
        name="serving",
        about="serving rows without input lengths, energy per output token",
        target="energy_per_output_token_j",
        kinds=("hardware", "batch", "precision", "task", "model", "family", "modality"),
        rows=_serving_rows,
        scenarios=_serving_scenarios,
        choice="model, task, GPU type and batch given: choose GPUs, layout, precision",
        methods=_serving_methods,
        leads={"": (SERVING,)},
    ),
    Table(
        name="diffusion",
        about="image and video generation",
        target="total_energy_j",
        kinds=("hardware", "batch", "task", "model"),
        rows=_diffusion_rows,
        scenarios=_diffusion_scenarios,
        choice="model, task, GPU type, batch and size given: choose GPUs and layout",
        methods=_diffusion_methods,
        leads={"": (DIFFUSION,)},
    ),
)
"""Kinds of tables, in the order in which a measurement table is searched for them."""
