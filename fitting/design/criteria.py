"""How much one more measurement is worth, for every candidate at once.

In the linear normal model a measurement H (in units of its error) turns the covariance S into
S - S H' (1 + H S H')^-1 H S. All three criteria are of that change:

- `d-optimal`: log det(1 + H S H'), the gain in Shannon information about the parameters
  (Bayesian D-optimality; Lindley 1956, Chaloner and Verdinelli 1995);
- `i-optimal`: the fall of the mean variance of the log energy over all candidates (also called
  V- or IV-optimality; Box and Draper 1959);
- `regret`: the fall of the expected loss of the choices. The present choice of a scenario loses
  max(g, 0) to a rival, g ~ N(gap, v) being the difference of their log energies, on average
  l(gap, v) = s phi(gap/s) - |gap| Phi(-|gap|/s) with s = sqrt(v) (Raiffa and Schlaifer 1961; the
  same expression as in expected improvement and the knowledge gradient, Frazier et al. 2008).
  The gain is the sum of l(gap, v) - l(gap, v after) over rivals.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fitting.design.choices import Contrasts

Array = NDArray[np.float64]
Index = NDArray[np.intp]

CRITERIA = ("regret", "d-optimal", "i-optimal")
"""Methods that weigh what a measurement tells."""


@dataclass(frozen=True, slots=True)
class Belief:
    """Covariance of one pair's parameters while a design grows.

    Attributes
    ----------
    covariance
        Shape (d, d).
    observed
        What each candidate would show, shape (rows, phases, d).
    slope
        Slopes of the log total energies, shape (rows, d).
    contrasts
        The choices that matter.
    scenarios
        How many choices there are; gains are means over them.
    """

    covariance: Array
    observed: Array
    slope: Array
    contrasts: Contrasts
    scenarios: int

    def measure(self, row: int) -> Belief:
        """Return the belief after one candidate was measured."""
        seen = self.observed[row]
        through = self.covariance @ seen.T
        inner = np.eye(len(seen)) + seen @ through
        lost = through @ np.linalg.solve(inner, through.T)
        return replace(self, covariance=self.covariance - 0.5 * (lost + lost.T))


def gains(belief: Belief, criterion: str, rows: Index) -> Array:
    """Return what measuring each of some candidates would gain, shape (rows,).

    Parameters
    ----------
    belief
        What is known so far.
    criterion
        One of `CRITERIA`.
    rows
        Positions of the candidates asked about.
    """
    seen = belief.observed[rows]
    through = seen @ belief.covariance
    inner = np.eye(seen.shape[1]) + through @ seen.transpose(0, 2, 1)
    if criterion == "d-optimal":
        result: Array = np.linalg.slogdet(inner)[1]
        return result
    contrasts = belief.contrasts
    target = belief.slope if criterion == "i-optimal" else contrasts.slope
    root = np.linalg.inv(np.linalg.cholesky(inner))
    # Variance that each target loses to each candidate, shape (rows, targets).
    lost = ((root @ through @ target.T) ** 2).sum(axis=1)
    if criterion == "i-optimal":
        mean: Array = lost.mean(axis=1)
        return mean
    if not len(contrasts.gap):
        return np.zeros(len(rows))
    variance = np.einsum("md,de,me->m", target, belief.covariance, target)
    now = expected_loss(contrasts.gap, variance)
    then = expected_loss(contrasts.gap, np.maximum(variance - lost, 0.0))
    gain: Array = (now - then).sum(axis=1) / belief.scenarios
    return gain


def expected_loss(gap: Array, variance: Array) -> Array:
    """Return E[max(g, 0)] of g ~ N(gap, variance) with gap at most 0."""
    from scipy.special import ndtr

    spread = np.sqrt(variance) + 1e-12
    ratio = gap / spread
    density = np.exp(-0.5 * ratio**2) / np.sqrt(2.0 * np.pi)
    loss: Array = spread * density + gap * ndtr(ratio)
    return np.maximum(loss, 0.0)
