"""Small parts of the protocol: pruning, drift, verdict codes, journal, quantiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2
from scipy.stats import t as student

from harness.measuring.drift import drift_of
from harness.measuring.journal import FileJournal
from harness.measuring.pruning import must_fail_too
from harness.measuring.reasons import REASONS, markdown_table, valid
from harness.measuring.settings import Protocol
from harness.measuring.trials import Trial
from harness.meters.student import median_variance_ratio, student_t95
from harness.spec import Workload

sizes = st.integers(1, 64)


@given(st.tuples(sizes, sizes, sizes), st.tuples(sizes, sizes, sizes))
def test_only_what_needs_at_least_as_much_of_everything_is_pruned(a, b) -> None:
    small = Workload(batch=a[0], input_tokens=a[1], output_tokens=a[2])
    other = Workload(batch=b[0], input_tokens=b[1], output_tokens=b[2])
    larger = all(y >= x for x, y in zip(a, b, strict=True))
    assert must_fail_too(small, "out_of_memory", other) == larger
    assert not must_fail_too(small, "crashed", other)


def test_another_modality_is_never_pruned() -> None:
    text = Workload(batch=1, input_tokens=64, output_tokens=8)
    image = Workload(
        modality="image", batch=2, input_tokens=600, output_tokens=8, visual_tokens=500, images=1
    )
    assert not must_fail_too(text, "out_of_memory", image)


@given(st.floats(-0.5, 0.5), st.integers(4, 12), st.integers(0, 99))
def test_the_slope_of_a_sentinel_is_found(change: float, count: int, seed: int) -> None:
    noise = 0.001 * np.random.default_rng(seed).standard_normal(count)
    values = 100 * (1 + change * np.linspace(-0.5, 0.5, count) + noise)
    found = drift_of(values.tolist())
    assert found.change == pytest.approx(change, abs=0.01)
    if abs(change) > 0.05:
        assert found.significant
    assert not drift_of((values * 0 + 100 * (1 + noise)).tolist()).significant


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 2.0], [1.0, float("nan"), 3.0], [0, 0, 0]])
def test_no_drift_can_be_told_from_too_little(values: list[float]) -> None:
    assert not drift_of(values).significant


def test_codes_that_nobody_knows_are_not_valid() -> None:
    assert valid([])
    assert valid(["not_flat", "wide_interval"])
    assert not valid(["throttled"])
    assert not valid(["something_new"])
    assert all(reason.text for reason in REASONS.values())


def test_documentation_lists_the_codes(repository: Path) -> None:
    assert markdown_table() in (repository / "docs" / "measuring.md").read_text()


def trial(number: float) -> Trial:
    nan = float("nan")
    return Trial(
        number, nan, 3.0, (0.1, nan, 0.2), 0.1, 0.2, 5.0, 250, nan, False, 60.0, nan, ("drift",)
    )


def test_a_journal_survives_a_torn_line(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path / "journal.jsonl")
    assert journal.recalled().trials == {}
    journal.begin("a", "trial", 10.0)
    journal.trial("a", trial(1.0))
    journal.trial("a", trial(2.0))
    journal.failed("b", "out_of_memory", "too large")
    journal.sentinel(3.5)
    with journal.path.open("a") as stream:
        stream.write('{"kind": "trial", "task_id": "a", "tri')
    recalled = journal.recalled()
    assert [t.prefill_j for t in recalled.trials["a"]] == [1.0, 2.0]
    assert np.isnan(recalled.trials["a"][0].decode_j)
    assert recalled.trials["a"][0].reasons == ("drift",)
    assert recalled.failed == {"b": ("out_of_memory", "too large")}
    assert recalled.sentinel == [3.5]
    assert recalled.under_way is not None
    assert recalled.under_way[:3] == ("a", "trial", 10.0)


@pytest.mark.parametrize("degrees", [1, 2, 2.5, 5, 8, 30, 1000])
def test_student_agrees_with_scipy(degrees: float) -> None:
    assert student_t95(degrees) == pytest.approx(student.ppf(0.975, degrees), rel=1e-4)


@pytest.mark.parametrize("degrees", [1, 2, 3, 5, 9, 20])
def test_the_median_of_a_variance_agrees_with_scipy(degrees: int) -> None:
    expected = chi2.median(degrees) / degrees
    assert median_variance_ratio(degrees) == pytest.approx(expected, rel=1e-4)


def test_fewer_at_most_than_at_least_is_refused() -> None:
    with pytest.raises(ValueError, match="max_repeats 2 is less than repeats 3"):
        Protocol(repeats=3, max_repeats=2)
