"""Numbers for people: three significant digits, SI prefixes, intervals."""

from __future__ import annotations

import math

_ENERGY = ((1e9, "GJ"), (1e6, "MJ"), (1e3, "kJ"), (1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ"))
_TIME = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_PLAIN = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
NOTHING = "\N{EN DASH}"


def significant(value: float | None, digits: int = 3) -> str:
    """Write a number with a fixed count of significant digits and no exponent.

    Parameters
    ----------
    value
        The number; None and NaN are written as an en dash.
    digits
        Significant digits kept; digits left of the point are never cut to zeros.
    """
    if value is None or math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:.{places}f}"
    # 9.996 rounds up to 10.00: one digit more than asked for.
    rounded = abs(float(text))
    if rounded and places and math.floor(math.log10(rounded)) > math.floor(math.log10(abs(value))):
        text = f"{value:.{places - 1}f}"
    return text


def _scaled(value: float | None, scale: tuple[tuple[float, str], ...], digits: int) -> str:
    if value is None or math.isnan(value):
        return NOTHING
    unit_one = next(unit for factor, unit in scale if factor == 1.0)
    if value == 0 or math.isinf(value):
        return f"{significant(value)} {unit_one}".rstrip()
    for factor, unit in scale:
        # half a unit in the last kept digit, so that 999.6 J becomes 1.00 kJ
        if abs(value) >= factor * (1 - 0.5 * 10.0 ** (-digits)):
            return f"{significant(value / factor, digits)} {unit}".rstrip()
    factor, unit = scale[-1]
    return f"{significant(value / factor, digits)} {unit}".rstrip()


def energy(value_j: float | None, digits: int = 3) -> str:
    """Write joules with the fitting SI prefix, as in `1.53 kJ`."""
    return _scaled(value_j, _ENERGY, digits)


def duration(value_s: float | None, digits: int = 3) -> str:
    """Write seconds: SI prefixes under two minutes, then minutes, hours, days."""
    if value_s is None or math.isnan(value_s):
        return NOTHING
    if abs(value_s) < 120 or math.isinf(value_s):
        return _scaled(value_s, _TIME, digits)
    if abs(value_s) < 2 * 3600:
        return f"{significant(value_s / 60, digits)} min"
    if abs(value_s) < 72 * 3600:
        return f"{significant(value_s / 3600, digits)} h"
    return f"{significant(value_s / 86400, digits)} d"


def quantity(value: float | None, digits: int = 3) -> str:
    """Write a plain number with k, M, G, T, as in `8.03 G` parameters."""
    return _scaled(value, _PLAIN, digits)


def percent(fraction: float | None, digits: int = 3) -> str:
    """Write a fraction as a percentage, as in `88.2 %`; never more than two decimals."""
    if fraction is None or math.isnan(fraction):
        return NOTHING
    if math.isinf(fraction):
        return "∞ %"
    value = 100 * fraction
    magnitude = abs(value)
    places = 2 if magnitude < 1 else 1 if magnitude < 100 else 0
    places = min(places, digits - 1)
    text = f"{value:.{places}f}"
    if float(text) == 0:
        text = "0"
    elif float(text) == 100:
        text = "100"
    return f"{text} %"


def interval(lo: float | None, hi: float | None, kind: str = "energy") -> str:
    """Write an interval with one unit for both ends, as in `1.43 to 1.63 kJ`."""
    write = {"energy": energy, "time": duration, "percent": percent}[kind]
    low, high = write(lo), write(hi)
    low_number, _, low_unit = low.partition(" ")
    high_unit = high.partition(" ")[2]
    return f"{low_number} to {high}" if low_unit == high_unit else f"{low} to {high}"


def count(value: int | float | None) -> str:
    """Write a whole number; from five digits on with spaces between thousands: `13 560`."""
    if value is None or value != value:
        return NOTHING
    return f"{int(value):,}".replace(",", " ") if abs(value) >= 10_000 else str(int(value))


def probability(share: float | None) -> str:
    """Write a share of random draws, which never proves 0 or 1."""
    if share is None:
        return NOTHING
    if share < 0.001:
        return "< 0.1 %"
    return "> 99.9 %" if share > 0.999 else percent(share)


_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def coefficient(value: float | None, digits: int = 3) -> str:
    """Write a parameter of a law: like `significant`, with a power of ten where it is far off 1."""
    if value is None or math.isnan(value) or math.isinf(value) or value == 0:
        return significant(value)
    if 1e-3 <= abs(value) < 1e5:
        return significant(value, digits)
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    return f"{mantissa}·10{str(int(exponent)).translate(_SUPERSCRIPT)}"
