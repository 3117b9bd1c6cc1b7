"""`energylens discover`: what it prints, and how it refuses."""

from __future__ import annotations

import json

import pytest
from fitting_data import synthetic
from typer.testing import CliRunner

from energylens.cli.app import app
from energylens.discovery import discover_run
from fitting.discover import Discovery, Probe
from harness.store import FitError


@pytest.fixture(scope="module")
def rows():
    return synthetic(noise=0.02, visual=False).sample(48, random_state=0)


@pytest.fixture
def run(rows, monkeypatch):
    """Call the command on the rows above, without a run folder."""
    monkeypatch.setattr("harness.store.read_measurements", lambda directory: rows, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("fitting.discover.search.DRAWS", 1)

    def call(*arguments: str):
        return CliRunner().invoke(app, ["discover", "DIR", *arguments])

    return call


def test_the_front_fits_in_80_columns_and_is_written(run, tmp_path):
    result = run("--phase", "prefill", "--out", str(tmp_path / "found.json"))
    assert result.exit_code == 0, result.output
    for text in ("chosen", "shipped", "left out", "How often terms are kept", "J/token"):
        assert text in result.output
    tables = [line for line in result.output.splitlines() if not line.startswith("  E = ")]
    assert max(len(line.rstrip()) for line in tables) <= 80
    found = Discovery.from_dict(json.loads((tmp_path / "found.json").read_text()))
    assert [search.phase for search in found.searches] == ["prefill"]


def test_json_is_the_whole_result(run):
    result = run("--phase", "prefill", "--json")
    assert result.exit_code == 0, result.output
    found = Discovery.from_dict(json.loads(result.stdout))
    assert found.engine == "terms"
    assert found.samples == 50


def test_bad_input_is_one_clear_error(rows, monkeypatch, tmp_path):
    def search(**options):
        return discover_run(tmp_path, frame=rows, **options)

    with pytest.raises(FitError, match="no engine"):
        search(engine="none")
    with pytest.raises(FitError, match="no phase"):
        search(phase="none")
    with pytest.raises(FitError, match="No row has family 'ssm'"):
        search(family="ssm")
    with pytest.raises(FitError, match="ended before any law"):
        search(timeout_s=0.0)
    with pytest.raises(FitError, match="Too few rows"):
        search(samples=3)
    missing = Probe(False, reason="it is not installed", setup="install it")
    monkeypatch.setattr("fitting.discover.operon.OperonEngine.probe", lambda self: missing)
    with pytest.raises(FitError, match="engine operon is unavailable"):
        search(engine="operon")


@pytest.mark.parametrize(
    ("options", "text"),
    [(["--engine", "none"], "no engine"), (["--phase", "none"], "no phase")],
)
def test_bad_options_exit_with_2(run, options, text):
    result = run(*options)
    assert result.exit_code == 2
    assert text in result.output
