"""The face starts light, fails readably, and never mixes text into JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from energylens.cli.group import ErrorGroup
from harness.errors import StoreError

HEAVY = (
    "pandas",
    "numpy",
    "scipy",
    "pyarrow",
    "duckdb",
    "pydantic",
    "ray",
    "plotly",
    "jinja2",
    "sklearn",
    "pynvml",
    "aiconfigurator_core",
)
COMMANDS = (
    "doctor",
    "plan",
    "run",
    "status",
    "import",
    "fit",
    "evaluate",
    "recommend",
    "report",
    "query",
)


def python(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "COLUMNS": "80", "NO_COLOR": "1", **extra},
        check=False,
    )


@pytest.mark.parametrize("arguments", [["--help"], ["recommend", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    """typer itself uses pydantic for the options of a command, not for the list of them."""
    heavy = [m for m in HEAVY if m != "pydantic" or arguments[0] != "recommend"]
    script = f"""
import sys, atexit
atexit.register(lambda: print("LOADED", [m for m in {heavy!r} if m in sys.modules]))
sys.argv = ["energylens", *{arguments!r}]
from energylens.cli import main
main()
"""
    done = python("-c", script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("LOADED []")


def test_importing_the_package_imports_nothing_heavy() -> None:
    script = (
        f"import sys, energylens; print([m for m in {(*HEAVY, 'typer')!r} if m in sys.modules])"
    )
    assert python("-c", script).stdout.strip() == "[]"


def test_the_python_face_is_lazy_and_complete() -> None:
    import energylens

    assert energylens.load.__module__ == "energylens.api"
    assert energylens.recommend.__module__ == "energylens.api"
    assert energylens.__version__[0].isdigit()
    assert {"load", "fit", "load_fit", "recommend"} <= set(dir(energylens))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        energylens.nothing  # noqa: B018


def test_a_submodule_never_hides_a_public_name() -> None:
    """`import energylens.recommend` would replace the function of that name."""
    import importlib.util

    for name in ("load", "fit", "load_fit", "recommend"):
        assert importlib.util.find_spec(f"energylens.{name}") is None


def test_help_names_every_command(cli) -> None:
    text = cli("--help").output
    assert all(f" {name} " in text for name in COMMANDS)
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_json(cli, name: str) -> None:
    result = cli(name, "--help")
    assert result.exit_code == 0
    assert "--json" in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["status", "nowhere"],
        ["fit", "nowhere"],
        ["evaluate", "nowhere"],
        ["report", "nowhere"],
        ["query", "nowhere", "select 1"],
        ["recommend", "nowhere.json"],
        ["plan", "nowhere.yaml"],
        ["run", "nowhere.yaml", "--out", "out"],
        ["import", "table", "nowhere.csv", "--out", "out"],
        ["import", "nonsense", "nowhere.csv", "--out", "out"],
    ],
)
def test_what_is_missing_is_named_and_exits_2(
    cli, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = cli(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Error: " in result.stderr
    assert "what to do: " in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments", [["fly"], ["status"], ["status", ".", "--colour"], ["fit", ".", "--samples", "0"]]
)
def test_a_bad_command_line_exits_2(cli, arguments: list[str]) -> None:
    result = cli(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""


def failing(error: BaseException) -> typer.Typer:
    app = typer.Typer(cls=ErrorGroup, pretty_exceptions_enable=False)

    @app.callback()
    def options() -> None:
        """A command line whose one command fails."""

    @app.command()
    def fail() -> None:
        raise error

    return app


def test_an_error_of_ours_prints_its_three_parts() -> None:
    error = StoreError("it is torn", where="here.parquet", fix="write it again")
    result = CliRunner().invoke(failing(error), ["fail"])
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "Error: it is torn",
        "  where: here.parquet",
        "  what to do: write it again",
    ]


def test_a_fault_of_ours_shows_a_traceback_only_when_asked(monkeypatch) -> None:
    monkeypatch.delenv("ENERGYLENS_DEBUG", raising=False)
    quiet = CliRunner().invoke(failing(ZeroDivisionError("no")), ["fail"])
    assert quiet.exit_code == 2
    assert "fault in EnergyLens: ZeroDivisionError: no" in quiet.stderr
    assert "ENERGYLENS_DEBUG=1" in quiet.stderr
    assert "Traceback" not in quiet.stderr
    monkeypatch.setenv("ENERGYLENS_DEBUG", "1")
    loud = CliRunner().invoke(failing(ZeroDivisionError("no")), ["fail"])
    assert loud.exit_code == 2
    assert "Traceback" in loud.stderr


def test_interruption_is_one_line_and_130() -> None:
    result = CliRunner().invoke(failing(KeyboardInterrupt()), ["fail"])
    assert result.exit_code == 130
    assert result.stderr == "Interrupted.\n"


def test_a_real_interrupt_signal_ends_with_130() -> None:
    script = """
import time, typer
from energylens.cli.group import ErrorGroup
app = typer.Typer(cls=ErrorGroup, pretty_exceptions_enable=False)
@app.callback()
def options(): pass
@app.command()
def wait():
    print("ready", flush=True)
    time.sleep(30)
app(["wait"])
"""
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=20)
    assert child.returncode == 130
    assert errors == "Interrupted.\n"


def test_a_reader_that_leaves_early_is_no_error(run_folder: Path) -> None:
    sql = "select range as a, repeat('x', 200) as b from range(20000)"
    child = subprocess.Popen(
        [sys.executable, "-m", "energylens", "query", str(run_folder), sql, "--csv"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stdout.readline().startswith(b"a,b")
    child.stdout.close()
    assert child.stderr is not None
    errors = child.stderr.read()
    child.stderr.close()
    assert child.wait(timeout=30) == 141
    assert errors == b""


def test_json_is_pure_and_runs_as_a_module(run_folder: Path) -> None:
    done = python("-m", "energylens", "status", str(run_folder), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["done"] == 960
