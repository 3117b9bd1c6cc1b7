"""The pairs of two runs with their changes, and every part of a comparison that they give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from energylens.comparison import cards as gpus
from energylens.comparison import launches
from energylens.comparison.groups import pool
from energylens.comparison.inference import (
    adjusted,
    half_widths,
    median_interval,
    p_values,
    percent_change,
)
from energylens.comparison.matching import Matched, name_of
from energylens.comparison.metrics import METRICS, Metric
from energylens.comparison.ratios import Floats, Ints, Ratios, ratios, units
from energylens.comparison.result import Drift, Finding, Options
from energylens.comparison.texts import texts
from energylens.report.rows import records

if TYPE_CHECKING:
    import pandas as pd


class Pairs:
    """The pairs with their changes; each method gives one part of the result.

    Parameters
    ----------
    matched, options, judged
        Pairs of rows, what counts as a change, metrics that are judged.
    families
        Families of tests beside these that the rate is shared with.
    """

    def __init__(
        self, matched: Matched, options: Options, judged: Sequence[str], families: int = 0
    ) -> None:
        self._matched = matched
        self._options = options
        self._judged = tuple(judged)
        old, new = matched.old, matched.new
        self._unit: Ints = units(old, new)
        self._cards = launches.cards_of(old, new, self._unit)
        first = np.unique(self._unit, return_index=True)[1]
        self._hardware = new["hardware"].astype(str).to_numpy()[first]
        kind = new.groupby(["model_id", "hardware"], dropna=False).ngroup().to_numpy()
        self._kind: Ints = kind[first].astype(np.int64)
        self.found: dict[str, Ratios] = {}
        self._summary: dict[str, launches.Summary] = {}
        self._launch_sd: dict[str, float] = {}
        for name, metric in METRICS.items():
            self.found[name] = found = ratios(old, new, metric, self._unit)
            self._summary[name] = summary = launches.summarise(found, self._unit)
            self._launch_sd[name] = launches.launch_sd(summary, self._kind[summary.unit])
        self._effects = {name: self._card_effects(name) for name in np.unique(self._hardware)}
        self.cards_note = "" if any(len(e.index) for e in self._effects.values()) else self._why()
        self._moved = self._cards.moved
        spread = np.array([self._effects[name].spread for name in self._hardware])
        self._apart = (spread**2 * (self._moved**2).sum(axis=1))[self._unit]
        # What is known of a GPU on both nights is taken off where work moved to or from it.
        standing = np.zeros(len(self._cards.names))
        for effects in self._effects.values():
            standing[effects.index] = np.nan_to_num(effects.standing[:, 0])
        self._offset: Floats = (self._moved @ standing)[self._unit]
        self._families = 2 + (not self.cards_note) + families

    @property
    def share(self) -> float:
        """Part of the rate of false discoveries that each family of tests gets."""
        return self._options.rate / self._families

    def _card_effects(self, hardware: str) -> gpus.CardEffects:
        """GPUs are judged by the total energy, over all units of their type."""
        whole = self._summary["total"]
        own = self._hardware[whole.unit] == hardware
        if not own.any() or not self._cards.names:
            return gpus.no_effects()
        part = launches.Summary(whole.unit[own], whole.mean[own], whole.variance[own])
        centre = self._kind[part.unit]
        return gpus.card_effects(part, self._cards, centre, self._launch_sd["total"])

    def _why(self) -> str:
        if not len(self._summary["total"].unit):
            return "no energies, so GPUs cannot be compared"
        known = len(self._cards.names)
        if not known:
            return "the rows do not say which GPUs they ran on"
        if known < gpus.MIN_CARDS:
            return f"{known} GPU{'s' if known > 1 else ''}: too few to say which one is odd"
        return "each model ran on too few sets of GPUs: a GPU cannot be told from its work"

    def _verdicts(self, d: Floats, p_adjusted: Floats) -> list[str]:
        """Significant at this family's share of the rate, and large enough to matter."""
        least = np.log1p(self._options.min_change)
        sure = (p_adjusted <= self.share) & (np.abs(d) >= least)
        return [
            "unknown" if not np.isfinite(q) else ("worse" if x > 0 else "better") if s else "same"
            for x, q, s in zip(d, p_adjusted, sure, strict=True)
        ]

    def configurations(self, groups: Sequence[Finding], cards: Sequence[Finding]) -> pd.DataFrame:
        """One row a pair and metric that has a value in both nights."""
        import pandas as pd

        frame = pd.concat(
            [self._of_metric(metric) for metric in METRICS.values()], ignore_index=True
        )
        judged = frame["metric"].isin(self._judged).to_numpy()
        p = frame["p"].to_numpy(dtype=np.float64)
        q = np.full(p.size, np.nan)
        q[judged] = adjusted(p[judged])
        for name in set(METRICS) - set(self._judged):
            own = (frame["metric"] == name).to_numpy()
            q[own] = adjusted(p[own])
        frame["p_adjusted"] = q
        frame["verdict"] = self._verdicts(np.log1p(frame["beyond_gpu"].to_numpy()), q)
        frame["cause"] = _causes(frame, groups, cards)
        return frame

    def _offset_of(self, name: str) -> Floats:
        """Log ratio of each pair that GPUs which differ on both nights explain; of energies."""
        return self._offset if METRICS[name].kind == "energy" else np.zeros_like(self._offset)

    def _of_metric(self, metric: Metric) -> pd.DataFrame:
        import pandas as pd

        found, old, new = self.found[metric.name], self._matched.old, self._matched.new
        rows = np.flatnonzero(np.isfinite(found.log_change))
        d, degrees = found.log_change[rows], found.degrees[rows]
        extra = self._launch_sd[metric.name] ** 2 + self._apart[rows]
        stderr = np.sqrt(found.stderr[rows] ** 2 + extra)
        half = half_widths(stderr, degrees)
        cleared = d - self._offset_of(metric.name)[rows]
        named_rows = [name_of(row) for row in records(new.iloc[rows])]
        moved = (np.abs(self._moved).sum(axis=1) > 0)[self._unit[rows]]
        versions = zip(
            old["engine_version"].iloc[rows], new["engine_version"].iloc[rows], strict=True
        )
        return pd.DataFrame(
            {
                "task_id": new.index[rows].astype(str),
                "model_id": [name[0] for name in named_rows],
                "hardware": [name[1] for name in named_rows],
                "layout": [name[2] for name in named_rows],
                "workload": [name[3] for name in named_rows],
                "engine_version": [_before_after(a, b) for a, b in versions],
                "provenance": self._matched.provenance,
                "metric": metric.name,
                "old": old[metric.column].to_numpy(dtype=np.float64, na_value=np.nan)[rows],
                "new": new[metric.column].to_numpy(dtype=np.float64, na_value=np.nan)[rows],
                "change": np.expm1(d),
                "lo": np.expm1(d - half),
                "hi": np.expm1(d + half),
                "beyond_gpu": np.expm1(cleared),
                "p": p_values(cleared, stderr, degrees),
                "moved": moved,
                "gpus": [list(texts(cell)) for cell in new["gpu_uuids"].iloc[rows]],
            }
        )

    def drift(self) -> list[Drift]:
        """Median change of every metric that has values."""
        out = []
        for name, found in self.found.items():
            known = found.log_change[np.isfinite(found.log_change)]
            if known.size:
                middle, lo, hi = (percent_change(v) for v in median_interval(known))
                out.append(Drift(name, middle, lo, hi, int(known.size)))
        return out

    def groups(self) -> list[Finding]:
        """Pooled change of every group and metric, judged together."""
        cleared = {
            name: replace(found, log_change=found.log_change - self._offset_of(name))
            for name, found in self.found.items()
        }
        pooled = []
        for kind in self._options.groups:
            keys = self._keys(kind)
            for key in dict.fromkeys(sorted(keys)):
                rows = np.flatnonzero(keys == key)
                spread = max(self._effects[h].spread for h in self._hardware[self._unit[rows]])
                for name, found in cleared.items():
                    one = pool(found, self._unit, rows, self._launch_sd[name], self._moved, spread)
                    if one is not None:
                        pooled.append((kind, key, name, one))
        if not pooled:
            return []
        d = np.array([one.mean for *_, one in pooled])
        middle = np.array([one.middle for *_, one in pooled])
        stderr = np.array([one.stderr for *_, one in pooled])
        degrees = np.array([one.degrees for *_, one in pooled])
        p, half = p_values(d, stderr, degrees), half_widths(stderr, degrees)
        judged = np.array([name in self._judged for _, _, name, _ in pooled])
        q = np.full(p.size, np.nan)
        for part in (judged, ~judged):
            q[part] = adjusted(p[part])
        return [
            Finding(
                kind=kind,
                name=key,
                metric=name,
                change=percent_change(d[i]),
                lo=percent_change(d[i] - half[i]),
                hi=percent_change(d[i] + half[i]),
                p=float(p[i]),
                p_adjusted=float(q[i]),
                verdict=verdict,
                rows=one.rows,
                launches=one.units,
            )
            for i, ((kind, key, name, one), verdict) in enumerate(
                zip(pooled, self._verdicts(_smaller(d, middle), q), strict=True)
            )
        ]

    def _keys(self, kind: str) -> np.ndarray[Any, Any]:
        old, new = self._matched.old[kind], self._matched.new[kind]
        return np.array([_before_after(a, b) for a, b in zip(old, new, strict=True)], dtype=object)

    def cards(self) -> list[Finding]:
        """Every GPU that can be told from its peers."""
        pieces = [(h, e) for h, e in self._effects.items() if len(e.index)]
        if not pieces:
            return []
        d = np.concatenate([e.effect for _, e in pieces])
        stderr = np.concatenate([e.stderr for _, e in pieces])
        degrees = np.concatenate([e.degrees for _, e in pieces])
        p, half = p_values(d, stderr, degrees), half_widths(stderr, degrees)
        q = adjusted(p)
        verdicts = self._verdicts(d, q)
        index = np.concatenate([e.index for _, e in pieces])
        standing = np.concatenate([e.standing for _, e in pieces])
        types = [hardware for hardware, e in pieces for _ in e.index]
        rows = np.bincount(self._unit, minlength=len(self._cards.new))
        out = []
        for i, card in enumerate(index):
            there = self._cards.new[:, card] > 0
            verdict, note, shift, around = verdicts[i], types[i], d[i], half[i]
            offset, error = standing[i]
            if np.isfinite(offset) and verdict == "same":
                shift, around = offset, half[i] / stderr[i] * error
                large = abs(offset) >= np.log1p(self._options.min_change)
                verdict = "standing" if large else "same"
                note += ", on both nights"
            elif np.isfinite(offset):
                note += f", beside {100 * percent_change(offset):+.1f} % on both nights"
            out.append(
                Finding(
                    kind="gpu",
                    name=self._cards.names[card],
                    metric="total",
                    change=percent_change(shift),
                    lo=percent_change(shift - around),
                    hi=percent_change(shift + around),
                    p=float(p[i]),
                    p_adjusted=float(q[i]),
                    verdict=verdict,
                    rows=int(rows[there].sum()),
                    launches=int(there.sum()),
                    note=note,
                )
            )
        return out


