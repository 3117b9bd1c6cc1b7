"""Laws of the power, times the true latency: they know how long a row took, not what it cost."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from fitting.facts import Facts
from fitting.published.base import Array, PublishedLaw, PublishedParameter, gpus_of, hardware_of
from fitting.published.counts import counts_of
from fitting.work import column
from harness.store import FitError

if TYPE_CHECKING:
    import pandas as pd


class _PowerLaw(PublishedLaw):
    """Mean power of a GPU times GPUs times the true latency."""

    knows_latency = True
    grid: ClassVar[Sequence[Sequence[float]]] = ()

    @abstractmethod
    def power(self, values: Array, inputs: Array) -> Array:
        """Return the mean power of a GPU, W, for inputs of shape (inputs, rows)."""

    @abstractmethod
    def inputs(self, rows: pd.DataFrame, facts: Facts) -> Array:
        """Return what the power depends on, shape (inputs, rows)."""

    def _fit(self, rows: pd.DataFrame, facts: Facts) -> Array:
        from scipy.optimize import least_squares

        latency = _latency(rows)
        known = ~np.isnan(latency)
        if not known.any():
            raise FitError("No row has a latency.", where="column total_latency_s")
        rows, latency = rows[known], latency[known]
        inputs = self.inputs(rows, facts)
        scale = gpus_of(rows) * latency / column(rows, "total_energy_j")

        def residuals(values: Array) -> Array:
            return scale * self.power(values, inputs) - 1.0

        starts = [np.array(v) for v in itertools.product(*self.grid)]
        start = min(starts, key=lambda v: float(np.sum(residuals(v) ** 2)))
        bounds = ([p.lower for p in self.parameters], [p.upper for p in self.parameters])
        found: Array = least_squares(residuals, start, bounds=bounds, x_scale="jac", max_nfev=80).x
        return found

    def predict(self, values: Array, rows: pd.DataFrame, facts: Facts) -> Array:
        """Return total_energy_j, J; NaN where the latency is not known."""
        result: Array = self.power(values, self.inputs(rows, facts)) * gpus_of(rows)
        return result * _latency(rows)


class _UtilisationPower(_PowerLaw):
    """Power between idle and limit, by the share of the peak arithmetic in use."""

    name = "power_utilisation"
    title = "Power by utilisation"
    source = "arXiv 2507.11417"
    formula = "E = G T (P_idle + (P_max - P_idle) min(mfu/sat, 1)^g)"
    latex = (
        r"E = G\,T\,(P_{\mathrm{idle}} + (P_{\max} - P_{\mathrm{idle}})"
        r"\min(\mathrm{mfu}/\mathrm{sat}, 1)^{g})"
    )
    parameters = (
        PublishedParameter("saturation", "sat", "-", "utilisation of full power", 1e-4, 1.0),
        PublishedParameter("exponent", "g", "-", "how power grows with utilisation", 0.01, 2.0),
    )
    needs_facts = True
    note = (
        "P_idle and P_max are the loaded idle power and the power limit of the datasheet, T the "
        "true latency of the row."
    )
    grid = ((0.01, 0.05, 0.2, 0.45, 0.8), (0.1, 0.3, 0.6, 1.0))

    def power(self, values: Array, inputs: Array) -> Array:
        """Return P_idle + (P_max - P_idle) min(mfu/sat, 1)^g, W."""
        mfu, idle, most = inputs
        result: Array = idle + (most - idle) * np.minimum(mfu / values[0], 1.0) ** values[1]
        return result

    def inputs(self, rows: pd.DataFrame, facts: Facts) -> Array:
        """Return MFU, idle power and power limit."""
        hardware = hardware_of(facts, rows)
        idle = hardware.loaded_idle_power_w or hardware.idle_power_w
        if idle is None:
            raise FitError(f"No idle power of {hardware.hardware} is known.")
        mfu = counts_of(rows, facts).utilisation(_latency(rows))
        return np.stack([mfu, *(np.full(len(rows), v) for v in (idle, hardware.power_limit_w))])


class _LogisticPower(_PowerLaw):
    """Power as a logistic curve in the logarithm of the batch."""

    name = "power_logistic"
    title = "Logistic power in the batch"
    source = "arXiv 2602.05116"
    formula = "E = G T (P_low + (P_high - P_low) / (1 + exp(-k (log2 B - x0))))"
    latex = (
        r"E = G\,T\left(P_{\mathrm{low}} + \frac{P_{\mathrm{high}} - P_{\mathrm{low}}}"
        r"{1 + e^{-k(\log_2 B - x_0)}}\right)"
    )
    parameters = (
        PublishedParameter("power_low", "P_low", "W", "power of small batches", 0.0, 5000.0),
        PublishedParameter("power_high", "P_high", "W", "power of large batches", 0.0, 5000.0),
        PublishedParameter("steepness", "k", "-", "how fast it rises", 0.05, 10.0),
        PublishedParameter("midpoint", "x0", "-", "log2 of the batch half-way", -2.0, 12.0),
    )
    published: ClassVar[dict[str, dict[str, float]]] = {
        "H100": {"power_low": 300.0, "power_high": 600.0, "steepness": 1.0, "midpoint": 4.2}
    }
    note = "T is the true latency of the row."
    grid = ((100.0, 200.0, 400.0), (300.0, 600.0, 1000.0), (0.4, 1.0, 2.5), (1.0, 4.0, 7.0))

    def power(self, values: Array, inputs: Array) -> Array:
        """Return the logistic curve, W."""
        low, high, steepness, midpoint = values
        reach = np.clip(steepness * (inputs[0] - midpoint), -500.0, 500.0)
        result: Array = low + (high - low) / (1.0 + np.exp(-reach))
        return result

    def inputs(self, rows: pd.DataFrame, facts: Facts) -> Array:
        """Return log2 of the batch."""
        return np.log2(column(rows, "batch"))[None, :]


def _latency(rows: pd.DataFrame) -> Array:
    """Return the true latency of the batch, s; NaN where it is not known."""
    return column(rows, "total_latency_s", default=np.nan)


UTILISATION_POWER = _UtilisationPower()
LOGISTIC_POWER = _LogisticPower()
