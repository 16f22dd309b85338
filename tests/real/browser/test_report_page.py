"""The report's page in a real Chromium, from a file, with nothing to be loaded from anywhere."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from penstock.core import plugins
from penstock.report import build

WORLD = Path(__file__).parents[2] / "unit" / "report" / "conftest.py"
DARK = "--blink-settings=preferredColorScheme=0"


@dataclass(frozen=True)
class Visit:
    """What a browser made of a page: its DOM when all scripts had run, its console, its requests."""

    dom: str
    console: list[str]
    requests: set[str]

    def of_class(self, name):
        return len(re.findall(rf'class="{name}["\s]', self.dom))


def visit(path, folder, *options):
    """Open *path* in a headless browser with a profile of its own."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    assert program, "this test needs a browser: apt-get install chromium"
    command = [
        program, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,2400", "--enable-logging=stderr",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run",
        f"--user-data-dir={folder / 'profile'}", f"--log-net-log={folder / 'net.json'}",
        "--virtual-time-budget=10000", *options, "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Visit(done.stdout, console, requests(json.loads((folder / "net.json").read_text())))


def requests(log):
    """The addresses that the page asked for over a network, by the browser's own log.

    What the browser asks for on its own account has no origin for an initiator.
    """
    found = [event.get("params", {}) for event in log["events"]]
    asked = {one["url"] for one in found if one.get("initiator", "not an origin") != "not an origin"}
    return {url for url in asked if not url.startswith("file:")}


@pytest.fixture(scope="session")
def pages(tmp_path_factory):
    """The page of a whole pipeline file, made as the unit tests make it."""
    spec = importlib.util.spec_from_file_location("report_world", WORLD)
    made = sys.modules["report_world"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    folder = tmp_path_factory.mktemp("browser")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plugins, "entry_points", made.entries)
        plugins.named.cache_clear()
        page = build(made.make(folder / "data").spec, folder / "report.html")
    plugins.named.cache_clear()
    return page


@pytest.fixture(scope="session")
def seen(pages, tmp_path_factory):
    return visit(pages, tmp_path_factory.mktemp("light"))


def test_the_console_stays_empty(seen):
    assert seen.console == []


def test_nothing_is_asked_of_the_network(seen):
    assert seen.requests == set()


def test_a_page_that_does_use_the_network_would_be_caught(tmp_path):
    page = tmp_path / "loud.html"
    page.write_text(
        '<img src="http://127.0.0.1:9/pixel.png"><script>console.error("oh"); fetch("http://127.0.0.1:9/")</script>'
    )
    found = visit(page, tmp_path)
    assert found.requests == {"http://127.0.0.1:9/pixel.png", "http://127.0.0.1:9/"}
    assert any("oh" in line for line in found.console)


def test_tiles_tables_and_all_plots_are_drawn(seen):
    assert seen.dom.count("<dt>") >= 10
    assert seen.of_class("step") >= 6
    places = seen.dom.count("data-plot=")
    assert places == 11
    assert len(re.findall(r'<div class="plot[^>]*js-plotly-plot', seen.dom)) == places


def test_each_row_is_a_point_in_each_map_and_each_cell_has_its_number(seen):
    parts = re.split(r'data-plot="', seen.dom)
    maps = [part for part in parts if part.startswith("map")]
    assert [len(re.findall(r'<path class="point"', part)) for part in maps] == [96, 96, 96]
    (cross,) = (part for part in parts if part.startswith("cross"))
    assert len(re.findall(r"heatmap-label", cross)) >= 1


def test_markup_in_the_data_is_shown_and_not_run(seen):
    assert "bad letters &lt;script&gt;alert(1)&lt;/script&gt;" in seen.dom
    assert len(re.findall(r"<script(?! type=.application/json)", seen.dom)) == 2


def test_a_reader_who_prefers_dark_gets_light_letters_in_plots(pages, seen, tmp_path):
    dark = visit(pages, tmp_path, DARK)
    light_ink, dark_ink = "fill: rgb(29, 35, 48)", "fill: rgb(230, 233, 238)"
    assert light_ink in seen.dom
    assert dark_ink not in seen.dom
    assert dark_ink in dark.dom
    assert light_ink not in dark.dom


@pytest.mark.parametrize("width", [360, 800, 1400])
def test_nothing_sticks_out_to_the_side(pages, tmp_path, width):
    frame = tmp_path / "frame.html"
    frame.write_text(f"""
        <iframe src="{pages.as_uri()}" style="width: {width}px; height: 3000px; border: 0"></iframe>
        <script>onload = () => setTimeout(() => {{
            const page = document.querySelector("iframe").contentDocument.documentElement;
            document.title = `${{page.scrollWidth - page.clientWidth}} past the edge, height ${{page.scrollHeight}}`;
        }}, 3000)</script>""")
    found = visit(frame, tmp_path, "--allow-file-access-from-files")
    assert found.console == []
    past, height = re.search(r"<title>(-?\d+) past the edge, height (\d+)</title>", found.dom).groups()
    assert int(past) == 0
    assert int(height) > 3000
