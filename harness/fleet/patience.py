"""How long the driver waits for what, and how often it tries."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the loop waits for what, seconds; how often it tries.

    Attributes
    ----------
    attempts
        Tries of one launch.
    quarantine
        Faults of one node in a row after which it takes no launches any more.
    silence_s
        Time without a beat after which a launch is given up.
    start_s
        Time from sending a launch to its first word. It can be long where another driver
        holds the node.
    stop_s
        The same once the run is stopping: what has not begun by then is taken back.
    grace_s
        Time beyond a launch's deadline for the worker to end it by itself.
    kill_s
        Time for a worker that was given up to be gone; its node is closed then.
    return_s
        Time that launches without a node wait for one to come (back).
    probe_s
        Time between looks at nodes that cannot measure now.
    """

    attempts: int = 3
    quarantine: int = 3
    silence_s: float = 60.0
    start_s: float = 1800.0
    stop_s: float = 5.0
    grace_s: float = 60.0
    kill_s: float = 120.0
    return_s: float = 60.0
    probe_s: float = 60.0
