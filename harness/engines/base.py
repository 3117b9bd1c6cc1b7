"""The seam between a launch and whatever executes its work: engine, session, clock, meter.

A launch opens one session and asks it to run a workload's phase a number of times. The session
answers with time stamps on its own clock; the meter of the session answers what was drawn
between any two of them. Real engines run in real time and are read by real sensors; the twin
runs on a virtual clock and is read by a simulated sensor, through the very same calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from harness.catalog import Hardware, ModelFacts
    from harness.meters.base import Meter
    from harness.spec import Deployment, Workload

Phase = Literal["prefill", "decode", "full"]
"""`prefill` stops at the first token of every request, `full` goes on to the last one, `decode`
starts where prefill stopped and goes on to the last one, again and again from the same context."""


@dataclass(frozen=True, slots=True)
class RunStamps:
    """When `count` runs of one phase happened, in nanoseconds of the session's clock.

    Attributes
    ----------
    starts_ns, first_tokens_ns, ends_ns
        int64 arrays of shape (count,). In a prefill run the first token is the end, in a decode
        run it is the start.
    """

    starts_ns: npt.NDArray[np.int64]
    first_tokens_ns: npt.NDArray[np.int64]
    ends_ns: npt.NDArray[np.int64]

    @property
    def count(self) -> int:
        """Number of runs."""
        return int(self.starts_ns.size)

    @property
    def start_ns(self) -> int:
        """Start of the first run."""
        return int(self.starts_ns[0])

    @property
    def end_ns(self) -> int:
        """End of the last run."""
        return int(self.ends_ns[-1])


class Session(Protocol):
    """One deployment that is up and takes work.

    Attributes
    ----------
    virtual
        True if its time is not real: nothing warms up, drifts or has to be waited for.
    """

    virtual: bool

    @property
    def meter(self) -> Meter:
        """The meter that reads this session's devices."""
        ...

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Phases that have windows of their own here.

        Prefill and full, and decode where the engine can go back to the end of the prompt.
        """
        ...

    def environment(self) -> dict[str, Any]:
        """What the results depend on and no column says, as plain JSON values.

        `devices` (a list, each with `driver`), versions, settings, idle powers,
        `foreign_processes` (on the devices before this one).
        """
        ...

    def prepare(self, workloads: Sequence[Workload]) -> None:
        """Hear which workloads will come, before the first of them; refuse none yet."""
        ...

    def run(self, workload: Workload, phase: Phase, count: int) -> RunStamps:
        """Run `phase` of `workload` `count` times in a row, with fresh prompts each time.

        A run of m output tokens is one prefill, whose result is the first token, and m - 1
        decode steps. Between two runs the session may prepare inputs; that time lies between
        an end and the next start.

        Raises
        ------
        EngineError
            If the engine refuses this workload; its `kind` says why (out of memory, ...).
        """
        ...

    def rest(self, seconds: float) -> tuple[int, int]:
        """Do nothing for `seconds`; return the interval in nanoseconds."""
        ...

    def close(self) -> None:
        """End the deployment and free its devices."""
        ...


class Engine(Protocol):
    """Opens sessions."""

    name: str
    provenance: str
    isolated: bool
    """True if every launch needs a process of its own.

    An engine that can spread one deployment over several nodes says so with an attribute
    `multi_node = True`. The fleet then holds all of them for its launch, runs it on the first,
    and gives the addresses of all in ENERGYLENS_GANG, separated by commas. Its meter must read
    the GPUs of all of them.
    """

    def version(self, hardware: Hardware) -> str:
        """Version of the engine as it runs on `hardware`."""
        ...

    def open(self, model: ModelFacts, deployment: Deployment, seed: int) -> Session:
        """Bring the deployment up.

        Raises
        ------
        EngineError
            If the engine refuses the deployment.
        """
        ...
