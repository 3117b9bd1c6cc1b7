"""Turns what pydantic found wrong into one error a person can act on."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pydantic import ValidationError

from harness.errors import SweepError
from harness.spec.yamlfile import KeyPath, YamlDocument, key_text

_TAGS = frozenset({"text", "image", "video"})
AllowedKeys = Callable[[KeyPath, object], Sequence[str]]


def close_match(word: str, known: Iterable[str]) -> str | None:
    """Known word that is most like the given one, ignoring case, or None."""
    by_folded = {candidate.casefold(): candidate for candidate in known}
    found = difflib.get_close_matches(word.casefold(), list(by_folded), n=1, cutoff=0.6)
    return by_folded[found[0]] if found else None


def suggestion(word: str, known: Sequence[str], what: str, *, limit: int = 30) -> str:
    """Sentence that names the closest known word, or lists the known words."""
    match = close_match(word, known)
    if match is not None:
        return f"did you mean {match!r}?"
    listed = ", ".join(known[:limit])
    more = f" and {len(known) - limit} more" if len(known) > limit else ""
    return f"known {what}: {listed}{more}."


def sweep_error(
    error: ValidationError, document: YamlDocument, allowed_keys: AllowedKeys
) -> SweepError:
    """Make one SweepError of the first problem in the file and count the others.

    Parameters
    ----------
    error
        What pydantic found.
    document
        The YAML document that was validated.
    allowed_keys
        Gives the keys allowed beside an unknown one, from its path and the document.
    """
    found: dict[tuple[int, KeyPath], SweepError] = {}
    for detail in error.errors():
        path = _key_path(detail["loc"], document.data)
        at = detail.get("ctx", {}).get("at", ())
        path = (*path, *at)
        line = document.line_of(path) or 0
        found.setdefault((line, path), _translate(detail, path, document, allowed_keys))
    ordered = sorted(found, key=lambda place: (place[0], key_text(place[1])))
    first = found[ordered[0]]
    if len(ordered) == 1:
        return first
    others = ", ".join(f"{key_text(path)} (line {line})" for line, path in ordered[1:6])
    return SweepError(
        f"{first.what} {len(ordered) - 1} more problem(s) in this file: {others}.",
        where=first.where,
        fix=first.fix,
    )


def _key_path(location: tuple[int | str, ...], data: object) -> KeyPath:
    """Drop from a pydantic location what is not in the file: tags of unions."""
    path: list[int | str] = []
    here = data
    for part in location:
        if isinstance(here, dict):
            if part not in here and part in _TAGS:
                continue
            here = here.get(part)
        elif isinstance(here, list) and isinstance(part, int) and part < len(here):
            here = here[part]
        else:
            break
        path.append(part)
    return tuple(path)


def _translate(
    detail: Any, path: KeyPath, document: YamlDocument, allowed_keys: AllowedKeys
) -> SweepError:
    kind, message = detail["type"], detail["msg"]
    where = document.where(path)
    if kind == "extra_forbidden":
        word = str(path[-1])
        beside = _at(document.data, path[:-1])
        known = [key for key in allowed_keys(path, document.data) if key not in beside]
        fix = suggestion(word, known, "keys that can be added here")
        if word == "input_tokens" and "text_tokens" in (*known, *beside):
            fix = "give text_tokens; the visual tokens are counted from the images or frames."
        return SweepError(f"Unknown key {word!r}.", where=where, fix=fix)
    if kind == "missing":
        return SweepError(
            f"The key {str(path[-1])!r} is missing.",
            where=document.where(path[:-1]),
            fix=f"add {path[-1]}: with a value.",
        )
    context = detail.get("ctx", {})
    value = _shown(detail.get("input"))
    if kind == "sweep_value":
        words = context["message"]
        return SweepError(f"{words[0].upper()}{words[1:]}.", where=where, fix=context.get("fix"))
    message = _MESSAGES.get(kind, f"{message[0].lower()}{message[1:]}")
    return SweepError(
        f"Wrong value {value}: {message}.",
        where=where,
        fix=_FIXES.get(kind, "see sweeps/README.md or sweeps/sweep.schema.json for this key."),
    )


_KEYS_NEEDED = "keys with values are needed here"
_MESSAGES = {
    "model_type": _KEYS_NEEDED,
    "dict_type": _KEYS_NEEDED,
    "model_attributes_type": _KEYS_NEEDED,
    "string_pattern_mismatch": "only letters, digits, dots, dashes and underscores are allowed",
}
_FIXES = {
    "string_pattern_mismatch": "use a short name such as nightly-text.",
    "int_type": "write a whole number without quotes.",
    "float_type": "write a number without quotes.",
    "bool_type": "write true or false.",
    "string_type": "write text; put quotes around it if it looks like a number.",
    "literal_error": "use one of the words listed.",
    "greater_than_equal": "use a larger number.",
    "greater_than": "use a larger number.",
    "less_than_equal": "use a smaller number.",
    "model_type": "write keys with values below this key, indented.",
    "dict_type": "write keys with values below this key, indented.",
    "model_attributes_type": "write keys with values below this key, indented.",
}


def _at(data: object, path: KeyPath) -> dict[str, object]:
    """Return the mapping at a path of the document."""
    for part in path:
        data = data[part]  # type: ignore[index]
    return data if isinstance(data, dict) else {}


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
