"""The command group: turns every failure into one readable screen and an exit code.

Exit codes: 0 fine, 1 the answer is "no", 2 bad input or a fault of ours,
130 interrupted from the keyboard, 141 the reader of our output went away.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any

import typer
from typer.core import TyperGroup

from harness.errors import EnergyLensError

EXIT_NO = 1
EXIT_BAD = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


def debugging() -> bool:
    """Whether the user asked for tracebacks with ENERGYLENS_DEBUG."""
    return os.environ.get("ENERGYLENS_DEBUG", "") not in ("", "0")


def print_error(error: EnergyLensError) -> None:
    """Print what is wrong, where, and what to do, on standard error."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(Text.assemble(("Error: ", "bold red"), error.what))
    for label, text in (("where", error.where), ("what to do", error.fix)):
        if text:
            console.print(Text.assemble((f"  {label}: ", "bold"), text))


class ErrorGroup(TyperGroup):
    """A typer group whose commands never show a traceback unless asked to."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """List the commands in the order in which a user comes to need them."""
        return list(self.commands)

    def format_commands(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        """Write the commands under the headings that they were registered with."""
        panels: dict[str, list[Any]] = {}
        for name in self.list_commands(ctx):
            command = self.commands[name]
            panels.setdefault(str(getattr(command, "rich_help_panel", "Commands")), []).append(
                (name, command.get_short_help_str(limit=200))
            )
        for title, rows in panels.items():
            with formatter.section(title):
                formatter.write_dl(rows)

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run the command and translate what it raises into an exit code."""
        try:
            result = super().invoke(ctx)
            # A pipe that closed early must fail here, not in the interpreter's shutdown.
            sys.stdout.flush()
            return result
        except EnergyLensError as error:
            if debugging():
                traceback.print_exc()
            print_error(error)
            if error.leave_at_once:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(EXIT_BAD)
            raise typer.Exit(EXIT_BAD) from None
        except KeyboardInterrupt:
            print("Interrupted.", file=sys.stderr)
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except BrokenPipeError:
            _silence_stdout()
            raise typer.Exit(EXIT_BROKEN_PIPE) from None
        except Exception as error:
            if not _is_unexpected(error):
                raise
            if debugging():
                traceback.print_exc()
            else:
                print(
                    f"Error: this is a fault in EnergyLens: {type(error).__name__}: {error}\n"
                    "  what to do: run again with ENERGYLENS_DEBUG=1 for the traceback, "
                    "and report it",
                    file=sys.stderr,
                )
            raise typer.Exit(EXIT_BAD) from None


def _is_unexpected(error: Exception) -> bool:
    """Tell our own faults from the messages typer raises on purpose (usage, exit)."""
    module = type(error).__module__
    return not module.startswith(("typer", "click"))


def _silence_stdout() -> None:
    """Point standard output at nothing so that the interpreter can flush it at exit."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # a captured stream without a file descriptor
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
