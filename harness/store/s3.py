"""One prefix of an object store that speaks S3: list, get, put, delete, and errors in words."""

from __future__ import annotations

import os
import queue
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from harness.errors import StoreError

CONNECT_S = 4.0
REQUEST_S = 10.0
ATTEMPTS = 3
FIRST_S = 12.0
ANSWER_S = 60.0
COPY_S = 600.0
PARALLEL = 16
_PIECE = 1 << 22
_ADDRESS = re.compile(r"s3:/{1,2}(?P<bucket>[^/]+)(?:/(?P<prefix>.*))?", re.DOTALL)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Address:
    """Bucket and prefix of a run folder, `s3://BUCKET/PREFIX`."""

    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"


@dataclass(frozen=True, slots=True)
class Stamp:
    """Size in bytes and time of last change (the store's clock, ns) of one object."""

    size: int
    mtime_ns: int


def is_object(path: Path | str) -> bool:
    """Tell whether a path names an object store; also `s3:/b/p`, as pathlib shortens it."""
    return str(path).startswith("s3:/")


def parse_address(path: Path | str) -> Address:
    """Read `s3://BUCKET/PREFIX`.

    Raises
    ------
    StoreError
        If there is no bucket or no prefix: a run folder does not fill a bucket of its own.
    """
    found = _ADDRESS.fullmatch(str(path))
    parts = [part for part in (found["prefix"] or "").split("/") if part] if found else []
    if found is None or not parts or {".", ".."} & set(parts):
        raise StoreError(
            "This is no address of a run folder in an object store.",
            where=str(path),
            fix="write it as s3://BUCKET/NAME, with the name of the run after the bucket",
        )
    return Address(found["bucket"], "/".join(parts))


