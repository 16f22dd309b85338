"""What the page of a run says of streams."""

import dataclasses
import json
import re

import pytest

from penstock.core.nouns import Stream
from penstock.report import build
from penstock.solvers.openfoam.live import Inlet

TOLD = {
    "solver_time": 1.25,
    "end_time": 2.0,
    "planes": 1250,
    "planes_per_second": 812.4,
    "first_plane_seconds": 0.5,
    "generator_waited_seconds": 1.0,
    "solver_waited_seconds": 0.002,
}
RUN = {"runner": "ray", "host": "here", "started": 0.0, "ended": False, "seconds": 2.0, "told": TOLD}
FIRST = {**RUN, "runner": "inline", "told": {**TOLD, "solver_waited_seconds": None}}


@pytest.fixture
def folder(tmp_path):
    """Of a solver that was fed 40 rows in 10 units, in two runs, and has not come to its end."""
    for name in ("run", "run/system"):
        (tmp_path / name).mkdir()
    (tmp_path / "run/system/controlDict").write_text("application icoFoam;\nendTime 2;\n")
    (tmp_path / "run/rows.json").write_text("[[4, 10]]")
    (tmp_path / "run/runs.json").write_text(json.dumps([RUN, FIRST]))
    return tmp_path / "run"


def words(world, folder):
    stream = Stream("channel <b>flow</b>", world.spec.pipelines[0].source, Inlet("case", str(folder)))
    page = build(dataclasses.replace(world.spec, streams=(stream,)), folder / "report.html").read_text()
    assert '<a href="#streams">' in page
    section = re.search(r'<section id="streams">.*?</section>\s*</section>', page, re.DOTALL)[0]
    return " ".join(re.sub(r"<[^>]+>", " ", section).split())


def test_the_page_tells_planes_pace_and_who_waited(world, folder):
    told = words(world, folder)
    assert "channel &lt;b&gt;flow&lt;/b&gt;" in told
    assert "Inlet was fed 40 rows of 10 units; it has not come to its end yet" in told
    assert f"Its result lies in {folder}" in told
    assert "ray on here before its end 1.25 of 2 1250 812 500 ms 1.0 s (50%) 2 ms (0%) 2.0 s" in told
    assert "inline on here before its end 1.25 of 2 1250 812 500 ms 1.0 s (50%) unknown 2.0 s" in told


def test_a_stream_without_a_record_is_said_to_be_so(world, folder):
    (folder / "runs.json").unlink()
    assert "No record of a run lies beside it." in words(world, folder)


def test_a_file_without_streams_has_no_such_section(world, tmp_path):
    assert 'id="streams"' not in build(world.spec, tmp_path / "report.html").read_text()
