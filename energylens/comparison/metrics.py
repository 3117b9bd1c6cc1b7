"""The quantities that two runs are compared by; in all of them more is worse."""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import EnergyLensError


@dataclass(frozen=True, slots=True)
class Metric:
    """One quantity of a row.

    Attributes
    ----------
    name
        What the command line calls it.
    column
        Its column in the measurement table.
    kind
        energy (J) or time (s).
    text
        What tables call it.
    """

    name: str
    column: str
    kind: str
    text: str

    @property
    def half_width(self) -> str | None:
        """Column of the half width of its 95 % interval; times have none."""
        return f"{self.column}_ci95_j" if self.kind == "energy" else None


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("total", "total_energy_j", "energy", "total energy"),
        Metric("prefill", "prefill_energy_j", "energy", "prefill energy"),
        Metric("decode", "decode_energy_j", "energy", "decode energy"),
        Metric("latency", "total_latency_s", "time", "latency"),
        Metric("ttft", "ttft_s", "time", "time to first token"),
        Metric("itl", "itl_s", "time", "time between tokens"),
    )
}
"""Every metric by its name."""

ENERGIES = ("total", "prefill", "decode")
TIMES = ("latency", "ttft", "itl")


def named(names: tuple[str, ...]) -> tuple[Metric, ...]:
    """Return the metrics of these names.

    Raises
    ------
    EnergyLensError
        If there is no such metric.
    """
    for name in names:
        if name not in METRICS:
            raise EnergyLensError(
                f"there is no metric {name!r}",
                where=f"--metric {','.join(names)}",
                fix=f"choose from {', '.join(METRICS)}",
            )
    return tuple(METRICS[name] for name in dict.fromkeys(names))
