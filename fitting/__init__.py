"""Turn measurements into energy laws. Reads only the measurement table.

Names are loaded when first used, so that `import fitting` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fitting.diverging import divergence
    from fitting.estimators import EnergyLawRegressor, PooledEnergyLawRegressor
    from fitting.evaluation import Evaluation, evaluate
    from fitting.extrapolation import Extrapolation, extrapolate
    from fitting.fit import fit_frame
    from fitting.fitfile import load_fit
    from fitting.fitted import Fit
    from fitting.pairfit import PairFit, Parameter

_HOME = {
    "EnergyLawRegressor": "estimators",
    "Evaluation": "evaluation",
    "Extrapolation": "extrapolation",
    "Fit": "fitted",
    "PairFit": "pairfit",
    "Parameter": "pairfit",
    "PooledEnergyLawRegressor": "estimators",
    "divergence": "diverging",
    "evaluate": "evaluation",
    "extrapolate": "extrapolation",
    "fit_frame": "fit",
    "load_fit": "fitfile",
}

__all__ = [
    "EnergyLawRegressor",
    "Evaluation",
    "Extrapolation",
    "Fit",
    "PairFit",
    "Parameter",
    "PooledEnergyLawRegressor",
    "divergence",
    "evaluate",
    "extrapolate",
    "fit_frame",
    "load_fit",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
