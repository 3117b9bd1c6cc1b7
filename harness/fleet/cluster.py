"""Joining or starting Ray, and leaving it again."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from harness.errors import RunError
from harness.fleet.watch import HeadLostError

NODE_LOCK = "node_lock"
"""Resource of which every node has one: who holds it measures alone on that node."""

LEAVE_S = 5.0


@contextmanager
def ray_cluster(workers: int | None = None) -> Iterator[dict[str, float]]:
    """Hold a connection to Ray for the length of the block; yield the resources it offers.

    With RAY_ADDRESS set, the cluster there is joined; otherwise Ray is started on this machine
    alone and ended with the block. A Ray that is already running here is never touched.

    Parameters
    ----------
    workers
        Processes to use on this machine; default one a core.

    Raises
    ------
    RunError
        If the cluster cannot be reached, or Ray cannot start.
    """
    address = os.environ.get("RAY_ADDRESS")
    if address and address.startswith(("http://", "https://")):
        raise RunError(
            "this is the address of a dashboard; a driver needs that of the head node",
            where=f"RAY_ADDRESS={address}",
            fix="set RAY_ADDRESS=HEAD:6379, or hand the sweep in as a job: "
            f"python -m harness.fleet.jobs submit SWEEP --out DIR --address {address}",
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's workers are nice to others by 15; a measured process must not wait behind them.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Workers fit small problems: more threads than processes only get in each other's way.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    if not address:
        # A private Ray on this machine alone needs no token file in the user's home.
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray

    if address:
        _knock(address)
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            ray.init(
                address="local",
                include_dashboard=False,
                num_cpus=workers or os.cpu_count() or 1,
                resources={NODE_LOCK: 1},
                object_store_memory=128 * 2**20,
                **quiet,
            )
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise RunError(
            f"cannot {'reach the Ray cluster' if address else 'start Ray on this machine'}: "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}",
            where=f"RAY_ADDRESS={address}" if address else "local Ray",
            fix="check the address and that the head node runs"
            if address
            else "free memory or disk in the temporary folder, then run again",
        ) from error
    try:
        yield {name: float(count) for name, count in ray.cluster_resources().items()}
    finally:
        _leave()


def _leave() -> None:
    """Leave Ray; without its head that would wait for a minute, so it is not waited for then."""
    import ray

    if not isinstance(sys.exc_info()[1], HeadLostError):
        ray.shutdown()
        return
    leaving = threading.Thread(target=ray.shutdown, daemon=True)
    leaving.start()
    leaving.join(LEAVE_S)


def _knock(address: str) -> None:
    """Fail within seconds if nobody listens there: Ray itself would try for many minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return  # "auto", "local" and the like: Ray finds the address itself
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise RunError(
            f"nobody answers at the Ray cluster's address: {error.strerror or error}",
            where=f"RAY_ADDRESS={address}",
            fix="check the address and that the head node runs, or unset RAY_ADDRESS to run here",
        ) from error
