"""Laws from datasheets: energy of an operation and a bit, and LLMCarbon."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from fitting.facts import Facts
from fitting.published.base import (
    Array,
    PublishedLaw,
    PublishedParameter,
    hardware_of,
    least_squares,
)
from fitting.published.counts import counts_of
from fitting.work import column

if TYPE_CHECKING:
    import pandas as pd

PICO = 1e-12


class _TokensToWattHours(PublishedLaw):
    """Energy of arithmetic plus energy of moved bits."""

    source = "tokens-to-watt-hours model, 0.52 pJ/FLOP and 11.68 pJ/bit"
    formula = "E = e_flop F + e_bit M"
    latex = r"E = e_{\mathrm{flop}} F + e_{\mathrm{bit}} M"
    parameters = (
        PublishedParameter("flop_energy", "e_flop", "pJ/FLOP", "energy of one operation", 0.0),
        PublishedParameter("bit_energy", "e_bit", "pJ/bit", "energy of moving one bit", 0.0),
    )
    published: ClassVar[dict[str, dict[str, float]]] = {
        "any": {"flop_energy": 0.52, "bit_energy": 11.68}
    }
    needs_facts = True
    note = "F and M as `counts_of` counts them: of the GPUs it knows nothing but the two numbers."

    def predict(self, values: Array, rows: pd.DataFrame, facts: Facts) -> Array:
        """Return total_energy_j, J."""
        counts = counts_of(rows, facts)
        result: Array = PICO * (values[0] * counts.flops + values[1] * counts.bits)
        return result


class _Published(_TokensToWattHours):
    name = "tokens_to_wh"
    title = "Tokens to watt-hours, as published"

    def _fit(self, rows: pd.DataFrame, facts: Facts) -> Array:
        return np.array(list(self.published["any"].values()))


class _Refitted(_TokensToWattHours):
    name = "tokens_to_wh_refit"
    title = "Tokens to watt-hours, refitted"

    def _fit(self, rows: pd.DataFrame, facts: Facts) -> Array:
        counts, energy = counts_of(rows, facts), column(rows, "total_energy_j")
        matrix = PICO * np.column_stack([counts.flops, counts.bits]) / energy[:, None]
        return least_squares(matrix, np.ones(len(rows)), positive=True)


class _LLMCarbon(PublishedLaw):
    """FLOPs at a fixed efficiency and full power; the number of GPUs cancels."""

    name = "llmcarbon"
    title = "LLMCarbon"
    source = "Faiz et al. 2024, LLMCarbon, arXiv 2309.14393"
    formula = "E = F / (G peak eff) x G x P x PUE"
    latex = r"E = \frac{F}{G\,\mathrm{peak}\,\eta} \cdot G\, P \cdot \mathrm{PUE}"
    parameters = (
        PublishedParameter("efficiency", "eff", "-", "share of the peak that is reached", 1e-6, 1),
    )
    needs_facts = True
    note = (
        "P is the power limit of the datasheet; PUE is 1, as energies are those of the GPUs; the "
        "efficiency is fitted. It cannot rank parallelism: all splits of a model tie."
    )

    def _fit(self, rows: pd.DataFrame, facts: Facts) -> Array:
        ideal = self._ideal(rows, facts) / column(rows, "total_energy_j")
        # E = ideal / eff: relative least squares in 1 / eff.
        inverse = float(least_squares(ideal[:, None], np.ones(len(rows)))[0])
        return np.array([min(max(1.0 / inverse, 1e-6), 1.0)])

    def predict(self, values: Array, rows: pd.DataFrame, facts: Facts) -> Array:
        """Return total_energy_j, J."""
        energy: Array = self._ideal(rows, facts) / values[0]
        return energy

    def _ideal(self, rows: pd.DataFrame, facts: Facts) -> Array:
        counts = counts_of(rows, facts)
        power_w = hardware_of(facts, rows).power_limit_w
        energy: Array = counts.flops / counts.peak_flops * power_w
        return energy


TOKENS_TO_WATT_HOURS = _Published()
TOKENS_TO_WATT_HOURS_REFIT = _Refitted()
LLMCARBON = _LLMCarbon()
