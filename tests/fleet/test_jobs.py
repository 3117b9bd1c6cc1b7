"""A sweep handed to a real cluster: table, exit codes, log, the same id twice, stops, tokens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from ray_head import ROOT, Head, environment, ray_head

from energylens import load
from harness.errors import RunError
from harness.fleet.jobfiles import entrypoint, pack, remote_folder
from harness.fleet.jobserver import DEFAULT_ADDRESS, Jobs, job_address
from harness.plan import make_plan
from harness.spec import load_sweep

pytestmark = pytest.mark.ray

LONG = "sweeps/dense_text.yaml"
TINY = """\
name: tiny
models: meta-llama/Meta-Llama-3.1-8B
hardware: H100
keep_traces: 0
blocks:
  - {batch: [1, 8], input_tokens: 256, output_tokens: 32}
"""


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head() as found:
        yield found


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "harness.fleet.jobs", *map(str, words)]


def jobs(head: Head, *words: object, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words),
        cwd=cwd,
        env={**head.env, **env},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def starts(run: Path) -> int:
    lines = (run / "events.jsonl").read_text().splitlines()
    return sum(json.loads(line)["kind"] == "run_started" for line in lines)


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quickstart with two models and few workloads: its text block of single GPUs."""
    text = (ROOT / "sweeps" / "quickstart.yaml").read_text()
    head_, blocks = text.split("blocks:")
    first = blocks.split("  - name: text, models of several GPUs")[0].replace("size: 18", "size: 2")
    first = first.replace("      - Qwen/Qwen3-32B\n", "").replace("      - Qwen/Qwen3.5-27B\n", "")
    head_ = head_.replace("A100-SXM4-80GB, H100-SXM5-80GB, ", "").replace(", B200-SXM6-180GB", "")
    path = tmp_path_factory.mktemp("sweep") / "quickstart.yaml"
    path.write_text(f"{head_}blocks:{first}keep_traces: 1\n")
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sweep") / "tiny.yaml"
    path.write_text(TINY)
    return path


def test_a_sweep_ends_with_the_right_table_once(head, quickstart, tmp_path):
    out = tmp_path / "run"
    words = ("submit", quickstart, "--out", out, "--address", head.address)
    done = jobs(head, *words, "--submission-id", "night-1", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    plan = make_plan(quickstart)
    assert sorted(load(out)["task_id"]) == sorted(task.task_id for task in plan.tasks)
    assert load(out)["valid"].all()
    assert "tasks done" in done.stdout
    assert (tmp_path / "night-1.log").read_text() == done.stdout

    again = jobs(head, *words, "--submission-id", "night-1", "--log", "again.log", cwd=tmp_path)
    assert again.returncode == 0
    assert "submitted before" in again.stderr
    assert again.stdout == done.stdout
    assert starts(out) == 1


def test_plain_ray_job_submit_works_too(head, tiny, tmp_path):
    out = tmp_path / "run"
    done = subprocess.run(
        ["ray", "job", "submit", "--address", head.address, "--submission-id", "plain-1",
         "--working-dir", str(tiny.parent), "--",
         "python", "-m", "energylens", "run", tiny.name, "--out", str(out)],
        env=head.env, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert load(out)["valid"].all()


def test_a_driver_that_fails_gives_its_own_exit_code_and_retry_starts_the_next(
    head, tiny, tmp_path
):
    out = tmp_path / "run"
    out.write_text("a file where the run folder should be")
    words = ("submit", tiny, "--out", out, "--address", head.address)
    words = (*words, "--submission-id", "fails-1")
    done = jobs(head, *words, cwd=tmp_path)
    assert done.returncode == 2
    assert "Error:" in done.stdout
    out.unlink()
    assert jobs(head, *words, cwd=tmp_path).returncode == 2  # it is still the job that failed
    mended = jobs(head, *words, "--retry", cwd=tmp_path)
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert "fails-1-2 submitted" in mended.stderr
    assert (tmp_path / "fails-1-2.log").exists()


def test_a_job_that_cannot_start_is_an_error(head, tiny, tmp_path):
    words = ("submit", tiny, "--out", tmp_path / "run", "--address", head.address)
    done = jobs(head, *words, "--python", "no-such-python", cwd=tmp_path)
    assert done.returncode == 127
    assert "no-such-python" in done.stdout


def test_ctrl_c_stops_the_job_and_leaves_what_was_measured(head, tmp_path):
    out = tmp_path / "run"
    words = ("submit", ROOT / LONG, "--out", out, "--address", head.address)
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(
            command(*words, "--submission-id", "stop-1"),
            cwd=tmp_path,
            env=head.env,
            stdout=said,
            stderr=said,
        )
        try:
            deadline = time.monotonic() + 200
            while not any(out.rglob("measurements/**/*.parquet")):
                assert time.monotonic() < deadline
                assert process.poll() is None, (tmp_path / "said").read_text()
                time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=120) == 130
        finally:
            if process.poll() is None:
                process.kill()
    assert "asking stop-1 to stop" in (tmp_path / "said").read_text()
    assert 0 < len(load(out)) < 5000
    assert jobs(head, "stop", "stop-1", "--address", head.address, cwd=tmp_path).returncode == 1


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("submit", "nowhere.yaml", "--out", "/run"), "does not exist"),
        (("submit", ROOT / LONG, "--out", "run"), "relative"),
        (("submit", ROOT / LONG, "--out", "/run", "--log", "/proc/none/x"), "log cannot"),
        (("submit", ROOT / LONG, "--out", "/run", "--address", "http://127.0.0.1:9"), "nobody"),
        (("submit", ROOT / LONG, "--out", "/run", "--address", "http://h:x"), "no address"),
        (("stop", "no-such-job"), "does not exist"),
    ],
    ids=["sweep", "folder", "log", "address", "port", "job"],
)
def test_what_cannot_be_is_said_and_exits_2(head, words, text, tmp_path):
    done = jobs(head, *words, cwd=tmp_path, RAY_ADDRESS=head.address)
    assert done.returncode == (1 if words[0] == "stop" else 2)
    assert text in done.stderr
    assert "what to do" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_environment_says_where_the_job_server_is():
    both = {"RAY_API_SERVER_ADDRESS": "http://a:1", "RAY_ADDRESS": "b:2"}
    assert job_address("http://c:3", both) == "http://c:3"
    assert job_address(None, both) == "http://a:1"
    assert job_address(None, {"RAY_ADDRESS": "b:2"}) == "b:2"
    assert job_address(None, {}) == DEFAULT_ADDRESS


