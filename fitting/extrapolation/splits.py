"""What is held out of a table, by name, and which rows may be learnt from.

A split never looks at an energy. It knows names and lengths only, so no choice that it makes can
favour a law.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fitting.rows import row_hash, sample_order
from fitting.work import column
from harness.store import FitError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from fitting.facts import Facts

ENOUGH = 0.05
"""The largest value asked about is the largest that at least this share of the rows reaches."""

DOUBLINGS = 2
"""How many doublings past the fitted values are asked about."""

_SUFFIXES = ("-FP8", "-fp8", "-BF16", "-bf16", "-NVFP4", "-MXFP4")


@dataclass(frozen=True, slots=True)
class Cut:
    """Rows that are asked about, and rows that may be learnt from without having seen them.

    Attributes
    ----------
    left_out
        What is held out, for people.
    allowed, asked
        Shape (rows,); never both true.
    """

    left_out: str
    allowed: NDArray[np.bool_]
    asked: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Split:
    """A cut with the rows that were drawn.

    Attributes
    ----------
    kind, left_out
        What is held out.
    train
        Positions of the training rows, `samples` of each (model, hardware), sorted.
    asked
        Positions of the held-out rows, sorted.
    ranks
        Place of each held-out row in the draw of its group, shape of `asked`: the few rows
        of a new platform are those of the lowest ranks, so that more rows hold fewer.
    """

    kind: str
    left_out: str
    train: NDArray[np.intp]
    asked: NDArray[np.intp]
    ranks: NDArray[np.intp]

    def shots(self, rows: int) -> NDArray[np.bool_]:
        """Say which held-out rows are the first `rows` of their group, shape of `asked`."""
        result: NDArray[np.bool_] = self.ranks < rows
        return result


def base_names(rows: pd.DataFrame) -> NDArray[np.object_]:
    """Return model ids without a suffix that names the precision of a checkpoint."""
    names = rows["model_id"].astype(str)
    for suffix in _SUFFIXES:
        names = names.str.removesuffix(suffix)
    return names.to_numpy(dtype=object)


def siblings(rows: pd.DataFrame, facts: Facts) -> NDArray[np.object_]:
    """Return a text a row that models of one backbone share.

    A checkpoint of another precision is a sibling too, also where no facts are known.
    """
    known = dict(zip(rows["model_id"].astype(str), base_names(rows), strict=True))
    backbone = {
        name: facts.backbone(name if name in facts.models else str(base))
        for name, base in known.items()
    }
    return np.array([backbone[name] for name in rows["model_id"].astype(str)], dtype=object)


def _names(rows: pd.DataFrame, name: str) -> NDArray[np.object_]:
    if name not in rows.columns:
        return np.full(len(rows), "", dtype=object)
    values = rows[name]
    return values.astype(object).where(values.notna(), "").astype(str).to_numpy(dtype=object)


def _by_value(values: NDArray[np.object_]) -> list[Cut]:
    """Leave each value out in turn."""
    return [Cut(str(v), values != v, values == v) for v in sorted({*values.tolist()} - {""})]


def _hardware(rows: pd.DataFrame, facts: Facts) -> list[Cut]:
    return _by_value(_names(rows, "hardware"))


def _precision(rows: pd.DataFrame, facts: Facts) -> list[Cut]:
    return _by_value(_names(rows, "precision"))


def _task(rows: pd.DataFrame, facts: Facts) -> list[Cut]:
    return _by_value(_names(rows, "task"))


def _model(rows: pd.DataFrame, facts: Facts) -> list[Cut]:
    """Leave each backbone out in turn, with all models that have it."""
    shared = siblings(rows, facts)
    names = base_names(rows)
    cuts = []
    for cut in _by_value(shared):
        label = " + ".join(sorted({str(n).rsplit("/", 1)[-1] for n in names[cut.asked]}))
        cuts.append(Cut(label, cut.allowed, cut.asked))
    return sorted(cuts, key=lambda cut: cut.left_out)


def _without_siblings(name: str) -> Callable[[pd.DataFrame, Facts], list[Cut]]:
    """Leave each value of a column out; models of a backbone that has it are not learnt from."""

    def cuts(rows: pd.DataFrame, facts: Facts) -> list[Cut]:
        shared = siblings(rows, facts)
        return [
            Cut(cut.left_out, cut.allowed & ~np.isin(shared, [*{*shared[cut.asked]}]), cut.asked)
            for cut in _by_value(_names(rows, name))
        ]

    return cuts


def _past(rows: pd.DataFrame, name: str, label: str) -> list[Cut]:
    """Learn from values up to a limit; ask about one doubling past it, and about the second."""
    values = column(rows, name, default=np.nan)
    limit = limit_of(values)
    if limit is None:
        return []
    cuts = []
    for doubling in range(1, DOUBLINGS + 1):
        high = limit * 2.0**doubling
        asked = (values > high / 2.0) & (values <= high)
        if asked.any():
            low, top = int(values[asked].min()), int(values[asked].max())
            text = f"{top}" if low == top else f"{low} to {top}"
            cuts.append(Cut(f"{label}{text} ({2**doubling} x {limit:g})", values <= limit, asked))
    return cuts


def limit_of(values: NDArray[np.float64]) -> float | None:
    """Return the largest value with values in its second doubling; None if there is none.

    The last value asked about is at most the largest that `ENOUGH` of the rows reach.
    """
    known = np.sort(values[~np.isnan(values)])
    if not len(known):
        return None
    distinct = np.unique(known)
    reached = 1.0 - np.searchsorted(known, distinct, side="left") / len(known)
    top = distinct[reached >= ENOUGH].max()
    for limit in distinct[distinct * 2.0**DOUBLINGS <= top][::-1]:
        high = limit * 2.0**DOUBLINGS
        if ((distinct > high / 2.0) & (distinct <= high)).any():
            return float(limit)
    return None


def _batch(rows: pd.DataFrame, facts: Facts) -> list[Cut]:
    return _past(rows, "batch", "")


def _length(rows: pd.DataFrame, facts: Facts) -> list[Cut]:
    return [*_past(rows, "input_tokens", "input "), *_past(rows, "output_tokens", "output ")]


CUTS: dict[str, Callable[[pd.DataFrame, Facts], list[Cut]]] = {
    "hardware": _hardware,
    "batch": _batch,
    "length": _length,
    "precision": _precision,
    "task": _task,
    "model": _model,
    "family": _without_siblings("family"),
    "modality": _without_siblings("modality"),
}
"""Kind -> how its cuts are made.

