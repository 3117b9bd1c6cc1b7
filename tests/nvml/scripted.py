"""A scripted libnvidia-ml for tests: known power curves behind the real bindings of NVML.

    gpus = [GpuScript(counter_period_s=0.02)]
    with ScriptedNvml(gpus, folder=tmp_path, virtual=True) as nvml:
        nvml.install(monkeypatch)             # this process
        subprocess.run(..., env=nvml.env)     # and any other
        nvml.set_power(0, nvml.now_ns(), 500.0)
        nvml.advance(10**9)

The library is built once with the system's compiler; the driver calls itself `scripted-1.0`.
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import TracebackType

import numpy as np
import pytest

SOURCE = Path(__file__).with_name("scripted_nvml.c")
FOREVER = 2**62
MAX_GPUS, MAX_PROCESSES, MAX_FAULTS = 16, 64, 64
GIB = 2**30

FAULTS = {
    "freeze": 1,  # the counter stands still; with until_ns it catches up afterwards
    "jump": 2,  # value: joules added to the counter at at_ns, negative for backwards
    "wrap": 3,  # value: modulus in joules
    "zero": 4,  # the counter reads 0
    "lost": 5,  # every call answers GPU_IS_LOST
    "energy_error": 6,  # value: NVML code of both ways to the energy counter (3, 4, ...)
    "power_error": 7,  # value: code of nvmlDeviceGetPowerUsage
    "fields_error": 8,  # value: code of the whole nvmlDeviceGetFieldValues
    "instant_error": 9,  # value: code of field 186
    "average_error": 10,  # value: code of field 185
    "state_error": 11,  # value: code of temperature, clocks, throttle reasons, processes
    "throttle": 12,  # value: mask of the reasons
    "slow": 13,  # value: microseconds that every call takes
    "init": -1,  # value: code of nvmlInit; at once, 0 to undo
}
VARIANTS = (
    "without_energy",
    "without_fields",
    "without_power",
    "without_event_reasons",
    "without_throttle",
)


@dataclass(frozen=True, slots=True)
class GpuScript:
    """One GPU and its sensor; the fields are those of `struct Gpu` in scripted_nvml.c.

    Attributes
    ----------
    idle_w
        True power before the first breakpoint.
    counter_period_s, counter_phase_s, lag_s, resolution_mj, counter_start_mj
        The counter steps at `start + phase + k * period` and shows energy drawn up to `lag`
        before, in whole multiples of the resolution, on top of what it had at the start.
    gain
        Factor on everything that the sensor shows.
    sampled_fraction
        Share at the end of each counter period in which the sensor looks; it takes that for
        the whole period.
    power_period_s, power_phase_s, power_averaging_s, power_lag_s
        Update of the instant power (field 186), width of the trailing mean behind it (0: the
        instant value; for a part-time sensor the mean over its look), and its delay. A period
        of 0 updates at each call.
    average_width_s
        Width of the trailing mean of field 185.
    noise_w
        One standard deviation of each power reading; the same for the same tick.
    module_extra_w
        What the module (scope 1) draws beside the GPU; NaN where there is no such scope.
    scoped_energy
        Whether field 83 honours the scope.
    instant_power
        Whether field 186 is there.
    power_usage_averaged
        Whether nvmlDeviceGetPowerUsage is the average (Ampere and newer); if not it is the
        instant power and field 185 is missing.
    power_value_type
        NVML value type of the power fields: 1 is unsigned int.
    throttle_mask
        Reasons for reduced clocks while no fault says otherwise.
    mig, ecc
        0 off, 1 on, -1 not supported.
    """

    uuid: str = "GPU-00000000-0000-4000-8000-000000000000"
    name: str = "NVIDIA H100 80GB HBM3"
    pci_bus_id: str = ""
    memory_bytes: int = 80 * GIB
    memory_used_bytes: int = GIB // 2
    idle_w: float = 70.0
    counter_period_s: float = 0.1
    counter_phase_s: float = 0.0
    lag_s: float = 0.0
    gain: float = 1.0
    sampled_fraction: float = 1.0
    power_period_s: float = 0.1
    power_phase_s: float = 0.0
    power_averaging_s: float = 0.0
    power_lag_s: float = 0.0
    average_width_s: float = 1.0
    noise_w: float = 0.0
    resolution_mj: float = 1.0
    counter_start_mj: float = 1e9
    module_extra_w: float = float("nan")
    power_limit_w: float = 700.0
    default_limit_w: float = 700.0
    temperature_c: float = 35.0
    memory_temperature_c: float = 40.0
    sm_clock_mhz: float = 1980.0
    mem_clock_mhz: float = 2619.0
    throttle_mask: int = 0
    instant_power: bool = True
    power_usage_averaged: bool = True
    scoped_energy: bool = True
    mig: int = 0
    ecc: int = 1
    persistence: bool = True
    compute_major: int = 9
    compute_minor: int = 0
    power_value_type: int = 1


class _Fault(ctypes.Structure):
    _fields_ = [
        ("kind", ctypes.c_int32),
        ("unused", ctypes.c_int32),
        ("at_ns", ctypes.c_int64),
        ("until_ns", ctypes.c_int64),
        ("value", ctypes.c_double),
    ]


_BREAKPOINT = np.dtype([("t_ns", "i8"), ("power_w", "f8"), ("energy_j", "f8"), ("sampled_j", "f8")])
_INTEGERS = [
    "instant_power",
    "power_usage_averaged",
    "scoped_energy",
    "mig",
    "ecc",
    "persistence",
    "compute_major",
    "compute_minor",
    "power_value_type",
    "process_count",
    "fault_count",
    "unused",
]
_DOUBLES = [
    "idle_w",
    "counter_period_s",
    "counter_phase_s",
    "lag_s",
    "gain",
    "sampled_fraction",
    "power_period_s",
    "power_phase_s",
    "power_averaging_s",
    "power_lag_s",
    "average_width_s",
    "noise_w",
    "resolution_mj",
    "counter_start_mj",
    "module_extra_w",
    "power_limit_w",
    "default_limit_w",
    "temperature_c",
    "memory_temperature_c",
    "sm_clock_mhz",
    "mem_clock_mhz",
]


class _Gpu(ctypes.Structure):
    _fields_ = [
        ("uuid", ctypes.c_char * 96),
        ("name", ctypes.c_char * 96),
        ("pci_bus_id", ctypes.c_char * 32),
        ("memory_bytes", ctypes.c_int64),
        ("memory_used_bytes", ctypes.c_int64),
        *((name, ctypes.c_double) for name in _DOUBLES),
        ("throttle_mask", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in _INTEGERS),
        ("pids", ctypes.c_uint32 * MAX_PROCESSES),
        ("process_bytes", ctypes.c_int64 * MAX_PROCESSES),
        ("faults", _Fault * MAX_FAULTS),
        ("offset", ctypes.c_int64),
        ("capacity", ctypes.c_int64),
        ("count", ctypes.c_int64),
    ]


class _Script(ctypes.Structure):
    _fields_ = [
        ("magic", ctypes.c_char * 8),
        ("size", ctypes.c_int64),
        ("start_ns", ctypes.c_int64),
        ("virtual_clock", ctypes.c_int64),
        ("now_ns", ctypes.c_int64),
        ("gpu_count", ctypes.c_int32),
        ("init_error", ctypes.c_int32),
        ("cuda_version", ctypes.c_int32),
        ("calls", ctypes.c_int32),
        ("driver", ctypes.c_char * 80),
        ("gpus", _Gpu * MAX_GPUS),
    ]


def build(variant: str = "") -> Path:
    """Compile the library, once for each source and variant; skip the test without a compiler.

    Parameters
    ----------
    variant
        Names of `VARIANTS`, separated by commas: symbols that the library lacks.

    Returns
    -------
    Path
        A file called `libnvidia-ml.so.1` in a folder of its own.
    """
    lacking = [name for name in variant.split(",") if name]
    if unknown := set(lacking) - set(VARIANTS):
        raise ValueError(f"unknown variant {sorted(unknown)}; there are {VARIANTS}")
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler (cc, gcc, clang) to build the scripted libnvidia-ml")
    key = hashlib.sha256(SOURCE.read_bytes() + ",".join(sorted(lacking)).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"energylens-scripted-nvml-{os.getuid()}-{key}"
    library = folder / "libnvidia-ml.so.1"
    if not library.exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        unfinished = folder / f"{os.getpid()}.so"
        flags = [f"-D{name.upper()}" for name in lacking]
        subprocess.run(
            [compiler, "-O2", "-shared", "-fPIC", *flags, "-o", unfinished, SOURCE, "-lm"],
            check=True,
            capture_output=True,
            text=True,
        )
        unfinished.rename(library)
    return library


class ScriptedNvml:
    """GPUs whose true power is scripted, seen through a library that other processes can load.

    Parameters
    ----------
    gpus
        1 to 16 GPUs; those that share a UUID get one by index.
    folder
        Where the control file goes.
    virtual
        Whether time stands still between calls of `advance`; else the monotonic clock rules.
    variant
        Symbols that the library lacks, see `VARIANTS`.
    driver
        Version of the driver.
    capacity
        Breakpoints a GPU.
    """

    def __init__(
        self,
        gpus: Sequence[GpuScript],
        *,
        folder: Path,
        virtual: bool = False,
        variant: str = "",
        driver: str = "scripted-1.0",
        capacity: int = 2**17,
    ) -> None:
        self.library = build(variant)
        self.path = Path(folder) / f"nvml-{time.monotonic_ns()}.script"
        size = ctypes.sizeof(_Script) + len(gpus) * capacity * _BREAKPOINT.itemsize
        with self.path.open("wb") as file:
            file.truncate(size)
        self._map()
        s = self._script
        s.magic, s.size, s.driver, s.cuda_version = b"elnvml1", size, driver.encode(), 13000
        s.start_ns = s.now_ns = time.monotonic_ns()
        s.virtual_clock = virtual
        for i, gpu in enumerate(_distinct(gpus)):
            target = s.gpus[i]
            target.offset = ctypes.sizeof(_Script) + i * capacity * _BREAKPOINT.itemsize
            target.capacity = capacity
            for field in fields(gpu):
                value = getattr(gpu, field.name)
                setattr(target, field.name, value.encode() if isinstance(value, str) else value)
        s.gpu_count = len(gpus)

    @classmethod
    def attach(cls, path: Path | str, library: Path | str) -> ScriptedNvml:
        """Open the control file of another process, to script the power that this one draws."""
        self = cls.__new__(cls)
        self.library, self.path = Path(library), Path(path)
        self._map()
        return self

    def _map(self) -> None:
        with self.path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)
        self._script = _Script.from_buffer(self._memory)
        self._c = ctypes.CDLL(str(self.library))
        self._c.scripted_size.restype = ctypes.c_int64
        if self._c.scripted_size() != ctypes.sizeof(_Script):
            raise RuntimeError("struct Script differs between scripted_nvml.c and scripted.py")
        self._append = self._c.scripted_append
        self._append.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_double]
        self._address = ctypes.addressof(self._script)

    def __enter__(self) -> ScriptedNvml:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.path.unlink(missing_ok=True)

    @property
    def env(self) -> dict[str, str]:
        """Variables that make a child process load the library and read this script."""
        older = os.environ.get("LD_LIBRARY_PATH")
        paths = [str(self.library.parent), *([older] if older else [])]
        return {"LD_LIBRARY_PATH": os.pathsep.join(paths), "NVML_SCRIPT": str(self.path)}

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Point the bindings of this process, and of its children, at the library."""
        import pynvml

        for key, value in self.env.items():
            monkeypatch.setenv(key, value)
        monkeypatch.setattr(pynvml, "nvmlLib", self._c)
        monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})

    @property
    def uuids(self) -> tuple[str, ...]:
        """UUIDs of the GPUs, in the order of their index."""
        return tuple(g.uuid.decode() for g in self._script.gpus[: self._script.gpu_count])

    @property
    def start_ns(self) -> int:
        """When the script began: ticks are counted from here."""
        return int(self._script.start_ns)

    def now_ns(self) -> int:
        """Time on the clock of the script, ns."""
        return int(self._script.now_ns) if self._script.virtual_clock else time.monotonic_ns()

    def advance(self, ns: int) -> None:
        """Let `ns` nanoseconds pass on the virtual clock."""
        if not self._script.virtual_clock:
            raise RuntimeError("time passes by itself: this script has no virtual clock")
        self._script.now_ns += int(ns)

    def sleep(self, seconds: float) -> None:
        """Let seconds pass, whatever the clock."""
        if self._script.virtual_clock:
            self.advance(round(seconds * 1e9))
        else:
            time.sleep(seconds)

    def set_power(self, gpu: int, t_ns: int, power_w: float) -> None:
        """True power of `gpu` is `power_w` from `t_ns` on; `t_ns` must not decrease."""
        self._check(gpu)
        if (code := self._append(self._address, gpu, int(t_ns), float(power_w))) != 0:
            reason = "no room for more breakpoints" if code == -1 else f"{t_ns} is in the past"
            raise ValueError(f"GPU {gpu}: {reason}")

    def curve(self, gpu: int) -> tuple[np.ndarray, np.ndarray]:
        """Breakpoints so far: t_ns int64 (n,) and power_w float64 (n,)."""
        self._check(gpu)
        g = self._script.gpus[gpu]
        points = np.frombuffer(self._memory, dtype=_BREAKPOINT, count=g.count, offset=g.offset)
        return points["t_ns"].copy(), points["power_w"].copy()

    def true_power_w(self, gpu: int, t_ns: int) -> float:
        """True power at one instant, W."""
        t, power = self.curve(gpu)
        index = int(np.searchsorted(t, t_ns, side="right")) - 1
        return float(power[index]) if index >= 0 else float(self._script.gpus[gpu].idle_w)

    def true_energy_j(self, gpu: int, start_ns: int, end_ns: int) -> float:
        """True energy of `gpu` between two instants, J; computed apart from the library."""
        t, power = self.curve(gpu)
        inside = t[(t > start_ns) & (t < end_ns)]
        edges = np.concatenate(([start_ns], inside, [end_ns])).astype(np.int64)
        held = np.concatenate(([self._script.gpus[gpu].idle_w], power))
        of_piece = held[np.searchsorted(t, edges[:-1], side="right")]
        return float((of_piece * np.diff(edges)).sum() / 1e9)

    def fault(
        self, gpu: int, kind: str, at_ns: int = 0, value: float = 0.0, until_ns: int = FOREVER
    ) -> None:
        """Let one of `FAULTS` happen to `gpu` from `at_ns` to `until_ns`; the last one rules."""
        if kind == "init":
            self._script.init_error = int(value)
            return
        self._check(gpu)
        g = self._script.gpus[gpu]
        if g.fault_count >= MAX_FAULTS:
            raise ValueError(f"GPU {gpu}: no room for more faults")
        g.faults[g.fault_count] = _Fault(FAULTS[kind], 0, int(at_ns), int(until_ns), float(value))
        g.fault_count += 1

    def set_processes(
        self, gpu: int, pids: Sequence[int], memory_bytes: int | Sequence[int] = GIB
    ) -> None:
        """Compute processes on `gpu`, each with its memory."""
        self._check(gpu)
        g = self._script.gpus[gpu]
        sizes = [memory_bytes] * len(pids) if isinstance(memory_bytes, int) else memory_bytes
        for i, (pid, size) in enumerate(zip(pids, sizes, strict=True)):
            g.pids[i], g.process_bytes[i] = pid, size
        g.process_count = len(pids)

    def set_state(self, gpu: int, **values: float) -> None:
        """Change fields of `GpuScript` (temperature_c, sm_clock_mhz, ...) while others read."""
        self._check(gpu)
        for name, value in values.items():
            getattr(self._script.gpus[gpu], name)
            setattr(self._script.gpus[gpu], name, value)

    def _check(self, gpu: int) -> None:
        if not 0 <= gpu < self._script.gpu_count:
            raise IndexError(f"GPU {gpu} of {self._script.gpu_count}")


def _distinct(gpus: Sequence[GpuScript]) -> list[GpuScript]:
    """Give GPUs without a UUID or bus id of their own one by index."""
    if not 0 <= len(gpus) <= MAX_GPUS:
        raise ValueError(f"{len(gpus)} GPUs: 0 to {MAX_GPUS} can be scripted")
    seen: set[str] = set()
    out = []
    for i, gpu in enumerate(gpus):
        uuid = gpu.uuid if gpu.uuid not in seen else f"GPU-{i:08x}-0000-4000-8000-{i:012x}"
        seen.add(uuid)
        out.append(
            replace(gpu, uuid=uuid, pci_bus_id=gpu.pci_bus_id or f"00000000:{16 * i + 4:02X}:00.0")
        )
    return out
