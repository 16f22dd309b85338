"""Trainings by one worker and by teams of threads, stopped at any step and gone on with."""

import json
import threading
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from penstock.core import plugins
from penstock.core.dataset import existing, versions
from penstock.core.nouns import Record, Training, Unit
from penstock.errors import SchemaError
from penstock.sinks.parquet import Parquet
from penstock.tables.client import Local, open_table
from penstock.tables.layout import Table
from penstock.tables.schemes import Bands, Compositional, Exact, Hashed
from penstock.tables.working import notes
from penstock.trainings.alone import Alone
from penstock.trainings.skipgram import Skipgram

RING = 600
IDS = 10 * RING


@pytest.fixture
def walks(tmp_path):
    """A dataset of walks round a ring of ids, so that ids near each other on the ring are near in the text."""
    random, rows = np.random.default_rng(0), 160
    steps = np.cumsum(random.integers(1, 4, size=(rows, 40)), axis=1)
    return published(tmp_path, list(10 * ((random.integers(RING, size=(rows, 1)) + steps) % RING)))


def published(folder, lists):
    table = pa.table({"kmers": pa.array(lists, pa.list_(pa.int64()))})
    sink = Parquet(str(folder / "walks"))
    units = [Unit.of("walks", "1", a, b) for a, b in pairwise((0, 50, 100, 160))]
    records = [
        (unit, Record(unit.key, sink.write(unit, table.slice(unit.start, unit.stop - unit.start)))) for unit in units
    ]
    schema = sink.schema(table.schema).serialize().to_pybytes().hex()
    sink.commit(lambda: iter(records), {"fingerprint": "walks", "schema": schema})
    return sink.uri


class Stopped(Exception):
    pass


class Meeting:
    """Where threads of a team meet."""

    def __init__(self, size):
        self.size, self.barrier, self.table = size, threading.Barrier(size), [None] * size


class Member:
    """A team whose workers are threads of this process; *patience* counts exchanges down to a stop."""

    def __init__(self, meeting, rank, patience=None):
        self.meeting, self.rank, self.size, self.patience = meeting, rank, meeting.size, patience

    def _met(self, value):
        self.meeting.table[self.rank] = value
        self.meeting.barrier.wait(30)
        found = list(self.meeting.table)
        self.meeting.barrier.wait(30)
        return found

    def exchange(self, sent):
        if self.patience is not None:
            self.patience -= 1
            if self.patience < 0:
                raise Stopped
        return [parts[self.rank].copy() for parts in self._met(sent)]

    def gather(self, value):
        return self._met(value)

    def report(self, metrics):
        assert metrics["loss"] >= 0


def trained(training, size=1, patience=None):
    """Whether it went to its end."""
    training.begin()
    meeting, errors = Meeting(size), []

    def work(rank):
        try:
            training.train(Member(meeting, rank, patience))
        except (Stopped, threading.BrokenBarrierError) as error:
            meeting.barrier.abort()
            errors.append(error)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return not errors


def rows_of(uri):
    with open_table(uri) as client:
        return client.lookup(np.arange(0, IDS, 10))


def training(walks, tmp_path, name="table", **more):
    given = {"dim": 8, "window": 3, "epochs": 2, "rate": 0.1, "chunk_tokens": 500, "block_rows": 20, **more}
    return Skipgram(walks, str(tmp_path / name), Exact(IDS), **given)


def test_it_is_a_training(walks, tmp_path):
    assert isinstance(training(walks, tmp_path), Training)


