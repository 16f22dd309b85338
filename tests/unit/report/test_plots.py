"""Plots are what Plotly's own validator takes, and say what their data says."""

import json

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
import pytest

from penstock.report import plots
from penstock.report.measures import Agreement
from penstock.report.story import Run, StepStory

PLACES = np.random.default_rng(0).normal(size=(60, 2))
HOVER = [f"row {at}" for at in range(60)]
STEPS = [StepStory("read", 4, 100, 96, 4, 1.0, 0.0, 0.1, 0.0), StepStory("1-encode", 4, 96, 96, 0, 8.0, 2.0, 0.8, 0.2)]
SWEEP = {2: Agreement(0.5, 0.2, 0.3), 3: Agreement(0.9, 0.8, 0.7), 4: Agreement(0.95, -0.1, 0.6)}


def run(finished=(1.0, 2.0, 2.5, 9.0), rows=10, workers=("a:1", "b:2")):
    lines = [
        {
            "unit": str(at), "step": step, "seconds": 0.5, "waited_seconds": 0.1, "rows_in": rows, "rows_out": rows,
            "rows_bad": 0, "worker": workers[at % len(workers)], "finished": 1000 + end, "rss_bytes": (at + 1) << 30,
        }
        for at, end in enumerate(finished)
        for step in ("read", "write")
    ]  # fmt: skip
    return Run({"started": 1000.0, "seconds": 10.0}, pa.Table.from_pylist(lines))


FIGURES = [
    plots.scatter("map", "family", PLACES, ["a", "b", None] * 20, HOVER),
    plots.scatter("map", "length", PLACES, PLACES[:, 0].tolist(), HOVER),
    plots.scatter("map", "", PLACES, [""] * 60, HOVER),
    plots.eigenvalue_curve(np.array([0, 0.1, 0.9], "float32"), 2),
    plots.agreement_curves(SWEEP, 3, "family"),
    plots.cross_map([0, 1], ["a", "b", "c"], np.array([[1, 0, 5], [2, 3, 0]]), "family"),
    plots.throughput("run", run()),
    plots.step_seconds("run", STEPS),
    plots.busy_shares("run", STEPS),
    plots.peak_memory("run", run().traces),
]


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.title)
def test_plotly_takes_every_figure(figure):
    go.Figure({"data": figure.data, "layout": figure.layout})
    json.dumps([figure.data, figure.layout], allow_nan=False)
    assert figure.height >= 150


def test_each_point_is_drawn_once_under_its_class():
    values = ["b", "a", None] * 20
    traces = plots.scatter("map", "family", PLACES, values, HOVER).data
    assert [trace["name"] for trace in traces] == ["a", "b", "other or none"]
    drawn = {(text, trace["name"]) for trace in traces for text in trace["text"]}
    assert drawn == {(text, value or "other or none") for text, value in zip(HOVER, values, strict=True)}


def test_classes_look_different_up_to_24_and_the_rest_is_grey():
    values = [at % 30 for at in range(60)]
    traces = plots.scatter("map", "cluster", PLACES, values, HOVER).data
    looks = {(trace["marker"]["color"], trace["marker"]["symbol"]) for trace in traces}
    assert len(traces) == len(looks) == 25
    assert traces[-1]["name"] == "other or none"
    assert sum(len(trace["x"]) for trace in traces) == 60


def test_numbers_are_coloured_by_a_scale():
    (trace,) = plots.scatter("map", "length", PLACES, PLACES[:, 0].tolist(), HOVER).data
    assert trace["marker"]["colorscale"] == "Cividis"
    assert trace["marker"]["color"] == PLACES[:, 0].tolist()


def test_texts_cannot_be_markup_and_are_cut():
    evil = ["<a href='javascript:alert(1)'>x</a>" * 9] * 60
    (trace,) = plots.scatter("map", "<i>f</i>", PLACES, ["<b>k</b>"] * 60, evil).data
    assert "<" not in trace["text"][0] + trace["name"]
    assert trace["text"][0].endswith("…")


@pytest.mark.parametrize(
    ("values", "gap"), [([0, 0.01, 0.02, 0.9, 1], 3), ([0, 0.9, 0.95, 1.2], 3), ([0, 0, 1], 2), ([0, 1], 2)]
)
def test_the_widest_gap_is_looked_for_from_two_on(values, gap):
    assert plots.widest_gap(np.array(values)) == gap


def test_the_page_says_when_the_number_of_clusters_was_asked_for():
    values = np.array([0, 0.01, 0.02, 0.9, 1])
    assert "3 clusters, since the widest gap" in plots.eigenvalue_curve(values, 3).caption
    assert "2 clusters were asked for; the widest gap, from 2 on, comes after eigenvalue 3" in (
        plots.eigenvalue_curve(values, 2).caption
    )


def test_the_scale_of_agreement_reaches_below_zero_where_the_index_does():
    assert plots.agreement_curves(SWEEP, 3, "family").layout["yaxis"]["range"][0] == -0.1


def test_the_cross_table_keeps_its_numbers_when_classes_are_sorted():
    counts = np.array([[1, 0, 5], [2, 3, 0]])
    (heat,) = plots.cross_map([0, 1], ["a", "b", "c"], counts, "family").data
    assert heat["x"] == ["c", "b", "a"]
    assert heat["text"] == [["5", "", "1"], ["", "3", "2"]]
    np.testing.assert_allclose(np.sum(heat["z"], axis=1), 1, atol=1e-3)


def test_the_area_under_the_throughput_is_the_number_of_rows():
    (area,) = plots.throughput("run", run()).data
    assert np.sum(np.diff(area["x"]) * area["y"][:-1]) == pytest.approx(4 * 10)
    assert area["x"][-1] == 10.0


def test_peak_memory_is_the_highest_of_each_worker():
    (bars,) = plots.peak_memory("run", run().traces).data
    assert dict(zip(bars["y"], bars["x"], strict=True)) == {"b:2": 4.0, "a:1": 3.0}
