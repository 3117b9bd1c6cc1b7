"""Which code wrote a file: the version of EnergyLens, and its commit."""

from __future__ import annotations

import subprocess
from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=1)
def code_version() -> tuple[str, str | None]:
    """Return the version of EnergyLens that runs, and its git commit if it is a checkout.

    The commit ends with `-dirty` if files were changed since. An installed package has none,
    even if it lies inside somebody else's checkout.
    """
    from importlib.metadata import PackageNotFoundError, version

    try:
        name = version("energylens")
    except PackageNotFoundError:
        name = "unknown"
    here = Path(__file__)
    if _git("ls-files", "--error-unmatch", here.name, folder=here.parent) is None:
        return name, None
    described = ("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    return name, _git(*described, folder=here.parent)


def _git(*arguments: str, folder: Path) -> str | None:
    try:
        found = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None
