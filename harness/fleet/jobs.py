"""Hand a sweep to a cluster as a Ray job, follow its log, and end as the driver ended.

    python -m harness.fleet.jobs submit SWEEP --out DIR [-- options of energylens run]
    python -m harness.fleet.jobs stop ID

A submission id is taken once: who submits it again follows the job that is there. The sweep and
its model files travel with the job; EnergyLens itself must be installed on the nodes.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

from harness.errors import EnergyLensError, RunError
from harness.fleet.jobfiles import entrypoint, pack, remote_folder
from harness.fleet.jobserver import (
    DEFAULT_ADDRESS,
    EXIT_INTERRUPTED,
    Ended,
    Jobs,
    Say,
    job_address,
)
from harness.spec import load_sweep

MOST_ATTEMPTS = 20
EXIT_BAD = 2


def submit(
    jobs: Jobs,
    sweep_path: Path,
    out: str,
    *,
    job_id: str | None = None,
    options: Sequence[str] = (),
    python: str = "python",
    retry: bool = False,
    log: Path | None = None,
    today: Callable[[], date] = date.today,
    write: Say | None = None,
    say: Say | None = None,
) -> int:
    """Submit a sweep, or follow the job that was submitted before; return the exit code.

    Parameters
    ----------
    jobs
        The cluster.
    sweep_path
        Sweep file on this machine.
    out
        Run folder on the head node (absolute) or in object storage.
    job_id
        Submission id; default the sweep's name and the date.
    options
        More options of `energylens run`.
    python
        Python of the cluster that has EnergyLens.
    retry
        Where the job of this id did not end well, start the next one: ID-2, ID-3 ...
    log
        File for the log; default `ID.log`.
    today
        Today's date.
    write, say
        Where the log and our own words go.

    Raises
    ------
    EnergyLensError
        A bad sweep, a relative folder, a job that could not start.
    """
    write, say = write or _write, say or _say
    sweep = load_sweep(sweep_path)
    folder = remote_folder(out)
    first = name = job_id or f"{sweep.name}-{today():%Y-%m-%d}"
    for attempt in range(2, MOST_ATTEMPTS):
        ended = _ended_somehow(jobs, name) if retry else None
        if ended is None or ended.exit_code == 0:
            break
        name = f"{first}-{attempt}"
    path = log or Path(f"{name}.log")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("w", encoding="utf-8")
    except OSError as error:
        raise RunError(
            f"the log cannot be written: {error.strerror}", where=str(path), fix="use --log FILE"
        ) from error
    with stream:
        if jobs.known(name):
            say(f"{name} was submitted before: following it")
        else:
            with TemporaryDirectory(prefix="energylens-job-") as stage:
                inside = pack(sweep, sweep_path, Path(stage))
                jobs.start(name, entrypoint(python, inside, folder, options), Path(stage))
            say(f"{name} submitted to {jobs.address}")

        def both(text: str) -> None:
            stream.write(text)
            stream.flush()
            write(text)

        ended = jobs.follow(name, both, say)
    say(f"{name} {ended.status.lower()}, exit code {ended.exit_code}; log in {path}")
    return ended.exit_code


def _ended_somehow(jobs: Jobs, name: str) -> Ended | None:
    """Return how a job ended, also one that ended without its driver."""
    try:
        return jobs.ended(name)
    except RunError:
        return Ended("FAILED", EXIT_BAD)


def _write(text: str) -> None:
    print(text, end="", flush=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    cut = words.index("--") if "--" in words else len(words)
    options, args = words[cut + 1 :], _parser().parse_args(words[:cut])

    try:
        if args.command == "submit":
            # What can be refused here needs no cluster.
            load_sweep(args.sweep)
            remote_folder(args.out)
        jobs = Jobs(job_address(args.address, os.environ))
        if args.command == "stop":
            return 0 if jobs.stop(args.id, _say) else 1
        return submit(
            jobs,
            args.sweep,
            args.out,
            job_id=args.submission_id,
            options=options,
            python=args.python,
            retry=args.retry,
            log=args.log,
        )
    except EnergyLensError as error:
        _say(f"Error: {error}")
        return EXIT_BAD
    except KeyboardInterrupt:
        _say("left; the job may still run: submit the same id again to follow it")
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m harness.fleet.jobs", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("submit", help="submit a sweep, or follow it")
    one.add_argument("sweep", type=Path, metavar="SWEEP")
    one.add_argument("--out", required=True, metavar="DIR", help="run folder on the cluster")
    one.add_argument("--submission-id", metavar="ID", help="default: name of the sweep and date")
    one.add_argument("--log", type=Path, metavar="FILE", help="default: ID.log")
    one.add_argument("--python", default="python", help="Python on the head node (python)")
    one.add_argument(
        "--retry", action="store_true", help="if the job of this id failed, start ID-2, ID-3 ..."
    )
    two = commands.add_parser("stop", help="ask a job to finish its windows and stop")
    two.add_argument("id", metavar="ID")
    for command in (one, two):
        command.add_argument(
            "--address",
            metavar="URL",
            help=f"job server; default RAY_API_SERVER_ADDRESS, RAY_ADDRESS, {DEFAULT_ADDRESS}",
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
