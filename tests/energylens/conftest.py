"""Fixtures of the face: a run whose truth is known, its fit, and a command line to call."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import face_data


@pytest.fixture(scope="session")
def table():
    """The measurement table of the synthetic run."""
    return face_data.measurements()


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory, table) -> Path:
    """The synthetic run; tests must not write into it."""
    return face_data.write_run(tmp_path_factory.mktemp("face") / "run", table)


@pytest.fixture(scope="session")
def law(table):
    """The law fitted to 60 rows of every pair."""
    from fitting import fit_frame

    return fit_frame(table, samples=60)


@pytest.fixture(scope="session")
def fit_file(run_folder: Path, law) -> Path:
    """The fit, lying in the run folder as the quickstart leaves it."""
    path = run_folder / "fit.json"
    law.save(path)
    return path


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """Call the command line in this process on an 80-column screen."""
    from typer.testing import CliRunner

    from energylens.cli import app

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("ENERGYLENS_DEBUG", raising=False)
    runner = CliRunner()

    def call(*arguments: object):
        return runner.invoke(app, [str(a) for a in arguments], catch_exceptions=False)

    return call
