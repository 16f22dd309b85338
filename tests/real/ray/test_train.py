"""Trainings by Ray Train: the bits of a team of threads, workers and drivers killed, a table larger than a worker."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest

from penstock.core.dataset import versions
from penstock.core.nouns import Record, Unit
from penstock.core.storage import join
from penstock.sinks.parquet import Parquet
from penstock.tables.client import Local, open_table
from penstock.tables.layout import Table
from penstock.tables.working import notes as noted
from penstock.testing.memory import capped
from penstock.trainings.skipgram import Skipgram

sys.path.insert(0, str(Path(__file__).parent))
import lesson as script

IDS = np.arange(0, script.ROWS, 10)


def publish(folder, lists):
    table = pa.table({"kmers": pa.array(list(lists), pa.list_(pa.int64()))})
    sink = Parquet(str(folder))
    units = [Unit.of("walks", "1", a, b) for a, b in pairwise(np.linspace(0, len(lists), 4).astype(int).tolist())]
    parts = [(unit, sink.write(unit, table.slice(unit.start, unit.stop - unit.start))) for unit in units]
    schema = sink.schema(table.schema).serialize().to_pybytes().hex()
    sink.commit(
        lambda: iter([(unit, Record(unit.key, part)) for unit, part in parts]), {"fingerprint": "x", "schema": schema}
    )
    return sink.uri


@pytest.fixture
def walks(tmp_path):
    rng = np.random.default_rng(0)
    steps = np.cumsum(rng.integers(1, 4, size=(160, 40)), axis=1)
    return publish(tmp_path / "walks", 10 * ((rng.integers(600, size=(160, 1)) + steps) % 600))


class Threads:
    """The naive team: threads that meet at a barrier."""

    def __init__(self, rank, size, barrier, table):
        self.rank, self.size, self._barrier, self._table = rank, size, barrier, table

    def gather(self, value):
        self._table[self.rank] = value
        self._barrier.wait(400)
        found = list(self._table)
        self._barrier.wait(400)
        return found

    def exchange(self, sent):
        return [parts[self.rank].copy() for parts in self.gather(sent)]

    def report(self, metrics):
        assert metrics


def by_threads(fit, size):
    fit.training.begin()
    barrier, table = threading.Barrier(size), [None] * size
    team = [Threads(rank, size, barrier, table) for rank in range(size)]
    threads = [threading.Thread(target=Skipgram.train, args=(fit.training, member)) for member in team]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return rows_of(fit.training.table)


def rows_of(uri):
    with open_table(uri) as client:
        return client.lookup(IDS)


def start(*words):
    command = [sys.executable, script.__file__, *(str(word) for word in words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def notes(journal, what):
    text = journal.read_text() if journal.exists() else ""
    return [int(line.split()[1]) for line in text.splitlines() if line.startswith(what)]


def wait_for(driver, enough):
    end = time.monotonic() + 800
    while not enough():
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() < end, "nothing happened for minutes"
        time.sleep(0.05)


def finished(driver):
    out, err = driver.communicate(timeout=1500)
    assert driver.returncode == 0, out + err
    return out


@pytest.fixture(params=["disk", "s3"])
def table(request, tmp_path, monkeypatch):
    """Where versions are published, from which a training goes on."""
    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path / "cache"))
    root = str(tmp_path) if request.param == "disk" else request.getfixturevalue("s3_root")
    return join(root, "table")


@pytest.mark.timeout(3600)
def test_killed_workers_and_drivers_leave_the_bits_of_an_undisturbed_team_of_threads(walks, table, tmp_path):
    wanted = by_threads(script.lesson(walks, tmp_path / "wanted", tmp_path / "wanted.journal"), 2)
    journal, hold = tmp_path / "journal", tmp_path / "journal.hold"

    hold.touch()
    driver = start(walks, table, journal)
    wait_for(driver, lambda: len(notes(journal, "report")) >= 3)
    team = notes(journal, "begun")
    os.kill(random.choice(team), signal.SIGKILL)
    hold.write_text(" ".join(map(str, team)))  # who is left may find out that the other one is gone
    wait_for(driver, lambda: len(notes(journal, "begun")) >= 4)
    wait_for(driver, lambda: len(notes(journal, "report")) >= 6)
    driver.kill()
    driver.wait()
    assert Table.at(table).manifest.version > 2
    children_gone(notes(journal, "begun"))
    hold.unlink()

    finished(start(walks, table, journal))
    assert len(notes(journal, "begun")) == 6
    assert (rows_of(table) == wanted).all()
    version = Table.at(table).manifest.version
    finished(start(walks, table, journal))
    assert Table.at(table).manifest.version == version


def children_gone(pids):
    end = time.monotonic() + 240
    while any(psutil.pid_exists(pid) for pid in pids):
        assert time.monotonic() < end, "workers outlive their driver"
        time.sleep(0.1)


@pytest.mark.timeout(1800)
def test_a_table_four_times_what_a_worker_may_hold_is_trained(tmp_path):
    """Where control groups can be made, the cap counts the pages of the table's files too."""
    sentences = np.random.default_rng(0).integers(script.LARGE_ROWS, size=(400, 50))
    data, uri = publish(tmp_path / "random", sentences), str(tmp_path / "table")
    cap_mib = 2 * script.LARGE_ROWS * script.LARGE_DIM * 4 // 4 >> 20  # rows and contexts together are four times it
    with capped(cap_mib << 20) as one, capped(cap_mib << 20) as other:
        caps = [cap for cap in (one, other) if cap]
        out = finished(start(data, uri, tmp_path / "journal", cap_mib, *(cap.folder / "cgroup.procs" for cap in caps)))
        assert all(cap.reached() and cap.peak_bytes() <= cap_mib << 20 for cap in caps)
    assert "likeness" in out
    workers = notes(tmp_path / "journal", "capped")
    assert set(notes(tmp_path / "journal", "report")) == set(workers[-2:]), "all under the cap"
    assert "MemoryError" not in (tmp_path / "journal").read_text(), "a team may begin anew, but not for that"
    first, last = (Table.at(uri, number) for number in (versions(uri)[0], versions(uri)[-1]))
    assert (noted(first)["epoch"], noted(last)["epoch"]) == (0, 1)
    was_learned(np.unique(sentences), first, last)
    contexts = Table.at(f"{uri}/contexts", noted(last)["contexts"])
    with Local(contexts) as client:
        moved = client.lookup(np.unique(sentences)).any(axis=1)
        assert moved.mean() > 0.8, "a block is held out"
        assert not client.lookup(others(sentences)).any()


def others(sentences):
    """Some ids that stand nowhere."""
    return np.setdiff1d(np.arange(0, script.LARGE_ROWS, 97), sentences)


def was_learned(ids, first, last):
    """Rows of the sentences have changed, and no others."""
    with Local(first) as before, Local(last) as after:
        changed = (before.lookup(ids) != after.lookup(ids)).any(axis=1)
        assert changed.mean() > 0.8, "a block is held out"
        assert np.isfinite(after.lookup(ids)).all()
        assert (before.lookup(others(ids)) == after.lookup(others(ids))).all()
