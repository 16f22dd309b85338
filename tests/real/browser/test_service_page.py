"""The service's pages in a real Chromium: a sequence is pasted, its answer and its neighbours are seen."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote
from urllib.request import urlopen

import pytest
from websockets.sync.client import connect

PIPELINE = """
[report]
pipeline = "line"
map = "profile"
colour = ["kind"]

[pipeline.line]
source = { use = "jsonl", uri = "in.jsonl", columns = { sequence = "string", kind = "string" } }
sink = { use = "parquet", uri = "out" }

[[pipeline.line.step]]
use = "clean"
alphabet = "protein"

[[pipeline.line.step]]
use = "function"
function = "profiles:profile"
adds = { profile = "float32[4]" }
"""

PROFILES = """
import numpy as np
from penstock.core.batch import tensor_column, with_columns

def profile(batch):
    rows = [[text.count(letter) for letter in "ACDE"] for text in batch["sequence"].to_pylist()]
    return with_columns(batch, {"profile": tensor_column(np.array(rows, np.float32))})
"""


TOKEN = "a-token-of-these-tests-" + "0" * 16


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A service with a map, in one process; other tests have it on Ray."""
    with _served(tmp_path_factory.mktemp("service")) as found:
        yield found


@pytest.fixture(scope="module")
def closed(tmp_path_factory):
    """The same that asks for a token."""
    with _served(tmp_path_factory.mktemp("closed"), PENSTOCK_TOKEN=TOKEN) as found:
        yield found