Siblings of a held-out model are held out with it: in `model` by backbone, in `family` and
`modality` too. The other kinds ask about another side of models that were seen.
"""

KINDS = tuple(CUTS)
"""What can be held out."""

COUNTED = {
    "hardware": "GPU type",
    "batch": "range of batches",
    "length": "range of lengths",
    "precision": "precision",
    "task": "task",
    "model": "backbone",
    "family": "family",
    "modality": "modality",
}
"""What the names of a kind are called."""


def cuts_of(rows: pd.DataFrame, kind: str, facts: Facts) -> list[Cut]:
    """Return what is held out of a table in turn for a kind.

    Raises
    ------
    FitError
        If the table has no two values to tell apart; it says what it holds.
    """
    cuts = CUTS[kind](rows, facts)
    if kind in ("batch", "length"):
        if cuts:
            return cuts
        names = ["batch"] if kind == "batch" else ["input_tokens", "output_tokens"]
        raise FitError(
            f"Nothing to hold out by {kind}: no value leaves {DOUBLINGS} doublings past it.",
            where="; ".join(_range(rows, name) for name in names),
            fix=f"Measure values of {' or '.join(names)} that span a factor of four or more, "
            "or hold something else out.",
        )
    if len(cuts) < 2:
        held = f"only {cuts[0].left_out}" if cuts else f"no {kind}"
        raise FitError(
            f"Nothing to hold out by {kind}: the table holds {held}.",
            where=f"{len(rows)} rows",
            fix=f"Measure a second {COUNTED[kind]}, or hold something else out "
            f"(--hold-out {','.join(KINDS)}).",
        )
    return cuts


def _range(rows: pd.DataFrame, name: str) -> str:
    values = column(rows, name, default=np.nan)
    values = values[~np.isnan(values)]
    if not len(values):
        return f"no {name}"
    return f"{name} from {values.min():g} to {values.max():g}"


def draw(
    rows: pd.DataFrame, kind: str, cut: Cut, samples: int, seed: int, *, in_total: bool = False
) -> Split:
    """Draw training rows, and put the held-out rows in the order in which they are shown.

    Parameters
    ----------
    rows
        Usable rows, numbered from 0.
    kind, cut
        What is held out.
    samples
        Training rows of each (model, hardware).
    seed
        Seed of both draws.
    in_total
        Whether the few rows count over all of what is held out, instead of for each
        (model, hardware) of it.
    """
    hashes = row_hash(rows)
    pair = rows.groupby(["model_id", "hardware"], sort=True).ngroup().to_numpy().astype(np.intp)
    train = [
        positions[sample_order(hashes[positions], samples, seed)]
        for positions in _groups(pair, cut.allowed)
    ]
    asked = np.flatnonzero(cut.asked)
    ranks = np.zeros(len(rows), dtype=np.intp)
    whole = np.zeros(len(rows), dtype=np.intp)
    for positions in _groups(whole if in_total else pair, cut.asked):
        order = sample_order(hashes[positions], None, seed)
        ranks[positions[order]] = np.arange(len(positions))
    drawn = np.sort(np.concatenate(train)) if train else np.zeros(0, dtype=np.intp)
    return Split(kind, cut.left_out, drawn, asked, ranks[asked])


def _groups(codes: NDArray[np.intp], keep: NDArray[np.bool_]) -> list[NDArray[np.intp]]:
    """Return the kept positions of each group."""
    positions = np.flatnonzero(keep)
    order = positions[np.argsort(codes[positions], kind="stable")]
    if not len(order):
        return []
    return list(np.split(order, np.flatnonzero(np.diff(codes[order])) + 1))
