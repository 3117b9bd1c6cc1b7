"""Writes the JSON schema of sweep files: ``python -m harness.spec [PATH]``."""

from __future__ import annotations

import sys
from pathlib import Path

from harness.spec.schema import write_sweep_schema

if __name__ == "__main__":
    write_sweep_schema(Path(sys.argv[1] if len(sys.argv) > 1 else "sweeps/sweep.schema.json"))
