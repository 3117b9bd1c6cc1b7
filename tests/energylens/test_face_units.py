"""Numbers for people."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from energylens.units import (
    NOTHING,
    coefficient,
    count,
    duration,
    energy,
    interval,
    percent,
    probability,
    quantity,
    significant,
)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (energy(1530.4), "1.53 kJ"),
        (energy(999.6), "1.00 kJ"),
        (energy(999.4), "999 J"),
        (energy(0.0123), "12.3 mJ"),
        (energy(4.44e7), "44.4 MJ"),
        (energy(0), "0 J"),
        (energy(None), NOTHING),
        (energy(math.nan), NOTHING),
        (duration(0.0123), "12.3 ms"),
        (duration(1.0), "1.00 s"),
        (duration(119.0), "119 s"),
        (duration(180), "3.00 min"),
        (duration(3 * 3600), "3.00 h"),
        (duration(100 * 3600), "4.17 d"),
        (quantity(8.03e9), "8.03 G"),
        (percent(0.882), "88.2 %"),
        (percent(0.00321), "0.32 %"),
        (percent(0.0), "0 %"),
        (percent(1.0), "100 %"),
        (percent(2.187), "219 %"),
        (percent(None), NOTHING),
        (significant(9.996), "10.0"),
        (significant(0.09999), "0.100"),
        (significant(123456.0), "123456"),
        (coefficient(6.958e-7), "6.96·10⁻⁷"),
        (coefficient(0.0182), "0.0182"),
        (coefficient(0.0), "0"),
        (coefficient(math.inf), "∞"),
        (interval(1430, 1630), "1.43 to 1.63 kJ"),
        (interval(900, 1100), "900 J to 1.10 kJ"),
        (count(13560), "13 560"),
        (count(1356), "1356"),
        (count(None), NOTHING),
        (probability(1.0), "> 99.9 %"),
        (probability(0.0), "< 0.1 %"),
        (probability(0.575), "57.5 %"),
        (probability(None), NOTHING),
    ],
)
def test_texts(text: str, wanted: str) -> None:
    assert text == wanted


@given(st.floats(min_value=1e-5, max_value=1e9))
def test_an_energy_reads_back_within_half_a_percent(value: float) -> None:
    number, unit = energy(value).split()
    factor = {"µJ": 1e-6, "mJ": 1e-3, "J": 1.0, "kJ": 1e3, "MJ": 1e6, "GJ": 1e9}[unit]
    assert float(number) * factor == pytest.approx(value, rel=0.0051)
    assert len(number.replace(".", "").lstrip("0")) <= 3
