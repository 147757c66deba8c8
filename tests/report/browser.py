"""Headless Chromium, driven by its DevTools protocol over a pipe: no port, no driver, no library.

Source: Chrome DevTools Protocol; `--remote-debugging-pipe` reads messages from file descriptor 3 and writes them to 4,
each ended by a zero byte.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

EXECUTABLE = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe",
)  # fmt: skip
_PATIENCE_SECONDS = 90.0


class Browser:
    """One page in a browser of its own; `problems` holds its errors and warnings, `requests` every address it asked."""

    def __init__(self, profile: Path, width: int = 1200, height: int = 900) -> None:
        assert EXECUTABLE is not None, "no Chromium on this machine"
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        command = [EXECUTABLE, *_FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}", "about:blank"]
        wrapped = ["bash", "-c", f'exec "$@" 3<&{to_read} 4>&{to_write}', "bash", *command]
        self._process = subprocess.Popen(
            wrapped, pass_fds=(to_read, to_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_read)
        os.close(to_write)
        self._buffer, self._number, self._session = b"", 0, ""
        self.problems: list[str] = []
        self.requests: list[str] = []
        target = next(t for t in self.send("Target.getTargets")["targetInfos"] if t["type"] == "page")
        attached = self.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        wanted = self._number
        while True:
            found = self._message()
            if found.get("id") == wanted:
                assert "error" not in found, f"{method}: {found['error']}"
                return found["result"]

    def open(self, path: Path) -> None:
        """Open a file and wait until its charts are drawn."""
        self.send("Page.navigate", url=path.resolve().as_uri())
        self.wait("document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not self.evaluate(f"Boolean({condition})"):
            assert time.monotonic() < deadline, f"never true: {condition}"
            time.sleep(0.05)

    def hover(self, x: float, y: float) -> None:
        """Move the mouse to a place in the window."""
        for nudge in (-1, 0):
            self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x + nudge, y=y)

    def hover_until(self, element: str, condition: str) -> None:
        """Move the mouse to the middle of an element, wherever it is by then, until an expression is true."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not self.evaluate(f"Boolean({condition})"):
            assert time.monotonic() < deadline, f"never true over {element}: {condition}"
            box = self.evaluate(
                f"(() => {{ const b = {element}.getBoundingClientRect(); return [b.x, b.y, b.width, b.height] }})()"
            )
            self.hover(box[0] + box[2] / 2, box[1] + box[3] / 2)
            time.sleep(0.05)

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """Save what is seen, or the whole page."""
        shot = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        """End the browser."""
        os.close(self._write)
        os.close(self._read)
        self._process.terminate()
        self._process.wait(20)

    def _message(self) -> dict[str, Any]:
        """The next message; events that matter are kept."""
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], _PATIENCE_SECONDS)
            data = os.read(self._read, 2**20) if ready else b""
            assert data, "the browser says nothing any more"
            self._buffer += data
        raw, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(raw)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, event: str, content: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(content["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.problems.append(str(content["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled" and content["type"] in ("error", "warning", "assert"):
            self.problems.append(str(content["args"]))
        elif event == "Log.entryAdded" and content["entry"]["level"] in ("error", "warning"):
            self.problems.append(str(content["entry"]))
