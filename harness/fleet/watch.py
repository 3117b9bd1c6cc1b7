"""Watches the cluster in threads: which nodes live, whether the head answers, who came new."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from harness.errors import RunError
from harness.fleet.nodes import NodeFacts

PERIOD_S = 1.0
FEW_S = 5.0
HEAD_SILENCE_S = 30.0
"""So long may the head say nothing; Ray itself ends the driver without a word after 60 s."""


class HeadLostError(RunError):
    """The head of the cluster does not answer any more: Ray will end this process soon."""

    leave_at_once = True


class Watch:
    """Asks the head for its nodes every second.

    Parameters
    ----------
    list_nodes
        Gives Ray's list of nodes; may block for long when the head is gone.
    clock
        Monotonic seconds.
    """

    def __init__(
        self,
        list_nodes: Callable[[], Sequence[dict[str, Any]]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._list = list_nodes
        self._clock = clock
        self._alive: frozenset[str] | None = None
        self._asked_s: float | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="watch")

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def alive(self) -> frozenset[str] | None:
        """Ids of the nodes that live; None before the first answer.

        Raises
        ------
        HeadLostError
            If the head has not answered for too long.
        """
        if self.silent_s > HEAD_SILENCE_S:
            raise self.lost()
        return self._alive

    @property
    def silent_s(self) -> float:
        """Time for which a question to the head has had no answer.

        Not the time since the last answer: whoever was stopped meanwhile has not asked.
        """
        asked_s = self._asked_s
        return 0.0 if asked_s is None else self._clock() - asked_s

    def lost(self, why: str = "") -> HeadLostError:
        """What to raise when Ray is gone, for some other sign of it than silence too."""
        what = f"the head of the Ray cluster has not answered for {self.silent_s:.0f} s"
        if self.silent_s < FEW_S:
            what = f"Ray on the driver's machine has ended: {why or 'no word from it'}"
        return HeadLostError(
            what,
            where="the cluster of this run",
            fix="bring the cluster up again and run the same command: it goes on where it was",
        )

    def _run(self) -> None:
        while not self._over.wait(PERIOD_S if self._alive is not None else 0.0):
            self._asked_s = self._clock() if self._asked_s is None else self._asked_s
            try:
                nodes = self._list()
            except Exception:
                self._over.wait(PERIOD_S)
                continue
            self._alive = frozenset(str(n["NodeID"]) for n in nodes if n.get("Alive"))
            self._asked_s = None


class Scouts:
    """Probes nodes in the background and hands their facts over when they come.

    Parameters
    ----------
    probe
        Probes one node; blocks.
    """

    def __init__(self, probe: Callable[[str], NodeFacts]) -> None:
        self._probe = probe
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="scout")
        self._out: dict[str, Future[NodeFacts]] = {}

    def send(self, node_id: str) -> None:
        """Probe a node, unless that is being done."""
        if node_id not in self._out:
            self._out[node_id] = self._pool.submit(self._probe, node_id)

    @property
    def busy(self) -> bool:
        """Whether an answer is to come."""
        return bool(self._out)

    def back(self) -> list[NodeFacts]:
        """Facts that came in since; a probe that failed is dropped."""
        ended = [node_id for node_id, answer in self._out.items() if answer.done()]
        found = []
        for node_id in ended:
            answer = self._out.pop(node_id)
            if answer.exception() is None:
                found.append(answer.result())
        return found

    def close(self) -> None:
        """Wait for nothing any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)
