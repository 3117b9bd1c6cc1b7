"""How much a run may take, and whether it should stop."""

from __future__ import annotations

from dataclasses import dataclass, fields

from harness.errors import RunError


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of one run; None: no limit.

    Attributes
    ----------
    max_hours
        Wall time of the run. A launch that is planned to end later is not started.
    max_gpu_hours
        Time multiplied by the GPUs that launches held.
    max_kwh
        Energy that the GPUs of measured launches drew, by their own counters.
    max_cost
        GPU-hours at the prices of the sweep.
    """

    max_hours: float | None = None
    max_gpu_hours: float | None = None
    max_kwh: float | None = None
    max_cost: float | None = None

    def __post_init__(self) -> None:
        for each in fields(self):
            limit = getattr(self, each.name)
            if limit is not None and not limit > 0:
                raise RunError(
                    f"{each.name} is {limit:g}; it has to be more than 0",
                    where=f"--{each.name.replace('_', '-')}",
                    fix="give a positive number, or leave it out for no limit",
                )

    def over(self, other: Budget) -> Budget:
        """These limits, and those of `other` where there is none."""
        names = [each.name for each in fields(self)]
        mine = [getattr(self, name) for name in names]
        theirs = [getattr(other, name) for name in names]
        return Budget(*(a if a is not None else b for a, b in zip(mine, theirs, strict=True)))

    def left_s(self, seconds: float) -> float:
        """Wall time that is left after so many seconds."""
        return float("inf") if self.max_hours is None else 3600 * self.max_hours - seconds

    def spent(self, seconds: float, gpu_hours: float, kwh: float | None, cost: float | None) -> str:
        """Which limit is reached, in words; empty while none is."""
        used = (
            ("max_hours", seconds / 3600, "h of wall time"),
            ("max_gpu_hours", gpu_hours, "GPU-hours"),
            ("max_kwh", kwh, "kWh"),
            ("max_cost", cost, "of cost"),
        )
        for name, value, unit in used:
            limit = getattr(self, name)
            if limit is not None and value is not None and value >= limit:
                return f"the budget of {limit:g} {unit} is spent"
        return ""
