"""What a node says of itself: GPUs, engines, versions, disk, leftovers. Runs on the node.

Plain values out, so that a driver with other classes can still read them. No part of it fails
as a whole: what goes wrong becomes a problem in the list. Needs no Ray.
"""

from __future__ import annotations

import os
import platform
import pwd
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from harness.fleet.janitor import PROC, is_marked, leftovers

if TYPE_CHECKING:
    from harness.meters.nvml_devices import GpuInfo

T = TypeVar("T")
Problems = list[dict[str, Any]]
"""Fields of `harness.fleet.nodes.Problem`."""

NO_DRIVER = 12
"""NVML's code for a machine without its library."""

PACKAGES = ("ray", "torch", "transformers", "vllm", "torchao")
ENGINE_PACKAGES = {"transformers": ("transformers", "torch"), "vllm": ("vllm",)}
"""Engine -> packages that it needs; the version of the first one is the engine's."""

FIX_BUSY = (
    "wait until they end, or ask their owner; to offer only the free GPUs, start the node with "
    "CUDA_VISIBLE_DEVICES naming them"
)


def probe_node(root: Path = PROC) -> dict[str, Any]:
    """Look at this machine.

    Parameters
    ----------
    root
        The kernel's folder of processes.

    Returns
    -------
    dict
        `gpus` (uuid, name, hardware, memory_bytes, foreign_pids, mig), `driver`, `meter`,
        `cpu_hardware`, `engines`, `versions`, `free_disk_bytes`, `staging`, `leftovers` (pids),
        `problems` (code, detail, fix, fatal).
    """
    problems: Problems = []

    no_pids: list[int] = []
    no_versions: dict[str, str] = {}

    def part(name: str, look: Callable[[Problems], T], missing: T) -> T:
        try:
            return look(problems)
        except Exception as error:  # whatever it is: the rest of the node is still worth knowing
            problems.append(
                _problem(
                    "probe_failed",
                    f"its {name} could not be looked at: {type(error).__name__}: {error}"[:300],
                    "run energylens doctor on the node",
                    fatal=False,
                )
            )
            return missing

    nothing: tuple[list[dict[str, Any]], str | None, str | None] = ([], None, None)
    gpus, driver, meter = part("GPUs", lambda found: _gpus(found, root), nothing)
    if meter is None and not gpus:
        meter = part("CPU energy counters", _cpu_meter, None)
    return {
        "gpus": gpus,
        "driver": driver,
        "meter": meter,
        "cpu_hardware": part("processor", _processor, None),
        "engines": part("engines", _engines, {"twin": "unknown"}),
        "versions": part("versions", _versions, no_versions),
        "free_disk_bytes": part("disk", _free_disk, None),
        "staging": tempfile.gettempdir(),
        "leftovers": part("processes", lambda _: [each.pid for each in leftovers(root)], no_pids),
        "problems": problems,
    }


def read_clock() -> float:
    """Wall clock of this machine, seconds since 1970; called over the network."""
    return time.time()


def offered_environment(root: Path = PROC) -> Mapping[str, str]:
    """Environment that the node was started with, which says what GPUs it offers.

    Ray rewrites CUDA_VISIBLE_DEVICES for each worker, but not for the raylet that starts it.
    """
    if "RAY_RAYLET_PID" not in os.environ:
        return os.environ
    try:
        text = (root / os.environ["RAY_RAYLET_PID"] / "environ").read_bytes()
    except OSError:
        return {}
    pairs = (entry.partition("=") for entry in text.decode("utf-8", "replace").split("\0"))
    return {key: value for key, equals, value in pairs if equals}


def _gpus(problems: Problems, root: Path) -> tuple[list[dict[str, Any]], str | None, str | None]:
    """GPUs, version of their driver, and the meter that reads them."""
    from harness.errors import MeterError
    from harness.meters.nvml_devices import find_devices
    from harness.meters.nvml_library import NO_PERMISSION, REASONS

    try:
        everything = find_devices()
    except MeterError as error:
        if error.what == REASONS[NO_DRIVER][0]:
            return [], None, None
        denied = error.what == REASONS[NO_PERMISSION][0]
        code = "no_permission" if denied else "no_power_meter"
        problems.append(_problem(code, error.what, error.fix or "", fatal=False))
        return [], None, None
    devices = _offered(everything, offered_environment(root))
    found = [_gpu(device, problems, root) for device in devices]
    able = [gpu for gpu, device in zip(found, devices, strict=True) if _has_power(device)]
    driver = everything[0].driver_version if everything else None
    return found, driver, "nvml" if able else None


