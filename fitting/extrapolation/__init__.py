"""How far laws carry: hold something out by name, fit on the rest, ask for what was held out."""

from __future__ import annotations

from fitting.extrapolation.run import BUDGETS, Extrapolation, extrapolate
from fitting.extrapolation.splits import KINDS
from fitting.extrapolation.verdicts import Thresholds, Verdict

__all__ = ["BUDGETS", "KINDS", "Extrapolation", "Thresholds", "Verdict", "extrapolate"]
