"""Plans a sweep: launches and tasks, skips with reasons, projected time and energy."""

from __future__ import annotations

from harness.plan.build import make_plan, task_cost
from harness.plan.estimator import (
    Estimator,
    FallbackEstimator,
    Refusal,
    TaskEstimate,
    default_estimator,
)
from harness.plan.records import Cost, Launch, Plan, Skip
from harness.plan.remember import RememberingEstimator
from harness.plan.roofline import RooflineEstimator
from harness.plan.twin import TwinEstimator
from harness.spec.reasons import EXPLANATIONS, SkipReason

__all__ = [
    "EXPLANATIONS",
    "Cost",
    "Estimator",
    "FallbackEstimator",
    "Launch",
    "Plan",
    "Refusal",
    "RememberingEstimator",
    "RooflineEstimator",
    "Skip",
    "SkipReason",
    "TaskEstimate",
    "TwinEstimator",
    "default_estimator",
    "make_plan",
    "task_cost",
]
