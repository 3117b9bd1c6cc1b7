"""A Hugging Face config.json with checked look-ups: a missing or odd key is a clear error."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import CatalogError


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """One config.json (or a part of it, such as ``text_config``) and where it came from.

    Parameters
    ----------
    data
        The parsed JSON object.
    path
        The file, named in every error.
    part
        The part of the file that `data` is, "" for the whole file.
    """

    data: dict[str, Any]
    path: Path
    part: str = ""

    def has(self, key: str) -> bool:
        """Return whether `key` is there and not null."""
        return self.data.get(key) is not None

    def section(self, key: str) -> ConfigFile | None:
        """Return the JSON object under `key`, or None when there is none."""
        value = self.data.get(key)
        if not isinstance(value, dict) or not value:
            return None
        return ConfigFile(value, self.path, f"{self.part}{key}.")

    def count(self, *keys: str, default: int | None = None) -> int:
        """Return the first of `keys` that is there, as a whole number of at least 0.

        Raises
        ------
        CatalogError
            If no key is there and there is no default, or the value is not a whole number.
        """
        for key in keys:
            value = self.data.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise CatalogError(
                    f"{self.part}{key} of the model config is {value!r}, not a whole number",
                    where=str(self.path),
                    fix="use the config.json as its publisher wrote it",
                )
            return value
        if default is None:
            raise CatalogError(
                f"the model config has no key {self.part}{keys[0]}",
                where=str(self.path),
                fix=f"add {' or '.join(keys)} to the file, as its publisher wrote it",
            )
        return default

    def positive(self, *keys: str, default: int | None = None) -> int:
        """Like `count`, but at least 1."""
        value = self.count(*keys, default=default)
        if value < 1:
            raise CatalogError(
                f"{self.part}{keys[0]} of the model config must be at least 1, not {value}",
                where=str(self.path),
                fix="use the config.json as its publisher wrote it",
            )
        return value

    def flag(self, key: str, default: bool) -> bool:
        """Return a true or false key."""
        value = self.data.get(key)
        return default if value is None else bool(value)

    def text(self, key: str, default: str = "") -> str:
        """Return a text key."""
        value = self.data.get(key)
        return default if value is None else str(value)

    def strings(self, key: str, length: int | None = None) -> list[str] | None:
        """Return a list of strings, or None when the key is not there.

        Raises
        ------
        CatalogError
            If the list does not have `length` entries, where that is given.
        """
        value = self.data.get(key)
        if not isinstance(value, list):
            return None
        if length is not None and len(value) != length:
            raise CatalogError(
                f"{self.part}{key} of the model config names {len(value)} layers, not {length}",
                where=str(self.path),
                fix="use the config.json as its publisher wrote it",
            )
        return [str(item) for item in value]


def read_config(path: Path) -> ConfigFile:
    """Read a config.json.

    Raises
    ------
    CatalogError
        If the file cannot be read or is not a JSON object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CatalogError(
            f"the model config cannot be read: {error.strerror}",
            where=str(path),
            fix="check the path and its permissions",
        ) from error
    except ValueError as error:
        raise CatalogError(
            f"the model config is not valid JSON: {error}",
            where=str(path),
            fix="download config.json again",
        ) from error
    if not isinstance(data, dict):
        raise CatalogError(
            "the model config is not a JSON object",
            where=str(path),
            fix="download config.json again",
        )
    return ConfigFile(data, path)
