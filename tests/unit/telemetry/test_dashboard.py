"""The Grafana dashboard asks for what a run exposes."""

import json
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from seeing import text_of, told

from penstock.core.nouns import Pipeline, Step
from penstock.runners.inline import Inline
from penstock.sinks.parquet import Parquet
from penstock.telemetry.metrics import RunMetrics
from penstock.testing.parts import Numbers, Squares

FILE = Path(__file__).parents[3] / "deploy" / "grafana" / "penstock.json"
DASHBOARD = json.loads(FILE.read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
METRIC = re.compile(r"\bpenstock_\w+")


@pytest.fixture(scope="module")
def exposed(tmp_path_factory) -> dict[str, set[str]]:
    """Labels of each sample of a run with a job."""
    metrics = RunMetrics.made("inline")
    sink = Parquet(str(tmp_path_factory.mktemp("run") / "out"))
    Inline().run(Pipeline("line", Numbers(3), sink, (Step(Squares(bad=(5,))),)), metrics)
    told(metrics)
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text_of(metrics)):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def asked() -> list[str]:
    targets = [target["expr"] for panel in PANELS for target in panel["targets"]]
    return [
        *targets,
        *(variable["query"] for variable in DASHBOARD["templating"]["list"] if variable["type"] == "query"),
    ]


def test_each_metric_that_is_asked_for_is_exposed(exposed):
    names = {name for expression in asked() for name in METRIC.findall(expression)}
    assert names <= exposed.keys()
    assert len(names) > 15


def test_each_label_that_is_asked_for_is_there(exposed):
    for expression in asked():
        for name, inside in re.findall(r"\b(penstock_\w+)\{([^}]*)\}", expression):
            labels = {part.partition("=")[0].strip("~! ") for part in inside.split(",")}
            assert labels <= exposed[name], expression


def test_every_metric_of_a_run_has_a_panel(exposed):
    names = {name for expression in asked() for name in METRIC.findall(expression)}
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}
    there = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in exposed}
    there -= {name.removesuffix("_total") for name in there if name.endswith("_total")}  # of _created
    assert there - shown == set()


def test_the_page_tells_of_each_metric_and_its_labels(exposed):
    page = (FILE.parents[2] / "docs" / "telemetry.md").read_text()
    rows = re.findall(r"^\| `(penstock_\w+)` \| ([^|]*) \|", page, re.MULTILINE)
    told = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}
    there: dict[str, set[str]] = {}
    for name, labels in exposed.items():
        if not name.endswith("_created"):
            there.setdefault(re.sub(r"_(bucket|sum|count)$", "", name), set()).update(labels - {"le"})
    assert told == there


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_has_title_unit_source_and_room(panel):
    assert panel["title"]
    assert panel["description"]
    assert panel["fieldConfig"]["defaults"]["unit"]
    sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)
    assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24


def test_the_file_can_be_imported_anywhere():
    assert DASHBOARD["schemaVersion"] >= 41
    assert DASHBOARD["id"] is None
    assert DASHBOARD["uid"] == "penstock-run"
    variables = {variable["name"]: variable["type"] for variable in DASHBOARD["templating"]["list"]}
    assert variables == {"datasource": "datasource", "pipeline": "query", "cluster": "query"}
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in DASHBOARD["panels"]]
    assert len(set(places)) == len(places)
