"""The lease of an object store: one driver at a time, and none that was given up on."""

from __future__ import annotations

import json
import threading
import time

import pytest
from store_data import ObjectStore

from harness.store import RunFolder, StoreError
from harness.store.lease import LEASE, Lease
from harness.store.s3 import Stamp


class Shelf:
    """Objects in memory, with a clock of their own."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.objects: dict[str, tuple[bytes, float]] = {}
        self.mutex = threading.Lock()

    def list(self, under: str = "") -> dict[str, Stamp]:
        with self.mutex:
            found = {k: v for k, v in self.objects.items() if k.startswith(f"{under}/")}
        return {k: Stamp(len(c), int(t * 1e9)) for k, (c, t) in found.items()}

    def read(self, key: str) -> bytes:
        try:
            return self.objects[key][0]
        except KeyError:
            raise FileNotFoundError(key) from None

    def write(self, key: str, content: bytes) -> None:
        with self.mutex:
            self.objects[key] = (content, self.now_s)

    def delete(self, key: str) -> None:
        with self.mutex:
            self.objects.pop(key, None)

    def clock(self) -> float:
        return self.now_s


def lease(shelf: Shelf, token: str) -> Lease:
    return Lease(shelf, "s3://lab/run", token, clock=shelf.clock, sleep=lambda _: None)


def elsewhere(shelf: Shelf, token: str, **more: object) -> None:
    """Leave a sign of a driver on a machine that we cannot look at."""
    text = {"pid": 7, "host": "far", "machine": "other", "started_at": "then", "state": "holds"}
    shelf.write(f"{LEASE}/{token}.json", json.dumps({**text, **more}).encode())


def test_a_living_driver_is_named_with_the_seconds_to_wait():
    shelf = Shelf()
    elsewhere(shelf, "a")
    shelf.now_s = 12.0
    with pytest.raises(StoreError, match="process 7 on host far, since then") as error:
        lease(shelf, "b").acquire()
    assert "free in 19 s" in str(error.value.fix)
    assert list(shelf.objects) == [f"{LEASE}/a.json"]


def test_a_silent_driver_is_followed_and_finds_out():
    shelf = Shelf()
    old = lease(shelf, "a")
    assert old.acquire() is None
    shelf.objects[f"{LEASE}/a.json"] = (b'{"pid": 7, "machine": "other"}', 0.0)
    shelf.now_s = 31.0
    new = lease(shelf, "b")
    assert new.acquire() == {"pid": 7, "machine": "other"}
    for act in (old.check, old.beat, old.check):
        with pytest.raises(StoreError, match="another one took over"):
            act()
    old.release()
    assert list(shelf.objects) == [f"{LEASE}/b.json"]
    new.check()


def test_a_frozen_driver_that_wakes_between_look_and_beat_gives_way():
    shelf = Shelf()
    old = lease(shelf, "a")
    old.acquire()
    shelf.now_s = 20.0
    write = shelf.write

    def slow(key: str, content: bytes) -> None:
        shelf.write = write  # type: ignore[method-assign]
        elsewhere(shelf, "b")
        write(key, content)

    shelf.write = slow  # type: ignore[method-assign]
    with pytest.raises(StoreError, match="another one took over"):
        old.beat()
    assert list(shelf.objects) == [f"{LEASE}/b.json"]


def test_a_driver_frozen_in_the_midst_of_a_timely_beat_gives_way_too():
    shelf = Shelf()
    old = lease(shelf, "a")
    assert old.acquire() is None
    shelf.now_s = 5.0
    put = shelf.write

    def frozen(key: str, content: bytes) -> None:
        # Between the look and the sign of life another driver takes over.
        shelf.now_s += 40.0
        shelf.write = put
        shelf.delete(f"{LEASE}/a.json")
        elsewhere(shelf, "b")
        put(key, content)

    shelf.write = frozen
    with pytest.raises(StoreError):
        old.beat()
    with pytest.raises(StoreError):
        old.check()
    assert list(shelf.objects) == [f"{LEASE}/b.json"]


def test_beats_keep_the_lease_and_checks_are_free():
    shelf = Shelf()
    held = lease(shelf, "a")
    held.acquire()
    for _ in range(20):
        shelf.now_s += 5.0
        held.beat()
        with pytest.raises(StoreError):
            lease(shelf, "b").acquire()
    before = dict(shelf.objects)
    held.check()
    assert shelf.objects == before
    held.release()
    assert lease(shelf, "b").acquire() is None


def test_many_at_once_and_never_two():
    shelf = Shelf()
    inside, most, taken = 0, 0, 0
    count = threading.Lock()

    def drive(number: int) -> None:
        nonlocal inside, most, taken
        mine = Lease(shelf, "run", f"{number}", sleep=lambda s: time.sleep(s / 50))
        try:
            mine.acquire()
        except StoreError:
            return
        with count:
            inside += 1
            taken += 1
            most = max(most, inside)
        time.sleep(0.002)
        with count:
            inside -= 1
        mine.release()

    for start in range(0, 60, 6):
        threads = [threading.Thread(target=drive, args=(start + n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most == 1
    assert taken >= 10
    assert not shelf.objects


@pytest.fixture
def far(lab: ObjectStore) -> ObjectStore:
    RunFolder.create(lab.url, {})
    text = {"pid": 7, "host": "far", "machine": "other", "started_at": "then", "state": "holds"}
    lab.bucket.write(f"{LEASE}/0.json", json.dumps(text).encode())
    return lab


def test_the_store_s_own_clock_decides(far: ObjectStore):
    with pytest.raises(StoreError, match="host far"), RunFolder.open(far.url).lock():
        pass
    time.sleep(1.2)
    new = Lease(far.bucket, far.url, "1", stale_s=0.5)
    assert (new.acquire() or {})["host"] == "far"
    assert far.keys(LEASE) == [f"{LEASE}/1.json"]
    new.release()


def test_a_driver_whose_lease_is_gone_writes_nothing(lab: ObjectStore):
    folder = RunFolder.create(lab.url, {})

    def lose() -> None:
        with folder.lock():
            folder.write_result("a", "H", [{"task_id": "a"}])
            for key in lab.keys(LEASE):
                lab.bucket.delete(key)
            folder.place._lease.beat()  # type: ignore[attr-defined]

    with pytest.raises(StoreError, match="another one took over"):
        lose()
    assert folder.done_task_ids() == {"a"}
