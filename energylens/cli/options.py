"""Options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document and nothing else.")
]
RunArgument = Annotated[
    Path, typer.Argument(metavar="DIR", help="A run folder.", show_default=False)
]


def comma_list(text: str | None) -> list[str]:
    """Split `a, b,c` into its parts; nothing gives an empty list."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def comma_integers(text: str | None, option: str) -> list[int]:
    """Split `1,8,32` into whole numbers of at least 1.

    Raises
    ------
    EnergyLensError
        When a part is not a whole number of at least 1.
    """
    from harness.errors import EnergyLensError

    numbers = []
    for part in comma_list(text):
        if not part.isdecimal() or int(part) < 1:
            raise EnergyLensError(
                f"{option} takes whole numbers of at least 1, not {part!r}",
                where=f"{option} {text}",
                fix=f"write for example {option} 8 or {option} 1,8,32",
            )
        numbers.append(int(part))
    return numbers
