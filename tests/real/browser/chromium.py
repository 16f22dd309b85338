"""A real Chromium without a window: what a page becomes, or one that stays open and is told what to do."""

import json
import re
import shutil
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.request import urlopen

import pytest
from websockets.sync.client import connect


@dataclass(frozen=True)
class Visit:
    """What a page has become, what it wrote to the console, and the addresses that it asked for."""

    dom: str
    console: list[str]
    requests: set[str]

    def of_class(self, name):
        return len(re.findall(rf'class="{name}["\s]', self.dom))


def visit(url, folder, *options):
    """Open *url* in a browser with a profile of its own in *folder*."""
    net = folder / "net.json"
    words = ["--enable-logging=stderr", f"--log-net-log={net}", *options, "--dump-dom", url]
    command = [*_program(folder / "visits"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Visit(done.stdout, console, _requests(json.loads(net.read_text())))


def _program(profile):
    program = shutil.which("chromium") or shutil.which("google-chrome")
    assert program, "this test needs a browser: scripts/system browser"
    return [
        program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-sync", "--disable-background-networking",
        "--disable-component-update", "--no-first-run", f"--user-data-dir={profile}",
    ]  # fmt: skip


def _requests(log):
    """By the browser's own log; what it asks for on its own account has no origin for an initiator."""
    found = [event.get("params", {}) for event in log["events"]]
    return {one["url"] for one in found if "url" in one and one.get("initiator", "not an origin") != "not an origin"}


class Page:
    """A page of a Chromium that is told what to do: https://chromedevtools.github.io/devtools-protocol/."""

    def __init__(self, socket):
        self._socket, self._number = socket, 0

    def call(self, method, **params):
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while (answer := json.loads(self._socket.recv(timeout=60))).get("id") != self._number:
            pass
        return answer.get("result", {})

    def value(self, expression):
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True).get("result", {}).get("value")

    def click(self, selector):
        box = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        at = self.value(f"(({{x, y, width, height}}) => ({{x: x + width / 2, y: y + height / 2}}))({box})")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **at)

    def write(self, selector, text):
        """Click into a field and put *text* in the place of what is there."""
        self.click(selector)
        self.value("document.activeElement.select()")
        self.call("Input.insertText", text=text)

    def until(self, expression, seconds=120):
        end = time.monotonic() + seconds
        while not self.value(expression):
            assert time.monotonic() < end, self.value("document.body.innerText")
            time.sleep(0.05)


@contextmanager
def opened(url, folder):
    """A `Page` at *url* that stays open inside."""
    profile = folder / "profile"
    command = [*_program(profile), "--remote-debugging-port=0", url]
    browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        target = _target(browser, profile / "DevToolsActivePort", url)
        with connect(target, max_size=None, open_timeout=60, ping_interval=None) as socket:
            yield Page(socket)
    finally:
        browser.terminate()
        browser.wait(120)


def _target(browser, file, url, seconds=120):
    """Where the page that shows *url* is spoken to."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and browser.poll() is None:
        if file.exists() and (port := file.read_text().split("\n")[0]):
            pages = json.loads(urlopen(f"http://127.0.0.1:{port}/json/list", timeout=30).read())
            if found := [one["webSocketDebuggerUrl"] for one in pages if one["url"].startswith(url)]:
                return found[0]
        time.sleep(0.1)
    pytest.fail("Chromium did not open the page")
