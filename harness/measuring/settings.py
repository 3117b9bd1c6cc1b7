"""What one launch is told: the content of SPEC.json, and how it is to measure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.errors import RunError
from harness.spec.deployment import Deployment
from harness.spec.workload import Workload


class Protocol(BaseModel):
    """How a launch measures.

    Parameters
    ----------
    repeats
        Windows of each kind for each workload, at least.
    max_repeats
        Go on up to so many while the interval is wider than `target_ci95`; None: `repeats`.
    target_ci95
        Half width of the 95 % interval of the total energy, as a share of it, at which a
        workload is done.
    window_s
        Shortest window, seconds; the sensor may ask for longer ones.
    warm_up_s
        Longest time to warm up before the first window; it ends when power is flat.
    run_timeout_s
        Longest time that one run of a workload may take, seconds.
    budget_s
        Longest time of the launch, loading included, seconds; None: no limit.
    decode_windows
        Give decode windows of its own where the engine can; else it is read from inside the
        whole windows, or is their difference to prefill, which takes a third less time.
    sentinel
        Measure one workload again in every trial, to see drift; None: with real engines only.
    seed
        Seed of the order of the workloads, of prompts, and of the twin's scatter.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    repeats: int = Field(default=3, ge=1)
    max_repeats: int | None = Field(default=None, ge=1)
    target_ci95: float = Field(default=0.03, gt=0, lt=1)
    window_s: float = Field(default=5.0, gt=0)
    warm_up_s: float = Field(default=30.0, ge=0)
    run_timeout_s: float = Field(default=600.0, gt=0)
    budget_s: float | None = Field(default=None, gt=0)
    decode_windows: bool = True
    sentinel: bool | None = None
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _most_is_not_less(self) -> Protocol:
        if self.max_repeats is not None and self.max_repeats < self.repeats:
            raise ValueError(f"max_repeats {self.max_repeats} is less than repeats {self.repeats}")
        return self

    @property
    def most(self) -> int:
        """Largest number of trials."""
        return self.max_repeats or self.repeats


class LaunchSpec(BaseModel):
    """Everything one launch needs to know: the content of SPEC.json.

    Parameters
    ----------
    launch_id
        Names the result file.
    model_id, config_path
        The model, and the config file it is read from.
    deployment
        How it is served.
    workloads
        What is measured, in the order of the rows.
    protocol
        How it is measured.
    sweep
        Name of the sweep, copied into the rows.
    attempt
        Counts from 1.
    keep_traces
        Positions in `workloads` whose samples are kept.
    engine_options
        Arguments of the engine, such as the twin's repeat_noise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    launch_id: str = Field(min_length=1)
    model_id: str
    config_path: Path
    deployment: Deployment
    workloads: tuple[Workload, ...] = Field(min_length=1)
    protocol: Protocol = Protocol()
    sweep: str = ""
    attempt: int = Field(default=1, ge=1)
    keep_traces: tuple[int, ...] = ()
    engine_options: dict[str, Any] = Field(default_factory=dict)

    @property
    def key(self) -> str:
        """Name of what this launch writes."""
        return f"{self.launch_id}-{self.attempt}"


def read_spec(path: Path) -> LaunchSpec:
    """Read and check a SPEC.json.

    Raises
    ------
    RunError
        If the file cannot be read or does not describe a launch.
    """
    try:
        return LaunchSpec.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        what = getattr(error, "strerror", None) or "it is not text"
        raise RunError(
            f"cannot read the launch spec: {what}",
            where=str(path),
            fix="give the path of a SPEC.json; docs/measuring.md shows one",
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise RunError(
            f"not a launch spec: {first['msg']}",
            where=f"{path}, key {key or '(file)'}",
            fix="docs/measuring.md lists the keys of a spec and shows one",
        ) from error
