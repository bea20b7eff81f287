"""A headless Chromium for tests: real keys and clicks through its DevTools protocol, spoken over two pipes.

Nothing but the browser itself is needed. It is skipped where there is none; what a page asks the network for, and what it writes
on its console, is collected.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-extensions "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars --remote-debugging-pipe"
)
PATIENCE = 60.0  # seconds that any answer may take
# Key: (code, number, text).
KEYS = {
    "Tab": ("Tab", 9, ""),
    "Enter": ("Enter", 13, "\r"),
    " ": ("Space", 32, " "),
    "ArrowLeft": ("ArrowLeft", 37, ""),
    "ArrowUp": ("ArrowUp", 38, ""),
    "ArrowRight": ("ArrowRight", 39, ""),
    "ArrowDown": ("ArrowDown", 40, ""),
    "Home": ("Home", 36, ""),
    "End": ("End", 35, ""),
}


class Tab:
    """One page in the browser. ``requests``: every address asked for; ``complaints``: errors, warnings and breaches of policy."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading, self._writing, self._rest = reading, writing, b""
        self._number, self._session = 0, ""
        self._answers: dict[int, dict[str, Any]] = {}
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._seen: set[str] = set()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    # --- what a person does ---

    def open(self, file: Path) -> None:
        """Load a file and wait until it has loaded."""
        self._seen.discard("Page.loadEventFired")
        self.call("Page.navigate", url=file.as_uri())
        self._until(lambda: "Page.loadEventFired" in self._seen)

    def press(self, *keys: str, shift: bool = False) -> None:
        for key in keys:
            code, number, text = KEYS.get(key, (f"Key{key.upper()}", ord(key.upper()[0]), key))
            about = {"key": key, "code": code, "windowsVirtualKeyCode": number, "modifiers": 8 if shift else 0}
            self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **about)
            self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def click(self, selector: str) -> None:
        """Scroll an element into sight and press the mouse in its middle."""
        place = self.run(f"""(async () => {{
            const element = document.querySelector({json.dumps(selector)});
            let place, before;
            do {{  // until it stays where it is: what comes into sight may be of another size than it was taken for
                before = String(place);
                element.scrollIntoView({{ block: "center", behavior: "instant" }});
                await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
                const box = element.getBoundingClientRect();
                place = [box.x + box.width / 2, box.y + box.height / 2];
            }} while (String(place) !== before);
            return place;
        }})()""")
        about = {"x": place[0], "y": place[1], "button": "left", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type="mousePressed", **about)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", **about)

    def size(self, width: int, height: int, *, dark: bool = False, media: str = "", scripts: bool = True) -> None:
        """A window of that size, in CSS pixels; of a phone below 500. ``media``: such as ``print``."""
        about = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.call("Emulation.setDeviceMetricsOverride", **about)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)

    # --- what is looked at ---

    def run(self, script: str) -> Any:
        """The value of an expression; a promise is waited for. Fails with what the script raised."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"].get("exception", found)
        return found["result"].get("value")

    def wait(self, script: str) -> None:
        """Until an expression is true."""
        self._until(lambda: bool(self.run(script)))

    def screenshot(self, file: Path, *, whole: bool = False) -> None:
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(found["data"]))

    # --- the protocol: JSON objects, each ended by a zero byte ---

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        number, answer = self._number, {}

        def answered() -> bool:
            answer.update(self._answers.pop(number, {}))
            return bool(answer)

        self._until(answered)
        assert "error" not in answer, (method, answer)
        found: dict[str, Any] = answer["result"]
        return found

    def _until(self, done: Any) -> None:
        end = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < end, "the browser does not answer"
            if select.select([self._reading], [], [], 0.05)[0]:
                data = os.read(self._reading, 1 << 20)
                assert data, "the browser has ended"
                *messages, self._rest = (self._rest + data).split(b"\0")
                for message in messages:
                    self._note(json.loads(message))

    def _note(self, message: dict[str, Any]) -> None:
        if "id" in message:
            self._answers[message["id"]] = message
            return
        method, about = message["method"], message["params"]
        self._seen.add(method)
        if method == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(about["exceptionDetails"].get("exception", about)))
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(str(about["args"]))
        elif method == "Log.entryAdded":
            self.complaints.append(about["entry"]["text"])


@contextmanager
def browser(profile: Path) -> Iterator[Tab]:
    """A browser with a new profile, and one tab in it."""
    assert PROGRAM
    to_browser, from_browser = os.pipe(), os.pipe()
    # The protocol is on the descriptors 3 and 4 of the program.
    shell = f'exec "$0" "$@" 3<&{to_browser[0]} 4>&{from_browser[1]}'
    command = ["bash", "-c", shell, PROGRAM, *FLAGS.split(), f"--user-data-dir={profile}"]
    process = subprocess.Popen(
        command, pass_fds=(to_browser[0], from_browser[1]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(to_browser[0])
    os.close(from_browser[1])
    try:
        tab = Tab(from_browser[0], to_browser[1])
        yield tab
    finally:
        os.close(to_browser[1])  # which ends it
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(from_browser[0])
