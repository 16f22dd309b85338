"""The page as a file: complete, self-contained, the same each time, and deaf to markup in the data."""

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser

import pyarrow as pa
import pytest

from penstock.core.spec import Spec, View
from penstock.errors import DatasetError, PenstockError, SchemaError, SpecError
from penstock.report import build, page
from penstock.report.words import duration, size

EVIL = "<script>alert(1)</script>"


class Document(HTMLParser):
    """The parts of a page that the tests look at."""

    def __init__(self, text):
        super().__init__()
        self.scripts, self.plots, self.tags, self.words = [], {}, [], []
        self._inside = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self._inside = (tag, dict(attributes))
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        tag, attributes = self._inside or ("", {})
        if tag == "script" and attributes.get("type") == "application/json":
            self.plots[attributes["id"]] = json.loads(data)
        elif tag == "script":
            self.scripts.append(data)
        elif tag != "style":
            self.words.append(" ".join(data.split()))

    @property
    def text(self):
        return " ".join(word for word in self.words if word)


@pytest.fixture(scope="module")
def built(world, tmp_path_factory):
    out = build(world.spec, tmp_path_factory.mktemp("page") / "sub" / "report.html", file="families.toml")
    return out.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def document(built):
    return Document(built)


def test_the_head_says_what_when_where_and_by_what(document):
    assert f"Families & {EVIL}" in document.text
    assert re.search(r"20\d\d-\d\d-\d\d \d\d:\d\d UTC on ", document.text)
    assert "runner inline , pipeline file families.toml" in document.text


def test_the_tiles_add_up_both_pipelines(document):
    for words in ("units 5", "rows in “clusters” 96", "bad rows 4", "units skipped 0", "rows/s"):
        assert words in document.text


def test_all_plots_are_there(document):
    maps, clusters = {"map0", "map1", "map2"}, {"eigenvalues", "agreement", "cross"}
    runs = {"run0-throughput", "run0-seconds", "run0-busy", "run1-seconds", "run1-busy"}
    assert set(document.plots) == maps | clusters | runs
    places = {attributes["data-plot"] for _, attributes in document.tags if "data-plot" in attributes}
    assert places == set(document.plots)


def test_the_clusters_are_held_against_the_truth(document):
    for words in ("chosen by the eigengap 4", "adjusted Rand index with “family” 1.00", "purity 100 %"):
        assert words in document.text
    assert "100 % 24 % by chance" in document.text
    assert document.plots["agreement"]["data"][1]["x"] == [2, 3, 4, 5, 6]


def test_lineage_weights_licences_and_quarantine_are_shown(document):
    assert "Read 4 files:" in document.text
    assert "abc123" * 10 in document.text
    assert "Weights: toy weights, licence CC-BY-4.0" in document.text
    assert "4 rows put aside" in document.text
    assert f"bad letters {EVIL}" in document.text


def test_markup_in_the_data_stays_text(built, document):
    assert len(document.scripts) == 2
    assert EVIL not in built
    assert "<b>odd" not in built
    assert built.count("</script>") == 2 + len(document.plots)


def test_only_the_two_own_scripts_may_run_and_nothing_may_be_loaded(document):
    (policy,) = (a["content"] for tag, a in document.tags if a.get("http-equiv") == "Content-Security-Policy")
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in document.scripts]
    assert f"script-src 'sha256-{hashes[0]}' 'sha256-{hashes[1]}';" in policy
    assert policy.startswith("default-src 'none';")
    loading = [(tag, a) for tag, a in document.tags if {"src", "srcset", "poster"} & set(a) or tag == "link"]
    assert loading == []


def test_the_page_is_small_enough_to_be_sent(built):
    assert len(built.encode()) < 6_000_000


def test_the_same_datasets_give_the_same_page(world, built, tmp_path):
    again = build(world.spec, tmp_path / "again.html", file="families.toml").read_text(encoding="utf-8")
    assert again == built


def test_a_dataset_alone_is_drawn_with_all_that_it_was_made_from(world, tmp_path):
    found = Document(build(world.clusters + "/", tmp_path / "one.html").read_text(encoding="utf-8"))
    assert {"map0", "eigenvalues", "run0-seconds", "run1-seconds"} <= set(found.plots)
    assert "agreement" not in found.plots
    assert "embed" in found.text


def test_names_choose_what_the_pointer_shows(world, tmp_path):
    view = View("", "embedding", ("family",))
    found = Document(build(world.embeddings, tmp_path / "n.html", view, ["family", "id"]).read_text(encoding="utf-8"))
    assert found.plots["map0"]["data"][1]["text"][0] == "globin · 0.fasta:3"


def test_a_dataset_whose_runs_are_gone_is_still_shown(world, tmp_path):
    root = shutil.copytree(world.embeddings, tmp_path / "copy", ignore=shutil.ignore_patterns("runs"))
    found = Document(build(str(root), tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "No record of a run lies beside this dataset." in found.text
    assert "rows in “copy” 96" in found.text


def test_a_column_that_is_not_there_is_refused_with_those_that_are(world, tmp_path):
    with pytest.raises(SchemaError, match="the report needs a column 'embeding'; there are: id, family, embedding"):
        build(world.embeddings, tmp_path / "page.html", View("", "embeding"))


def test_no_dataset_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(DatasetError, match="run the pipeline that writes it"):
        build(str(tmp_path / "none"), tmp_path / "page.html")


def test_no_pipeline_is_refused(tmp_path):
    with pytest.raises(SpecError, match=r"there is no pipeline to report on; write \[pipeline.NAME\]"):
        build(Spec(()), tmp_path / "page.html")


def test_a_package_that_is_missing_is_named(world, monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "plotly.offline", None)
    with pytest.raises(PenstockError, match=r"the report needs plotly: pip install 'penstock\[report\]'"):
        build(world.embeddings, tmp_path / "page.html", View(""))


def test_rows_without_a_finite_vector_are_left_out():
    kind = pa.fixed_shape_tensor(pa.float32(), [2])
    rows = pa.array([[0, 1], [float("nan"), 1], None, [2, 2]], pa.list_(pa.float32(), 2))
    table = pa.table({"v": pa.ExtensionArray.from_storage(kind, rows), "at": [0, 1, 2, 3]})
    assert page._finite(table, "v")["at"].to_pylist() == [0, 3]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0123, "12 ms"), (9.96, "10.0 s"), (61, "1 min 01 s"), (3600 * 5 + 70, "5 h 01 min")]
)
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(512, "0.5 KiB"), (3 << 20, "3.0 MiB"), (5 << 29, "2.50 GiB")])
def test_sizes_read_well(count, text):
    assert size(count) == text