class Bucket:
    """The objects below one prefix; keys are relative to it.

    Parameters
    ----------
    address
        Where the objects are.
    environ
        AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, AWS_REGION or AWS_DEFAULT_REGION; credentials
        are found as the AWS tools find them.

    Raises
    ------
    StoreError
        Every method: if the store cannot be reached, refuses the credentials or the access, or
        has no such bucket.
    """

    def __init__(self, address: Address, environ: Mapping[str, str] = os.environ) -> None:
        self.address = address
        self.endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
        region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
        self._answered = False
        self._root = f"{address.bucket}/{address.prefix}"
        self._files = self._call("opened", "", lambda: _filesystem(address, self.endpoint, region))

    def list(self, under: str = "") -> dict[str, Stamp]:
        """List the objects, or those below one folder; an empty prefix is an empty list."""
        from pyarrow import fs

        root = f"{self._root}/{under}".rstrip("/")
        selector = fs.FileSelector(root, recursive=True, allow_not_found=True)
        found = self._call("listed", under, lambda: self._files.get_file_info(selector))
        if not found and not under:
            self._need_bucket()
        cut = len(self._root) + 1
        return {
            info.path[cut:]: Stamp(info.size, info.mtime_ns)
            for info in found
            if info.type == fs.FileType.File
        }

    def stat(self, key: str) -> Stamp | None:
        """Look at one object; None if it is not there."""
        from pyarrow import fs

        info = self._call("looked at", key, lambda: self._files.get_file_info(self._at(key)))
        return Stamp(info.size, info.mtime_ns) if info.type == fs.FileType.File else None

    def read(self, key: str) -> bytes:
        """Read a small object; FileNotFoundError passes through."""

        def get() -> bytes:
            with self._files.open_input_stream(self._at(key)) as stream:
                return bytes(stream.read())

        return self._call("read", key, get)

    def write(self, key: str, content: bytes) -> None:
        """Put a small object."""

        def put() -> None:
            with self._files.open_output_stream(self._at(key)) as stream:
                stream.write(content)

        self._call("written", key, put)

    def download(self, key: str, path: Path) -> None:
        """Copy an object to a local file; FileNotFoundError passes through."""

        def get() -> None:
            with self._files.open_input_stream(self._at(key)) as source, path.open("wb") as target:
                while piece := source.read(_PIECE):
                    target.write(piece)

        self._call("read", key, get, COPY_S)

    def upload(self, key: str, path: Path) -> None:
        """Put a local file: the object is there whole or not at all.

        The request has a thread of its own, so no signal can end it after its opening and
        before its content. (`pyarrow.fs.copy_files` keeps a refused upload to itself.)
        """

        def put() -> None:
            content = path.read_bytes()
            with self._files.open_output_stream(self._at(key)) as stream:
                stream.write(content)

        self._call("written", key, put, COPY_S)

    def delete(self, key: str) -> None:
        """Delete an object; one that is gone is fine."""
        with suppress(FileNotFoundError):
            self._call("deleted", key, lambda: self._files.delete_file(self._at(key)))

    def _at(self, key: str) -> str:
        return f"{self._root}/{key}"

    def _need_bucket(self) -> None:
        from pyarrow import fs

        try:
            info = self._files.get_file_info(self.address.bucket)
        except OSError:
            return  # a policy for this prefix only may forbid the question
        if info.type == fs.FileType.NotFound:
            raise self._no_bucket()

    def _no_bucket(self) -> StoreError:
        return StoreError(
            f"There is no bucket {self.address.bucket!r} in this object store.",
            where=f"{self.address}, {self._server()}",
            fix="make the bucket first, or correct its name",
        )

    def _server(self) -> str:
        return self.endpoint or "AWS S3"

    def _call(
        self, doing: str, key: str, request: Callable[[], _T], limit_s: float | None = None
    ) -> _T:
        """Do one request within a limit; say in a StoreError what its error means."""
        if limit_s is None:
            limit_s = ANSWER_S if self._answered else FIRST_S
        try:
            result = within(limit_s, request)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self._in_words(error, doing, key) from error
        self._answered = doing != "opened"
        return result

    def _in_words(self, error: OSError, doing: str, key: str) -> StoreError:
        text = str(error)
        where = f"{self.address}{'/' + key if key else ''}, {self._server()}"
        what = f"{key or self.address.prefix} could not be {doing}"
        if "NO_SUCH_BUCKET" in text or "NoSuchBucket" in text:
            return self._no_bucket()
        if _mentions(text, "INVALID_ACCESS_KEY", "InvalidAccessKey", "SIGNATURE", "Signature"):
            return StoreError(
                f"The object store does not know these credentials: {what}.",
                where=where,
                fix="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile of ~/.aws",
            )
        if _mentions(text, "EXPIRED", "Expired", "INVALID_CLIENT_TOKEN", "InvalidToken"):
            return StoreError(
                f"The credentials for the object store have run out: {what}.",
                where=where,
                fix="get new ones (AWS_SESSION_TOKEN belongs to them), then run again: it resumes",
            )
        if _mentions(text, "ACCESS_DENIED", "AccessDenied", "403", "Forbidden"):
            return StoreError(
                f"The object store refuses access: {what}.",
                where=where,
                fix="the credentials need ListBucket, GetObject, PutObject and DeleteObject here",
            )
        if isinstance(error, TimeoutError | ConnectionError) or _mentions(
            text, "NETWORK_CONNECTION", "curlCode", "timed out", "REQUEST_TIMEOUT"
        ):
            return UnreachableError(
                f"The object store cannot be reached: {what} ({_first_line(text)}).",
                where=where,
                fix="check AWS_ENDPOINT_URL, AWS_REGION and the network, then run again",
            )
        return StoreError(
            f"The object store failed: {what} ({_first_line(text)}).",
            where=where,
            fix="look the error up in the manual of the object store; a run resumes",
        )


class UnreachableError(StoreError):
    """The object store does not answer: worth another try."""


def in_parallel(work: Callable[[_T], object], items: Iterable[_T]) -> None:
    """Do the same to many objects; requests are slow, and wait for nothing but the network."""
    with ThreadPoolExecutor(PARALLEL) as pool:
        for _ in pool.map(work, items):
            pass


def _filesystem(address: Address, endpoint: str | None, region: str | None) -> Any:
    from pyarrow import fs

    if region is None and endpoint is None:
        region = fs.resolve_s3_region(address.bucket)
    return fs.S3FileSystem(
        endpoint_override=endpoint,
        region=region or "us-east-1",
        connect_timeout=CONNECT_S,
        request_timeout=REQUEST_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        allow_delayed_open=True,
        background_writes=False,
    )


def within(limit_s: float, work: Callable[[], _T]) -> _T:
    """Do something that may never return; TimeoutError after `limit_s` seconds.

    The SDK waits without end for a server that accepts a connection and says nothing.
    """
    done: queue.SimpleQueue[tuple[_T | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            done.put((work(), None))
        except BaseException as error:  # handed on to the caller
            done.put((None, error))

    threading.Thread(target=run, name="object-store-request", daemon=True).start()
    try:
        result, error = done.get(timeout=limit_s)
    except queue.Empty:
        raise TimeoutError(f"timed out after {limit_s:g} s") from None
    if error is not None:
        raise error
    return cast(_T, result)


def _mentions(text: str, *words: str) -> bool:
    return any(word in text for word in words)


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:200] if text.strip() else "no reason given"
