"""PySR without Julia: the probe, the arguments, the hall of fame, and the hard timeout."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from fitting_data import synthetic

from fitting.discover import discover_frame, get_engine
from fitting.discover.engine import Deadline, Probe
from fitting.discover.freelaw import from_energy
from fitting.discover.halloffame import formula, read_hall_of_fame
from fitting.discover.julia import probe_julia, run_bounded
from fitting.discover.problem import batch_problem
from fitting.discover.pysr import regressor_arguments, template_arguments
from harness.store import FitError

PYSR_ARGUMENTS = {
    "model_selection", "binary_operators", "unary_operators", "expression_spec", "niterations",
    "populations", "population_size", "maxsize", "timeout_in_seconds", "parallelism",
    "precision", "random_state", "deterministic", "verbosity", "progress", "run_id",
    "output_directory",
}  # fmt: skip
"""Those of the keyword arguments of PySRRegressor.__init__ that we use, read from the source of
PySR 2.7.2 (pysr/sr.py)."""

TEMPLATE_FIELDS = {"combine", "expressions", "variable_names", "parameters"}
"""Fields of TemplateExpressionSpec in PySR 2.7.2 (pysr/expression_specs.py)."""

FAMED = """Complexity,Loss,Equation
1,0.91,"f = #1; a1 = [1.0, 2.0]; a2 = [0.5, 0.5]"
5,0.02,"f = (#1 * #3) + (0.5 * #2); a1 = [1.0, 3.0]; a2 = [0.5, 0.5]"
7,0.01,"f = (#1 ^ 2) / (#4 + sqrt(#2)); a1 = [1.0, 3.0]; a2 = [0.25, 0.75]"
"""


def test_arguments_are_those_that_pysr_knows():
    assert set(regressor_arguments("folder", 0, 60.0)) <= PYSR_ARGUMENTS
    assert set(template_arguments(["x"], 3)) == TEMPLATE_FIELDS


def test_arguments_match_an_installed_pysr():
    import ast
    from importlib.util import find_spec
    from pathlib import Path

    found = find_spec("pysr")
    if found is None or found.origin is None:
        pytest.skip("the package pysr is not installed")
    tree = ast.parse((Path(found.origin).parent / "sr.py").read_text(encoding="utf-8"))
    regressor = next(
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and node.name == "PySRRegressor"
    )
    init = next(node for node in regressor.body if getattr(node, "name", "") == "__init__")
    known = {a.arg for a in [*init.args.args, *init.args.kwonlyargs]}
    assert set(regressor_arguments("folder", 0, 60.0)) <= known


def test_equal_seeds_search_alike():
    arguments = regressor_arguments("folder", 7, 60.0)
    assert arguments["deterministic"]
    assert arguments["parallelism"] == "serial"
    assert arguments["random_state"] == 7
    assert isinstance(arguments["timeout_in_seconds"], int)


def test_template_has_parameters_for_each_category():
    found = template_arguments(["work", "waiting"], 3)
    assert found["combine"] == "f(work, waiting, a1[category], a2[category])"
    assert found["variable_names"] == ["work", "waiting", "category"]
    assert found["parameters"] == {"a1": 3, "a2": 3}


def test_hall_of_fame_is_read(tmp_path):
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "hall_of_fame.csv").write_text(FAMED)
    found = read_hall_of_fame(tmp_path, ["work", "waiting"])
    assert [(e.complexity, e.loss) for e in found] == [(1, 0.91), (5, 0.02), (7, 0.01)]
    assert found[1].text == "(work * (2.0)) + (0.5 * waiting)"
    assert found[2].text == "(work ** 2) / ((0.5) + sqrt(waiting))"
    law = from_energy(found[1].text)[0]
    assert law.start == (2.0, 0.5)
    assert law.terms == ("waiting", "work")


@pytest.mark.parametrize("length", range(30, len(FAMED), 23))
def test_hall_of_fame_that_is_cut_off_gives_what_is_whole(tmp_path, length):
    (tmp_path / "hall_of_fame.csv").write_text(FAMED[:length])
    assert len(read_hall_of_fame(tmp_path, ["work", "waiting"])) <= 3


def test_the_backup_is_read_where_the_file_is_empty(tmp_path):
    (tmp_path / "hall_of_fame.csv").write_text("")
    (tmp_path / "hall_of_fame.csv.bak").write_text(FAMED)
    assert len(read_hall_of_fame(tmp_path, ["work", "waiting"])) == 3
    assert read_hall_of_fame(tmp_path / "nothing", ["work"]) == []


def test_formulas_without_a_template_are_read():
    assert formula("(work * 2.0) ^ 2", ["work"]) == "(work * 2.0) ** 2"


STAND_IN = {
    "pysr/__init__.py": "raise RuntimeError('importing pysr would start Julia')\n",
    "juliapkg/__init__.py": "",
    "juliapkg/deps.py": "def can_skip_resolve():\n    return {resolved}\n",
    "juliapkg/find_julia.py": (
        "import os, shutil, subprocess\n"
        "def find_julia(compat=None, prefix=None, install=False, upgrade=False):\n"
        "    assert not install and os.environ['PYTHON_JULIAPKG_OFFLINE'] == 'yes'\n"
        "    found = shutil.which('julia')\n"
        "    if found is None:\n"
        "        raise Exception('could not find Julia')\n"
        "    said = subprocess.run([found, '--version'], capture_output=True, text=True).stdout\n"
        "    return found, said.split()[2]\n"
    ),
}


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Stand-ins for pysr and juliapkg, and a PATH that holds what a test puts there."""
    if "pysr" in sys.modules or "juliapkg" in sys.modules:
        pytest.skip("pysr is loaded")
    (tmp_path / "bin").mkdir()

    def make(*, resolved: bool, julia: str | None) -> None:
        for name, text in STAND_IN.items():
            path = tmp_path / "packages" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.replace("{resolved}", str(resolved)))
        if julia is not None:
            stub = tmp_path / "bin" / "julia"
            stub.write_text(f"#!/bin/sh\n{julia}\n")
            stub.chmod(0o755)
        monkeypatch.syspath_prepend(str(tmp_path / "packages"))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")

    return make


