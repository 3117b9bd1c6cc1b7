"""Which parameters the rows of a fit cannot tell, or cannot tell apart, and what rows would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fitting.work import Work

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fitting.pairfit import Parameter

CORRELATED = 0.95
"""Two parameters whose errors correlate more than this cannot be told apart."""

OPEN = 0.5
"""A direction of parameters is open if it may change by more than this share of their values."""

NAMED = 0.3
"""Parameters with more than this weight in an open direction are named."""

SAID = 3
"""Kinds of further rows that the sentences name; `rows_to_add` holds all of them."""

WHERE_LARGE: dict[str, str] = {
    "prefill_compute": "long prompts and large batches on one GPU",
    "prefill_sharding": "long prompts with t of 2 or more",
    "prefill_launch": "single short prompts with t of 4 or 8",
    "prefill_encoder": "visual inputs beside text of the same length",
    "decode_weights": "small batches of long outputs on one GPU",
    "decode_tokens": "large batches of short prompts",
    "decode_sync": "small batches with t of 2, 4 and 8",
    "decode_launch": "small batches at t = 1 beside larger t",
    "decode_launch_extra": "one configuration in 16 bit and in reduced precision, at t of 4 or 8",
    "shared_bridge": "long prompts and large batches with t of 4 or 8",
    "waiting_power_ratio": "single requests with p of 2 or more",
    "weight_shard_exponent": "batch 1 with t of 1, 2, 4 and 8",
    "reduced_precision_cost": "one configuration in 16 bit and in reduced precision",
}
"""Rows in which the term of a parameter is a large share of the energy."""


@dataclass(frozen=True, slots=True)
class Correlation:
    """Two parameters that the rows do not tell apart."""

    first: str
    second: str
    correlation: float


@dataclass(frozen=True, slots=True)
class Direction:
    """Parameters that may move together without the rows objecting.

    Attributes
    ----------
    parameters
        Parameter -> weight in the direction, of unit length in changes relative to `sizes`.
    relative_error
        Standard error along it, in the same.
    """

    parameters: dict[str, float]
    relative_error: float


@dataclass(frozen=True, slots=True)
class Identifiability:
    """What the rows of one fit do not tell.

    Attributes
    ----------
    not_identified
        Parameter -> why.
    correlated
        Pairs of parameters with correlation beyond 0.95.
    directions
        Open directions in the space of parameters, worst first.
    missing
        What no training row has, in words.
    rows_to_add
        What further rows would tell, in words.
    """

    not_identified: dict[str, str]
    correlated: list[Correlation]
    directions: list[Direction]
    missing: list[str]
    rows_to_add: list[str]

    def sentences(self) -> list[str]:
        """Return the report as sentences for a reader."""
        out = []
        if self.not_identified:
            out.append(f"Not identifiable: {', '.join(self.not_identified)}.")
        out += [
            f"{c.first} and {c.second} cannot be told apart (correlation {c.correlation:.2f})."
            for c in self.correlated
        ]
        out += [_words(d) for d in self.directions]
        out += [f"{text[0].upper()}{text[1:]}." for text in self.missing]
        if self.rows_to_add:
            more = len(self.rows_to_add) - SAID
            rest = f"; and {more} more" if more > 0 else ""
            out.append(f"Rows that would tell: {'; '.join(self.rows_to_add[:SAID])}{rest}.")
        return out

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Identifiability:
        """Rebuild from `to_dict`."""
        return Identifiability(
            not_identified=dict(data["not_identified"]),
            correlated=[Correlation(**c) for c in data["correlated"]],
            directions=[Direction(**d) for d in data["directions"]],
            missing=list(data["missing"]),
            rows_to_add=list(data["rows_to_add"]),
        )


def identifiability(
    parameters: Sequence[Parameter],
    covariance: NDArray[np.float64],
    sizes: NDArray[np.float64],
    reasons: dict[str, str],
    work: Work,
) -> Identifiability:
    """Judge a fit.

    Parameters
    ----------
    parameters
        Fitted parameters.
    covariance
        Their covariance, shape (n, n).
    sizes
        What a change of each parameter is compared with: the value of a coefficient, the whole
        range of one that enters non-linearly, shape (n,).
    reasons
        Parameter that is not identifiable -> why.
    work
        Work of the training rows.
    """
    names = [p.name for p in parameters]
    correlated = _correlated(names, covariance)
    directions = _directions(names, covariance, sizes)
    unclear = list(reasons)
    unclear += [n for c in correlated for n in (c.first, c.second)]
    unclear += [n for d in directions for n in d.parameters]
    wishes = [f"{n}: {WHERE_LARGE[n]}" for n in dict.fromkeys(unclear) if n in WHERE_LARGE]
    return Identifiability(
        not_identified=dict(reasons),
        correlated=correlated,
        directions=directions,
        missing=missing_rows(work),
        rows_to_add=wishes,
    )


def missing_rows(work: Work) -> list[str]:
    """Say which settings no row has, each with the parameters that hang on it."""
    out = []
    for absent, text in (
        (not (work.tensor > 1.0).any(), "no row with t > 1: nothing on sharding, sync, bridge"),
        (
            bool((work.tensor > 1.0).any()) and not (work.tensor > 2.0).any(),
            "no row with t > 2: nothing on the shared bridge, predictions there may be far too low",
        ),
        (not (work.stages > 1.0).any(), "no row with p > 1: nothing on waiting stages"),
        (not (work.steps > 0.0).any(), "no row with m > 1: nothing on decode"),
        (_one(work.micro_batch), "only one micro-batch size: nothing on growth with the batch"),
        (_one(work.input_tokens), "only one input length: nothing on growth with the prompt"),
    ):
        if absent:
            out.append(text)
    return out


def _one(values: NDArray[np.float64]) -> bool:
    return bool(len(values)) and bool((values == values[0]).all())


def _correlated(names: list[str], covariance: NDArray[np.float64]) -> list[Correlation]:
    size = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    size[size == 0.0] = np.inf
    found = covariance / np.outer(size, size)
    return [
        Correlation(names[i], names[j], round(float(np.clip(found[i, j], -1.0, 1.0)), 4))
        for i in range(len(names))
        for j in range(i + 1, len(names))
        if abs(found[i, j]) > CORRELATED
    ]


def _directions(
    names: list[str], covariance: NDArray[np.float64], sizes: NDArray[np.float64]
) -> list[Direction]:
    """Return the eigenvectors of the relative covariance whose error is large.

    Coefficients of zero have no relative change; they are named as not identifiable.
    """
    used = np.flatnonzero((sizes > 0.0) & (np.diag(covariance) > 0.0))
    if not len(used):
        return []
    relative = covariance[np.ix_(used, used)] / np.outer(sizes[used], sizes[used])
    variances, vectors = np.linalg.eigh(relative)
    out = []
    for k in np.argsort(variances)[::-1]:
        error = float(np.sqrt(max(variances[k], 0.0)))
        named = np.flatnonzero(np.abs(vectors[:, k]) > NAMED)
        if error <= OPEN:
            break
        if len(named) > 1:  # a direction of one parameter is that parameter's own interval
            sign = np.sign(vectors[named[0], k])
            weights = {names[used[j]]: round(float(sign * vectors[j, k]), 3) for j in named}
            out.append(Direction(weights, error))
    return out


def _words(direction: Direction) -> str:
    """Say an open direction: what rises while what falls."""
    ups = [n for n, w in direction.parameters.items() if w > 0.0]
    downs = [n for n, w in direction.parameters.items() if w < 0.0]
    error = f"{100.0 * min(direction.relative_error, 9.99):.0f} %"
    if not downs:
        return f"{' and '.join(ups)} may rise or fall together (by about {error})."
    return f"{' and '.join(ups)} may rise while {' and '.join(downs)} falls (by about {error})."
