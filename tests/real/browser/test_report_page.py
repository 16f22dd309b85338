"""The report's page in a real Chromium, from a file, with nothing to be loaded from anywhere."""

import importlib.util
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from penstock.core import plugins
from penstock.report import build

sys.path.insert(0, str(Path(__file__).parent))
import chromium

WORLD = Path(__file__).parents[2] / "unit" / "report" / "conftest.py"
DARK = "--blink-settings=preferredColorScheme=0"


def visit(path, folder, *options):
    """A page that is a file; what it asks for over a network."""
    looks = ("--window-size=1400,2400", "--virtual-time-budget=10000")
    found = chromium.visit(path.as_uri(), folder, *looks, *options)
    return replace(found, requests={url for url in found.requests if not url.startswith("file:")})


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
