"""The service's pages in a real Chromium: a sequence is pasted, its answer and its neighbours are seen."""

import json
import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import chromium

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
        server.wait(120)


def _address(server, log, seconds=240):
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        if found := re.search(r"served at (http://\S+)", log.read_text()):
            return found[1]
        time.sleep(0.1)
    pytest.fail(f"it did not come up:\n{log.read_text()}")


@pytest.fixture
def visit(address, tmp_path):
    """Opens a page of the service; gives the DOM when all was answered, the console, and the hosts asked."""

    def visit(path):
        found = chromium.visit(address + path, tmp_path, "--virtual-time-budget=20000")
        elsewhere = {url for url in found.requests if not url.startswith((address, "data:"))}
        return found.dom, found.console, elsewhere

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


@pytest.fixture
def page(closed, tmp_path):
    """The page of the service that asks for a token, as it is opened."""
    with chromium.opened(closed, tmp_path) as found:
        yield found


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
