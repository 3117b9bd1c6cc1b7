from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "nvml")]

from scripted import ScriptedNvml  # noqa: E402


@pytest.fixture
def scripted(tmp_path):
    """A function that puts scripted GPUs behind this process, on a virtual clock."""
    with pytest.MonkeyPatch.context() as patch:
        made = []

        def make(gpus, **options) -> ScriptedNvml:
            nvml = ScriptedNvml(gpus, folder=tmp_path, **{"virtual": True, **options})
            nvml.install(patch)
            made.append(nvml)
            return nvml

        yield make
    for nvml in made:
        nvml.__exit__(None, None, None)
