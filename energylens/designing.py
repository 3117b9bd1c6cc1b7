"""The next measurements of a sweep or a run folder, and the sweep file that makes them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import EnergyLensError, SweepError

if TYPE_CHECKING:
    import pandas as pd

    from fitting.design import Budget, Design
    from harness.plan import Plan
    from harness.spec import Sweep, Task

KEPT = (
    "repeats",
    "window_s",
    "launch_s",
    "price_per_gpu_hour",
    "twin",
    "measuring",
    "transformers",
    "keep_traces",
    "isolate_launches",
)
"""Fields of the sweep that its next part keeps."""


@dataclass(frozen=True, slots=True)
class NextRuns:
    """A design with what is needed to run it.

    Attributes
    ----------
    design
        The design; `fitting.design`.
    plan
        Plan of all candidates.
    tasks
        Tasks of the design, in the order of its table.
    provenance
        Provenance -> measured rows that the design learnt from.
    seconds
        Time it took to find, s.
    saved_to
        The file it was written to, or None.
    """

    design: Design
    plan: Plan
    tasks: tuple[Task, ...]
    provenance: Mapping[str, int]
    seconds: float
    saved_to: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the design as plain values."""
        return {
            "sweep": self.plan.sweep.name,
            "candidates": len(self.plan.tasks),
            "provenance": dict(self.provenance),
            **self.design.to_dict(),
            "seconds": self.seconds,
            "saved_to": None if self.saved_to is None else str(self.saved_to),
        }


def design_next(
    target: Path,
    *,
    measured: Path | None = None,
    budget: Budget,
    method: str = "regret",
    fit: Path | None = None,
    seed: int = 0,
    out: Path | None = None,
) -> NextRuns:
    """Choose what to measure next.

    Parameters
    ----------
    target
        A sweep file, all of whose tasks are candidates; or a run folder, whose sweep is.
    measured
        A run folder with rows of the sweep that are measured; the target itself if it is one.
    budget, method, seed
        Passed to `fitting.design`.
    fit
        A FIT file that stands for the measured rows of the pairs it knows.
    out
        Where to write the design: `.yaml` a sweep for `energylens run`, `.csv` a table.

    Raises
    ------
    EnergyLensError
        If the target has no sweep, nothing is left to measure, the budget is too small, or the
        file cannot be written.
    """
    from energylens.facts import facts_for
    from fitting import load_fit
    from fitting.coverage import counts
    from fitting.design import Cost, design

    began_s = time.perf_counter()
    if out is not None and out.suffix not in (".yaml", ".yml", ".csv"):
        raise EnergyLensError(
            f"a design cannot be written as {out.suffix or out.name!r}",
            where=f"--out {out}",
            fix="end the name in .yaml (a sweep to run) or .csv (a table)",
        )
    target = _on_this_machine(target)
    measured = None if measured is None else _on_this_machine(measured)
    folder = measured if measured is not None or not target.is_dir() else target
    known = None if folder is None else _measurements(folder)
    plan = _plan(target)
    candidates = candidates_of(plan)
    found = design(
        candidates,
        facts_for(candidates),
        measured=known,
        budget=budget,
        method=method,
        cost=Cost(launch_s=plan.sweep.launch_s),
        fit=None if fit is None else load_fit(fit),
        seed=seed,
    )
    tasks = plan.tasks
    result = NextRuns(
        found,
        plan,
        tuple(tasks[i] for i in found.table.index),
        {} if known is None else counts(known),
        time.perf_counter() - began_s,
        out,
    )
    if out is not None:
        _write(out, result)
    return result


def candidates_of(plan: Plan) -> pd.DataFrame:
    """Return the tasks of a plan as rows, with the time that measuring each takes.

    Returns
    -------
    pandas.DataFrame
        One row a task in the order of `plan.tasks`: what is known before measuring, and
        `cost_s`, s.
    """
    import pandas as pd

    from harness.plan import default_estimator, task_cost
    from harness.plan.build import DECODES
    from harness.spec import task_columns

    ask = default_estimator(plan.sweep.engine)
    sweep, records = plan.sweep, []
    for launch in plan.launches:
        model = plan.models[launch.model_id]
        gpu = plan.hardware[launch.deployment.hardware]
        workloads = [task.workload for task in launch.tasks]
        estimates = ask.estimate(model, gpu, launch.deployment, workloads)
        for task, estimate in zip(launch.tasks, estimates, strict=True):
            seconds, _ = task_cost(
                estimate,
                window_s=sweep.window_s,
                repeats=sweep.repeats,
                decode=sweep.engine in DECODES,
            )
            records.append({**task_columns(task, model), "cost_s": seconds})
    return pd.DataFrame.from_records(records)


