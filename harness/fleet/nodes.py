"""What is known of the nodes of a cluster: plain values, found by the probe, kept as data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a node, or something on it, cannot measure.

    Attributes
    ----------
    code
        Short name, such as `gpu_busy` or `clock_off`.
    detail
        What is wrong, with numbers.
    fix
        What to do about it.
    fatal
        The node takes no launches; otherwise it is only named.
    """

    code: str
    detail: str
    fix: str
    fatal: bool = True


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """One GPU of a node.

    Attributes
    ----------
    uuid, name
        As the driver says.
    hardware
        Canonical name of its type in the catalog; None if it is not there.
    memory_bytes
        Memory.
    foreign_pids
        Processes on it that are not ours.
    mig
        Whether it is cut into instances, whose power no sensor tells apart.
    """

    uuid: str
    name: str
    hardware: str | None
    memory_bytes: int
    foreign_pids: tuple[int, ...] = ()
    mig: bool = False


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """One node.

    Attributes
    ----------
    node_id
        Ray's id of the node (hexadecimal).
    address, host
        IP address and host name.
    cpus, memory_bytes
        What Ray may use there.
    ray_gpus, locks
        GPUs and measuring locks that Ray counts there.
    gpus
        GPUs that the driver sees.
    driver
        Version of the GPU driver; None without one.
    meter
        Power meter that a launch would open there, such as `nvml` or `rapl`; None if it has none.
    cpu_hardware
        Canonical name of its processor, for launches on the CPU.
    engines
        Engine -> version, of those installed there; `twin` always.
    versions
        Package -> version: python, ray, energylens.
    free_disk_bytes
        Free in the folder where launches put their files.
    clock_offset_s
        Its clock minus the driver's, seconds; None if not known.
    labels
        Ray's labels.
    leftovers
        Processes of launches whose holder is gone.
    problems
        What is wrong.
    """

    node_id: str
    address: str
    host: str
    cpus: float = 0.0
    memory_bytes: int = 0
    ray_gpus: float = 0.0
    locks: float = 0.0
    gpus: tuple[GpuFacts, ...] = ()
    driver: str | None = None
    meter: str | None = None
    cpu_hardware: str | None = None
    engines: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    free_disk_bytes: int | None = None
    clock_offset_s: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    leftovers: tuple[int, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether it takes launches."""
        return not any(problem.fatal for problem in self.problems)

    @property
    def name(self) -> str:
        """Short name for people: the host and the start of the id, which tells nodes apart."""
        host, _, rest = self.host.partition(".")
        short = self.host if rest and host.isdecimal() else host
        return f"{short}/{self.node_id[:6]}"

    @property
    def hardware(self) -> dict[str, int]:
        """Canonical name of a GPU type (or of the processor) -> how many are there."""
        found = Counter(gpu.hardware for gpu in self.gpus if gpu.hardware and not gpu.mig)
        out = {str(name): count for name, count in found.items()}
        if self.cpu_hardware:
            out[self.cpu_hardware] = 1
        return out

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "usable": self.usable, "hardware": self.hardware}


@dataclass(frozen=True, slots=True)
class Need:
    """What a launch asks of the node or nodes that it runs on.

    Attributes
    ----------
    hardware
        Canonical name of the GPU type or processor; empty where any node will do.
    num_gpus
        GPUs of that type on each node; 0 for the twin and for launches on the processor.
    nodes
        Nodes at the same time; more than one is a gang.
    engine
        Engine that must be installed there.
    precision
        Number format, where the engine needs a package for it.
    """

    hardware: str
    num_gpus: int
    nodes: int = 1
    engine: str = "twin"
    precision: str = ""

    @property
    def text(self) -> str:
        """In words, such as `2 nodes with 8 x H100-SXM5-80GB and vllm`."""
        what = f"{self.num_gpus} x {self.hardware}" if self.num_gpus else self.hardware or "a node"
        many = f"{self.nodes} nodes with " if self.nodes > 1 else ""
        return f"{many}{what} and {self.engine}{self.precision and f' in {self.precision}'}"
