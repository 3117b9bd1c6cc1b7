"""Where workers tell the driver that they live, and hear that they should stop.

One small actor on the driver's own node. Workers post `started` and then a beat every few
seconds; the answer says whether to go on, to finish the window under way, or to end at once.
The driver drains the news without ever waiting for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Answer = Literal["go", "stop", "end"]
"""`stop`: finish the window under way and report; `end`: end the launch now."""


@dataclass(frozen=True, slots=True)
class News:
    """What a worker said.

    Attributes
    ----------
    ticket
        Names the attempt.
    started
        True for the first word, False for a beat.
    pid, ticks
        The worker's process, and when it began (clock ticks since boot).
    rank
        Which node of a gang this is; 0 leads.
    """

    ticket: str
    started: bool
    pid: int
    ticks: int
    rank: int = 0


class Mailbox:
    """The actor's class; `open_mailbox` starts one."""

    def __init__(self) -> None:
        self._news: list[News] = []
        self._stopping = False
        self._ending: set[str] = set()

    def post(self, news: News) -> Answer:
        """Take news from a worker and answer what it should do."""
        self._news.append(news)
        if news.ticket in self._ending:
            return "end"
        return "stop" if self._stopping else "go"

    def drain(self) -> list[News]:
        """Give the driver what came since it asked last."""
        news, self._news = self._news, []
        return news

    def stop(self) -> None:
        """Tell every launch to finish the window under way."""
        self._stopping = True

    def end(self, ticket: str) -> None:
        """Tell one launch to end now."""
        self._ending.add(ticket)


def open_mailbox() -> Any:
    """Start a mailbox on this driver's node; it ends with the driver."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()
