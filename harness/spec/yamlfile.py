"""Reads YAML strictly and remembers the line of every key and value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import SweepError

if TYPE_CHECKING:
    import yaml

KeyPath = tuple[str | int, ...]
MAX_NODES = 200_000


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """A YAML mapping and where each part of it stands in its file.

    Parameters
    ----------
    path
        The file, or None for text that came from elsewhere.
    data
        The mapping at the top of the document.
    lines
        Line (from 1) of each key path, such as ``("blocks", 0, "batch")``.
    """

    path: Path | None
    data: dict[str, Any]
    lines: Mapping[KeyPath, int] = field(repr=False)

    def line_of(self, path: KeyPath) -> int | None:
        """Line of the given key path, or of its nearest ancestor that has one."""
        while path:
            if path in self.lines:
                return self.lines[path]
            path = path[:-1]
        return self.lines.get(())

    def where(self, path: KeyPath) -> str:
        """Readable place: the file, the line and the key."""
        line = self.line_of(path)
        place = str(self.path) if self.path else "the sweep"
        if line is not None:
            place += f", line {line}"
        return f"{place}, key {key_text(path)}" if path else place


def key_text(path: KeyPath) -> str:
    """Write a key path as a reader would: ``blocks[0].batch``.

    Examples
    --------
    >>> key_text(("blocks", 0, "batch"))
    'blocks[0].batch'
    """
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def read_yaml(path: Path) -> YamlDocument:
    """Read a YAML file whose top is a mapping.

    Raises
    ------
    SweepError
        The file is missing, unreadable, not YAML, has a duplicate key, or is not a
        mapping at the top.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SweepError(
            "The sweep file does not exist.",
            where=str(path),
            fix="check the path; ready-made sweeps are in the folder sweeps/.",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SweepError(
            f"The sweep file cannot be read: {reason}.",
            where=str(path),
            fix="give the path of a YAML text file.",
        ) from None
    return parse_yaml(text, path)


def parse_yaml(text: str, path: Path | None = None) -> YamlDocument:
    """Parse YAML text whose top is a mapping; see :func:`read_yaml`."""
    import yaml

    place = str(path) if path else "the sweep"
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise SweepError(
            f"The file is not YAML: {error.problem or error.context}.",
            where=f"{place}{line}",
            fix="repair the YAML there; indent with spaces and put a space after each colon.",
        ) from None
    except yaml.YAMLError as error:
        first_line = str(error).splitlines()[0]
        raise SweepError(
            f"The file is not YAML: {first_line}.",
            where=place,
            fix="give a YAML text file.",
        ) from None
    if node is None:
        raise SweepError(
            "The sweep file is empty.",
            where=place,
            fix="write at least name, models, hardware and blocks.",
        )
    if not isinstance(node, yaml.MappingNode):
        kind = "list" if isinstance(node, yaml.SequenceNode) else "single value"
        raise SweepError(
            f"The top of a sweep file must be keys with values, and this one is a {kind}.",
            where=f"{place}, line {node.start_mark.line + 1}",
            fix="start with keys such as name: and models: at the left margin.",
        )
    builder = _Builder(place)
    data = builder.build(node, ())
    return YamlDocument(path=path, data=data, lines=builder.lines)


class _Builder:
    """Turns a YAML node tree into plain values, refusing what is ambiguous."""

    def __init__(self, place: str) -> None:
        import yaml

        self.place = place
        self.lines: dict[KeyPath, int] = {}
        self.nodes = 0
        self._scalars = yaml.SafeLoader("")

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        import yaml

        self.nodes += 1
        line = node.start_mark.line + 1
        if self.nodes > MAX_NODES or len(path) > 40:
            raise SweepError(
                "The file is too large or too deep, or its anchors refer to themselves.",
                where=f"{self.place}, line {line}",
                fix="write the values out, or split the sweep into several files.",
            )
        self.lines.setdefault(path, line)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        import yaml

        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise SweepError(
                    "A key must be a single word.",
                    where=f"{self.place}, line {line}",
                    fix="put quotes around the value if it starts with { or [.",
                )
            key = str(key_node.value)
            child = (*path, key)
            if key == "<<":
                raise SweepError(
                    "Merge keys (<<) are not supported in sweep files.",
                    where=f"{self.place}, line {line}",
                    fix="write the keys out; anchors on single values do work.",
                )
            if key in result:
                raise SweepError(
                    f"The key {key!r} is given twice.",
                    where=f"{self.place}, lines {self.lines[child]} and {line}, "
                    f"key {key_text(child)}",
                    fix="keep one of the two.",
                )
            self.lines[child] = line
            result[key] = self.build(value_node, child)
        return result

    def _scalar(self, node: yaml.Node, path: KeyPath) -> Any:
        import yaml

        try:
            return self._scalars.construct_object(node, deep=True)
        except (yaml.YAMLError, ValueError) as error:
            problem = getattr(error, "problem", None) or str(error)
            raise SweepError(
                f"The value {str(node.value)!r} cannot be read: {problem}.",
                where=f"{self.place}, line {node.start_mark.line + 1}, key {key_text(path)}",
                fix="put quotes around text, and write numbers as digits.",
            ) from None