@contextmanager
def _served(folder, **around):
    rows = [{"sequence": "ACDE"[n % 4] * (1 + n // 4), "kind": f"<b>k{n % 4}</b>"} for n in range(40)]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "profiles.py").write_text(PROFILES)
    (folder / "line.toml").write_text(PIPELINE)
    program, env = str(Path(sys.executable).parent / "penstock"), {**os.environ, "PYTHONPATH": str(folder), **around}
    subprocess.run([program, "run", "--only", "line", str(folder / "line.toml")], env=env, check=True)
    with (folder / "log").open("w") as log:
        command = [program, "serve", str(folder / "line.toml"), "--runner", "inline", "--port", "0"]
        server = subprocess.Popen(command, stdout=log, stderr=log, env=env)
    try:
        yield _address(server, folder / "log")
    finally:
        server.terminate()
        server.wait(30)


def _address(server, log, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        if found := re.search(r"served at (http://\S+)", log.read_text()):
            return found[1]
        time.sleep(0.1)
    pytest.fail(f"it did not come up:\n{log.read_text()}")


def _chromium(profile):
    program = shutil.which("chromium") or shutil.which("google-chrome")
    assert program, "this test needs a browser: apt-get install chromium"
    return [
        program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-sync", "--disable-background-networking",
        "--disable-component-update", "--no-first-run", f"--user-data-dir={profile}",
    ]  # fmt: skip


@pytest.fixture
def visit(address, tmp_path):
    """Opens a page of the service; gives the DOM when all was answered, the console, and the hosts asked."""

    def visit(path):
        command = [
            *_chromium(tmp_path / "profile"), "--enable-logging=stderr", f"--log-net-log={tmp_path / 'net.json'}",
            "--virtual-time-budget=20000", "--dump-dom", address + path,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        events = [event.get("params", {}) for event in json.loads((tmp_path / "net.json").read_text())["events"]]
        asked = {
            one["url"] for one in events if "url" in one and one.get("initiator", "not an origin") != "not an origin"
        }
        return done.stdout, console, {url for url in asked if not url.startswith((address, "data:"))}

    return visit


def test_a_pasted_sequence_is_answered_and_lies_on_the_map(visit):
    dom, console, elsewhere = visit("/#" + quote("CCC"))
    assert console == []
    assert elsewhere == set()
    assert "1-clean → 2-function" in dom
    assert re.search(r"Answered in \d+ ms", dom)
    assert "<td>profile</td><td>[0,3,0,0]</td>" in dom
    assert len(re.findall(r'<circle class="point', dom)) == 40
    assert len(re.findall(r'<circle class="point[^"]* near', dom)) == 10
    assert dom.count('<circle class="new"') == 1
    first = re.search(r"Nearest to row 1</h2><table>.*?</tr><tr><td>(\w+)</td><td>(.*?)</td>", dom)
    assert set(first[1]) == {"C"}
    assert first[2] == "&lt;b&gt;k1&lt;/b&gt;", "markup in the data is shown and not run"


def test_fasta_is_taken_as_its_records_and_bad_ones_are_told(visit):
    dom, console, _ = visit("/#" + quote(">a first\nCC\nC\n>b\nC4\n>c\nDD\n"))
    assert len(re.findall(r'class="card row"', dom)) == 2
    assert "<td>CCC</td>" in dom
    assert re.search(r'class="error">Row 2 was refused by 1-clean: .*4', dom)
    assert dom.count('<circle class="new"') == 2
    assert [line for line in console if "207" not in line] == []


def test_the_api_page_lists_what_there_is(visit, address):
    dom, console, elsewhere = visit("/docs")
    assert console == []
    assert elsewhere == set()
    assert dom.count('class="card operation"') == 7
    assert f"curl {address}/rows -H" in dom
    assert '{"rows":[{"sequence":"TEXT"}]}' in dom


# --- with mouse and keys ---------------------------------------------------------------------------------


class Page:
    """A page of a Chromium that is told what to do: https://chromedevtools.github.io/devtools-protocol/."""

    def __init__(self, socket):
        self._socket, self._number = socket, 0

    def call(self, method, **params):
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while (answer := json.loads(self._socket.recv(timeout=60))).get("id") != self._number:
            pass
        return answer["result"]

    def value(self, expression):
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

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

    def until(self, expression, seconds=30):
        end = time.monotonic() + seconds
        while not self.value(expression):
            assert time.monotonic() < end, self.value("document.body.innerText")
            time.sleep(0.05)


@pytest.fixture
def page(closed, tmp_path):
    """The page of the service that asks for a token, as it is opened."""
    profile = tmp_path / "profile"
    browser = subprocess.Popen(
        [*_chromium(profile), "--remote-debugging-port=0", closed], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        with connect(_target(browser, profile / "DevToolsActivePort", closed), max_size=None) as socket:
            yield Page(socket)
    finally:
        browser.terminate()
        browser.wait(30)


def _target(browser, file, address, seconds=60):
    """Where the page that shows *address* is spoken to."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and browser.poll() is None:
        if file.exists() and (port := file.read_text().split("\n")[0]):
            pages = json.loads(urlopen(f"http://127.0.0.1:{port}/json/list", timeout=30).read())
            if found := [one["webSocketDebuggerUrl"] for one in pages if one["url"].startswith(address)]:
                return found[0]
        time.sleep(0.1)
    pytest.fail("Chromium did not open the page")


STATE = "document.getElementById('state').textContent"


def test_a_sequence_is_typed_and_sent_and_the_token_is_asked_for(page):
    page.until(f"{STATE}.includes('401')")
    page.write("#text", "CCC")
    page.write("#token", "not-the-token-" + "1" * 16)
    page.click("button[type=submit]")
    page.until(f"{STATE}.startsWith('401: a token is needed')")
    assert page.value("document.querySelectorAll('.row').length") == 0

    page.write("#token", TOKEN)
    page.click("button[type=submit]")
    page.until(f"{STATE}.startsWith('Answered in')")
    assert "[0,3,0,0]" in page.value("document.getElementById('answer').textContent")
    page.until("document.querySelectorAll('circle.new').length == 1")

    page.write("#text", ">a\nCCC\n>b\nDD\n")
    page.click("button[type=submit]")
    page.until("document.querySelectorAll('.row').length == 2")
    page.until("document.querySelectorAll('circle.new').length == 2")
    assert TOKEN not in page.value("document.documentElement.outerHTML"), "the token stands in no markup"
