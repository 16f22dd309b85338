"""Which trials a search has: drawn by a seed alone, each with data and a place of its own."""

import json
import math
from dataclasses import replace

import pytest

from penstock.core.plan import schemas
from penstock.core.spec import Range, Tune, dumps, load, loads
from penstock.errors import SpecError
from penstock.runners.inline import Inline
from penstock.trainings.search import Ended, best, changes, draw, needed, recall, record, short, trials

FILE = """
[pipeline.reads]
source = { use = "text", uri = "texts/*" }
sink = { use = "parquet", uri = "out/reads" }

[pipeline.kmers]
source = { use = "dataset", uri = "out/reads" }
sink = { use = "parquet", uri = "out/kmers" }

[[pipeline.kmers.step]]
use = "kmer"
column = "text"
k = 3

[pipeline.aside]
source = { use = "dataset", uri = "out/reads" }
sink = { use = "parquet", uri = "out/aside" }

[train.table]
use = "skipgram"
source = "out/kmers"
table = "out/table"
scheme = { kind = "exact", rows = 4096 }
dim = 4

[tune]
train = "table"
samples = 12
epochs = 2

[tune.space]
"pipeline.kmers.step.0.k" = [3, 5]
"train.table.rate" = { low = 0.01, high = 0.5, log = true }
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "texts").mkdir()
    for number in range(3):
        (tmp_path / "texts" / f"{number}.txt").write_text("ACGTTGCAAC\n" * 4)
    (tmp_path / "line.toml").write_text(FILE)
    return tmp_path / "line.toml"


def space(**values):
    return Tune("table", values, samples=200)


# --- drawing ---------------------------------------------------------------------------------------------


def test_the_same_seed_draws_the_same_and_another_one_others():
    one = space(a=Range(0.0, 1.0), b=("x", "y"))
    assert draw(one) == draw(one)
    assert draw(one) != draw(replace(one, seed=1))


def test_more_samples_leave_the_first_ones_as_they_are():
    few, many = (draw(Tune("t", {"a": Range(0.0, 1.0)}, samples=size)) for size in (3, 9))
    assert many[:3] == few


def test_no_two_are_equal_and_a_small_space_is_gone_through():
    found = draw(space(a=(1, 2, 3), b=(True, False)))
    assert len({json.dumps(one) for one in found}) == len(found) == 6


def test_zero_samples_try_every_combination_in_order():
    found = draw(Tune("t", {"a": (1, 2), "b": ("x", "y")}, samples=0))
    assert found == [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"}]


def test_ranges_of_whole_numbers_give_whole_numbers_and_reach_both_ends():
    for log in (False, True):
        found = [one["a"] for one in draw(space(a=Range(1, 5, log)))]
        assert sorted(found) == [1, 2, 3, 4, 5]
        assert all(isinstance(value, int) for value in found)


def test_a_logarithmic_range_gives_each_factor_of_ten_as_often():
    found = [one["a"] for one in draw(space(a=Range(0.001, 1.0, log=True)))]
    assert all(0.001 <= value <= 1.0 for value in found)
    below = [sum(value < edge for value in found) / len(found) for edge in (0.01, 0.1)]
    assert below == [pytest.approx(1 / 3, abs=0.1), pytest.approx(2 / 3, abs=0.1)]


def test_values_that_are_tables_of_keys_are_changed_together():
    found = changes({"hash": {"pipeline.a.step.0.k": 5, "train.t.scheme.rows": 1024}, "train.t.dim": 8})
    assert found == {"pipeline.a.step.0.k": 5, "train.t.scheme.rows": 1024, "train.t.dim": 8}


def test_a_text_that_looks_like_a_number_stays_a_text(file):
    found = load(file, changes({"report.pipeline": "7"}))
    assert found.report.pipeline == "7"


def test_keys_are_shortened_as_far_as_they_still_differ():
    assert short({"pipeline.a.step.0.k": 1, "train.t.k": 2, "train.t.rate": 3}) == {"0.k": 1, "t.k": 2, "rate": 3}


# --- trials ----------------------------------------------------------------------------------------------


def test_the_same_file_gives_the_same_trials(file):
    assert trials(file, {}) == trials(file, {})
    assert [trial.number for trial in trials(file, {})] == list(range(1, 13))


def test_each_trial_writes_to_its_own_place_below_the_search_and_reads_what_it_needs(file):
    root = str(file.parent / "out" / "table-tune")
    for trial in trials(file, {}):
        reads, kmers = trial.pipelines
        assert [line.name for line in trial.pipelines] == ["reads", "kmers"], "and not what is aside"
        assert kmers.source.uri == reads.sink.uri
        assert trial.fit.training.reads == kmers.sink.uri
        assert kmers.steps[0].stage.k == trial.values["pipeline.kmers.step.0.k"]
        assert trial.fit.training.rate == trial.values["train.table.rate"]
        assert trial.fit.training.epochs == 2
        assert all(uri.startswith(root) for uri in (reads.sink.uri, kmers.sink.uri, trial.fit.training.uri))
    assert len({trial.fit.training.uri for trial in trials(file, {})}) == 12


def test_trials_that_differ_only_later_share_their_data(file):
    found = trials(file, {})
    assert len({trial.pipelines[0].sink.uri for trial in found}) == 1
    places = {(trial.values["pipeline.kmers.step.0.k"], trial.pipelines[1].sink.uri) for trial in found}
    assert len(places) == 2


def test_a_trial_of_a_sample_reads_the_first_units_of_each_source(file):
    (trial, *_), (whole, *_) = trials(file, {"tune.max_units": "2"}), trials(file, {})
    for pipeline in trial.pipelines:
        Inline().run(pipeline)
    assert len(list(trial.pipelines[0].source.units())) == 2
    assert schemas(trial.pipelines[0]) == schemas(whole.pipelines[0])
    assert Inline().run(whole.pipelines[0]).rows == 12
    assert Inline().run(trial.pipelines[1]).rows == 8
    assert trial.fit.training.uri != whole.fit.training.uri


def test_a_trial_learns_in_its_place(file):
    trial = trials(file, {})[0]
    for pipeline in trial.pipelines:
        Inline().run(pipeline)
    Inline().train(trial.fit, lambda metrics: None)
    assert trial.fit.training.done()
    assert not (file.parent / "out" / "table").exists()


def test_what_is_needed_comes_in_order(file):
    pipelines, fit = needed(load(file), "table")
    assert [line.name for line in pipelines] == ["reads", "kmers"]
    assert fit.name == "table"


def test_settings_that_change_nothing_for_the_training_are_refused(file):
    with pytest.raises(SpecError, match="come to the same, since the training 'table' reads nothing of what differs"):
        trials(file, {"tune.space": {"pipeline.aside.max_bad_rows": [1, 2]}})


def test_a_key_that_the_file_has_no_place_for_is_named(file):
    with pytest.raises(SpecError, match=r"train\.table\.rat: 'rat' is not known here; did you mean 'rate'\?"):
        trials(file, {"tune.space": {"train.table.rat": [1, 2]}})


# --- what is told ----------------------------------------------------------------------------------------


def ended(number, *values, state="done"):
    lines = [{"epoch": epoch, "likeness": value} for epoch, value in enumerate(values, 1)]
    return Ended(number, {"a": number}, state, 1.0, lines)


def test_the_best_is_the_one_that_ends_best_the_first_of_equals():
    tune = space(a=(1, 2))
    found = [ended(1, 0.9, 0.6), ended(2, 0.7), ended(3, 0.7), ended(4, math.nan), ended(5, 0.99, state="failed")]
    assert best(found, tune).number == 2
    assert best(found, replace(tune, mode="min")).number == 1
    assert best([ended(4, math.nan), ended(5)], tune) is None


def test_how_a_trial_ended_is_remembered(file):
    trial = trials(file, {})[0]
    assert recall(trial) is None
    told = Ended(trial.number, trial.values, "stopped", 1.5, [{"epoch": 1.0, "likeness": 0.5}])
    record(trial.fit.training.uri, told)
    assert recall(trial) == told


# --- in files --------------------------------------------------------------------------------------------


def test_it_is_written_to_files_and_read_again(file):
    found = load(file)
    assert found.tune.space["train.table.rate"] == Range(0.01, 0.5, log=True)
    assert loads(dumps(found)) == found


def test_keys_may_be_written_as_tables_of_toml(file):
    text = FILE.replace('"pipeline.kmers.step.0.k"', "pipeline.kmers.step.0.k").replace(
        '"train.table.rate"', "train.table.rate"
    )
    assert loads(text, folder=file.parent) == load(file)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"tune.train": "tabel"}, "there is no training 'tabel'; there are: table"),
        ({"tune.samples": "-1"}, "samples, epochs and max_units must not be negative"),
        ({"tune.samples": "0"}, "a range has no end of values, so samples = 0 cannot try them all: train.table.rate"),
        ({"tune.space": {}}, "nothing is to be tried; write"),
        ({"tune.space": {"train.table.rate": {"low": 2, "high": 1}}}, "low is 2 and high 1; low must be below high"),
        ({"tune.space": {"train.table.rate": {"low": 0, "high": 1, "log": True}}}, "and with log above 0 as well"),
        ({"tune.metrik": "x"}, "'metrik' is not known here; did you mean 'metric'?"),
    ],
)
def test_searches_that_make_no_sense_are_refused(file, changed, text):
    with pytest.raises(SpecError) as caught:
        load(file, changed)
    assert text in str(caught.value)


def test_a_file_without_a_search_is_told_so(file):
    file.write_text(FILE[: FILE.index("[tune]")])
    with pytest.raises(SpecError, match=r"there is no \[tune\]; write it with train, metric and \[tune.space\]"):
        trials(file, {})
