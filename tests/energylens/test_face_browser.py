"""The report in a real browser: quiet, self-contained, readable at every width."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from chromium import Page, find_chromium

pytestmark = pytest.mark.browser

OVERFLOWING = """
[...document.querySelectorAll("body *")].filter((node) => {
  if (node.closest(".scroll, pre, svg, .only-read")) return false;
  const box = node.getBoundingClientRect();
  return box.width > 0 && (box.right > innerWidth + 1 || box.left < -1);
}).map((node) => node.tagName + "." + node.className).slice(0, 5)
"""


@pytest.fixture(scope="module")
def report(run_folder: Path, fit_file: Path, tmp_path_factory) -> Path:
    from energylens.evaluation import evaluate_run
    from energylens.report import write_report

    copy = Path(shutil.copytree(run_folder, tmp_path_factory.mktemp("browser") / "run"))
    evaluate_run(copy, methods=("energylens12", "fewest_gpus", "lowest_latency"))
    return write_report(copy).path


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    executable = find_chromium()
    if executable is None:
        pytest.skip("no Chromium on this machine (set ENERGYLENS_CHROMIUM to its path)")
    with Page(executable) as page:
        yield page


@pytest.fixture(scope="module")
def page(browser: Page, report: Path) -> Page:
    browser.size(1440, 900)
    browser.open(report)
    return browser


def choose(page: Page, select: str, value: str) -> None:
    page.evaluate(
        f"""(() => {{ const s = document.getElementById("{select}"); s.value = "{value}";
        s.dispatchEvent(new Event("change")); }})()"""
    )


def text(page: Page, element: str) -> str:
    return str(page.evaluate(f'document.getElementById("{element}").textContent'))


def test_no_errors_no_warnings_no_requests(page: Page, report: Path) -> None:
    page.rest(0.5)
    assert page.errors == []
    outside = [url for url in page.requests if not url.startswith(("file://", "data:", "blob:"))]
    assert outside == []
    assert {url for url in page.requests if url.startswith("file://")} == {
        report.resolve().as_uri()
    }


def test_a_broken_page_would_be_noticed(browser: Page, tmp_path: Path, report: Path) -> None:
    """The checks above can fail: a page with a fault and a foreign image trips them."""
    bad = tmp_path / "bad.html"
    bad.write_text("<img src='http://127.0.0.1:9/x.png'><script>nothing.here()</script>")
    errors, requests = list(browser.errors), list(browser.requests)
    browser.open(bad, settle_s=0.5)
    new_errors = browser.errors[len(errors) :]
    new_requests = browser.requests[len(requests) :]
    browser.errors[:], browser.requests[:] = errors, requests
    browser.open(report)
    assert any("nothing is not defined" in error for error in new_errors)
    assert any("127.0.0.1:9" in url for url in new_requests)


@pytest.mark.parametrize("width", [360, 375, 390, 768, 1024, 1440, 2560])
def test_nothing_overflows_sideways(page: Page, width: int) -> None:
    page.size(width, 900, mobile=width < 600)
    page.rest(0.4)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(OVERFLOWING) == []


def test_plots_are_drawn_with_axes_titles_and_units(page: Page) -> None:
    page.size(1440, 900)
    page.rest(0.4)
    for plot in ("plot-tradeoff", "plot-check"):
        titles = page.evaluate(
            f"""[...document.querySelectorAll("#{plot} .xtitle, #{plot} .ytitle")]
            .map((node) => node.textContent)"""
        )
        assert len(titles) == 2
        ticks = page.evaluate(
            f"""[...document.querySelectorAll("#{plot} .ytick text")].map((n) => n.textContent)"""
        )
        assert ticks
        assert all(tick.endswith("J") for tick in ticks)


def test_selectors_change_scenario_and_law(page: Page) -> None:
    models = page.evaluate('[...document.getElementById("t-model").options].map((o) => o.value)')
    assert len(models) == 2
    for model in models:
        choose(page, "t-model", model)
        assert model in text(page, "t-caption")
        choose(page, "l-model", model)
        assert model in text(page, "l-formula")
        assert page.evaluate('document.querySelectorAll("#l-table tbody tr").length') >= 10
    for gpus in ("0", "8"):
        choose(page, "t-gpus", gpus)
        assert "Least energy" in text(page, "t-reading") or "both the fastest" in text(
            page, "t-reading"
        )
    assert page.errors == []


def test_the_stated_penalty_is_that_of_the_table(page: Page) -> None:
    choose(page, "t-gpus", "8")
    rows = page.evaluate(
        """[...document.querySelectorAll("#t-table tbody tr")]
        .map((row) => [...row.children].map((cell) => cell.textContent))"""
    )
    assert {row[1] for row in rows} == {"8"}
    reading = text(page, "t-reading")
    assert rows[0][0] in reading  # least energy first
    penalties = [row[3].removeprefix("+") for row in rows[1:]]
    assert any(penalty in reading for penalty in penalties) or "both the fastest" in reading


def test_every_control_can_be_reached_and_is_named(page: Page) -> None:
    unnamed = page.evaluate(
        """[...document.querySelectorAll("select")].filter((s) => !s.labels.length).length"""
    )
    assert unnamed == 0
    page.evaluate('document.getElementById("t-model").focus()')
    assert page.evaluate("document.activeElement.id") == "t-model"
    regions = page.evaluate(
        """[...document.querySelectorAll(".scroll")]
        .every((node) => node.tabIndex === 0 && node.getAttribute("aria-label"))"""
    )
    assert regions is True
    levels = page.evaluate(
        """[...document.querySelectorAll("h1,h2,h3")].map((h) => Number(h.tagName[1]))"""
    )
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))


LUMINANCE = """
(() => {
  const parse = (c) => c.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const lum = (c) => { const [r, g, b] = parse(c).map((v) => { v /= 255;
    return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = lum(getComputedStyle(document.body).backgroundColor);
  const ratio = (node) => { const own = lum(getComputedStyle(node).color);
    return (Math.max(own, ground) + 0.05) / (Math.min(own, ground) + 0.05); };
  return Math.min(...[...document.querySelectorAll(
    "h1, p, .badge, .eyebrow, th, td, summary, nav a, .detail, figcaption")].map(ratio));
})()
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_schemes(page: Page, scheme: str) -> None:
    page.scheme(scheme)
    page.rest(0.3)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 22, 20)"
    assert dark is (scheme == "dark")
    assert page.evaluate(LUMINANCE) >= 4.5
    colour = page.evaluate(
        """getComputedStyle(document.querySelector("#plot-check .xtick text")).fill"""
    )
    wanted = page.evaluate("""getComputedStyle(document.querySelector(".soft")).color""")
    assert colour == wanted
    page.scheme("light")
