"""Fit of the shared parameters: robust, on log residuals, with rows of a model held as kin."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fitting.serving.shapes import Shapes
from fitting.serving.terms import Tasks, log_energy, priors

Array = NDArray[np.float64]

KIN = (0.2, 0.08, 0.14)
"""Working deviations that rows of a backbone, of a configuration and single rows have in common
in log energy. Without the first two a model with many rows would outvote the others; slopes are
left to the law on purpose."""

TAIL = 4.0
"""Degrees of freedom of Student's t that single rows follow: some runs were held up by their
host, and cost twice as much for reasons that no column tells."""

ROUNDS = 3
"""Times that rows are weighed anew."""


def fit_shared(
    shapes: Shapes,
    log_target: Array,
    tasks: Tasks,
    index: NDArray[np.intp],
    backbones: NDArray[np.str_],
    configurations: NDArray[np.str_],
) -> tuple[Array, Array, Array]:
    """Fit the vector of parameters.

    Returns
    -------
    tuple
        The vector, its covariance, and the weight of each row, near 1 or less for outliers.
    """
    from scipy.optimize import least_squares

    centre, deviation = priors(tasks)
    kin = KIN[0] ** 2 * (backbones[:, None] == backbones) + KIN[1] ** 2 * (
        configurations[:, None] == configurations
    )
    weight = np.ones(len(log_target))
    vector = centre.copy()
    for _ in range(ROUNDS):
        whiten = np.linalg.inv(np.linalg.cholesky(kin + np.diag(KIN[2] ** 2 / weight)))

        def residuals(x: Array, whiten: Array = whiten) -> Array:
            misfit = whiten @ (log_target - log_energy(shapes, x, tasks, index))
            return np.concatenate([misfit, (x - centre) / deviation])

        found = least_squares(
            residuals, vector, x_scale=deviation, max_nfev=10, xtol=1e-4, ftol=1e-4
        )
        vector = found.x
        left = KIN[2] ** 2 / weight * (whiten.T @ found.fun[: len(log_target)])
        weight = (TAIL + 1.0) / (TAIL + 1.3 * (left / KIN[2]) ** 2)
    covariance = np.linalg.inv(found.jac.T @ found.jac)
    return vector, covariance, weight
