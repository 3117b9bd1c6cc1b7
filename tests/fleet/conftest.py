"""A small sweep for real runs on a private local Ray."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

SWEEP = """\
name: small
models: [meta-llama/Meta-Llama-3.1-8B, Qwen/Qwen3-30B-A3B]
hardware: [H100, H200]
tensor_parallel: [1, 2]
pipeline_parallel: [1, 2]
gpu_limit: 2
keep_traces: 3
blocks:
  - modality: text
    batch: [1, 8]
    input_tokens: [256]
    output_tokens: [32, 64]
"""


@pytest.fixture
def sweep_file(tmp_path: Path) -> Path:
    """A sweep of 40-odd tasks: two models, two GPU types, three deployments each."""
    path = tmp_path / "small.yaml"
    path.write_text(SWEEP)
    return path
