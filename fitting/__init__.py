"""Turn measurements into energy laws. Reads only the measurement table.

Names are loaded when first used, so that `import fitting` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fitting.diverging import divergence
    from fitting.evaluation import Evaluation, evaluate
    from fitting.fit import Fit, fit_frame, load_fit
    from fitting.pairfit import PairFit, Parameter

_HOME = {
    "Evaluation": "evaluation",
    "Fit": "fit",
    "PairFit": "pairfit",
    "Parameter": "pairfit",
    "divergence": "diverging",
    "evaluate": "evaluation",
    "fit_frame": "fit",
    "load_fit": "fit",
}

__all__ = [
    "Evaluation",
    "Fit",
    "PairFit",
    "Parameter",
    "divergence",
    "evaluate",
    "fit_frame",
    "load_fit",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
