"""Many wait, one asks."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import pytest

from penstock.clusters import watch
from penstock.core.nouns import JobState, Status
from penstock.errors import JobError


@dataclass(frozen=True)
class Timed:
    """A cluster whose jobs end at a time that their ids say."""

    name: str
    calls: ClassVar[list] = []

    def poll(self, ids):
        Timed.calls.append((self.name, tuple(ids)))
        states = [JobState.DONE if time.monotonic() > float(id_) else JobState.RUNNING for id_ in ids]
        return {id_: Status(state) for id_, state in zip(ids, states, strict=True)}


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(watch, "_watchers", {})
    Timed.calls.clear()


def test_fifty_who_wait_are_one_who_asks():
    ids = [str(time.monotonic() + 0.3 + number / 200) for number in range(50)]
    with ThreadPoolExecutor(50) as threads:
        found = list(threads.map(lambda id_: watch.wait(Timed("a"), id_), ids))
    assert {status.state for status in found} == {JobState.DONE}
    assert len(Timed.calls) < 40
    assert max(len(asked) for _, asked in Timed.calls) > 40


def test_each_cluster_has_its_own_watcher_and_equal_ones_share_it():
    soon = str(time.monotonic())
    for name in ("a", "b", "a"):
        watch.wait(Timed(name), soon)
    assert [name for name, _ in Timed.calls] == ["a", "b", "a"]
    assert len(watch._watchers) == 2


@dataclass(frozen=True)
class Sized(Timed):
    tasks: int = 1

    @property
    def queue(self):
        return self.name


def test_clusters_of_one_queue_share_a_watcher_whatever_they_ask_for():
    ids = [str(time.monotonic() + 0.3 + number / 100) for number in range(8)]
    clusters = [Sized("a", number + 1) for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(watch.wait, clusters, ids))
    assert len(watch._watchers) == 1
    assert max(len(asked) for _, asked in Timed.calls) > 4


def test_jobs_that_have_ended_are_not_asked_for_again():
    early, late = str(time.monotonic() + 0.1), str(time.monotonic() + 0.5)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda id_: watch.wait(Timed("a"), id_), [early, late]))
    assert Timed.calls[-1] == ("a", (late,))


class Broken:
    """A cluster that nobody answers for."""

    def poll(self, ids):
        raise JobError("the login node is away")


def test_who_hears_nothing_gives_up_and_says_what_was_wrong():
    with pytest.raises(
        JobError, match=r"nothing was heard of job 7 for 0.2 s \(the login node is away\); it may still"
    ):
        watch.wait(Broken(), "7", patience_seconds=0.2)


def test_one_who_gives_up_does_not_stop_the_others():
    end = time.monotonic() + 0.6

    class Half:
        def poll(self, ids):
            found = {"known": Status(JobState.DONE if time.monotonic() > end else JobState.RUNNING)}
            return {id_: found.get(id_, Status(JobState.UNKNOWN)) for id_ in ids}

    cluster = Half()
    with ThreadPoolExecutor(2) as threads:
        lost = threads.submit(watch.wait, cluster, "lost", 0.2)
        assert watch.wait(cluster, "known", 0.2).state is JobState.DONE
        with pytest.raises(JobError, match="nothing was heard of job lost"):
            lost.result()


def test_another_watcher_can_be_put_in_its_place():
    class Told:
        def __init__(self, cluster):
            self.cluster = cluster

        def wait(self, native_id, patience_seconds):
            return Status(JobState.DONE, f"{self.cluster} {native_id} {threading.current_thread().name}")

    before = watch.use(Told)
    try:
        assert watch.wait("here", "7").why == f"here 7 {threading.current_thread().name}"
    finally:
        assert watch.use(before) is Told
