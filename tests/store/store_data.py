"""An object store as the tests see it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.store.s3 import Bucket, parse_address


@dataclass(frozen=True, slots=True)
class ObjectStore:
    url: str
    tmp: Path
    monkeypatch: pytest.MonkeyPatch

    def on_machine(self, name: str) -> None:
        """Go on with a mirror that no other machine sees."""
        self.monkeypatch.setenv("ENERGYLENS_CACHE", str(self.tmp / f"cache-{name}"))

    @property
    def bucket(self) -> Bucket:
        return Bucket(parse_address(self.url))

    def keys(self, under: str = "") -> list[str]:
        return sorted(self.bucket.list(under))

    def process(self, code: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", code, self.url, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )


def row(task: str, **fields: object) -> dict[str, object]:
    return {"task_id": task, "model_id": "org/m", "batch": 1, "valid": True, **fields}