VERSION = "echo julia version 1.11.2"


def test_probe_without_the_package(monkeypatch):
    monkeypatch.setattr("fitting.discover.julia.find_spec", lambda name: None)
    found = probe_julia()
    assert not found.available
    assert found.reason == "the package pysr is not installed"
    assert "pip install 'energylens[pysr]'" in found.setup


def test_probe_without_julia(packages):
    packages(resolved=False, julia=None)
    found = probe_julia()
    assert not found.available
    assert found.reason == "Julia is not installed"


def test_probe_with_julia_whose_packages_are_missing(packages):
    packages(resolved=False, julia=VERSION)
    found = probe_julia()
    assert not found.available
    assert "the Julia packages of PySR are not set up" in found.reason
    assert 'python -c "import pysr"' in found.setup


def test_probe_with_all_there(packages):
    packages(resolved=True, julia=VERSION)
    assert probe_julia().available


def test_probe_of_a_julia_that_hangs_ends(packages):
    packages(resolved=False, julia="sleep 60")
    began_s = time.monotonic()
    found = probe_julia(timeout_s=1.5)
    assert time.monotonic() - began_s < 20.0
    assert not found.available
    assert "took more than 1.5 s" in found.reason


def test_what_hangs_is_ended_with_its_children(tmp_path):
    child = tmp_path / "child"
    code = (
        "import subprocess, sys, time\n"
        f"p = subprocess.Popen(['sleep', '300'])\nopen({str(child)!r}, 'w').write(str(p.pid))\n"
        "print('started', flush=True)\ntime.sleep(300)\n"
    )
    began_s = time.monotonic()
    status, output = run_bounded([sys.executable, "-c", code], 4.0)
    assert status is None
    assert time.monotonic() - began_s < 30.0
    assert "started" in output
    assert not alive(int(child.read_text()))


def alive(pid: int) -> bool:
    for _ in range(50):
        state = subprocess.run(
            ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
        ).stdout.strip()
        if not state or state.startswith("Z"):
            return False
        time.sleep(0.1)
    return True


def test_a_search_that_is_cut_off_keeps_what_was_found(monkeypatch):
    """The worker is replaced by one that writes a hall of fame and then hangs."""

    def hanging(command, timeout_s, **options):
        from pathlib import Path

        folder = Path(command[-1])
        assert (folder / "job.json").is_file()
        with np.load(folder / "job.npz") as arrays:
            assert arrays["X"][:, -1].min() == 1.0
            assert len(arrays["y"]) == len(arrays["X"])
        (folder / "hall_of_fame.csv").write_text(
            'Complexity,Loss,Equation\n7,0.1,"f = (#1 * 2.0) + (#5 * 0.5)"\n9,0.0'
        )
        return run_bounded([sys.executable, "-c", "import time; time.sleep(60)"], 0.5)

    monkeypatch.setattr("fitting.discover.pysr.run_bounded", hanging)
    frame = synthetic(noise=0.02, visual=False).sample(40, random_state=0)
    problem, _, _ = batch_problem(frame, "decode")
    found = get_engine("pysr").search(problem, seed=0, draws=0, deadline=Deadline.after(100.0))
    assert [law.text for law in found.structures] == ["c1 * weights + c2 * launches"]
    assert "ended when its time was over; 1 formulas" in found.notes[0]


def test_unavailable_pysr_is_one_clear_error(monkeypatch):
    reason = Probe(False, reason="Julia is not installed", setup="install Julia")
    monkeypatch.setattr("fitting.discover.pysr.probe_julia", lambda: reason)
    with pytest.raises(FitError, match="pysr is unavailable: Julia is not installed"):
        discover_frame(synthetic(noise=0.02), engine="pysr")


def test_a_real_search():
    probe = get_engine("pysr").probe()
    if not probe.available:
        pytest.skip(probe.reason)
    frame = synthetic(noise=0.0, visual=False).sample(40, random_state=0)
    problem, _, _ = batch_problem(frame, "decode")
    problem = replace(problem, energy=problem.inputs_of(problem.inputs)["weights"] * 3.0)
    found = get_engine("pysr").search(problem, seed=0, draws=0, deadline=Deadline.after(300.0))
    assert found.structures
    assert os.getpgid(0)
