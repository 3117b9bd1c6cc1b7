"""How well the pooled law answers where rows are few or none.

    python benchmarks/pooling.py RUN_DIR [--seeds 0 1 2] [--parts samples batch hardware model]

samples: 10, 25 and 50 rows of each pair, against a law for each pair from the same rows.
batch: rows of batches up to 16; asked about 32 and 64.
hardware: each GPU type left out in turn; then 0, 3 or 10 rows of each of its pairs are added.
model: each model, with its siblings, left out in turn; then the same.

Errors and coverage (share of rows inside their 95 % interval) are of rows that no fit has seen;
Top-1 and regret are of all choices of a deployment (docs/evaluation.md).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

import energylens
from energylens.facts import facts_for
from fitting.metrics import judge
from fitting.pooling import PooledLaw, fit_pooled
from fitting.rows import row_hash, sample_order, usable
from fitting.scenarios import build
from fitting.work import column

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Mask = NDArray[np.bool_]
    Index = NDArray[np.intp]

ROWS = 50
"""Rows of each pair that is not left out."""

LARGEST_BATCH = 16
ADDED = (0, 3, 10)
HEAD = (
    f"{'law':<48}{'seed':>5}{'MAPE %':>8}{'Top-1 %':>9}{'regret %':>10}{'in 95 %':>9}{'CPU s':>7}"
)


def main() -> None:
    """Print the tables."""
    parts: dict[str, Callable[[Bench, int], None]] = {
        "samples": samples,
        "batch": batch,
        "hardware": hardware,
        "model": model,
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run folder with a table of measurements")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--parts", nargs="+", choices=list(parts), default=list(parts))
    arguments = parser.parse_args()
    rows, _ = usable(energylens.load(arguments.run))
    bench = Bench(rows.reset_index(drop=True))
    print(HEAD)
    for part in arguments.parts:
        for seed in arguments.seeds:
            parts[part](bench, seed)
    bench.means()


class Bench:
    """Usable rows, what is drawn from them, and scores by name of the law.

    Parameters
    ----------
    rows
        Usable rows, numbered from 0.
    """

    def __init__(self, rows: pd.DataFrame) -> None:
        self.rows, self.facts = rows, facts_for(rows)
        self.energy = column(rows, "total_energy_j")
        self.half = column(rows, "total_energy_j_ci95_j", default=0.0)
        self.hash = row_hash(rows)
        self.pair = rows.groupby(["model_id", "hardware"]).ngroup().to_numpy()
        self.scenarios = build(rows, "S1")
        self.scores: dict[str, list[list[float]]] = {}

    def draw(self, count: int, seed: int, among: Mask | None = None) -> Index:
        """Return positions of rows drawn from each pair."""
        among = np.ones(len(self.rows), dtype=bool) if among is None else among
        out = []
        for code in np.unique(self.pair[among]):
            at = np.flatnonzero((self.pair == code) & among)
            out.append(at[sample_order(self.hash[at], count, seed)])
        return np.concatenate(out)

    def fit(self, at: Index) -> PooledLaw:
        """Fit the pooled law to rows."""
        return fit_pooled(self.rows.iloc[at], self.facts)

    def score(
        self,
        name: str,
        group: str,
        seed: int,
        found: pd.DataFrame,
        at: Index,
        seen: Index,
        cpu: float,
    ) -> None:
        """Print the scores of predictions of the rows `at`, of which `seen` were fitted."""
        total = np.full(len(self.rows), np.nan)
        total[at] = column(found, "total_energy_j", default=np.nan)
        test = np.setdiff1d(at, seen)
        asked = np.isin(self.scenarios.first, at)
        choice = judge(
            self.scenarios.values(self.energy, np.inf)[asked],
            self.scenarios.values(self.half, 0.0)[asked],
            self.scenarios.values(total, np.inf)[asked],
            self.scenarios.mask[asked],
        )
        inside = np.zeros(len(self.rows), dtype=bool)
        low, high = (column(found, f"total_energy_j_{end}", default=np.nan) for end in ("lo", "hi"))
        inside[at] = (self.energy[at] >= low) & (self.energy[at] <= high)
        values = [
            100.0 * float(np.nanmean(np.abs(total[test] / self.energy[test] - 1.0))),
            100.0 * float(choice.top1.mean()),
            100.0 * float(choice.regret.mean()),
            100.0 * float(inside[test].mean()),
            cpu,
        ]
        self.scores.setdefault(name, []).append(values)
        _line(f"{name} {group}".strip(), str(seed), values)

    def means(self) -> None:
        """Print the means over seeds and groups."""
        print("\nmeans over seeds and what was left out")
        for name, values in self.scores.items():
            _line(name, "", [float(v) for v in np.mean(values, axis=0)])


def _line(name: str, seed: str, values: list[float]) -> None:
    mape, top1, regret, inside, cpu = values
    print(
        f"{name[:47]:<48}{seed:>5}{mape:8.2f}{top1:9.2f}{regret:10.2f}{inside:9.1f}{cpu:7.2f}",
        flush=True,
    )


def samples(bench: Bench, seed: int) -> None:
    """Compare with laws of each pair, from the same rows."""
    every = np.arange(len(bench.rows))
    for count in (10, 25, 50):
        seen = bench.draw(count, seed)
        for name, predict in (("pooled", _pooled), ("a law for each pair", _single)):
            began = time.process_time()
            found = predict(bench, seen)
            cpu = time.process_time() - began
            bench.score(f"{count} rows a pair, {name}", "", seed, found, every, seen, cpu)


def _pooled(bench: Bench, seen: Index) -> pd.DataFrame:
    return bench.fit(seen).predict_phases(bench.rows)


def _single(bench: Bench, seen: Index) -> pd.DataFrame:
    from fitting.fit import fit_frame

    law = fit_frame(bench.rows.iloc[seen], form="auto", pooled=False)
    return law.predict_phases(bench.rows)


def batch(bench: Bench, seed: int) -> None:
    """Ask for larger batches than were fitted."""
    large = column(bench.rows, "batch") > LARGEST_BATCH
    began = time.process_time()
    seen = bench.draw(ROWS, seed, ~large)
    law = bench.fit(seen)
    cpu = time.process_time() - began
    at = np.flatnonzero(large)
    found = law.predict_phases(bench.rows.iloc[at])
    bench.score("batches beyond those fitted", "", seed, found, at, seen, cpu)


def hardware(bench: Bench, seed: int) -> None:
    """Leave out each GPU type in turn."""
    kinds = bench.rows["hardware"].to_numpy()
    groups = [(str(kind), kinds == kind) for kind in sorted(set(kinds))]
    _left_out(bench, seed, "GPU type", groups)


def model(bench: Bench, seed: int) -> None:
    """Leave out each model with its siblings in turn."""
    names = bench.rows["model_id"].map(bench.facts.backbone).to_numpy()
    _left_out(bench, seed, "model", list(_models(bench, names)))


def _models(bench: Bench, names: NDArray[np.object_]) -> Iterator[tuple[str, Mask]]:
    for name in sorted(set(names)):
        mine = names == name
        yield str(bench.rows["model_id"][mine].iloc[0]).split("/")[-1], mine


def _left_out(bench: Bench, seed: int, what: str, groups: list[tuple[str, Mask]]) -> None:
    for label, mine in groups:
        began = time.process_time()
        seen = bench.draw(ROWS, seed, ~mine)
        base = bench.fit(seen)
        cpu = time.process_time() - began
        at = np.flatnonzero(mine)
        for count in ADDED:
            law, rows = base, seen
            if count:
                added = bench.draw(count, seed, mine)
                began = time.process_time()
                law = base.updated(bench.rows.iloc[added], bench.facts)
                cpu = time.process_time() - began
                rows = np.concatenate([seen, added])
            found = law.predict_phases(bench.rows.iloc[at])
            bench.score(f"new {what}, {count} rows a pair", label, seed, found, at, rows, cpu)


if __name__ == "__main__":
    main()
