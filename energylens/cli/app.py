"""The command line: one typer app, one module per group of commands."""

from __future__ import annotations

from typing import Annotated

import typer

from energylens.cli import (
    choose,
    compare,
    design,
    discover,
    doctor,
    evaluate,
    explore,
    extrapolate,
    fit,
    machine,
    sweeps,
)
from energylens.cli.group import ErrorGroup

app = typer.Typer(
    name="energylens",
    cls=ErrorGroup,
    add_completion=False,
    no_args_is_help=True,
    # Plain help: the decorated one imports a Markdown parser and takes twice as long.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        import energylens

        print(f"energylens {energylens.__version__}")
        raise typer.Exit


@app.callback(
    epilog="Exit codes: 0 fine, 1 the answer is no (an unmet limit, a regression), 2 bad input."
)
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Find the serving configuration of a language model that uses the least energy."""


COMMANDS = (
    ("Prepare", "doctor", doctor.doctor),
    ("Prepare", "plan", sweeps.plan),
    ("Measure", "run", sweeps.run),
    ("Measure", "status", machine.status),
    ("Measure", "import", sweeps.import_),
    ("Understand", "fit", fit.fit),
    ("Understand", "evaluate", evaluate.evaluate),
    ("Understand", "extrapolate", extrapolate.extrapolate),
    ("Understand", "discover", discover.discover),
    ("Understand", "design", design.design),
    ("Understand", "query", explore.query),
    ("Understand", "report", explore.report),
    ("Decide", "recommend", choose.recommend),
    ("Watch", "compare", compare.compare),
)
for panel, name, function in COMMANDS:
    app.command(name, rich_help_panel=panel)(function)


def main() -> None:
    """Run the command line; the entry point of the `energylens` script."""
    app(prog_name="energylens")
