"""Laws in the lengths of a request alone: Wilkins et al. and SweetSpot."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from fitting.facts import Facts
from fitting.published.base import Array, PublishedLaw, PublishedParameter, least_squares
from fitting.work import column

if TYPE_CHECKING:
    import pandas as pd


class _Lengths(PublishedLaw):
    """A law linear in terms of n and m, of the energy of a request; the batch multiplies it."""

    relative: ClassVar[bool] = True

    @abstractmethod
    def terms(self, n: Array, m: Array) -> Array:
        """Return the terms of the energy of one request, shape (rows, parameters)."""

    def _fit(self, rows: pd.DataFrame, facts: Facts) -> Array:
        energy = column(rows, "total_energy_j") / column(rows, "batch")
        matrix = self._matrix(rows)
        if self.relative:
            return least_squares(matrix / energy[:, None], np.ones(len(rows)))
        return least_squares(matrix, energy)

    def predict(self, values: Array, rows: pd.DataFrame, facts: Facts) -> Array:
        """Return total_energy_j, J: the energy of a request times the batch."""
        result: Array = self._matrix(rows) @ values * column(rows, "batch")
        return result

    def _matrix(self, rows: pd.DataFrame) -> Array:
        return self.terms(column(rows, "input_tokens"), column(rows, "output_tokens"))


class _Wilkins(_Lengths):
    """E/B = a0 n + a1 m + a2 n m, one fit for each (model, system)."""

    source = "Wilkins, Keshav and Mortier 2024, arXiv 2407.04014"
    formula = "E = B (a0 n + a1 m + a2 n m)"
    latex = r"E = B\,(a_0 n + a_1 m + a_2 n m)"
    parameters = (
        PublishedParameter("input_energy", "a0", "J/token", "energy of an input token"),
        PublishedParameter("output_energy", "a1", "J/token", "energy of an output token"),
        PublishedParameter("interaction", "a2", "J/token^2", "input and output together"),
    )
    published: ClassVar[dict[str, dict[str, float]]] = {
        model: dict(zip(("input_energy", "output_energy", "interaction"), values, strict=True))
        for model, values in {
            "Llama-2-7B": (-3.89, 31.52, 4.27e-2),
            "Mistral-7B": (-3.12, 31.69, 3.53e-2),
            "Llama-2-70B": (-12.03, 414.82, 0.315),
            "Mixtral-8x7B": (-8.48, 105.54, 9.86e-2),
        }.items()
    }

    def terms(self, n: Array, m: Array) -> Array:
        """Return n, m and n m."""
        return np.column_stack([n, m, n * m])


class _WilkinsRelative(_Wilkins):
    name = "wilkins"
    title = "Wilkins et al., relative loss"
    note = "Relative least squares instead of the ordinary ones of the paper: it serves the form."


class _WilkinsOrdinary(_Wilkins):
    name = "wilkins_ols"
    title = "Wilkins et al., as published"
    relative = False
    note = "Ordinary least squares, as in the paper: large energies decide, small ones are lost."


class _SweetSpot(_Lengths):
    """Energy of an output token in six terms of n and m."""

    name = "sweetspot"
    title = "SweetSpot"
    source = "arXiv 2602.05695"
    formula = "E = B m (th0 + th1 n^2/m + th2 n + th3 n/m + th4 m + th5/m)"
    latex = (
        r"E = B m\,(\theta_0 + \theta_1 n^2/m + \theta_2 n + \theta_3 n/m + \theta_4 m"
        r" + \theta_5/m)"
    )
    parameters = (
        PublishedParameter("output_energy", "th0", "J/token", "energy of an output token"),
        PublishedParameter("prefill_attention", "th1", "J/token^2", "attention over the prompt"),
        PublishedParameter("context", "th2", "J/token^2", "reading the prompt's cache"),
        PublishedParameter("input_energy", "th3", "J/token", "energy of an input token"),
        PublishedParameter("growth", "th4", "J/token^2", "reading the cache of the output"),
        PublishedParameter("request_energy", "th5", "J", "energy of a request"),
    )
    note = "Fitted by relative least squares; it was made for one GPU and one request at a time."

    def terms(self, n: Array, m: Array) -> Array:
        """Return the terms of the energy of a request: m times those of an output token."""
        return np.column_stack([m, n**2, n * m, n, m**2, np.ones_like(n)])


WILKINS = _WilkinsRelative()
WILKINS_OLS = _WilkinsOrdinary()
SWEETSPOT = _SweetSpot()