def _offered(devices: Sequence[GpuInfo], environment: Mapping[str, str]) -> Sequence[GpuInfo]:
    from harness.catalog.local import Gpu, visible

    shown = visible([Gpu(d.name, d.memory_bytes, d.uuid) for d in devices], environment)
    by_uuid = {device.uuid: device for device in devices}
    return [by_uuid[gpu.uuid] for gpu in shown]


def _gpu(device: GpuInfo, problems: Problems, root: Path) -> dict[str, Any]:
    from harness.catalog.identify import identify

    label = f"GPU {device.index} ({device.name})"
    # Unified memory has no size of its own, and the driver then says 0.
    hardware = None if device.lost else identify(device.name, device.memory_bytes or None)
    foreign = [pid for pid in device.process_pids if not is_marked(pid, root)]
    if device.lost:
        problems.append(
            _problem(
                "gpu_lost",
                f"GPU {device.index} does not answer the driver (NVML error {device.lost})",
                "see dmesg for Xid errors; reset the GPU or reboot the node",
                fatal=False,
            )
        )
    elif hardware is None:
        problems.append(
            _problem(
                "unknown_gpu",
                f"{label}, {device.memory_bytes / 2**30:.0f} GiB, is not in the catalog",
                f"add its datasheet to harness/catalog/hardware.json with {device.name!r} among "
                "the aliases",
                fatal=False,
            )
        )
    if device.mig_enabled:
        problems.append(
            _problem(
                "mig",
                f"{label} is cut into slices (MIG), which have no power of their own",
                f"turn it off to measure (nvidia-smi -i {device.index} -mig 0)",
                fatal=False,
            )
        )
    if foreign:
        people = ", ".join(_describe(pid, root) for pid in foreign[:3])
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        problems.append(
            _problem("gpu_busy", f"{label} works for others: {people}{more}", FIX_BUSY, fatal=True)
        )
    if not device.lost and not device.mig_enabled and not _has_power(device):
        problems.append(
            _problem(
                "no_power_meter",
                f"{label} offers neither an energy counter nor its power to this user",
                "check nvidia-smi -q and the permissions of /dev/nvidia*",
                fatal=False,
            )
        )
    return {
        "uuid": device.uuid,
        "name": device.name,
        "hardware": hardware,
        "memory_bytes": device.memory_bytes,
        "foreign_pids": foreign,
        "mig": device.mig_enabled,
    }


def _has_power(device: GpuInfo) -> bool:
    sensors = device.has_counter or device.has_instant_power
    return sensors and not device.lost and not device.mig_enabled


def _describe(pid: int, root: Path) -> str:
    """A process in words, such as `python3 of alice (pid 4242)`."""
    try:
        name = (root / str(pid) / "comm").read_text(errors="replace").strip()
        uid = (root / str(pid)).stat().st_uid
    except OSError:
        return f"pid {pid}"
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = f"user {uid}"
    return f"{name} of {user} (pid {pid})"


def _cpu_meter(problems: Problems) -> str | None:
    """Open the energy counters of the processor, as a launch on it would, and close them."""
    from harness.errors import MeterError
    from harness.meters.rapl import RaplReader

    try:
        RaplReader().close()
    except MeterError as error:
        denied = isinstance(error.__cause__, PermissionError) or "a+r" in (error.fix or "")
        code = "no_permission" if denied else "no_power_meter"
        problems.append(_problem(code, error.what, error.fix or "", fatal=False))
        return None
    return "rapl"


def _processor(_: Problems) -> str:
    from harness.catalog.cpu import cpu_id
    from harness.catalog.machine import this_machine

    here = this_machine()
    return cpu_id(here.cpu_model, here.cores)


def _engines(_: Problems) -> dict[str, str]:
    """Engine -> version of those installed, none of which is imported."""
    found = {"twin": _version("energylens") or "unknown"}
    for engine, packages in ENGINE_PACKAGES.items():
        if all(find_spec(name) is not None for name in packages):
            found[engine] = _version(packages[0]) or "unknown"
    return found


def _versions(_: Problems) -> dict[str, str]:
    from harness.store import code_version

    energylens, commit = code_version()
    found = {"python": platform.python_version(), "energylens": energylens}
    if commit:
        found["commit"] = commit
    return found | {name: text for name in PACKAGES if (text := _version(name))}


def _free_disk(_: Problems) -> int:
    return shutil.disk_usage(tempfile.gettempdir()).free


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _problem(code: str, detail: str, fix: str, *, fatal: bool) -> dict[str, Any]:
    return {"code": code, "detail": detail, "fix": fix, "fatal": fatal}
