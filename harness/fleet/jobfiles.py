"""What travels with a job: the sweep, the model files that it names, and the command."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from harness.errors import RunError
from harness.spec import Sweep

MODELS = "models"


def pack(sweep: Sweep, path: Path, stage: Path) -> str:
    """Copy a sweep and its model files into an empty folder; return the sweep's name there.

    Parameters
    ----------
    sweep
        The sweep.
    path
        Its file.
    stage
        Empty folder that Ray sends to the cluster.

    Raises
    ------
    RunError
        If a model file cannot travel: it lies outside the folder of the sweep.
    """
    home = path.resolve().parent
    shutil.copyfile(path, stage / path.name)
    if (home / MODELS).is_dir():
        shutil.copytree(home / MODELS, stage / MODELS)
    for name in sweep.model_names:
        file = (home / name).resolve()
        if not file.is_file():
            continue
        if not file.is_relative_to(home) or Path(name).is_absolute():
            raise RunError(
                "a model file outside the folder of the sweep cannot travel with the job",
                where=f"{path}: models: {name}",
                fix=f"put it into {home / MODELS} as ORG--NAME.json and name it ORG/NAME",
            )
        target = stage / file.relative_to(home)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    return path.name


def entrypoint(python: str, sweep: str, out: str, options: Sequence[str] = ()) -> str:
    """Return the shell command of the job; `exec`, so that a stop reaches the driver itself."""
    words = [python, "-m", "energylens", "run", sweep, "--out", out, *options]
    return f"exec {shlex.join(words)}"


def remote_folder(out: str) -> str:
    """Return a run folder that means the same on the head node as here.

    Raises
    ------
    RunError
        If it is relative: the job runs in a folder that Ray removes.
    """
    if re.match(r"^[a-z][a-z0-9+.-]*://", out) or Path(out).is_absolute():
        return out
    raise RunError(
        f"the run folder {out!r} is relative, and the job runs in a folder that Ray removes",
        where="--out",
        fix="give an absolute path on the head node, or s3://BUCKET/PATH",
    )