def test_the_address_of_the_head_finds_its_job_server(head, tmp_path):
    done = jobs(head, "stop", "no-such-job", cwd=tmp_path, RAY_ADDRESS=head.gcs)
    assert "does not exist" in done.stderr


def test_an_answer_that_never_comes_is_given_up(head, monkeypatch):
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", head.address)
    server = Jobs(head.address)
    started = time.monotonic()
    with pytest.raises(RunError, match=r"within 0\.2 s"):
        server._ask(lambda: time.sleep(30), limit_s=0.2)
    assert time.monotonic() - started < 5


def test_only_what_a_sweep_needs_travels(tmp_path):
    home, stage = tmp_path / "sweeps", tmp_path / "stage"
    (home / "models").mkdir(parents=True)
    (home / "own").mkdir()
    stage.mkdir()
    config = next((ROOT / "sweeps" / "models").glob("*.json")).read_text()
    (home / "own" / "a.json").write_text(config)
    (home / "models" / "org--b.json").write_text(config)
    (home / "secret").write_text("stays here")
    text = "name: s\nmodels: [own/a.json, org/b]\nhardware: H100\nblocks: [{batch: 1, "
    (home / "s.yaml").write_text(text + "input_tokens: 8, output_tokens: 8}]\n")
    assert pack(load_sweep(home / "s.yaml"), home / "s.yaml", stage) == "s.yaml"
    names = {str(p.relative_to(stage)) for p in stage.rglob("*") if p.is_file()}
    assert names == {"s.yaml", "own/a.json", "models/org--b.json"}
    (tmp_path / "out.json").write_text(config)
    (home / "t.yaml").write_text((home / "s.yaml").read_text().replace("own/a", "../out"))
    with pytest.raises(RunError, match="cannot travel"):
        pack(load_sweep(home / "t.yaml"), home / "t.yaml", tmp_path)


def test_folders_and_commands():
    assert remote_folder("s3://lab/run") == "s3://lab/run"
    assert remote_folder("/data/run") == "/data/run"
    line = entrypoint("python", "a b.yaml", "/r", ("--max-hours", "2"))
    assert line == "exec python -m energylens run 'a b.yaml' --out /r --max-hours 2"


def test_a_token_is_needed_where_the_cluster_has_one(tmp_path):
    token = tmp_path / "token"
    token.write_text("0123456789abcdef0123456789abcdef")
    secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    with ray_head(**secret) as head:
        words = ("stop", "no-such-job", "--address", head.address)
        assert "does not exist" in jobs(head, *words, cwd=tmp_path).stderr
        bare = environment(tmp_path)
        known = Head(head.address, head.gcs, head.folder, bare)
        refused = jobs(known, *words, cwd=tmp_path)
        assert refused.returncode == 2
        assert "refuses the token" in refused.stderr
        del bare["RAY_AUTH_MODE"]
        given = jobs(known, *words, cwd=tmp_path, RAY_AUTH_TOKEN=token.read_text())
        assert "does not exist" in given.stderr