def test_ids_that_stand_near_each_other_become_alike(walks, tmp_path):
    lesson = training(walks, tmp_path, epochs=12, rate=0.3)
    heard = []
    lesson.begin()
    lesson.train(Alone(heard.append))
    assert heard[-1]["likeness"] > 0.9
    assert heard[-1]["loss"] < 1.5  # 6 log 2 = 4.2 before anything is learned
    rows = rows_of(lesson.table)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    near, far = (rows * np.roll(rows, 2, 0)).sum(1).mean(), (rows * np.roll(rows, RING // 2, 0)).sum(1).mean()
    assert near > far + 0.2
    history = json.loads((tmp_path / "table" / "history.json").read_text())
    assert [line["epoch"] for line in history] == [line["epoch"] for line in heard]


@pytest.mark.parametrize("size", [1, 3])
def test_the_same_team_learns_the_same_bits(walks, tmp_path, size):
    one, other = (training(walks, tmp_path, name) for name in ("one", "other"))
    assert trained(one, size)
    assert trained(other, size)
    assert (rows_of(one.table) == rows_of(other.table)).all()


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("patience", [0, 19, 70])
def test_a_training_that_is_stopped_anywhere_ends_with_the_bits_of_one_that_was_not(walks, tmp_path, size, patience):
    whole, stopped = training(walks, tmp_path, "whole"), training(walks, tmp_path, "stopped", publish_minutes=0)
    assert trained(whole, size)
    assert not trained(stopped, size, patience)
    assert not stopped.done()
    assert trained(stopped, size)
    assert stopped.done()
    assert (rows_of(stopped.table) == rows_of(whole.table)).all()


def test_a_team_of_another_size_goes_on_from_there(walks, tmp_path):
    lesson = training(walks, tmp_path, publish_minutes=0)
    assert not trained(lesson, 1, 60)
    epoch = notes(Table.at(lesson.table))["epoch"]
    assert trained(lesson, 3)
    assert epoch < 2
    assert lesson.done()


def test_what_is_done_is_done_until_data_or_settings_change(walks, tmp_path):
    lesson = training(walks, tmp_path, epochs=1)
    assert not lesson.done()
    trained(lesson)
    assert lesson.done()
    version = existing(lesson.table).version
    lesson.begin()
    assert existing(lesson.table).version == version
    assert not training(walks, tmp_path, epochs=2).done()
    assert training(walks, tmp_path, epochs=1, publish_minutes=99).done()


@pytest.mark.parametrize("scheme", [Hashed(3000, hashes=2), Bands(2, 7), Compositional((80, 80), "sum")], ids=repr)
def test_ids_with_several_rows_are_learned_too(walks, tmp_path, scheme):
    heard = []
    lesson = Skipgram(walks, str(tmp_path / "table"), scheme, dim=8, epochs=15, rate=0.3, block_rows=20)
    lesson.begin()
    lesson.train(Alone(heard.append))
    assert heard[-1]["likeness"] > 0.7


def test_only_the_rows_of_a_chunk_are_asked_for(walks, tmp_path):
    most = []

    class Counting(Member):
        def exchange(self, sent):
            most.append(max(len(part) for part in sent))
            return super().exchange(sent)

    lesson = training(walks, tmp_path, epochs=1)
    lesson.begin()
    lesson.train(Counting(Meeting(1), 0))
    assert max(most) < 500 + 4000


def test_blocks_without_ids_in_front_of_one_that_has_some_are_no_hindrance(tmp_path):
    """A worker draws negatives from eight blocks of its own choice; here they are all empty."""
    lists = [[] for _ in range(160)]
    lists[155:] = [[10, 20, 30, 40, 50]] * 5
    lesson = training(published(tmp_path, lists), tmp_path, epochs=1, block_rows=5)
    assert trained(lesson)
    ids = np.array([10, 20, 30, 40, 50])
    first, last = (Table.at(lesson.table, number) for number in versions(lesson.table)[-2:])
    with Local(first) as before, Local(last) as after:
        assert (before.lookup(ids) != after.lookup(ids)).any(axis=1).all()


def test_columns_without_ids_are_refused(walks, tmp_path):
    lesson = training(walks, tmp_path)
    assert lesson.schema(pa.schema([("kmers", pa.list_(pa.uint64()))])).names == ["vector"]
    with pytest.raises(SchemaError, match="needs a column 'kmers' of lists of whole numbers; found: text: string"):
        lesson.schema(pa.schema([("text", pa.string())]))
    with pytest.raises(SchemaError, match="found: kmers: list<item: string>"):
        lesson.schema(pa.schema([("kmers", pa.list_(pa.string()))]))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"scheme": Compositional((80, 80), "product")}, "the scheme multiplies them: combine = 'sum'"),
        ({"dim": 0}, "dim, window, negatives, epochs, chunk_tokens and block_rows must be 1 or more"),
        ({"negatives": 0}, "must be 1 or more"),
        ({"rate": 0}, "rate must be above 0 and at most 1, not 0"),
        ({"rate": 2.0}, "not 2.0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        Skipgram("x", "y", **{"scheme": Exact(9), **options})


def test_it_is_written_to_files_and_read_again():
    lesson = Skipgram("/data", "/table", Bands(2, 11), dim=64)
    plain = json.loads(json.dumps(plugins.describe(lesson)))
    assert plugins.adapter(Skipgram).validate_python(plain) == lesson
