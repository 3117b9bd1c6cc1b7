"""p-values, intervals and the control of false discoveries."""

from __future__ import annotations

import numpy as np

from energylens.comparison.ratios import Floats


def p_values(log_change: Floats, stderr: Floats, degrees: Floats) -> Floats:
    """Two-sided p-values of Student's t; NaN where there is no error."""
    from scipy.stats import t

    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(2 * t.sf(np.abs(log_change) / stderr, degrees), dtype=np.float64)


def half_widths(stderr: Floats, degrees: Floats) -> Floats:
    """Half widths of 95 % intervals."""
    from scipy.stats import t

    return np.asarray(stderr * t.ppf(0.975, degrees), dtype=np.float64)


def adjusted(p: Floats) -> Floats:
    """Adjust p-values by Benjamini and Hochberg (J. R. Stat. Soc. B 57, 1995).

    Rejecting what is at most `rate` keeps the expected share of false discoveries at `rate`;
    where nothing changed, also the probability of any. NaN stays NaN and does not count.

    Parameters
    ----------
    p
        (tests,) p-values.
    """
    out = np.full_like(p, np.nan)
    known = np.flatnonzero(np.isfinite(p))
    if known.size:
        order = known[np.argsort(p[known])]
        scaled = p[order] * known.size / np.arange(1, known.size + 1)
        out[order] = np.minimum(1.0, np.minimum.accumulate(scaled[::-1])[::-1])
    return out


def median_interval(values: Floats) -> tuple[float, float, float]:
    """Median with its distribution-free 95 % interval; NaN ends with fewer than 6 values."""
    from scipy.stats import binom

    values = np.sort(values[np.isfinite(values)])
    n = values.size
    if n == 0:
        return (float("nan"),) * 3
    middle = float(np.median(values))
    if n < 6:
        return middle, float("nan"), float("nan")
    below = int(binom.ppf(0.025, n, 0.5))
    return middle, float(values[max(0, below - 1)]), float(values[min(n - 1, n - below)])


def percent_change(log_change: float) -> float:
    """Turn a log ratio into a share, as in 0.05 for 5 % more."""
    return float(np.expm1(log_change))
