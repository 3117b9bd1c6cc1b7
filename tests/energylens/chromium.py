"""A page in real headless Chromium, driven over the DevTools protocol by pipes; no packages."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

# Chromium wants its pipes at 3 and 4; both are moved out of the way first.
_HAND_OVER = """
import fcntl, os, sys
pipes = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3]]
os.dup2(pipes[0], 3)
os.dup2(pipes[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find_chromium() -> str | None:
    """Path of a Chromium on this machine, or None."""
    named = os.environ.get("ENERGYLENS_CHROMIUM")
    return named or next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One page with its console messages, exceptions and requests.

    Chromium reads commands from descriptor 3 and writes answers to descriptor 4, each a JSON
    text that ends with a zero byte.
    """

    def __init__(self, executable: str, *, timeout_s: float = 60.0) -> None:
        self._timeout_s = timeout_s
        self._home = tempfile.mkdtemp(prefix="energylens-chromium-")
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                _HAND_OVER,
                str(to_browser),
                str(from_browser),
                executable,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                "--remote-debugging-pipe",
                f"--user-data-dir={self._home}",
                "about:blank",
            ],
            pass_fds=(to_browser, from_browser),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._buffer = b""
        self._next = 0
        self.errors: list[str] = []
        self.requests: list[str] = []
        target = self._send("Target.createTarget", {"url": "about:blank"}, None)["targetId"]
        self._session = self._send(
            "Target.attachToTarget", {"targetId": target, "flatten": True}, None
        )["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def __enter__(self) -> Page:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        os.close(self._write)
        os.close(self._read)
        shutil.rmtree(self._home, ignore_errors=True)

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command to the page and return its result."""
        return self._send(method, params, self._session)

    def size(self, width: int, height: int, *, mobile: bool = False) -> None:
        """Set the viewport in CSS pixels."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=mobile,
        )

    def scheme(self, name: str) -> None:
        """Emulate `light` or `dark`."""
        self.send(
            "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}]
        )

    def open(self, path: Path, *, settle_s: float = 1.0) -> None:
        """Open a file and wait until it is loaded and its scripts have rested."""
        self.send("Page.navigate", url=path.resolve().as_uri())
        end = time.monotonic() + self._timeout_s
        while self.evaluate("document.readyState") != "complete":
            if time.monotonic() > end:
                raise TimeoutError(f"{path} did not load")
            time.sleep(0.05)
        self.rest(settle_s)

    def rest(self, seconds: float) -> None:
        """Let the page work while events are collected."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._pump(left)

    def evaluate(self, script: str) -> Any:
        """Value of a JavaScript expression."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Write the whole page as a PNG file."""
        answer = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def _send(self, method: str, params: dict[str, Any], session: str | None) -> dict[str, Any]:
        self._next += 1
        number = self._next
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + self._timeout_s
        while (left := end - time.monotonic()) > 0:
            for answer in self._pump(left):
                if answer.get("id") == number:
                    if "error" in answer:
                        raise RuntimeError(f"{method}: {answer['error']}")
                    result: dict[str, Any] = answer["result"]
                    return result
        raise TimeoutError(f"Chromium did not answer {method} within {self._timeout_s} s")

    def _pump(self, timeout_s: float) -> list[dict[str, Any]]:
        """Read what has arrived; events are kept, answers returned."""
        ready, _, _ = select.select([self._read], [], [], timeout_s)
        if not ready:
            return []
        chunk = os.read(self._read, 1 << 20)
        if not chunk:
            raise RuntimeError("Chromium went away")
        self._buffer += chunk
        *whole, self._buffer = self._buffer.split(b"\0")
        messages = [json.loads(text) for text in whole]
        for message in messages:
            self._note(message.get("method", ""), message.get("params", {}))
        return [message for message in messages if "id" in message]

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            text = details.get("exception", {}).get("description", details["text"])
            self.errors.append(f"exception: {text}")
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            values = [str(a.get("value", a.get("description"))) for a in params["args"]]
            self.errors.append(f"console {params['type']}: {' '.join(values)}")
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(f"log: {params['entry']['text']}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
