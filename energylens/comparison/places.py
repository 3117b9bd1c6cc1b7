"""What the sentinels say of GPUs, hosts and launches, judged together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from energylens.comparison.inference import adjusted, half_widths, p_values, percent_change
from energylens.comparison.levels import Shift
from energylens.comparison.result import Finding

MIN_PEERS = 2
"""With fewer other GPUs nobody can tell a GPU from what its model did everywhere."""

MEDIAN_PRICE = np.pi / 2
"""Variance of a median over that of a mean."""

Estimate = tuple[str, str, float, float, float, int, str]
"""Kind, name, log change, variance, degrees of freedom, launches, note."""


def level_findings(
    found: Sequence[Shift], *, min_change: float, share: float
) -> tuple[Finding, ...]:
    """Judge the changes of the sentinels.

    Parameters
    ----------
    found
        Changes of sentinels that stayed where they were.
    min_change
        Smallest change of interest, as a share.
    share
        Bound on false discoveries among these.

    Returns
    -------
    tuple of Finding
        Kind `sentinel gpu` (launches that one GPU did alone; against its peers where there are
        two, else against last night), `sentinel host` (all launches there), `sentinel launch`.
    """
    findings: list[Finding] = []
    for metric in dict.fromkeys(shift.level.metric for shift in found):
        own = [shift for shift in found if shift.level.metric == metric]
        findings += _judged(metric, _estimates(own), min_change, share)
    return tuple(findings)


def _estimates(own: Sequence[Shift]) -> list[Estimate]:
    alone = [shift for shift in own if len(shift.level.gpus) == 1]
    out = [_place("sentinel gpu", g, alone, _gpu) for g in _names(alone, _gpu)]
    hosts = {name: {s.level.gpus for s in own if _host(s) == name} for name in _names(own, _host)}
    # A host with one set of GPUs is that set.
    several = [h for h, sets in hosts.items() if h and (len(sets) > 1 or sets == {()})]
    out += [_place("sentinel host", h, own, _host) for h in several]
    for shift in own:
        at = shift.level
        note = f"{at.model_id}, {at.hardware}{f', {at.host}' if at.host else ''}"
        one = shift.log_change, shift.variance, shift.degrees
        out.append(("sentinel launch", at.launch, *one, 1, note))
    return out


def _gpu(shift: Shift) -> str:
    return shift.level.gpus[0]


def _host(shift: Shift) -> str:
    return shift.level.host


def _names(own: Sequence[Shift], name: Callable[[Shift], str]) -> list[str]:
    return sorted({name(shift) for shift in own})


def _place(kind: str, place: str, every: Sequence[Shift], name: Callable[[Shift], str]) -> Estimate:
    """Pool the launches of a place over its models, each less what the model did elsewhere."""
    own = [shift for shift in every if name(shift) == place]
    parts, against = [], 0
    for work in dict.fromkeys((s.level.model_id, s.level.hardware) for s in own):
        here = [s for s in own if (s.level.model_id, s.level.hardware) == work]
        mean, variance, degrees = _pooled(here)
        peers = [
            s for s in every if name(s) != place and (s.level.model_id, s.level.hardware) == work
        ]
        if len({name(s) for s in peers}) >= MIN_PEERS:
            against += 1
            mean -= float(np.median([s.log_change for s in peers]))
            variance += MEDIAN_PRICE * float(np.mean([s.variance for s in peers])) / len(peers)
        parts.append((mean, variance, degrees))
    weight = np.array([1 / variance for _, variance, _ in parts])
    mean = float(weight @ [m for m, _, _ in parts] / weight.sum())
    degrees = float(sum(n for _, _, n in parts))
    hardware = ", ".join(dict.fromkeys(s.level.hardware for s in own))
    where = f", {own[0].level.host}" if kind == "sentinel gpu" and own[0].level.host else ""
    whom = "its peers" if against == len(parts) else "last night"
    note = f"{hardware}{where}, against {whom}"
    return kind, place, mean, float(1 / weight.sum()), degrees, len(own), note


def _pooled(here: Sequence[Shift]) -> tuple[float, float, float]:
    weight = np.array([1 / shift.variance for shift in here])
    mean = float(weight @ [shift.log_change for shift in here] / weight.sum())
    return mean, float(1 / weight.sum()), float(sum(shift.degrees for shift in here))


def _judged(
    metric: str, estimates: Sequence[Estimate], min_change: float, share: float
) -> list[Finding]:
    d = np.array([e[2] for e in estimates])
    stderr = np.sqrt([e[3] for e in estimates])
    degrees = np.array([e[4] for e in estimates])
    p, half = p_values(d, stderr, degrees), half_widths(stderr, degrees)
    q = adjusted(p)
    sure = (q <= share) & (np.abs(d) >= np.log1p(min_change))
    return [
        Finding(
            kind=kind,
            name=name,
            metric=metric,
            change=percent_change(d[i]),
            lo=percent_change(d[i] - half[i]),
            hi=percent_change(d[i] + half[i]),
            p=float(p[i]),
            p_adjusted=float(q[i]),
            verdict=("worse" if d[i] > 0 else "better") if sure[i] else "same",
            rows=launches,
            launches=launches,
            note=note,
        )
        for i, (kind, name, _, _, _, launches, note) in enumerate(estimates)
    ]
