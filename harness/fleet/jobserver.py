"""The job server of a Ray cluster: start, follow and stop jobs, every question with a limit."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from harness.errors import RunError

T = TypeVar("T")
Say = Callable[[str], None]

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
KNOCK_S = 5.0
ANSWER_S = 60.0
"""Time for one answer of the job server."""

STOP_S = 20.0
"""Time for the answer to a stop: for a job that waits, Ray may never give one."""

FINISH_S = 1800
"""Time that a stopped driver has to finish the windows under way before it is killed."""

RECONNECT_S = 2.0
EXIT_INTERRUPTED = 130

STOP_CLEANLY = {"RAY_JOB_STOP_SIGNAL": "SIGTERM", "RAY_JOB_STOP_WAIT_TIME_S": str(FINISH_S)}
"""Settings of a job whose driver is asked to stop and waited for; Ray's own patience is 3 s."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a job ended.

    Attributes
    ----------
    status
        SUCCEEDED, FAILED or STOPPED.
    exit_code
        That of the driver; 130 for a stopped one, which has none.
    """

    status: str
    exit_code: int


def job_address(given: str | None, environ: Mapping[str, str]) -> str:
    """Return where the job server is: what was given, or what the environment says.

    RAY_API_SERVER_ADDRESS names the job server. RAY_ADDRESS may name it (http://) or the head
    of the cluster (host:port), which Ray asks for the job server.
    """
    return (
        given
        or environ.get("RAY_API_SERVER_ADDRESS")
        or environ.get("RAY_ADDRESS")
        or DEFAULT_ADDRESS
    )


class Jobs:
    """The job server of a cluster; every question has a time limit.

    Parameters
    ----------
    address
        From `job_address`.

    Raises
    ------
    RunError
        If nobody answers there, or the token is wrong.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._knock()
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        # Ray lets RAY_ADDRESS win over the argument; here the address was chosen already.
        os.environ["RAY_API_SERVER_ADDRESS"] = address
        self._client = self._ask(self._connect)

    def _knock(self) -> None:
        """Fail within seconds if nobody listens there."""
        parts = urlsplit(self.address if "://" in self.address else f"http://{self.address}")
        try:
            port = parts.port or (443 if parts.scheme == "https" else 80)
            socket.create_connection((parts.hostname or "", port), timeout=KNOCK_S).close()
        except ValueError as error:
            raise self._unreachable(f"this is no address: {error}") from None
        except OSError as error:
            raise self._unreachable(f"nobody answers there: {error.strerror or error}") from None

    @staticmethod
    def _connect() -> Any:
        import json
        import logging

        from ray.job_submission import JobSubmissionClient

        for module in ("dashboard.modules.job.sdk", "dashboard.modules.dashboard_sdk"):
            logging.getLogger(f"ray.{module}").setLevel(logging.WARNING)
        logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.WARNING)
        headers = json.loads(os.environ.get("RAY_JOB_HEADERS") or "null")
        return JobSubmissionClient(headers=headers)

    def start(self, job_id: str, command: str, working_dir: Path) -> None:
        """Submit a job; one that another call just submitted under this id is let be."""
        try:
            self._ask(
                lambda: self._client.submit_job(
                    entrypoint=command,
                    submission_id=job_id,
                    runtime_env={"working_dir": str(working_dir), "env_vars": STOP_CLEANLY},
                )
            )
        except RunError:
            if not self.known(job_id):
                raise

    def known(self, job_id: str) -> bool:
        """Tell whether there is a job of this id."""
        return any(job.submission_id == job_id for job in self._ask(self._client.list_jobs))

    def ended(self, job_id: str) -> Ended | None:
        """Return how a job ended; None if it has not, or there is none.

        Raises
        ------
        RunError
            If the job ended without its driver: it never started, or its node was lost.
        """
        if not self.known(job_id):
            return None
        info = self._ask(lambda: self._client.get_job_info(job_id))
        if not info.status.is_terminal():
            return None
        status = str(info.status.value)
        if status == "STOPPED":
            return Ended(status, EXIT_INTERRUPTED)
        code = 0 if status == "SUCCEEDED" else info.driver_exit_code
        if code is None:
            raise RunError(
                f"the job ended without an exit code of its driver: {_first(info.message)}",
                where=f"job {job_id} at {self.address}",
                fix="see its log; then submit with --retry, which goes on in the same run folder",
            )
        return Ended(status, 128 - code if code < 0 else int(code))

    def follow(self, job_id: str, write: Say, say: Say) -> Ended:
        """Write a job's log until it ends; Ctrl-C asks it to stop, a second one leaves it.

        The log starts from its beginning each time a connection is made, so what was written
        already is passed over.
        """
        seen = stops = 0

        async def tail() -> None:
            nonlocal seen
            skip = seen
            async for text in self._client.tail_job_logs(job_id):
                if skip < len(text):
                    write(text[skip:])
                    seen += len(text) - skip
                skip = max(0, skip - len(text))

        def rest() -> None:
            # The stream may end before the last lines.
            with suppress(RunError):
                write(self._ask(lambda: self._client.get_job_logs(job_id))[seen:])

        while True:
            try:
                done = self.ended(job_id)
                if done is not None:
                    rest()
                    return done
                # A lost connection is no end of the job: its state says so.
                with suppress(RuntimeError, OSError):
                    asyncio.run(tail())
                if self.ended(job_id) is None:
                    time.sleep(RECONNECT_S)
            except KeyboardInterrupt:
                stops += 1
                if stops > 1:
                    raise
                say(f"asking {job_id} to stop after the window under way; Ctrl-C again to leave it")
                self.stop(job_id, say)

    def stop(self, job_id: str, say: Say) -> bool:
        """Ask a job to stop; return whether it was heard."""
        try:
            return bool(self._ask(lambda: self._client.stop_job(job_id), limit_s=STOP_S))
        except RunError as error:
            say(f"{error}")
            return False

    def _ask(self, question: Callable[[], T], limit_s: float = ANSWER_S) -> T:
        """Ask the server, in a thread that is given up after a time: Ray has no limits here."""
        answer: list[T] = []
        failure: list[Exception] = []

        def ask() -> None:
            try:
                answer.append(question())
            except Exception as error:
                failure.append(error)

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(limit_s)
        if answer:
            return answer[0]
        if not failure:
            raise self._unreachable(f"no answer from the job server within {limit_s:g} s")
        if "uthenticat" in type(failure[0]).__name__ + str(failure[0]):
            raise RunError(
                f"the job server refuses the token: {_first(str(failure[0]))}",
                where=self.address,
                fix="set RAY_AUTH_TOKEN_PATH (or RAY_AUTH_TOKEN) to the token of the cluster",
            ) from failure[0]
        raise self._unreachable(_first(str(failure[0]))) from failure[0]

    def _unreachable(self, what: str) -> RunError:
        return RunError(
            f"the job server of the cluster cannot be used: {what}",
            where=self.address,
            fix="check the address (--address, RAY_API_SERVER_ADDRESS) and the SSH tunnel to the "
            "head node: ssh -N -L 8265:127.0.0.1:8265 HEAD",
        )


def _first(text: str | None) -> str:
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    return lines[0][:300] if lines else "no reason given"
