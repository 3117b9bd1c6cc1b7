"""Writes the ids of many tasks of one model and deployment: what they share is written once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256

from harness.spec.workload import Workload
from harness.store.identity import IDENTITY_DEFAULTS, task_id_of

_VARYING = frozenset(Workload.model_fields)


class TaskIds:
    """Ids of the tasks of one model and deployment, by workload.

    They are those of `harness.store.identity.task_id_of`, which is asked itself where a value is
    no text and no whole number.

    Parameters
    ----------
    shared
        Columns of the configuration that do not depend on the workload.
    """

    __slots__ = ("_pieces", "_plain", "_shared")

    def __init__(self, shared: Mapping[str, object]) -> None:
        self._shared = dict(shared)
        self._plain = True
        self._pieces: list[tuple[str, str, object]] = []
        for name in sorted(IDENTITY_DEFAULTS):
            default = IDENTITY_DEFAULTS[name]
            text = f'"{name}":'
            if name in _VARYING:
                self._pieces.append((name, text, default))
                continue
            value = shared.get(name)
            self._plain = self._plain and (value is None or type(value) in (int, str))
            if value is not None and value != default:
                self._pieces.append(("", text + json.dumps(value), None))

    def of(self, workload: Workload) -> str:
        """Return the id of the task with this workload."""
        values = workload.__dict__
        parts: list[str] = []
        plain = self._plain
        for name, text, default in self._pieces:
            if not name:
                parts.append(text)
                continue
            value = values[name]
            if value is None or value == default:
                continue
            if type(value) is int:
                parts.append(f"{text}{value}")
            elif type(value) is str:
                parts.append(text + json.dumps(value))
            else:
                plain = False
        if not plain:
            return task_id_of({**self._shared, **values})
        return sha256(("{" + ",".join(parts) + "}").encode("ascii")).hexdigest()[:16]
