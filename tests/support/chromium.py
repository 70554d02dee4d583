"""A real browser, driven by the DevTools protocol."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import connect
from websockets.sync.connection import Connection

PATIENCE_S = 60.0

_SAYS = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")


def chromium() -> str | None:
    """The browser's program, where there is one."""
    return next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)


class Browser:
    """One tab of a headless Chromium.

    Attributes:
        console: what pages have written to the console, errors that they did not catch among it.
    """

    def __init__(self, socket: Connection) -> None:
        self._socket, self._numbers = socket, itertools.count()
        self.console: list[dict[str, Any]] = []
        self("Runtime.enable")
        self("Log.enable")

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol; returns its result."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (reply := json.loads(self._socket.recv(timeout=PATIENCE_S))).get("id") != number:
            if reply.get("method") in _SAYS:
                self.console.append(reply["params"])
        if "error" in reply:
            raise RuntimeError(f"{method}: {reply['error']['message']}")
        result: dict[str, Any] = reply["result"]
        return result

    def evaluate(self, expression: str) -> Any:
        """Value of a JavaScript expression; of a promise, what it resolves to."""
        result = self("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def press(self, key: str, text: str = "") -> None:
        """Press a key, such as Tab or Enter, as a person does at the keyboard."""
        code = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowRight": 39}.get(key, 0)
        typed = {"text": text or "\r"} if text or key == "Enter" else {}
        self("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=code, **typed)
        self("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)

    def screen(self, width: int, height: int, *, dark: bool = False) -> None:
        """Be a screen of some size in CSS pixels, light or dark."""
        self(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        theme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self("Emulation.setEmulatedMedia", features=theme)

    def picture(self, path: Path) -> None:
        """Write a PNG of the whole page."""
        shot = self("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def open(self, url: str, waits_for: str) -> None:
        """Go to a page, and wait until it shows a text."""
        self("Page.navigate", url=url)
        self.wait_for(waits_for)

    def wait_for(self, text: str) -> None:
        """Wait until the page shows a text."""
        ends = time.monotonic() + PATIENCE_S
        while not self.evaluate(f"document.body?.innerText.includes({json.dumps(text)})"):
            if time.monotonic() > ends:
                shown = self.evaluate("location.href + ' ' + document.body?.innerText.slice(0, 2000)")
                raise RuntimeError(f"no {text!r} within {PATIENCE_S:g} s: {shown}")
            time.sleep(0.2)


@contextmanager
def browser(folder: Path, *flags: str) -> Iterator[Browser]:
    """A Chromium whose profile is in a folder.

    Raises:
        FileNotFoundError: there is none.
    """
    program = chromium()
    if program is None:
        raise FileNotFoundError("there is no Chromium: install one")
    command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += ["--remote-debugging-port=0", f"--user-data-dir={folder}", *flags, "about:blank"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr
        line = next(line for line in process.stderr if "DevTools listening on" in line)
        port = line.split("ws://")[1].split("/")[0]
        with urllib.request.urlopen(f"http://{port}/json") as answer:
            page = next(target for target in json.load(answer) if target["type"] == "page")
        with connect(page["webSocketDebuggerUrl"], max_size=None) as socket:
            yield Browser(socket)
    finally:
        process.terminate()
        process.wait()


def log_in(tab: Browser, url: str, auth: str) -> None:
    """Open Prefect's UI as a person does: type the auth string into its page, and press Login."""
    tab.open(url, "Login")
    tab.evaluate("document.querySelector('input').focus()")
    tab("Input.insertText", text=auth)
    tab.evaluate("document.querySelector('button').click()")
    tab.wait_for("Dashboard")
