"""Trainings and searches in a real Chromium: all plots are drawn, under the page's own policy, without a network."""

import importlib.util
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from penstock.core.nouns import Fit
from penstock.core.spec import Tune
from penstock.report import build, search
from penstock.tables.schemes import Exact
from penstock.trainings.history import History
from penstock.trainings.search import Ended
from penstock.trainings.skipgram import Skipgram

HERE = Path(__file__).parent


def module(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    made = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


visit = module("report_visit", HERE / "test_report_page.py").visit


def course(values):
    return [{"epoch": float(epoch), "loss": 3 - value, "likeness": value} for epoch, value in enumerate(values, 1)]


@pytest.fixture(scope="module")
def report_page(tmp_path_factory):
    """The page of a file with a training."""
    world = module("training_world", HERE.parents[1] / "unit" / "report" / "conftest.py")
    folder = tmp_path_factory.mktemp("trained")
    with world.installed():
        made = world.make(folder / "data")
        training = Skipgram(made.embeddings, str(folder / "table"), Exact(9))
        history = History(training.uri, 0)
        for line in course([0.5, 0.7, 0.9]):
            history.add(line)
        return build(replace(made.spec, fits=(Fit("vectors", training),)), folder / "report.html")


@pytest.fixture(scope="module")
def search_page(tmp_path_factory):
    """The page of a search with six trials."""
    ended = [
        Ended(n, {"train.t.rate": 10.0**-n, "train.t.dim": 2 * n}, "done", 1.0, course([0.5, 0.5 + n / 20]))
        for n in range(1, 7)
    ]
    tune = Tune("t", {"train.t.rate": (0.1,)})
    return search.build(ended, ended[-1], tune, tmp_path_factory.mktemp("search") / "tune.html", "line.toml")


def drawn(seen):
    return len(re.findall(r'<div class="plot[^>]*js-plotly-plot', seen.dom))


def test_a_training_has_its_curves(report_page, tmp_path):
    seen = visit(report_page, tmp_path)
    assert seen.console == []
    assert seen.requests == set()
    assert drawn(seen) == seen.dom.count("data-plot=") == 13
    loss, likeness = (part for part in re.split(r'data-plot="', seen.dom) if part.startswith("train0"))
    assert len(re.findall(r'<path class="point"', loss)) == len(re.findall(r'<path class="point"', likeness)) == 3


def test_a_search_has_a_line_for_each_trial_on_both_plots(search_page, tmp_path):
    seen = visit(search_page, tmp_path)
    assert seen.console == []
    assert seen.requests == set()
    assert drawn(seen) == 2
    parallel, curves = re.split(r'data-plot="', seen.dom)[1:]
    assert len(re.findall(r'<path class="js-line"', parallel)) == 6
    assert len(re.findall(r'<path class="js-line"', curves)) == 6
    assert seen.dom.count("<b>best</b>") == 1