def sweep_text(plan: Plan, tasks: tuple[Task, ...]) -> str:
    """Return a sweep of the given tasks only, which `energylens run` can take.

    It has the name of the sweep that they are of, so that it may fill the same run folder.
    """
    import yaml

    names = _names(plan)
    sweep = plan.sweep
    given = sweep.model_dump(mode="json", include=set(KEPT), exclude_defaults=True)
    head = {
        "name": sweep.name,
        "description": f"The {len(tasks)} configurations of {sweep.name} to measure next.",
        "engine": sweep.engine,
        "models": list(dict.fromkeys(names[task.model_id] for task in tasks)),
        "hardware": list(dict.fromkeys(task.deployment.hardware for task in tasks)),
        **given,
    }
    lines = [yaml.safe_dump(head, sort_keys=False, width=100).rstrip(), "include:"]
    for task in tasks:
        item = {"model": names[task.model_id], **_configuration(task)}
        text = yaml.safe_dump(item, default_flow_style=True, sort_keys=False, width=10**6)
        lines.append(f"  - {text.strip()}")
    return "\n".join(lines) + "\n"


def _configuration(task: Task) -> dict[str, Any]:
    """Return a task as an item of `include`; what is the default is left out."""
    deployment, workload = task.deployment, task.workload
    item: dict[str, Any] = {"hardware": deployment.hardware, "precision": deployment.precision}
    for axis in ("tensor_parallel", "pipeline_parallel", "expert_parallel", "data_parallel"):
        if getattr(deployment, axis) != 1:
            item[axis] = getattr(deployment, axis)
    size = [workload.image_height, workload.image_width]
    if workload.modality == "text":
        item |= {"batch": workload.batch, "input_tokens": workload.input_tokens}
    else:
        item |= {"modality": workload.modality, "batch": workload.batch}
        item["text_tokens"] = workload.text_tokens
        if workload.modality == "image":
            item |= {"images": workload.images, "image_size": size}
        else:
            item |= {"frames": workload.frames, "frame_size": size}
    return {**item, "output_tokens": workload.output_tokens}


def _names(plan: Plan) -> dict[str, str]:
    """Return model id -> the name that the sweep uses for it."""
    from harness.spec import load_models

    return {model.model_id: name for name, model in load_models(plan.sweep).items()}


def _plan(target: Path) -> Plan:
    """Plan a sweep file, or the sweep of a run folder."""
    from harness.plan import RememberingEstimator, default_estimator, make_plan
    from harness.spec import load_sweep

    if not target.is_dir():
        return make_plan(load_sweep(target))
    sweep = _sweep_of(target)
    memory = RememberingEstimator(default_estimator(sweep.engine), target / "plan.parquet")
    return make_plan(sweep, estimator=memory)


def _sweep_of(folder: Path) -> Sweep:
    """Return the sweep that a run folder was made with."""
    from harness.spec import parse_sweep
    from harness.store import RunFolder

    text = RunFolder.open(folder).manifest.get("sweep")
    if not isinstance(text, str) or not text.strip():
        raise SweepError(
            "This folder was not made by a sweep: nothing says what else could be measured.",
            where=str(folder / "manifest.json"),
            fix="give a sweep file: energylens design SWEEP --measured DIR",
        )
    return parse_sweep(text)


def _on_this_machine(path: Path) -> Path:
    """Bring a run folder of an object store down; any other path is itself."""
    from harness.store import RunFolder, local_folder

    return path if local_folder(path) == path else RunFolder.open(path).path


def _measurements(folder: Path) -> pd.DataFrame:
    from harness.store import read_measurements

    return read_measurements(folder)


def _write(path: Path, result: NextRuns) -> None:
    """Write the design whole or not at all; a sweep is read back first."""
    if path.suffix == ".csv":
        text = result.design.table.to_csv(index=False)
    else:
        text = sweep_text(result.plan, result.tasks)
        _check(text, path, {task.task_id for task in result.tasks})
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise EnergyLensError(
            f"the design cannot be written: {error.strerror}",
            where=str(path),
            fix="give another place with --out",
        ) from error


def _check(text: str, path: Path, wanted: set[str]) -> None:
    """Make sure that the written sweep stands for the very tasks of the design.

    Names of model files count from the folder of the sweep, so in another folder they may lead
    nowhere.
    """
    from harness.spec import expand, load_models, parse_sweep

    try:
        sweep = parse_sweep(text, path=path)
        same = {task.task_id for task in expand(sweep, load_models(sweep))} == wanted
    except SweepError:
        same = False
    if not same:
        raise EnergyLensError(
            "in that place the file would not stand for the same configurations",
            where=str(path),
            fix="write it into the folder of the sweep, whose model files it names",
        )
