"""From readings of a sensor under a known load to facts, reasons and notes; no clock, no sensor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt

from harness.meters.base import SensorFacts
from harness.meters.polling import Readings
from harness.meters.sensor_report import Characterisation, IdlePower
from harness.meters.step_response import Response, fit_response
from harness.meters.trust import trusted
from harness.meters.updates import (
    FEWEST_UPDATES,
    RESOLVED_POLLS,
    Period,
    change_times,
    changes,
    on_beat,
    update_period,
)

MAX_MISFIT = 0.2
"""Residual over swing above which a reading did not answer as the model says."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """Which sensor is looked at."""

    uuid: str
    name: str
    driver: str
    simulated: bool = False


def known_or(value: float, otherwise: float) -> float:
    """Return the value, or the other one where it is NaN."""
    return otherwise if math.isnan(value) else value


@dataclass(slots=True)
class Findings:
    """Readings of each part, and what the caller knows beside them.

    Attributes
    ----------
    gpu
        The GPU.
    rest, context
        At rest, without a context and with one.
    loaded
        Idle power with weights in memory, where the caller knows it.
    steady, bursts
        Under the long burst, and under the random ones; None without a load.
    edges_s
        (k, 2) start and end of every burst, seconds since the first poll of `bursts`.
    notes
        What else to say.
    """

    gpu: Gpu
    rest: Readings
    context: Readings | None = None
    loaded: IdlePower | None = None
    steady: Readings | None = None
    bursts: Readings | None = None
    edges_s: npt.NDArray[np.float64] | None = None
    notes: tuple[str, ...] = ()


def idle_power(readings: Readings, counter: Period) -> IdlePower | None:
    """Mean power at rest from the counter, or from power where there is none.

    The error has two parts: each end is known to half a poll, and the fifths of the watch differ.
    """
    at = changes(readings.energy_mj)
    if counter.updates < FEWEST_UPDATES or at.size < FEWEST_UPDATES:
        power = _first_known(readings.power_w, readings.average_power_w)
        power = power[~np.isnan(power)]
        if power.size < 5:
            return None
        spread = float(np.std([part.mean() for part in np.array_split(power, 5)], ddof=1))
        return IdlePower(float(power.mean()), spread / math.sqrt(5), readings.seconds)
    t_s = change_times(readings.t_ns, at)
    energy_j = readings.energy_mj[at] / 1e3
    seconds = float(t_s[-1] - t_s[0])
    power_w = float(energy_j[-1] - energy_j[0]) / seconds
    edges_w = power_w * readings.spacing_s * math.sqrt(2 / 12) / seconds
    marks = np.interp(np.linspace(t_s[0], t_s[-1], 6), t_s, energy_j)
    spread = float(np.std(np.diff(marks) / (seconds / 5), ddof=1)) / math.sqrt(5)
    return IdlePower(power_w, math.hypot(edges_w, spread), seconds)


def _first_known(*candidates: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return next((c for c in candidates if not np.isnan(c).all()), candidates[0])


def agreement(readings: Readings, power_w: npt.NDArray[np.float64], skip_s: float) -> float:
    """Counter over integral of a power reading, minus one, from `skip_s` after the start on."""
    at = changes(readings.energy_mj)
    t_s = (readings.t_ns - readings.t_ns[0]) / 1e9
    # The load ends before the readings do: the last half second is left out.
    at = at[(t_s[at] >= skip_s) & (t_s[at] <= t_s[-1] - 0.5)]
    if at.size < 3:
        return math.nan
    start, end = at[0], at[-1]
    known = ~np.isnan(power_w[start : end + 1])
    if known.sum() < 10:
        return math.nan
    integral_j = float(np.trapezoid(power_w[start : end + 1][known], t_s[start : end + 1][known]))
    energy_j = float(readings.energy_mj[end] - readings.energy_mj[start]) / 1e3
    return energy_j / integral_j - 1 if integral_j > 0 else math.nan


def conclude(
    found: Findings, assumed: SensorFacts, measured_at: datetime, seconds: float
) -> Characterisation:
    """Turn readings into facts, reasons and notes.

    Parameters
    ----------
    found
        The readings.
    assumed
        Facts that stand where nothing could be found out.
    measured_at, seconds
        When, and how long it took; copied into the result.
    """
    parts = [p for p in (found.bursts, found.steady, found.context, found.rest) if p is not None]
    power = _best_period([update_period(p.t_ns, p.power_w) for p in parts])
    average = _best_period([update_period(p.t_ns, p.average_power_w) for p in parts])
    counter = _best_period([update_period(p.t_ns, p.energy_mj) for p in parts])
    responses: tuple[Response | None, ...] = (None, None, None)
    if found.bursts is not None and found.edges_s is not None:
        responses = (
            counter_response(found.bursts, counter, found.edges_s),
            power_response(found.bursts, found.bursts.power_w, power, found.edges_s),
            power_response(found.bursts, found.bursts.average_power_w, average, found.edges_s),
        )
    moved = counter.updates >= FEWEST_UPDATES
    # Windows read the instant power; its mean stands in only where there is no other.
    instant = any(bool(np.isfinite(p.power_w).any()) for p in parts)
    shown, shown_response = (power, responses[1]) if instant else (average, responses[2])
    primary = responses[0] if moved else shown_response
    facts, fraction_error = _facts(
        assumed, counter if moved else shown, shown, responses[0], shown_response, moved
    )
    agrees = average_agrees = load_w = math.nan
    if found.steady is not None:
        settled_s = 1.0 + facts.power_averaging_s + facts.lag_s
        agrees = agreement(found.steady, found.steady.power_w, settled_s)
        average_agrees = agreement(found.steady, found.steady.average_power_w, settled_s + 1.0)
        load_w = _middle(_first_known(found.steady.power_w, found.steady.average_power_w))
    reasons = trusted(facts, known_or(agrees, average_agrees))
    if not moved and not np.isnan(found.rest.energy_mj).all():
        reasons = ["counter_frozen", *(r for r in reasons if r != "counter_missing")]
    if any(bool((np.diff(p.energy_mj) < 0).any()) for p in parts):
        reasons.append("counter_backwards")
    if found.steady is None:
        reasons.append("not_loaded")
    elif primary is None or primary.misfit > MAX_MISFIT:
        reasons.append("load_not_followed")
    notes = found.notes
    if moved and not counter.resolved:
        notes += ("the counter is renewed faster than it was polled: its period is a bound",)
    return Characterisation(
        uuid=found.gpu.uuid,
        name=found.gpu.name,
        driver=found.gpu.driver,
        measured_at=measured_at,
        seconds=seconds,
        facts=facts,
        counter=counter,
        power=power,
        average=average,
        counter_response=responses[0],
        power_response=responses[1],
        average_response=responses[2],
        sampled_fraction_stderr=fraction_error,
        bare=idle_power(found.rest, counter),
        context=None if found.context is None else idle_power(found.context, counter),
        loaded=found.loaded,
        load_w=load_w,
        agreement=agrees,
        average_agreement=average_agrees,
        reasons=tuple(reasons),
        notes=notes,
        simulated=found.gpu.simulated,
    )


def _middle(power_w: npt.NDArray[np.float64]) -> float:
    """Mean of the middle half of a steady burst; NaN where nothing was read."""
    part = power_w[power_w.size // 3 : power_w.size * 4 // 5]
    part = part[~np.isnan(part)]
    return float(part.mean()) if part.size else math.nan


def _best_period(candidates: list[Period]) -> Period:
    """The period from the part that showed most updates, resolved ones first."""
    return max(candidates, key=lambda p: (p.resolved, p.updates))


def counter_response(
    readings: Readings, period: Period, edges_s: npt.NDArray[np.float64]
) -> Response | None:
    """Width and delay of what each counter update adds.

    A counter faster than the polls is read at every tenth poll: its lag shows, its width not.
    """
    at = changes(readings.energy_mj)
    if at.size < 12 or math.isnan(period.period_s):
        return None
    if period.resolved:
        times = on_beat(change_times(readings.t_ns, at), period)
        updates = np.maximum(1, np.round(np.diff(times) / period.period_s))
        span_s = period.period_s * updates
        single = updates == 1
    else:
        at = at[::10]
        times = (readings.t_ns[at] - readings.t_ns[0]) / 1e9
        span_s = np.diff(times)
        single = np.abs(span_s / np.median(span_s) - 1) < 0.2
    power_w = np.diff(readings.energy_mj[at]) / 1e3 / span_s
    width_s = float(np.median(span_s))
    return fit_response(
        times[1:][single],
        power_w[single],
        edges_s,
        widths_s=(0.02 * width_s, 1.3 * width_s),
        delays_s=(-width_s, max(0.6, 2 * width_s)),
        scale_s=max(width_s / 4, 0.002),
        spacing_s=readings.spacing_s,
    )


def power_response(
    readings: Readings,
    power_w: npt.NDArray[np.float64],
    period: Period,
    edges_s: npt.NDArray[np.float64],
) -> Response | None:
    """Width and delay of the mean behind a power reading."""
    at = changes(power_w)
    if at.size < 12 or math.isnan(period.period_s):
        return None
    times = on_beat(change_times(readings.t_ns, at), period)
    return fit_response(
        times,
        power_w[at],
        edges_s,
        widths_s=(0.0, 1.6),
        delays_s=(-0.1, 0.7),
        scale_s=max(period.period_s / 4, 0.004),
        spacing_s=readings.spacing_s,
    )


def _facts(
    assumed: SensorFacts,
    period: Period,
    power: Period,
    of_counter: Response | None,
    shown: Response | None,
    moved: bool,
) -> tuple[SensorFacts, float]:
    """Facts, and the error of the sampled share; `period` is that of what gives energy."""
    primary = of_counter if moved else shown
    fraction, error = assumed.sampled_fraction, math.nan
    lag_s = assumed.lag_s
    if primary is not None and primary.misfit <= MAX_MISFIT:
        lag_s = max(0.0, primary.delay_s)
        if period.resolved:
            fraction = min(1.0, primary.width_s / period.period_s)
            full = primary.width_s > 1.5 * period.period_s  # a mean over several updates
            error = 0.0 if full else primary.width_stderr_s / period.period_s
    averaging_s = assumed.power_averaging_s
    if shown is not None and shown.misfit <= MAX_MISFIT:
        averaging_s = shown.width_s if shown.width_s > _width_floor(shown) else 0.0
    facts = SensorFacts(
        counter_period_s=period.period_s,
        poll_period_s=assumed.poll_period_s,
        gain_error=assumed.gain_error,
        power_period_s=power.period_s,
        power_averaging_s=averaging_s,
        lag_s=lag_s,
        sampled_fraction=fraction,
        has_counter=moved,
        origin="characterised",
    )
    return facts, error


def _width_floor(response: Response) -> float:
    """Width below which a mean cannot be told from an instant: a few polls, or its error."""
    return max(RESOLVED_POLLS * 0.002, 3 * response.width_stderr_s)