def _smaller(mean: Floats, median: Floats) -> Floats:
    """Take the smaller of two changes, 0 where they disagree: a group changed if most of it did."""
    agree = np.sign(mean) == np.sign(median)
    return np.where(agree, np.sign(mean) * np.minimum(np.abs(mean), np.abs(median)), 0.0)


def _before_after(old: Any, new: Any) -> str:
    """Name a value, or both where they differ."""
    before, after = (_text(value) for value in (old, new))
    return after if before == after else f"{before} -> {after}"


def _text(value: Any) -> str:
    if value is None or value != value:
        return "not stated"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _causes(frame: pd.DataFrame, groups: Sequence[Finding], cards: Sequence[Finding]) -> list[str]:
    """Say what a change is part of: a GPU, a group that moved alike, or itself alone."""
    odd = {f.name: f.verdict for f in cards if f.verdict in ("worse", "better")}
    moved: dict[tuple[str, str], list[Finding]] = {}
    for f in groups:
        if f.verdict in ("worse", "better"):
            moved.setdefault((f.metric, f.verdict), []).append(f)
    out = []
    columns = ["verdict", "metric", "change", "lo", "hi", "gpus"]
    fields = [frame[name].tolist() for name in columns]
    for i, (verdict, metric, _, lo, hi, uuids) in enumerate(zip(*fields, strict=True)):
        cause = ""
        if verdict in ("worse", "better"):
            cause = "alone"
            card = next((u for u in uuids if odd.get(u) == verdict), None)
            if card is not None:
                cause = f"gpu {card}"
            else:
                for f in moved.get((metric, verdict), ()):
                    own = f.kind in frame.columns and frame[f.kind].iloc[i] == f.name
                    if own and lo <= f.change <= hi:
                        cause = f"{f.kind} {f.name}"
                        break
        out.append(cause)
    return out
