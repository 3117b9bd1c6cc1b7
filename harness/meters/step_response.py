"""How a reading answers a load whose switch times are known: width and delay of its mean.

    load      ____|~~~~~|_______|~~|____          known to about 1 ms
    reading                [---width---]<-delay->|
                           mean over this        shown here

A reading at time t is taken as the mean of power from t - delay - width to t - delay. Power is
`low` while the load is off and `high` while it is on, with a slow linear drift; those three are
solved exactly for each width and centre of the mean, which are searched on a grid that closes in
(width and delay would trade against each other, width and centre do not). The same model serves
a trailing mean (its width), a counter (energy of one update over the period) and a part-time
sensor (width below the period), as found on A100 and H100 by Yang, Adamek and Armour, "Part-time
Power Measurements: nvidia-smi's Lack of Attention", arXiv 2312.02741.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FLOOR = 0.003
"""Residuals below this share of the swing are taken as this large: no load is that square."""

PLACING = 0.25
"""Systematic error of width and delay in polls: an update is placed between two of them."""

_ZOOMS = 5
_POINTS = 15
_SHORTEST_S = 1e-4

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Response:
    """Width and delay of the mean behind a reading.

    Attributes
    ----------
    width_s, width_stderr_s
        Width of the mean, and one standard deviation of it.
    delay_s, delay_stderr_s
        How long before the update the mean ended, and one standard deviation of it.
    low_w, high_w
        Power off load and under load.
    misfit
        Root mean square residual over the swing; above about 0.2 the model does not hold.
    points
        Updates that were used.
    """

    width_s: float
    width_stderr_s: float
    delay_s: float
    delay_stderr_s: float
    low_w: float
    high_w: float
    misfit: float
    points: int


class OnTime:
    """Seconds that a load was on until an instant.

    Parameters
    ----------
    edges_s
        (k, 2) start and end of each burst, seconds, in order.
    """

    def __init__(self, edges_s: Array) -> None:
        flat = edges_s.ravel()
        self._t = np.concatenate(([flat[0] - 1.0], flat))
        lengths = (edges_s[:, 1] - edges_s[:, 0]).repeat(2)
        lengths[0::2] = 0.0
        self._on = np.concatenate(([0.0], np.cumsum(lengths)))

    def share(self, t_s: Array, width_s: float, centres_s: Array) -> Array:
        """(c, n) share of on-time of the means that lie `centre` before each of n instants."""
        width = max(width_s, _SHORTEST_S)
        ends = t_s[None, :] - (centres_s[:, None] - width_s / 2)
        upper = np.interp(ends.ravel(), self._t, self._on)
        lower = np.interp((ends - width).ravel(), self._t, self._on)
        out: Array = ((upper - lower) / width).reshape(ends.shape)
        return out


def fit_response(
    t_s: Array,
    value_w: Array,
    edges_s: Array,
    *,
    widths_s: tuple[float, float],
    delays_s: tuple[float, float],
    scale_s: float,
    spacing_s: float,
) -> Response | None:
    """Find the width and delay that explain a reading best; None where nothing is explained.

    Parameters
    ----------
    t_s
        (n,) instants at which the reading was renewed.
    value_w
        (n,) what it then showed.
    edges_s
        (k, 2) start and end of each burst of the load, on the clock of `t_s`.
    widths_s, delays_s
        Ranges to search.
    scale_s
        Step of the coarse search: about a quarter of the update period.
    spacing_s
        Time between two polls, which limits how well an update is placed.
    """
    if t_s.size < 12 or len(edges_s) < 3:
        return None
    on = OnTime(edges_s)
    basis, _ = np.linalg.qr(np.column_stack((np.ones_like(t_s), t_s - t_s.mean())))
    rest = value_w - basis @ (basis.T @ value_w)
    widths = _axis(*widths_s, max(scale_s, (widths_s[1] - widths_s[0]) / 30))
    centres_s = (delays_s[0] + widths_s[0] / 2, delays_s[1] + widths_s[1] / 2)
    centres = _axis(*centres_s, max(scale_s, (centres_s[1] - centres_s[0]) / 200))
    total = float(rest @ rest)
    if total <= 0:
        return None
    for zoom in range(_ZOOMS + 1):
        rss = _residuals(on, basis, rest, t_s, widths, centres)
        weight = _weights(rss, total, t_s.size)
        if zoom < _ZOOMS:
            best_w, best_c = np.unravel_index(int(np.argmin(rss)), rss.shape)
            widths = _closer(widths, weight.sum(axis=1), int(best_w), widths_s)
            centres = _closer(centres, weight.sum(axis=0), int(best_c), centres_s)
    if rss.min() > 0.8 * total:
        return None
    grid_w, grid_c = np.meshgrid(widths, centres, indexing="ij")
    width, width_error = _moments(grid_w, weight)
    delay, delay_error = _moments(grid_c - grid_w / 2, weight)
    share = on.share(t_s, width, np.array([delay + width / 2]))[0]
    design = np.column_stack((np.ones_like(t_s), share, t_s - t_s.mean()))
    low, swing, _ = np.linalg.lstsq(design, value_w, rcond=None)[0].tolist()
    misfit = math.sqrt(float(rss.min()) / t_s.size) / abs(swing) if swing else math.inf
    placing_s = PLACING * spacing_s
    return Response(
        width_s=width,
        width_stderr_s=math.hypot(width_error, placing_s),
        delay_s=delay,
        delay_stderr_s=math.hypot(delay_error, placing_s),
        low_w=low,
        high_w=low + swing,
        misfit=misfit,
        points=t_s.size,
    )


def _axis(low: float, high: float, step: float) -> Array:
    return np.linspace(low, high, max(2, math.ceil((high - low) / step) + 1))


def _residuals(
    on: OnTime, basis: Array, rest: Array, t_s: Array, widths: Array, centres: Array
) -> Array:
    """(widths, centres) residual sum of squares, the levels and the drift solved exactly."""
    total = float(rest @ rest)
    out = np.full((widths.size, centres.size), total)
    for i, width in enumerate(widths):
        share = on.share(t_s, float(width), centres)
        share -= (share @ basis) @ basis.T
        norm = np.einsum("cn,cn->c", share, share)
        along = share @ rest
        good = (norm > 1e-9) & (along > 0)
        out[i, good] = np.maximum(0.0, total - along[good] ** 2 / norm[good])
    return out


def _weights(rss: Array, total: float, points: int) -> Array:
    """Likelihood of each grid point, normalised; the best fit sets the noise."""
    # Explained variance is about a quarter of the squared swing for a load that is on half of
    # the time.
    floor = FLOOR**2 * 4 * total / points
    variance = max(float(rss.min()) / max(1, points - 5), floor)
    weight = np.exp(-np.minimum(700.0, (rss - rss.min()) / (2 * variance)))
    out: Array = weight / weight.sum()
    return out


def _closer(axis: Array, weight: Array, best: int, bounds: tuple[float, float]) -> Array:
    """A finer axis around the best point that still holds nearly all the weight."""
    step = 2 * float(axis[1] - axis[0])
    heavy = np.flatnonzero(weight > 1e-4 * weight.max())
    low = min(float(axis[heavy[0]]), float(axis[best])) - step
    high = max(float(axis[heavy[-1]]), float(axis[best])) + step
    return np.linspace(max(bounds[0], low), min(bounds[1], high), _POINTS)


def _moments(values: Array, weight: Array) -> tuple[float, float]:
    mean = float((values * weight).sum())
    return mean, float(np.sqrt(((values - mean) ** 2 * weight).sum()))
