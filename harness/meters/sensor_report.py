"""What a characterisation found about the sensor of one GPU, as a value and as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

from harness.meters.base import SensorFacts
from harness.meters.step_response import Response
from harness.meters.updates import Period


@dataclass(frozen=True, slots=True)
class IdlePower:
    """Mean power at rest: value, one standard deviation of it, and how long was watched."""

    power_w: float
    stderr_w: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Characterisation:
    """All that was found out about one sensor.

    Attributes
    ----------
    uuid, name, driver
        The GPU, and the driver that the findings hold for.
    measured_at
        When, in UTC.
    seconds
        How long it took.
    facts
        What meters need to know of it; `origin` is `characterised`.
    counter, power, average
        Update periods of the energy counter, of instant power and of averaged power.
    counter_response, power_response, average_response
        Answers of the three to the load; None where they could not be told.
    sampled_fraction_stderr
        One standard deviation of `facts.sampled_fraction`; NaN where it was not measured.
    bare, context, loaded
        Power at rest without a context, with one, and with weights in memory; None where it
        was not measured.
    load_w
        Mean power under the steady load; NaN without one.
    agreement
        Counter over integral of instant power under the steady load, minus one.
    average_agreement
        Counter over integral of averaged power, minus one.
    reasons
        Codes against trusting the sensor, as in `harness.meters.trust`.
    notes
        What else a reader should know, in words.
    simulated
        Whether the readings came from a scripted driver and not from a GPU.
    """

    uuid: str
    name: str
    driver: str
    measured_at: datetime
    seconds: float
    facts: SensorFacts
    counter: Period
    power: Period
    average: Period
    counter_response: Response | None = None
    power_response: Response | None = None
    average_response: Response | None = None
    sampled_fraction_stderr: float = math.nan
    bare: IdlePower | None = None
    context: IdlePower | None = None
    loaded: IdlePower | None = None
    load_w: float = math.nan
    agreement: float = math.nan
    average_agreement: float = math.nan
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    simulated: bool = False

    @property
    def trusted(self) -> bool:
        """Whether nothing speaks against the sensor."""
        return not self.reasons

    def to_dict(self) -> dict[str, Any]:
        """Plain values; NaN becomes None."""
        values: dict[str, Any] = _plain(asdict(self))
        return {**values, "shortest_window_s": _plain(self.facts.shortest_window_s)}

    def to_json(self) -> str:
        """JSON text that `from_json` reads."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Characterisation:
        """Read what `to_json` wrote.

        Raises
        ------
        ValueError
            If the text is something else.
        """
        try:
            values = json.loads(text)
            if not isinstance(values, dict):
                raise TypeError("not an object")
            kept = {f.name: values[f.name] for f in fields(cls)}
            kept["measured_at"] = datetime.fromisoformat(kept["measured_at"])
            for name, kind in _PARTS.items():
                if kept[name] is not None:
                    kept[name] = kind(**{k: _number(v) for k, v in kept[name].items()})
            for name in ("reasons", "notes"):
                kept[name] = tuple(kept[name])
            for name in ("sampled_fraction_stderr", "load_w", "agreement", "average_agreement"):
                kept[name] = _number(kept[name])
            return cls(**kept)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a characterisation: {error}") from error


_PARTS: dict[str, type] = {
    "facts": SensorFacts,
    "counter": Period,
    "power": Period,
    "average": Period,
    "counter_response": Response,
    "power_response": Response,
    "average_response": Response,
    "bare": IdlePower,
    "context": IdlePower,
    "loaded": IdlePower,
}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _number(value: Any) -> Any:
    """A missing number is NaN inside."""
    return math.nan if value is None else value
