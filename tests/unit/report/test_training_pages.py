"""What the pages say of trainings and of searches."""

import dataclasses
import json
import math
import re

import pytest

from penstock.core.nouns import Fit
from penstock.core.spec import Tune
from penstock.report import build, plots, search
from penstock.tables.schemes import Exact
from penstock.trainings.history import History
from penstock.trainings.search import Ended
from penstock.trainings.skipgram import Skipgram

LINES = [
    {"epoch": 1.0, "loss": 3.0, "likeness": math.nan, "rate": 0.05},
    {"epoch": 2.0, "loss": 2.5, "likeness": 0.75, "rate": 0.02},
    {"epoch": 3.0, "loss": 2.25, "likeness": 0.875, "rate": 0.01},
]


def told(world, folder, lines):
    """The world's file with a training that has said *lines*."""
    training = Skipgram(world.embeddings, str(folder / "table"), Exact(9), epochs=5)
    history = History(training.uri, 0)
    for line in lines:
        history.add(line)
    return dataclasses.replace(world.spec, fits=(Fit("vectors <b>of</b> ids", training),))


def figures(page):
    found = re.findall(r'<script type="application/json" id="([^"]+)">(.*?)</script>', page, re.DOTALL)
    return {key: json.loads(text) for key, text in found}


def test_the_page_of_a_file_shows_loss_and_likeness_of_its_trainings(world, tmp_path):
    page = build(told(world, tmp_path, LINES), tmp_path / "report.html").read_text()
    found = figures(page)
    assert found["train0-loss"]["data"][0]["x"] == [1, 2, 3]
    assert found["train0-loss"]["data"][0]["y"] == [3, 2.5, 2.25]
    assert found["train0-likeness"]["data"][0]["y"] == [None, 0.75, 0.875]
    assert '<a href="#trainings">' in page
    assert "vectors &lt;b&gt;of&lt;/b&gt; ids" in page
    words = " ".join(re.sub(r"<[^>]+>", "", page).split())
    assert "learned table from embeddings: 3 of 5 epochs, loss 2.25, likeness 0.875" in words


def test_a_training_that_has_not_begun_is_said_to_be_so(world, tmp_path):
    page = build(told(world, tmp_path, []), tmp_path / "report.html").read_text()
    assert "nothing was told of it yet" in page
    assert "train0-loss" not in page


def test_a_file_without_trainings_has_no_such_section(world, tmp_path):
    assert 'id="trainings"' not in build(world.spec, tmp_path / "report.html").read_text()


def test_a_masked_language_model_has_two_losses_and_its_accuracy():
    lines = [{"epoch": e, "loss": 1.0, "held_out_loss": 1.5, "accuracy": 0.5} for e in (1.0, 2.0)]
    loss, accuracy = plots.lesson_curves("train0", lines)
    assert [curve["name"] for curve in loss.data] == ["learned from", "held out"]
    assert loss.layout["showlegend"]
    assert accuracy.data[0]["y"] == [0.5, 0.5]


# --- searches --------------------------------------------------------------------------------------------


def ended():
    def one(number, k, rate, values, state, error=""):
        lines = [{"epoch": float(epoch), "likeness": value} for epoch, value in enumerate(values, 1)]
        named = {"pipeline.kmers.step.0.k": k, "train.table.rate": rate, "train.table.scheme.kind": "hashed"}
        return Ended(number, named, state, 2.5, lines, error)

    return [
        one(1, 9, 0.001, [0.5], "stopped"),
        one(2, 11, 0.1, [0.6, 0.7, 0.9], "done"),
        one(3, 15, 0.01, [0.7, 0.75, 0.8], "done"),
        one(4, 15, 0.02, [], "failed", "<script>alert(1)</script> has no row"),
    ]


@pytest.fixture
def tune():
    return Tune("table", {"pipeline.kmers.step.0.k": (9, 11, 15)}, seed=3)


def test_the_page_of_a_search_lists_its_trials_the_best_first(tune, tmp_path):
    found = ended()
    page = search.build(found, found[1], tune, tmp_path / "tune.html", "line.toml").read_text()
    rows = re.findall(r'<tr><td class="n">(\d)</td>', page)
    assert rows == ["2", "3", "1", "4"]
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; has no row" in page
    assert set(figures(page)) == {"parallel", "curves"}


def test_lines_of_the_parallel_axes_go_through_their_values(tune):
    found = ended()
    figure = plots.parallel_axes(found, found[1], "likeness")
    lines = {line["hovertemplate"].split(":")[0]: line["y"] for line in figure.data}
    assert lines == {
        "trial 1": [0.0, 0.0, 0.0, 0.0],
        "trial 3": [1.0, 0.5, 0.0, 0.75],
        "trial 2": [pytest.approx(1 / 3, abs=1e-4), 1.0, 0.0, 1.0],
    }, "k in a line, rate by its logarithm, one kind, likeness in a line; who failed is left out"
    assert list(lines)[-1] == "trial 2", "the best lies on top"
    assert figure.layout["xaxis"]["ticktext"] == ["k", "rate", "kind", "likeness"]


def test_curves_of_a_search_have_the_best_one_in_colour():
    found = ended()
    figure = plots.trial_curves(found, found[1], "likeness")
    assert [curve["name"] for curve in figure.data] == ["trial 1", "trial 3", "trial 4", "trial 2"]
    assert figure.data[-1]["line"]["color"] == plots.RED
    assert figure.data[-1]["y"] == [0.6, 0.7, 0.9]
