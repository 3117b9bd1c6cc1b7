"""Is Julia there for PySR? Asked without importing `pysr`, which would download and start it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fitting.discover.engine import Probe

PROBE_TIMEOUT_S = 30.0
"""Longest time that the questions about Julia may take, s."""

INSTALL = "pip install 'energylens[pysr]'"
RESOLVE = 'python -c "import pysr"'
SETUP = f"{INSTALL}, then once with a network connection {RESOLVE} (it downloads Julia)"

_QUESTION = """
import json, sys
# Whatever juliapkg raises means no: it is asked what it has, and the answer names what is missing.
answer = {"resolved": False, "julia": None}
from juliapkg import deps
from juliapkg.find_julia import find_julia
try:
    answer["resolved"] = bool(deps.can_skip_resolve())
except Exception:
    pass
try:
    answer["julia"] = [str(part) for part in find_julia(install=False)]
except Exception:
    pass
print("ANSWER" + json.dumps(answer))
"""


def probe_julia(timeout_s: float = PROBE_TIMEOUT_S) -> Probe:
    """Say whether PySR could search here: its package, Julia, and Julia's packages.

    juliapkg is asked in a process of its own, told to stay offline, and ended with all of its
    children when the time is over; so nothing is downloaded and nothing hangs.
    """
    if find_spec("pysr") is None:
        return Probe(False, reason="the package pysr is not installed", setup=SETUP)
    version = _version("pysr")
    if find_spec("juliapkg") is None:
        return Probe(False, version, "the package juliapkg, which finds Julia, is missing", SETUP)
    environ = {**os.environ, "PYTHON_JULIAPKG_OFFLINE": "yes"}
    status, output = run_bounded([sys.executable, "-c", _QUESTION], timeout_s, environ=environ)
    if status is None:
        return Probe(
            False,
            version,
            f"looking for Julia took more than {timeout_s:g} s",
            "run `julia --version` and repair what makes it hang",
        )
    answer = _answer(output)
    found = answer.get("julia") or ([julia] if (julia := shutil.which("julia")) else None)
    if found is None:
        return Probe(False, version, "Julia is not installed", SETUP)
    if not answer.get("resolved"):
        return Probe(
            False,
            version,
            f"Julia is at {found[0]}, but the Julia packages of PySR are not set up",
            f"once with a network connection: {RESOLVE}",
        )
    return Probe(True, version)


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _answer(output: str) -> dict[str, Any]:
    for line in reversed(output.splitlines()):
        if line.startswith("ANSWER"):
            try:
                found: dict[str, Any] = json.loads(line.removeprefix("ANSWER"))
            except ValueError:
                return {}
            return found
    return {}


def run_bounded(
    command: Sequence[str],
    timeout_s: float,
    *,
    environ: dict[str, str] | None = None,
    cwd: Path | None = None,
) -> tuple[int | None, str]:
    """Run a command in a process group of its own, and end the whole group when time is over.

    Returns
    -------
    status
        Exit status; None if the time ended first.
    output
        What it printed, both streams; what children printed late is not waited for.
    """
    import tempfile

    with tempfile.TemporaryFile("w+", errors="replace") as log:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environ,
            cwd=cwd,
            start_new_session=True,
        )
        try:
            status: int | None = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _end_group(process)
        log.seek(0)
        return status, log.read()


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End whatever is left of the process group, workers of Julia too."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
