"""One driver at a time in an object store: every driver keeps an object of its own alive.

A store that only puts, lists and deletes, but lists what was put before (S3 does since 2020), is
enough: a driver puts its object, then lists. Whoever sees another living one goes back, so two
can both go back but never both go on. Ages are differences between times of the store's own
clock; no clock of a host counts.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Protocol

from harness.errors import StoreError
from harness.store.processes import is_gone, this_process
from harness.store.s3 import Stamp

LEASE = "lease"
BEAT_S = 5.0
STALE_S = 30.0
_TRIES = 4


class Objects(Protocol):
    """What a lease needs of an object store."""

    def list(self, under: str = "") -> dict[str, Stamp]:
        """List the objects below a folder."""

    def read(self, key: str) -> bytes:
        """Read an object."""

    def write(self, key: str, content: bytes) -> None:
        """Put an object."""

    def delete(self, key: str) -> None:
        """Delete an object."""


class Lease:
    """The right to write to one run folder of an object store.

    Parameters
    ----------
    objects
        The run folder's objects.
    name
        Address of the run folder, for messages.
    token
        Names this holder; unique.
    stale_s
        Silence in seconds after which a holder counts as dead.
    clock, sleep, chance
        Monotonic seconds, waiting, and a number in [0, 1).
    """

    def __init__(
        self,
        objects: Objects,
        name: str,
        token: str,
        *,
        stale_s: float = STALE_S,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._objects = objects
        self._name = name
        self._key = f"{LEASE}/{token}.json"
        self._stale_s = stale_s
        self._clock, self._sleep, self._chance = clock, sleep, chance
        self._beaten = clock()
        self._lost = False
        self._text = {**this_process(), "started_at": _now()}

    def acquire(self) -> dict[str, object] | None:
        """Take the lease.

        Returns
        -------
        dict or None
            What a driver that died had left, None after a clean end.

        Raises
        ------
        StoreError
            If another driver lives, or has been silent for less than `stale_s`.
        """
        for attempt in range(_TRIES):
            self._put("claims")
            try:
                alive, dead = self._others()
                if not alive:
                    for key in dead:
                        self._objects.delete(key)
                    self._put("holds")
                    return list(dead.values())[-1] if dead else None
                if attempt == _TRIES - 1 or any(t.get("state") != "claims" for _, t in alive):
                    raise self._refusal(*alive[0])
            except BaseException:
                with suppress(StoreError):
                    self._objects.delete(self._key)
                raise
            self._objects.delete(self._key)
            self._sleep(0.2 + self._chance())
        raise AssertionError("the last try returns or raises")

    def beat(self) -> None:
        """Show that this driver lives.

        Raises
        ------
        StoreError
            If the lease was taken over meanwhile; nothing may be written any more.
        """
        if self._lost:
            raise self._taken()
        began = self._clock()
        silent = began - self._beaten > self._stale_s / 2
        if self._key not in self._objects.list(LEASE):
            self._lost = True
            raise self._taken()
        self._put("holds")
        slow = self._clock() - began > self._stale_s / 2
        if (silent or slow) and len(self._objects.list(LEASE)) > 1:
            # Somebody may have taken over between the look and the sign of life.
            self._lost = True
            self._objects.delete(self._key)
            raise self._taken()

    def check(self) -> None:
        """Make sure of the lease before a write: costs nothing while beats are recent."""
        if self._lost or self._clock() - self._beaten > self._stale_s / 2:
            self.beat()

    def release(self) -> None:
        """Give the lease back."""
        if not self._lost:
            self._objects.delete(self._key)

    def _put(self, state: str) -> None:
        before = self._clock()
        text = json.dumps({**self._text, "state": state, "beat_at": _now()})
        self._objects.write(self._key, text.encode())
        self._beaten = before

    def _others(self) -> tuple[list[tuple[float, dict[str, object]]], dict[str, dict[str, object]]]:
        """Sort the other drivers: the living with their silence in seconds, and the dead."""
        found = self._objects.list(LEASE)
        mine = found.pop(self._key, None)
        if mine is None:
            return [(0.0, {})], {}
        alive: list[tuple[float, dict[str, object]]] = []
        dead: dict[str, dict[str, object]] = {}
        for key, stamp in sorted(found.items(), key=lambda item: item[1].mtime_ns):
            try:
                text = json.loads(self._objects.read(key))
            except FileNotFoundError:
                continue
            except ValueError:
                text = None
            holder = text if isinstance(text, dict) else {}
            silence_s = max(0.0, (mine.mtime_ns - stamp.mtime_ns) / 1e9)
            if silence_s > self._stale_s or is_gone(holder):
                dead[key] = holder
            else:
                alive.append((silence_s, holder))
        return alive, dead

    def _refusal(self, silence_s: float, holder: dict[str, object]) -> StoreError:
        if not holder.get("pid"):
            return StoreError(
                "Another driver is starting on this run folder.",
                where=self._name,
                fix="wait for it, or give another --out",
            )
        wait = max(1, round(self._stale_s - silence_s) + 1)
        return StoreError(
            f"Another driver works on this run folder: process {holder['pid']} on host "
            f"{holder.get('host')}, since {holder.get('started_at')}.",
            where=self._name,
            fix=f"wait for it, or give another --out; if it died, its place is free in {wait} s",
        )

    def _taken(self) -> StoreError:
        return StoreError(
            "This driver was silent for too long, and another one took over the run folder.",
            where=self._name,
            fix="look at its events for who did; what was measured before is kept",
        )


def new_token() -> str:
    """Name a driver: sorts by its start, differs from every other."""
    return f"{time.time_ns():020d}-{os.getpid()}-{random.SystemRandom().getrandbits(32):08x}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
