"""What the events of a run say, counted one by one as they stream by."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.fleet.view import NodeState, NodeView

LOG_LINES = 12
LINE_WIDTH = 200
_ENDS = {
    "run_finished": "finished",
    "run_stopped": "stopped",
    "run_interrupted": "interrupted",
    "run_failed": "failed",
}
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Example:
    """One failure of a class, to show what such a failure looks like.

    Attributes
    ----------
    what
        Task or launch that failed.
    node
        Where; empty if not known.
    detail
        What it said.
    log
        The last lines of its log.
    """

    what: str
    node: str
    detail: str
    log: tuple[str, ...] = ()


@dataclass(slots=True)
class _Node:
    """Counts of one node in the current run."""

    hardware: Counter[str] = field(default_factory=Counter)
    state: NodeState = "idle"
    doing: str = ""
    done: int = 0
    failed: int = 0
    lost: int = 0
    seconds: float = 0.0


class EventTally:
    """Counts of a stream of events; what it holds does not grow with their number.

    Every `run_started` begins the counts of the current run anew. Failed tasks of all runs are
    kept by task, since a row or a later run decides what became of them.

    Attributes
    ----------
    start
        The event that began the current run; None before the first.
    end
        The event that ended it; None while it goes on.
    last
        The last event of all.
    failed
        Task -> class of its failure, over all runs.
    lost, retried
        Class -> tasks without a row, and launches that were tried again, in the current run.
    examples
        Class -> one failure of it.
    attempts
        Number of the attempt -> launches that began it.
    stopping
        Why no launches are started any more.
    unplaceable
        Why no node can take them -> tasks.
    slow
        Node -> its time over that of its like.
    """

    def __init__(self, events: Iterable[Mapping[str, Any]] = ()) -> None:
        self.last: Mapping[str, Any] | None = None
        self.failed: dict[str, str] = {}
        self._handlers = {
            name.removeprefix("_on_"): getattr(self, name)
            for name in dir(type(self))
            if name.startswith("_on_")
        }
        self._begin(None)
        for event in events:
            self.add(event)

    def _begin(self, event: Mapping[str, Any] | None) -> None:
        self.start = event
        self.end: Mapping[str, Any] | None = None
        self.lost = Counter[str]()
        self.retried = Counter[str]()
        self.attempts = Counter[int]()
        self.examples: dict[str, Example] = {}
        self.stopping = ""
        self.unplaceable = Counter[str]()
        self.slow: dict[str, float] = {}
        self.ended_tasks = 0
        self.last_ended_at: str | None = None
        self._nodes: dict[str, _Node] = {}

    def add(self, event: Mapping[str, Any]) -> None:
        """Count one event; kinds that are not known are passed over."""
        kind = str(event.get("kind"))
        self.last = event
        if kind in _ENDS:
            self.end = event
        if handler := self._handlers.get(kind):
            handler(event)

    @property
    def state(self) -> str | None:
        """How the current run stands; None where none was started."""
        if self.start is None:
            return None
        return _ENDS[str(self.end["kind"])] if self.end else "running"

    @property
    def rate_per_s(self) -> float | None:
        """Tasks that ended per second since the run began; None before the first."""
        if self.start is None or self.last_ended_at is None:
            return None
        seconds = (time_of(self.last_ended_at) - time_of(self.start["time"])).total_seconds()
        return self.ended_tasks / seconds if seconds > 0 and self.ended_tasks else None

    def nodes(self, seconds: float | None) -> tuple[NodeView, ...]:
        """Nodes as far as events tell; `busy_share` is of so many seconds."""
        from harness.fleet.view import NodeView

        return tuple(
            NodeView(
                name,
                " or ".join(sorted(node.hardware)),
                node.state,
                node.doing,
                done=node.done,
                failed=node.failed,
                lost=node.lost,
                busy_share=min(1.0, node.seconds / seconds) if seconds else 0.0,
            )
            for name, node in sorted(self._nodes.items())
        )

    def _node(self, event: Mapping[str, Any]) -> _Node | None:
        # Several nodes measure a launch together: the first one stands for all.
        name = str(event.get("node") or "").partition(", ")[0]
        node = self._nodes.get(name)
        if node is None and name:
            node = self._nodes[name] = _Node()
        return node

    def _on_run_started(self, event: Mapping[str, Any]) -> None:
        self._begin(event)

    def _on_launch_started(self, event: Mapping[str, Any]) -> None:
        self.attempts[int(event.get("attempt") or 1)] += 1
        if (node := self._node(event)) and node.state == "idle":
            node.state = "busy"

    def _on_launch_finished(self, event: Mapping[str, Any]) -> None:
        tasks, failed = int(event.get("tasks") or 0), int(event.get("failed") or 0)
        self.ended_tasks += tasks
        self.last_ended_at = str(event["time"])
        if node := self._node(event):
            node.done += tasks - failed
            node.failed += failed
            node.seconds += float(event.get("seconds") or 0.0)
            node.hardware[str(event.get("hardware", ""))] += 1
            self._idle(node)

    def _on_task_failed(self, event: Mapping[str, Any]) -> None:
        self.failed[str(event.get("task_id"))] = str(event.get("class", "unknown"))
        self._keep_example(event, f"task {event.get('task_id')}")

    def _on_launch_retried(self, event: Mapping[str, Any]) -> None:
        names = event.get("launch_ids") or [event.get("launch_id")]
        self.retried[str(event.get("class") or event.get("reason") or "unknown")] += len(names)
        self._keep_example(event, f"launch {names[0]}")
        if node := self._node(event):
            self._idle(node)

    def _on_launch_lost(self, event: Mapping[str, Any]) -> None:
        tasks = int(event.get("tasks") or 0)
        self.lost[str(event.get("class", "unknown"))] += tasks
        names = event.get("launch_ids") or [event.get("launch_id")]
        self._keep_example(event, f"launch {names[0]}")
        if node := self._node(event):
            node.lost += tasks
            self._idle(node)

    def _idle(self, node: _Node) -> None:
        """End what it was doing; trouble stays until the node starts over."""
        if node.state == "busy":
            node.state = "idle"

    def _on_node_unusable(self, event: Mapping[str, Any]) -> None:
        fix = f" ({event['fix']})" if event.get("fix") else ""
        why = event.get("detail") or event.get("reason") or event.get("code") or ""
        self._trouble(event, "unusable", f"{why}{fix}")

    def _on_node_lost(self, event: Mapping[str, Any]) -> None:
        self._trouble(event, "lost", str(event.get("reason") or ""))

    def _on_node_quarantined(self, event: Mapping[str, Any]) -> None:
        failures = event.get("failures")
        many = f"{failures} failures in a row" if isinstance(failures, int) else str(failures or "")
        self._trouble(event, "quarantined", many)

    def _on_node_back(self, event: Mapping[str, Any]) -> None:
        self._trouble(event, "idle", "")

    _on_node_joined = _on_node_back

    def _trouble(self, event: Mapping[str, Any], state: NodeState, doing: str) -> None:
        if node := self._node(event):
            node.state, node.doing = state, doing

    def _on_node_slow(self, event: Mapping[str, Any]) -> None:
        if event.get("node") and event.get("ratio"):
            self.slow[str(event["node"])] = float(event["ratio"])

    def _on_unplaceable(self, event: Mapping[str, Any]) -> None:
        self.unplaceable[str(event.get("detail") or event.get("need"))] += int(
            event.get("tasks") or 0
        )

    def _on_stopping(self, event: Mapping[str, Any]) -> None:
        self.stopping = str(event.get("reason") or "")

    def _on_run_stopped(self, event: Mapping[str, Any]) -> None:
        self.stopping = str(event.get("reason") or self.stopping)

    def _keep_example(self, event: Mapping[str, Any], what: str) -> None:
        """Keep the first failure of each class, or the first that has a log."""
        kind = str(event.get("class") or event.get("reason") or "unknown")
        log = tail(event.get("log"))
        known = self.examples.get(kind)
        if known is None or (log and not known.log):
            detail = " ".join(tail(event.get("detail") or event.get("reason")))
            self.examples[kind] = Example(what, str(event.get("node") or ""), detail, log)


def tail(log: object) -> tuple[str, ...]:
    """Return the last lines of a log, text or list of lines, fit for a screen."""
    text = "\n".join(map(str, log)) if isinstance(log, list | tuple) else str(log or "")
    # A progress bar rewrites its line after each carriage return: only the last state counts.
    lines = (line.rstrip().rpartition("\r")[2] for line in text.splitlines()[-4 * LOG_LINES :])
    clean = [_CONTROL.sub("", line).expandtabs(4).rstrip()[:LINE_WIDTH] for line in lines]
    return tuple([line for line in clean if line][-LOG_LINES:])


def time_of(text: object) -> datetime:
    """Read the time of an event or of progress.json."""
    return datetime.fromisoformat(str(text))
