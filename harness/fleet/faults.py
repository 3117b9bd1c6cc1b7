"""Classes of failures: whose fault it is decides whether a launch is tried again."""

from __future__ import annotations

from dataclasses import dataclass

INFRASTRUCTURE: dict[str, str] = {
    "worker_died": "the worker process on the node died",
    "node_lost": "the node died, or its network is gone",
    "no_contact": "the node is said to live, but nothing was heard of the launch",
    "not_started": "the node took the launch and never began it",
    "host_out_of_memory": "the node's main memory ran full and Ray ended the worker",
    "launch_killed": "somebody killed the process of the launch",
    "staging_failed": "the node had no room for the files of the launch",
    "result_lost": "the launch ended and its result got lost on the way",
    "not_placed": "Ray could not start a worker there",
}
"""Not the launch's fault: it is tried again, on another node where there is one."""

FINAL: dict[str, str] = {
    "launch_crashed": "the launch ended with an error of its own",
    "deadline": "the launch took longer than its deadline",
    "refused": "the launch met something that the user has to mend",
    "no_node": "no node is left that could do it",
}
"""The launch's own end, or nobody's: it is written down, and the next run tries it again."""

CRASHED = "launch_crashed"
NEVER_BEGAN = ("not_started", "not_placed")
"""Classes of attempts that held nothing, unless a word of them was heard."""


@dataclass(frozen=True, slots=True)
class Fault:
    """How an attempt ended that gave no rows.

    Attributes
    ----------
    kind
        Key of INFRASTRUCTURE or FINAL.
    detail
        What is known.
    log
        Last lines that it said.
    """

    kind: str
    detail: str = ""
    log: str = ""

    @property
    def again(self) -> bool:
        """Whether another node should try."""
        return self.kind in INFRASTRUCTURE


def fault_of(error: BaseException) -> Fault:
    """Class of what Ray raised in place of a result."""
    from ray import exceptions as ray

    text = _last_line(error)
    by_type: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
        ((ray.OutOfMemoryError,), "host_out_of_memory"),
        ((ray.NodeDiedError, ray.LocalRayletDiedError), "node_lost"),
        ((ray.WorkerCrashedError,), "worker_died"),
        ((ray.OutOfDiskError, ray.ObjectStoreFullError), "staging_failed"),
        ((ray.ObjectLostError, ray.GetTimeoutError), "result_lost"),
        (
            (
                ray.TaskUnschedulableError,
                ray.TaskPlacementGroupRemoved,
                ray.RuntimeEnvSetupError,
                ray.TaskCancelledError,
                ray.PlasmaObjectNotAvailable,
            ),
            "not_placed",
        ),
    )
    for types, kind in by_type:
        if isinstance(error, types):
            return Fault(kind, text)
    if isinstance(error, ray.RayError) and not isinstance(error, ray.RayTaskError):
        return Fault("result_lost", text)
    return Fault("launch_crashed", text, str(error)[-2000:])


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
