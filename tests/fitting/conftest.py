from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fitting_data import TRUE_COEFFICIENTS, TRUE_EXPONENTS, synthetic


@pytest.fixture
def exact():
    """Rows of one pair that follow energylens12 exactly."""
    return synthetic(noise=0.0)


@pytest.fixture
def noisy():
    """Rows of one pair that follow energylens12 with 2 % noise on each phase."""
    return synthetic(noise=0.02)


@pytest.fixture
def truth() -> dict[str, float]:
    return {**TRUE_COEFFICIENTS, **TRUE_EXPONENTS}
