"""Energy laws that others published, as they wrote them, to compare with.

Each is a small object with named parameters, units, formula, source, `fit` and `predict`. Where a
paper leaves a choice open (the loss, what a byte moved is) the object says what was taken.
"""

from __future__ import annotations

from fitting.published.base import PublishedFit, PublishedLaw, PublishedParameter
from fitting.published.datasheet import LLMCARBON, TOKENS_TO_WATT_HOURS, TOKENS_TO_WATT_HOURS_REFIT
from fitting.published.power import LOGISTIC_POWER, UTILISATION_POWER
from fitting.published.tokens import SWEETSPOT, WILKINS, WILKINS_OLS

PUBLISHED: dict[str, PublishedLaw] = {
    law.name: law
    for law in (
        WILKINS,
        WILKINS_OLS,
        SWEETSPOT,
        TOKENS_TO_WATT_HOURS,
        TOKENS_TO_WATT_HOURS_REFIT,
        LLMCARBON,
        UTILISATION_POWER,
        LOGISTIC_POWER,
    )
}
"""Published laws by the name of the method."""

__all__ = ["PUBLISHED", "PublishedFit", "PublishedLaw", "PublishedParameter"]
