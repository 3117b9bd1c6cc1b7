"""GPUs that cost more joules for the same work than their peers, tonight and the night before.

A task runs once a night, so two GPUs never do the same task in one night. What tells them apart
is the change from last night: work that stayed on a GPU shows how that GPU changed, and work that
moved shows how the GPU it came to differs from the one it left. Generalised least squares over
the pairs of launches, one GPU at a time, others added as soon as they stand out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from energylens.comparison.launches import Cards, Summary
from energylens.comparison.ratios import Floats, Ints

CARD_SD = 0.03
"""GPUs of a type are taken to differ by this where the run cannot tell: the gain of a sensor and
the silicon are both of this order."""

SPREADS = (0.005, 0.01, 0.02, 0.03, 0.05)
MIN_CARDS = 3
"""With fewer GPUs nobody can say which one is odd."""

MOST_CHOSEN = 8
SIGNIFICANT = 0.01


@dataclass(frozen=True, slots=True)
class CardEffects:
    """How GPUs differ from their peers.

    Attributes
    ----------
    index
        (found,) GPU of each entry, as an index into `Cards.names`.
    effect, stderr
        (found,) log ratio of its joules to those of its peers, for the same work.
    degrees
        (found,) degrees of freedom of the errors.
    standing
        (found, 2) log ratio on both nights, and its error, of a GPU that stood out so; else NaN.
        Its `effect` is then what tonight adds.
    spread
        Standard deviation between GPUs that fits best.
    """

    index: Ints
    effect: Floats
    stderr: Floats
    degrees: Floats
    standing: Floats
    spread: float


def no_effects() -> CardEffects:
    """Return what is known where GPUs cannot be told apart."""
    none = np.empty(0)
    return CardEffects(np.empty(0, dtype=np.int64), none, none, none, np.empty((0, 2)), CARD_SD)


def card_effects(summary: Summary, cards: Cards, centre: Ints, launch_sd: float) -> CardEffects:
    """Estimate how much each GPU of a type differs from its peers.

    Parameters
    ----------
    summary
        Changes of the pairs of launches, of one type of hardware.
    cards
        Which GPUs they ran on.
    centre
        (units of the summary,) number of the model of each: models may change on their own. A
        model that ran on one set of GPUs only cannot be told from it, and is left out.
    launch_sd
        Scatter of launches beyond their rows.
    """
    new, moved = cards.new[summary.unit], cards.moved[summary.unit]
    usable = (new.sum(axis=1) > 0) & (cards.old[summary.unit].sum(axis=1) > 0)
    usable &= _spread_out(centre, new, usable)
    present = np.flatnonzero(new[usable].sum(axis=0) > 0)
    if present.size < MIN_CARDS:
        return no_effects()
    new, moved, y = new[usable], moved[usable], summary.mean[usable]
    base = np.eye(int(centre.max()) + 1)[centre[usable]]
    base = base[:, base.sum(axis=0) > 0]
    noise = summary.variance[usable] + launch_sd**2
    return _select(y, noise, moved, base, new, present)


def _spread_out(centre: Ints, new: Floats, usable: Ints) -> Floats:
    """Tell the units of models that ran on several sets of GPUs."""
    out = np.zeros(centre.size, dtype=bool)
    for one in np.unique(centre[usable]):
        own = usable & (centre == one)
        if len(np.unique(new[own], axis=0)) >= MIN_CARDS:
            out |= own
    return out


def _select(
    y: Floats, noise: Floats, moved: Floats, base: Floats, new: Floats, present: Ints
) -> CardEffects:
    """Add the most striking GPU to the model until none strikes any more.

    A GPU strikes by its work of tonight, or by all that came to it and left it, which is how one
    that differed on both nights looks.
    """
    from scipy.stats import t

    size = present.size
    columns = np.column_stack([new[:, present], moved[:, present]])
    columns[:, size:] *= np.abs(columns[:, size:] - columns[:, :size]).max(axis=0) > 0
    chosen: list[int] = []

    def fitted(without: int, wanted: list[int]) -> tuple[Floats, Floats, Floats, float]:
        fixed = np.column_stack([base, columns[:, [c for c in chosen if c != without]]])
        effect, error, spread, least = _one_by_one(y, noise, moved, fixed, columns[:, wanted])
        degrees = _degrees(error, least, y.size - fixed.shape[1] - 1, size - 2)
        return effect, error, degrees, spread

    while len(chosen) < MOST_CHOSEN:
        effect, error, degrees, _ = fitted(-1, list(range(2 * size)))
        p = 2 * t.sf(np.abs(effect) / error, degrees)
        p[chosen] = np.nan
        if not np.isfinite(p).any() or np.nanmin(p) * size > SIGNIFICANT:
            break
        chosen.append(int(np.nanargmin(p)))
    effect, error, degrees, spread = fitted(-1, list(range(size)))
    standing = np.full((size, 2), np.nan)
    for column in chosen:
        one, one_error, one_degrees, _ = fitted(column, [column])
        if column < size:
            effect[column], error[column], degrees[column] = one[0], one_error[0], one_degrees[0]
        else:
            standing[column - size] = one[0], one_error[0]
    keep = np.isfinite(error)
    return CardEffects(
        present[keep], effect[keep], error[keep], degrees[keep], standing[keep], spread
    )


def _degrees(error: Floats, least: Floats, of_noise: int, of_spread: int) -> Floats:
    """Degrees of freedom: the part of the error that GPUs differ by is known from few GPUs."""
    share = np.clip(1 - (least / error) ** 2, 0, 1)
    out: Floats = 1 / (share**2 / max(1, of_spread) + (1 - share) ** 2 / max(1, of_noise))
    return out


def _one_by_one(
    y: Floats, noise: Floats, moved: Floats, fixed: Floats, columns: Floats
) -> tuple[Floats, Floats, float, Floats]:
    """Effect of each column beside the fixed ones, at the most likely spread between GPUs.

    Also the median of those spreads, and the error as if GPUs hardly differed.
    """
    best: tuple[Floats, Floats, Floats] | None = None
    least = np.empty(0)
    spreads = np.full(columns.shape[1], SPREADS[0])
    between = moved @ moved.T
    for spread in SPREADS if between.any() else SPREADS[:1]:
        factor = np.linalg.cholesky(np.diag(noise) + spread**2 * between)
        stacked = np.linalg.solve(factor, np.column_stack([y, fixed, columns]))
        basis, upper = np.linalg.qr(stacked[:, 1 : 1 + fixed.shape[1]])
        rest = stacked - basis @ (basis.T @ stacked)
        target, free = rest[:, 0], rest[:, 1 + fixed.shape[1] :]
        size = (free**2).sum(axis=0)
        size[size <= 1e-9 * (columns**2).sum(axis=0) / noise.mean()] = np.nan
        effect, error = free.T @ target / size, size**-0.5
        logdet = np.log(np.diag(factor)).sum() + np.log(np.abs(np.diag(upper)) + 1e-12).sum()
        likelihood = -0.5 * (target @ target - effect**2 * size) - logdet - 0.5 * np.log(size)
        if best is None:
            best, least = (effect, error, likelihood), error
            continue
        better = likelihood > best[2]
        spreads[better] = spread
        best = tuple(
            np.where(better, a, b)
            for a, b in zip(  # type: ignore[assignment]
                (effect, error, likelihood), best, strict=True
            )
        )
    assert best is not None
    return best[0], best[1], float(np.median(spreads)), least
