"""One bounded loop that keeps workers busy: submit, wait a little, collect, retry or give up.

Infrastructure faults (a worker or a node that died) are tried again; what a launch itself
raises is a result and is not. Every batch has a deadline on the driver's own clock, because a
frozen node never reports anything.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harness.fleet.cluster import NODE_LOCK
from harness.fleet.worker import LaunchReport, run_batch, user_error

MAX_ATTEMPTS = 3
POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Batch:
    """Launches that one worker runs in turn.

    Attributes
    ----------
    launch_ids
        Their names, for messages.
    specs
        Launch specs as JSON.
    deadline_s
        Longest time from submission to result.
    num_gpus
        GPUs of one node that it needs.
    """

    launch_ids: tuple[str, ...]
    specs: tuple[str, ...]
    deadline_s: float
    num_gpus: int = 0


@dataclass(frozen=True, slots=True)
class BatchFailure:
    """A batch that ended without a report."""

    batch: Batch
    kind: str
    detail: str


Outcome = list[LaunchReport] | BatchFailure


def dispatch(
    batches: Sequence[Batch],
    out: str,
    *,
    slots: int,
    isolated: bool,
    exclusive: bool = False,
    on_retry: Callable[[Batch, str], None],
) -> Iterator[Outcome]:
    """Run all batches on Ray and yield each outcome as it comes.

    Parameters
    ----------
    batches
        What to run; started in order.
    out
        Run folder.
    slots
        Batches in flight at the same time, queued ones included.
    isolated
        Every launch in a process of its own, in a worker that ends afterwards.
    exclusive
        One batch a node at a time, so that no measurement disturbs another.
    on_retry
        Told of every batch that is tried again, and why.

    Raises
    ------
    EnergyLensError
        As soon as a worker meets an error that the user has to mend, such as a full disk.

    Notes
    -----
    Whoever stops early leaves batches in flight; they end with the connection to Ray. They are
    not cancelled one by one: in Ray 2.60 a forced cancel that meets the reply of its task brings
    the whole driver down (a failed check in TaskManager::CompletePendingTask).
    """
    import ray

    once = {"max_calls": 1} if isolated else {}
    remote = ray.remote(num_cpus=1, max_retries=0, **once)(run_batch)
    lock: dict[str, Any] = {"resources": {NODE_LOCK: 1}} if exclusive else {}
    waiting: deque[tuple[Batch, int]] = deque((b, 1) for b in batches)
    flying: dict[Any, tuple[Batch, int, float]] = {}
    while waiting or flying:
        while waiting and len(flying) < slots:
            batch, attempt = waiting.popleft()
            placed = remote.options(num_gpus=batch.num_gpus, **lock)
            handle = placed.remote(batch.specs, out, isolated)
            flying[handle] = (batch, attempt, time.monotonic() + batch.deadline_s)
        ready, _ = ray.wait(list(flying), num_returns=1, timeout=POLL_S)
        for handle in ready:
            batch, attempt, _ = flying.pop(handle)
            outcome, again = _collect(handle, batch, attempt)
            if again:
                on_retry(batch, again)
                waiting.extend((one, attempt + 1) for one in _one_by_one(batch))
            elif outcome is not None:
                yield outcome
        now = time.monotonic()
        for handle in [h for h, (_, _, deadline) in flying.items() if now > deadline]:
            batch, _, _ = flying.pop(handle)
            ray.cancel(handle, force=True)
            yield BatchFailure(batch, "deadline", f"no result after {batch.deadline_s:.0f} s")


def _one_by_one(batch: Batch) -> list[Batch]:
    """Split a batch whose worker died: only the launch that kills it must be given up."""
    share_s = batch.deadline_s / max(1, len(batch.specs))
    pairs = zip(batch.launch_ids, batch.specs, strict=True)
    return [Batch((launch_id,), (spec,), share_s, batch.num_gpus) for launch_id, spec in pairs]


def _collect(handle: Any, batch: Batch, attempt: int) -> tuple[Outcome | None, str]:
    """Take one result: an outcome, or the reason to try again."""
    from ray import exceptions, get

    infrastructure = (
        exceptions.WorkerCrashedError,
        exceptions.NodeDiedError,
        exceptions.OutOfMemoryError,
        exceptions.ObjectLostError,
    )
    try:
        reports: list[LaunchReport] = get(handle)
    except infrastructure as error:
        kind = type(error).__name__
        if attempt < MAX_ATTEMPTS:
            return None, kind
        return BatchFailure(batch, kind, _last_line(error)), ""
    except exceptions.RayError as error:
        mend = user_error(error)
        if mend is not None:
            raise mend from error
        return BatchFailure(batch, "launch_crashed", _last_line(error)), ""
    return reports, ""


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
