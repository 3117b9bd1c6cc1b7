"""What to measure: sweeps, workloads, deployments, and the tasks a sweep expands to."""

from __future__ import annotations

from harness.spec.deployment import Deployment, Precision
from harness.spec.expand import Dropped, Expansion, expand, expand_sweep
from harness.spec.facts import load_hardware_facts, load_models
from harness.spec.reasons import EXPLANATIONS, SkipReason
from harness.spec.schema import sweep_json_schema, write_sweep_schema
from harness.spec.sweep import Budgets, Sweep, TwinSettings, load_sweep, parse_sweep
from harness.spec.task import Task, configuration_columns, task_columns
from harness.spec.workload import Modality, Workload

__all__ = [
    "EXPLANATIONS",
    "Budgets",
    "Deployment",
    "Dropped",
    "Expansion",
    "Modality",
    "Precision",
    "SkipReason",
    "Sweep",
    "Task",
    "TwinSettings",
    "Workload",
    "configuration_columns",
    "expand",
    "expand_sweep",
    "load_hardware_facts",
    "load_models",
    "load_sweep",
    "parse_sweep",
    "sweep_json_schema",
    "task_columns",
    "write_sweep_schema",
]
