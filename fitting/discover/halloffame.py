"""Read the hall of fame that PySR writes while it searches, whole or cut off."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

COLUMNS = ("Complexity", "Loss", "Equation")


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: complexity and loss as PySR counts them, and the formula in our notation."""

    complexity: int
    loss: float
    text: str


def read_hall_of_fame(folder: Path, names: Sequence[str]) -> list[Entry]:
    """Return the formulas of a search, best known of each complexity; none if there are none.

    The file is written anew every now and then; when it is missing or cut off, its backup is
    read. Lines that cannot be read are left out.

    Parameters
    ----------
    folder
        Any folder above `hall_of_fame.csv`.
    names
        Variables in the order of the columns: #1 is the first.
    """
    for pattern in ("hall_of_fame.csv", "hall_of_fame.csv.bak"):
        for path in sorted(folder.rglob(pattern)):
            found = _read(path, names)
            if found:
                return found
    return []


def _read(path: Path, names: Sequence[str]) -> list[Entry]:
    entries = []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                try:
                    complexity, loss = int(row["Complexity"]), float(row["Loss"])
                    text = formula(row["Equation"] or "", names)
                except (KeyError, TypeError, ValueError):
                    continue
                if text:
                    entries.append(Entry(complexity, loss, text))
    except (OSError, csv.Error, UnicodeDecodeError):
        return []
    return entries


def formula(equation: str, names: Sequence[str]) -> str:
    """Turn an equation of PySR into our notation.

    A template is written as `f = (#1 * 2.0) + #3; a = [0.5, 0.7]`: #3 is here the parameter
    a of the category, which becomes a number to be fitted, its mean.
    """
    parts = [part.strip() for part in re.split(r"[;\n]", equation) if part.strip()]
    values: list[float] = []
    body = parts[0] if parts else ""
    for part in parts:
        name, separator, right = part.partition("=")
        if not separator:
            continue
        if right.strip().startswith("["):
            numbers = [float(x) for x in right.strip().strip("[]").split(",") if x.strip()]
            values.append(sum(numbers) / len(numbers) if numbers else 1.0)
        elif name.strip() == "f":
            body = right.strip()

    def argument(match: re.Match[str]) -> str:
        index = int(match.group(1)) - 1
        if index < len(names):
            return names[index]
        index -= len(names)
        return f"({values[index] if index < len(values) else 1.0!r})"

    return re.sub(r"#(\d+)", argument, body).replace("^", "**")
