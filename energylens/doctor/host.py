"""Checks of the host: Python, packages, processors, memory, disk, clock, Ray."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from energylens.doctor.diagnosis import Check, Section

PACKAGES = (
    "energylens",
    "ray",
    "numpy",
    "pandas",
    "scipy",
    "pyarrow",
    "duckdb",
    "nvidia-ml-py",
    "aiconfigurator-core",
)
_GIB = 1024**3


def software() -> Section:
    """Check Python, the platform and the packages that results depend on."""
    found, missing = [], []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    supported = (3, 11) <= sys.version_info[:2] <= (3, 13)
    checks = [
        Check(
            "python",
            f"{platform.python_version()} on {platform.platform()}",
            "ok" if supported else "warn",
            None if supported else "use Python 3.11, 3.12 or 3.13",
        ),
        Check("packages", ", ".join(found), "ok"),
    ]
    if missing:
        checks.append(
            Check(
                "missing",
                ", ".join(missing),
                "no",
                "install EnergyLens again: pip install energylens",
            )
        )
    return Section("Software", tuple(checks))


def machine() -> Section:
    """Check processors, memory, disk and clocks."""
    return Section("Machine", (_processors(), _memory(), _disk(), _clock()))


def _processors() -> Check:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    text = f"{usable} usable of {os.cpu_count()}"
    return Check("processors", text if load is None else f"{text}, load {load:.1f}", "ok")


def _memory() -> Check:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return Check("memory", "size not known on this platform")
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if ":" in line}
    total, free = sizes.get("MemTotal", 0), sizes.get("MemAvailable", 0)
    low = free < 2 * _GIB
    return Check(
        "memory",
        f"{total / _GIB:.1f} GiB, {free / _GIB:.1f} GiB available",
        "warn" if low else "ok",
        "Ray and the engines want at least 2 GiB free" if low else None,
    )


def _disk() -> Check:
    usage = shutil.disk_usage(Path.cwd())
    low = usage.free < 2 * _GIB
    return Check(
        "disk here",
        f"{usage.free / _GIB:.1f} GiB free of {usage.total / _GIB:.1f} GiB",
        "warn" if low else "ok",
        "write runs to a disk with more room" if low else None,
    )


def _clock() -> Check:
    info = time.get_clock_info("monotonic")
    wall, steady = time.time_ns(), time.monotonic_ns()
    time.sleep(0.05)
    drift_ns = (time.time_ns() - wall) - (time.monotonic_ns() - steady)
    if abs(drift_ns) > 1_000_000:
        return Check(
            "clocks",
            f"wall clock and monotonic clock drifted by {drift_ns / 1e6:.1f} ms within 50 ms",
            "warn",
            "the wall clock is being stepped; see to time synchronisation (chrony, ntp)",
        )
    return Check(
        "clocks", f"monotonic, resolution {info.resolution * 1e9:.0f} ns, no step seen", "ok"
    )


def cluster() -> Section:
    """Check whether a Ray cluster is named and answers; starts none."""
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return Section(
            "Ray",
            (
                Check(
                    "RAY_ADDRESS",
                    "not set: `energylens run` starts Ray on this machine",
                    "ok",
                ),
            ),
        )
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address in ("auto", "local") or not port.isdecimal():
        return Section("Ray", (Check("RAY_ADDRESS", f"{address} (not probed)", "ok"),))
    return Section("Ray", (_reach(address, host, int(port)),))


def _reach(address: str, host: str, port: int) -> Check:
    import socket

    try:
        with socket.create_connection((host, port), timeout=2.0):
            return Check("RAY_ADDRESS", f"{address} answers", "ok")
    except OSError as error:
        return Check(
            "RAY_ADDRESS",
            f"{address} does not answer: {error}",
            "no",
            "start the cluster (`ray up cluster.yaml`, `ray start --head`) or unset RAY_ADDRESS",
        )
