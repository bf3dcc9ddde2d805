"""A headless browser for tests of pages, driven through the DevTools protocol.

The packages of the tests bring one: the Chromium inside PySide6-WebEngine. STAR_JAX_BROWSER names
another one (any Chromium or Chrome); one on PATH is taken where PySide6 does not run.
"""

import asyncio
import base64
import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time

import aiohttp
import pytest

ENVIRONMENT = "STAR_JAX_BROWSER"
ON_PATH = ("chromium", "chromium-browser", "google-chrome", "chrome", "chromium-headless-shell")
HOW_TO_GET_ONE = (
    "./launch/test.sh installs PySide6-WebEngine, which on a bare Linux "
    "needs `apt-get install libnss3 libxkbcommon0 libegl1 libgl1 libxcomposite1 libxdamage1 "
    "libxrandr2 libxtst6 libasound2 libxkbfile1`; or name a Chromium with "
    f"{ENVIRONMENT}=/path/to/chromium"
)
PATIENCE = 60  # seconds until a browser has started, or a page has done what it is waited for
FLAGS = ("--no-first-run", "--disable-gpu", "--disable-background-networking", "--disable-sync",
         "--disable-component-update", "--no-sandbox", "--force-color-profile=srgb")  # fmt: skip

QT = """
import sys
from PySide6.QtCore import QUrl
from PySide6.QtWebEngineWidgets import QWebEngineView
from PySide6.QtWidgets import QApplication
application = QApplication(sys.argv)
view = QWebEngineView()
view.resize(1280, 900)
view.setUrl(QUrl("about:blank"))
view.show()
application.exec()
"""


def commands(port, profile):
    """Yields (command, its environment) of the browsers that there are, the first the best."""
    chromium = ["--headless=new", f"--remote-debugging-port={port}", f"--user-data-dir={profile}"]
    if named := os.environ.get(ENVIRONMENT):
        yield [named, *chromium, *FLAGS, "about:blank"], {}
        return
    if importlib.util.find_spec("PySide6"):
        flags = " ".join((*FLAGS, f"--user-data-dir={profile}"))
        yield (
            [sys.executable, "-c", QT],
            {
                "QT_QPA_PLATFORM": "offscreen",
                "QTWEBENGINE_DISABLE_SANDBOX": "1",  # only our page is shown, and often by root
                "QTWEBENGINE_CHROMIUM_FLAGS": flags,
                "QTWEBENGINE_REMOTE_DEBUGGING": f"127.0.0.1:{port}",
            },
        )
    for name in ON_PATH:
        if path := shutil.which(name):
            yield [path, *chromium, *FLAGS, "about:blank"], {}


@contextlib.contextmanager
def running_browser(profile):
    """A Browser while it runs; `profile` is an empty directory.

    Without any, tests are skipped; in CI, where nobody would see that, they fail.
    """
    with asyncio.Runner() as runner:
        for number, port in enumerate(free_ports(1 + len(ON_PATH))):
            command = list(commands(port, profile))[number : number + 1]
            if not command:
                break
            log = profile / f"browser_{number}.log"
            browser = Browser(runner, start(*command[0], log), port)
            try:
                if browser.connect():
                    yield browser
                    return
            finally:
                browser.close()
    words = [log.read_text(errors="replace")[-300:] for log in sorted(profile.glob("*.log"))]
    reason = f"no browser runs here{': ' if words else ''}{' / '.join(words)}; {HOW_TO_GET_ONE}"
    (pytest.fail if os.environ.get("CI") else pytest.skip)(" ".join(reason.split()))


def start(command, environment, log):
    with open(log, "wb") as out:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
    return process


def free_ports(n):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Browser:
    """One page of a browser."""

    def __init__(self, runner, process, port):
        self.process, self.port = process, port
        self.run = runner.run
        self.events = []
        self.calls = 0
        self.session = self.socket = None

    def connect(self):
        """Whether it listens before it ends or patience does."""
        return self.run(self._connect())

    async def _connect(self):
        self.session = aiohttp.ClientSession()
        address = f"http://127.0.0.1:{self.port}/json/list"
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(aiohttp.ClientError, StopIteration, KeyError):
                async with self.session.get(address) as reply:
                    targets = await reply.json(content_type=None)
                page = next(t for t in targets if t["type"] == "page")
                self.socket = await self.session.ws_connect(
                    page["webSocketDebuggerUrl"], max_msg_size=0
                )
                for domain in ("Page", "Runtime", "Network", "Log"):
                    await self._call(f"{domain}.enable")
                return True
            await asyncio.sleep(0.05)
        return False

    def call(self, method, **parameters):
        """The result of a method of the protocol; events are kept in `events`."""
        return self.run(self._call(method, **parameters))

    async def _call(self, method, **parameters):
        self.calls += 1
        await self.socket.send_json({"id": self.calls, "method": method, "params": parameters})
        while True:
            message = await self.socket.receive_json(timeout=PATIENCE)
            if message.get("id") != self.calls:
                self.events.append(message)
            elif "error" in message:
                raise RuntimeError(f"{method}: {message['error']['message']}")
            else:
                return message["result"]

    def open(self, address, ready="true"):
        """Loads a page anew, forgets what was before, and waits until `ready` holds in it."""
        self.call("Page.navigate", url="about:blank")
        self.wait("location.href === 'about:blank'")
        self.events.clear()
        self.call("Page.navigate", url=address)
        self.wait(f"document.readyState === 'complete' && ({ready})")

    def js(self, expression):
        """The value of a JavaScript expression (JSON-ready), awaited if it is a promise."""
        result = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait(self, condition):
        """Waits until a JavaScript expression is true."""
        deadline = time.monotonic() + PATIENCE
        while not self.js(condition):
            assert time.monotonic() < deadline, f"in vain: {condition}"
            time.sleep(0.02)

    def key(self, key):
        """Presses a key, such as "j" or "Enter"."""
        code = {"Enter": 13, "Escape": 27, "Tab": 9}.get(key, ord(key[0].upper()))
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        shared = {"key": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **shared)
        self.call("Input.dispatchKeyEvent", type="keyUp", **shared)

    def requests(self):
        """Addresses that the page asked for, itself and what lies within it left out."""
        asked = [
            event["params"]["request"]["url"]
            for event in self.events
            if event["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in asked if not url.startswith(("data:", "file:///"))]

    def complaints(self):
        """What the console says that a clean page does not: errors, warnings, exceptions."""
        console = [
            event["params"]["args"]
            for event in self.events
            if event["method"] == "Runtime.consoleAPICalled"
        ]
        entries = [
            event["params"]["entry"]["text"]
            for event in self.events
            if event["method"] == "Log.entryAdded"
        ]
        thrown = [
            event["params"]["exceptionDetails"]
            for event in self.events
            if event["method"] == "Runtime.exceptionThrown"
        ]
        return [*console, *entries, *thrown]

    def look(self, path, width=1280, height=900, dark=False):
        """Writes a screenshot."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        scheme = "dark" if dark else "light"
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )
        data = self.call("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self):
        """Ends the browser."""
        if self.session is not None:
            self.run(self.session.close())
        self.process.terminate()
        self.process.wait()
