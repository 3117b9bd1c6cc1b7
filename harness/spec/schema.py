"""JSON schema of sweep files, for editors that complete and check them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.spec.sweep import Sweep


def sweep_json_schema() -> dict[str, Any]:
    """JSON schema of a sweep file (draft 2020-12)."""
    schema = Sweep.model_json_schema(mode="validation")
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "EnergyLens sweep"
    return schema


def write_sweep_schema(path: Path) -> None:
    """Write the schema to a file; run ``python -m harness.spec`` after a change."""
    text = json.dumps(sweep_json_schema(), indent=2, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")
