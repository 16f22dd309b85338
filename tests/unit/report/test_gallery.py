import re

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from penstock.cli import app
from penstock.core.nouns import Record, Unit
from penstock.errors import SchemaError
from penstock.formats.video import jpeg
from penstock.report import build as report
from penstock.report.gallery import build
from penstock.sinks.parquet import Parquet


def picture(level):
    return jpeg(np.full((18, 32, 3), level, np.uint8))


def published(root, **columns):
    table = pa.table(columns)
    sink, unit = Parquet(str(root)), Unit.of("memory", "1", 0, table.num_rows)
    provenance = {"schema": table.schema.serialize().to_pybytes().hex(), "fingerprint": "0" * 64}
    return sink.commit(lambda: [(unit, Record(unit.key, sink.write(unit, table)))], provenance).uri


@pytest.fixture
def curated(tmp_path):
    """Two kept clips, two duplicates of the first, a dark one, and one without a preview."""
    return published(
        tmp_path / "clips",
        row=[0, 1, 2, 3, 4, 5],
        id=[f"film <{at}>" for at in range(6)],
        preview=pa.array([*(picture(40 * at) for at in range(5)), None], pa.binary()),
        keep=[True, False, False, False, True, True],
        duplicate_of=pa.array([None, 0, 0, None, None, None], pa.int64()),
        similarity=pa.array([None, 0.97, 0.99, None, None, None], pa.float32()),
        reason=["", "", "", "dark", "", ""],
        start_seconds=[0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
        stop_seconds=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        sharpness=pa.array([5.0] * 6, pa.float32()),
    )


def section(page, title):
    """What stands below a heading, up to the next one."""
    return page.split(f"<h2>{title}</h2>")[1].split("<h2>")[0]


def shown(text):
    return re.findall(r'title="film &lt;(\d)&gt;"', text)


def test_every_fate_has_its_shelf(curated, tmp_path):
    page = build(curated, tmp_path / "gallery.html").read_text()
    assert shown(section(page, "Kept")) == ["0", "4", "5"]
    assert shown(section(page, "Dropped: near-duplicates")) == ["1", "2"]
    assert shown(section(page, "Dropped: dark")) == ["3"]
    assert "sharpness 5" in section(page, "Kept")
    assert "3.0 to 4.0 s" in section(page, "Dropped: dark")
    assert section(page, "Kept").count("no preview") == 1


def test_duplicates_stand_beside_the_one_that_is_kept(curated, tmp_path):
    page = build(curated, tmp_path / "gallery.html").read_text()
    group = section(page, "Near-duplicates, side by side")
    assert shown(group) == ["0", "2", "1"], "the nearest first"
    assert group.index("similarity 0.990") < group.index("similarity 0.970")


def test_the_page_needs_no_network_and_takes_no_name_for_markup(curated, tmp_path):
    page = build(curated, tmp_path / "gallery.html", title="<script>alert(1)</script>").read_text()
    assert "<script>alert" not in page
    assert "film <0>" not in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert len(page) < 100_000


def test_of_many_clips_some_are_shown(tmp_path):
    names = [f"film <{at}>" for at in range(10)]
    uri = published(tmp_path / "many", id=names, preview=pa.array([picture(9)] * 10, pa.binary()))
    page = build(uri, tmp_path / "gallery.html", most=4).read_text()
    assert shown(page) == ["0", "3", "6", "9"]
    assert "4 of 10 are shown" in page


def test_previews_are_needed(tmp_path):
    uri = published(tmp_path / "plain", id=["a"])
    with pytest.raises(SchemaError, match=r"the gallery of .* needs a column 'preview'; there are: id"):
        build(uri, tmp_path / "gallery.html")


def test_the_command_says_where_the_page_is(curated, tmp_path):
    page = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["gallery", curated, "--out", str(page), "--title", "Mine"])
    assert done.exit_code == 0, done.output
    assert "<title>Mine</title>" in page.read_text()
    assert "gallery: file://" in done.output.replace("\n", "")


def test_a_report_has_the_clips_of_its_last_dataset_with_pictures(curated, tmp_path):
    page = report(curated, tmp_path / "report.html").read_text()
    inside = page.split('<section id="gallery">')[1].split('<section id="runs">')[0]
    kept, duplicates = inside.split("<h3>Kept</h3>")[1], inside.split("<h3>Near-duplicates, side by side</h3>")[1]
    assert shown(kept.split("<h3>")[0]) == ["0", "4", "5"]
    assert shown(duplicates.split("<h3>")[0]) == ["0", "2", "1"]
    assert '<a href="#gallery">Clips</a>' in page


def test_a_report_without_pictures_has_no_clips(tmp_path):
    uri = published(tmp_path / "plain", id=["a"], preview=["no picture"])
    assert 'id="gallery"' not in report(uri, tmp_path / "report.html").read_text()
