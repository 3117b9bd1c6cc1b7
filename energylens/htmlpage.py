"""Pages: one self-contained HTML file, filled from a template and written whole or not at all."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.errors import StoreError


def fill(template: Path, **values: Any) -> str:
    """Return the HTML text of a template.

    Parameters
    ----------
    template
        The file.
    values
        What it names; `version` and `generated` are added. A name that is missing is an error.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    import energylens

    environment = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_unbroken,
    )
    return environment.get_template(template.name).render(
        **values,
        version=energylens.__version__,
        generated=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )


def write(html: str, path: Path, *, what: str, option: str) -> None:
    """Write a page.

    Parameters
    ----------
    html, path
        The text, and where it goes.
    what, option
        How an error calls the page, and the option that gives another place.

    Raises
    ------
    StoreError
        When it cannot be written.
    """
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        partial.write_text(html, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise StoreError(
            f"the {what} cannot be written: {error.strerror}",
            where=str(path),
            fix=f"give another place with {option}",
        ) from error


def _unbroken(value: Any) -> Any:
    """Keep a number, its thousands and its unit on one line."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    value = re.sub(r"(?<=\d) (?=\d{3}(?!\d))", "\N{NARROW NO-BREAK SPACE}", value)
    return re.sub(r"(?<=\d) (?=%|(?:[mkMG]?J|[mµ]?s|min|h)\b)", "\N{NO-BREAK SPACE}", value)
