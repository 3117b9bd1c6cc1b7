"""What to measure next: the configurations that lower the expected regret of choices most."""

from __future__ import annotations

from fitting.design.budget import Budget, Cost
from fitting.design.result import Design, PairOutlook
from fitting.design.run import METHODS, design

__all__ = ["METHODS", "Budget", "Cost", "Design", "PairOutlook", "design"]
