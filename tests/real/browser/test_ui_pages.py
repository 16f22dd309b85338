"""`penstock ui` as a process, and its pages in a real Chromium, over a run that has ended and one that goes on."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import chromium

PROGRAM = str(Path(sys.executable).parent / "penstock")
EVIL = "<script>document.title='run'</script>"
PIPELINE = """
[pipeline.line]
source = { use = "jsonl", uri = "in.jsonl", columns = { id = "string", sequence = "string" }, unit_bytes = 400 }
sink = { use = "parquet", uri = "out/NAME" }

[[pipeline.line.step]]
use = "clean"
alphabet = "protein"

[[pipeline.line.step]]
use = "function"
function = "profiling:profile"
adds = { profile = "float32[4]" }
"""
# The live one goes only as far as a file allows, so that the test says how far that is.
PROFILING = """
import os, time
from pathlib import Path
import numpy as np
from penstock.core.batch import tensor_column, with_columns

def profile(batch):
    rows = [[text.count(letter) for letter in "ACDE"] for text in batch["sequence"].to_pylist()]
    held = os.environ.get("HELD")
    while held and len([*Path(held).glob("out/live/ledger/*/*.json")]) >= int(Path(held, "allowed").read_text()):
        time.sleep(0.02)
    return with_columns(batch, {"profile": tensor_column(np.array(rows, np.float32).reshape(-1, 4))})
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with a run that has ended and one that stands after its second unit."""
    folder = tmp_path_factory.mktemp("ui")
    rows = [{"id": f"r{at}", "sequence": EVIL if at % 10 == 3 else "ACDE"[: 1 + at % 4] * 5} for at in range(60)]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "profiling.py").write_text(PROFILING)
    env = {**os.environ, "PYTHONPATH": str(folder)}
    for name in ("done", "live"):
        (folder / f"{name}.toml").write_text(PIPELINE.replace("NAME", name))
    run = [PROGRAM, "run", "--runner", "inline"]
    subprocess.run([*run, str(folder / "done.toml")], env=env, check=True, capture_output=True)
    allow(folder, 2)
    held = {**env, "HELD": str(folder)}
    with (folder / "run.log").open("w") as log:
        live = subprocess.Popen([*run, str(folder / "live.toml")], env=held, stdout=log, stderr=log)
    try:
        _until(lambda: finished(folder) == 2, folder / "run.log")
        yield folder
    finally:
        allow(folder, 1000)
        live.wait(240)


def allow(folder, units):
    """Let the live run go on until so many units are finished."""
    (folder / "new").write_text(str(units))
    (folder / "new").replace(folder / "allowed")


def finished(folder):
    """How many units the live run has finished."""
    return len(list(folder.glob("out/live/ledger/*/*.json")))


@pytest.fixture(scope="module")
def address(root):
    with (root / "ui.log").open("w") as log:
        server = subprocess.Popen([PROGRAM, "ui", str(root)], stdout=log, stderr=log)
    try:
        _until(lambda: "is shown at" in (root / "ui.log").read_text(), root / "ui.log")
        yield re.search(r"is shown at (http://127\.0\.0\.1:\d+)/\n", (root / "ui.log").read_text())[1]
    finally:
        server.terminate()
        assert server.wait(120) is not None


def _until(ready, log, seconds=240):
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)


@pytest.fixture
def visit(address, tmp_path):
    """Opens a page, takes its picture and gives its DOM; the console stays empty, and nobody else is asked."""

    def visit(path, name):
        picture = tmp_path / f"{name}.png"
        looks = ("--hide-scrollbars", "--window-size=1280,1800", f"--screenshot={picture}")
        found = chromium.visit(address + path, tmp_path, *looks)
        assert picture.stat().st_size > 10_000
        assert found.console == []
        assert {url for url in found.requests if not url.startswith((address, "data:"))} == set()
        return found.dom

    return visit


def test_the_overview_tells_both_apart(visit, root):
    allow(root, 3)  # only now, since a run that leaves no sign of life for a minute is not said to be running
    _until(lambda: finished(root) == 3, root / "run.log")
    page = visit("/", "overview")
    assert re.search(r'class="badge running" data-state="out/live">running<', page)
    assert re.search(r'class="badge finished" data-state="out/done">finished<', page)
    assert re.search(r'data-text="ledger@out/live">3 units, \d+ rows<', page)


@pytest.fixture
def opened(address, tmp_path):
    """A page that stays open: gives the value of an expression in it."""
    with chromium.opened(f"{address}/dataset/out/live", tmp_path) as page:
        yield page.value


def test_an_open_page_follows_the_run_to_its_commit(opened, root, visit):
    units = "document.querySelector('[data-text=units]')?.textContent"
    allow(root, 3)
    _until(lambda: opened(units) == "3", root / "ui.log")
    opened("document.body.marked = true")
    allow(root, 5)
    _until(lambda: opened(units) == "5", root / "ui.log")
    assert opened("document.body.marked") is True, "the numbers have changed in the page that was open"
    of_step = opened("document.querySelector('[data-text=\"2.units\"]').textContent")
    assert of_step in {f"{count} units" for count in range(2, 6)}, "those of the last minute: two are new"
    assert 'data-text="units">5<' in visit("/dataset/out/live", "live")
    allow(root, 1000)
    _until(lambda: opened("document.querySelector('.badge')?.textContent") == "finished", root / "ui.log")
    assert opened("document.body.marked") is None, "a new version has the page drawn anew"
    tiles = "document.querySelector('.tiles')?.textContent ?? ''"
    _until(lambda: "rows in version 1" in (opened(tiles) or ""), root / "ui.log")


def test_the_pages_of_a_run_that_has_ended(visit):
    page = visit("/dataset/out/done", "dataset")
    assert "finished" in page
    assert re.findall(r'data-box="([^"]+)"', page) == ["read", "1", "2", "write"]
    assert len(re.findall(r'<path class="course" d="M[\d.,ML]+Z"', page)) == 2
    assert "float32[4], norm 5: 5, 0, 0, 0" in page
    assert page.count('<td class="path">r') == 20

    page = visit("/quarantine/out/done", "quarantine")
    assert "6 rows, page 1 of 1." in page
    assert page.count("&lt;script&gt;document.title='run'&lt;/script&gt;") == 6
    assert "<title>Quarantine of out/done · Penstock</title>" in page
