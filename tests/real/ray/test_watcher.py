"""One actor watches the jobs that all tasks of a run wait for."""

import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from watched import Counted

from penstock.clusters import watch
from penstock.core.nouns import JobState, Pipeline, Place, Step
from penstock.core.reading import read_table
from penstock.errors import JobError
from penstock.runners import watcher
from penstock.runners.inline import Inline
from penstock.runners.ray import Ray
from penstock.sinks.parquet import Parquet
from penstock.solvers.job import Program
from penstock.sources.dataset import Dataset
from penstock.testing.parts import Numbers

TASKS, JOBS = 10, 50


@pytest.fixture(scope="module")
def ray_up(importable):
    with Ray(cpus=2, object_store_bytes=200 << 20).session():
        yield


def polls(cluster: Counted) -> list[tuple[int, int]]:
    """Who asked, and for how many."""
    path = Path(cluster.root) / "polls"
    return [tuple(map(int, line.split())) for line in path.read_text().splitlines()] if path.exists() else []


def until(true, seconds: float = 400) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.1)


def waiting(cluster: Counted, names: list[str], patience_seconds: float = 60.0):
    """A light Ray task that waits for these jobs."""
    import ray

    @ray.remote(num_cpus=0.1)
    def wait_for(cluster, names):
        watcher.enlist()
        with ThreadPoolExecutor(len(names)) as pool:
            return list(pool.map(lambda name: watch.wait(cluster, name, patience_seconds), names))

    return wait_for.remote(cluster, names)


def test_ten_tasks_share_one_watcher_of_fifty_jobs(ray_up, tmp_path):
    import ray

    cluster, names = Counted(str(tmp_path)), [f"job{at}" for at in range(JOBS)]
    with watcher.on_duty([cluster]):
        tasks = [waiting(cluster, names[at::TASKS]) for at in range(TASKS)]
        until(lambda: polls(cluster)[-1:] and polls(cluster)[-1][1] == JOBS)
        before, began = len(polls(cluster)), time.monotonic()
        time.sleep(8)
        until(lambda: len(polls(cluster)) > before)
        asked = polls(cluster)[before:]
        seconds = time.monotonic() - began
        assert 1 <= len(asked) <= 12 + seconds, "as often as for one job, and ever more rarely"
        assert len({pid for pid, _ in polls(cluster)}) == 1
        for name in names:
            (tmp_path / name).touch()
        found = ray.get(tasks)
    assert all(status.state is JobState.DONE for some in found for status in some)
    assert sorted(status.why for some in found for status in some) == sorted(f"{name} was seen" for name in names)


def test_a_task_that_waits_gives_its_cpu_back(ray_up, tmp_path):
    import ray

    @ray.remote(num_cpus=1)
    def wait_for(cluster, name):
        watcher.enlist()
        return watch.wait(cluster, name).state

    cluster, names = Counted(str(tmp_path)), ["a", "b", "c", "d"]
    with watcher.on_duty([cluster]):
        tasks = [wait_for.remote(cluster, name) for name in names]
        until(lambda: polls(cluster)[-1:] and polls(cluster)[-1][1] == 4)  # four at once, on two CPUs
        for name in names:
            (tmp_path / name).touch()
        assert ray.get(tasks) == [JobState.DONE] * 4


def test_a_watcher_that_is_killed_comes_back_and_nobody_notices(ray_up, tmp_path):
    import ray

    cluster = Counted(str(tmp_path))
    with watcher.on_duty([cluster]):
        tasks = [waiting(cluster, [f"a{at}", f"b{at}"]) for at in range(3)]
        until(lambda: polls(cluster)[-1:] and polls(cluster)[-1][1] == 6)
        first = polls(cluster)[-1][0]
        os.kill(first, signal.SIGKILL)
        until(lambda: polls(cluster)[-1][0] != first and polls(cluster)[-1][1] == 6)
        for at in range(3):
            (tmp_path / f"a{at}").touch()
            (tmp_path / f"b{at}").touch()
        assert all(status.state is JobState.DONE for some in ray.get(tasks) for status in some)


def test_a_cluster_that_says_nothing_is_given_up_with_the_words_of_the_watcher(ray_up, tmp_path):
    import ray

    class Silent(Counted):
        def _status(self, native_id):
            return watch.Status(JobState.UNKNOWN, "no answer")

    @ray.remote
    def wait_for(cluster):
        watcher.enlist()
        try:
            watch.wait(cluster, "x", 10.0)  # it is asked at once, but a busy machine may take some seconds for that
        except JobError as error:
            return str(error)

    cluster = Silent(str(tmp_path))
    with watcher.on_duty([cluster]):
        said = ray.get(wait_for.remote(cluster))
    assert "nothing was heard of job x for 10 s (no answer); it may still be running" in said


def test_watchers_end_with_the_run(ray_up, tmp_path):
    import ray

    cluster = Counted(str(tmp_path))
    with watcher.on_duty([cluster]):
        assert ray.get_actor(watcher._name(cluster))

    def gone() -> bool:
        try:
            return not ray.get_actor(watcher._name(cluster))
        except ValueError as error:
            return "Failed to look up actor" in str(error)

    until(gone)  # Ray is told to end it, and does so when it comes to that


def test_a_task_whose_cluster_nobody_watches_asks_by_itself(ray_up, tmp_path):
    import ray

    (tmp_path / "x").touch()
    [status] = ray.get(waiting(Counted(str(tmp_path)), ["x"]))
    assert status.state is JobState.DONE


PROGRAM = """
import json, sys, numpy
told = json.load(open(sys.argv[1]))
numpy.savez(told["result"], double=numpy.arange(told["rows"]) * 2)
"""


def test_a_solver_on_ray_waits_by_the_watcher_and_gives_what_inline_gives(ray_up, tmp_path):
    Inline().run(Pipeline("numbers", Numbers(2), Parquet(str(tmp_path / "numbers"))))

    def line(name: str) -> Pipeline:
        (tmp_path / name).mkdir()
        cluster = Counted(str(tmp_path / name), folder=str(tmp_path / name / "jobs"))
        solver = Program((sys.executable, "-c", PROGRAM), {"double": "int64"}, "npz", cluster=cluster)
        source = Dataset(str(tmp_path / "numbers"), whole=True)
        return Pipeline(name, source, Parquet(str(tmp_path / name / "out")), (Step(solver, Place("task", cpus=0.1)),))

    one, two = line("inline"), line("ray")
    Inline().run(one)
    Ray().run(two)
    assert read_table(two.sink.uri).equals(read_table(one.sink.uri))
    workers = {record.split(":")[1] for record in read_workers(two.sink.uri)}
    assert {str(pid) for pid, _ in polls(two.steps[0].stage.cluster)}.isdisjoint(workers), "the actor asked"


def read_workers(uri: str) -> set[str]:
    import pyarrow.parquet as pq

    [story] = (Path(uri) / "runs").glob("*.parquet")
    return set(pq.read_table(story)["worker"].to_pylist())


def test_news_that_come_late_are_told_the_next_time(ray_up, monkeypatch):
    """An actor gives its news away when it is asked, whether or not somebody still waits for them."""
    import ray

    class Slow:
        def __init__(self):
            self._news = ["a", "b"]

        def news(self):
            time.sleep(3)
            told, self._news = self._news, []
            return told

    told, actor = [], ray.remote(num_cpus=0)(Slow).remote()
    ears = watcher._Ears([actor], told.append)
    monkeypatch.setattr(watcher, "_ANSWER_SECONDS", 0.2)
    ears()
    assert told == []
    until(lambda: ears() or told)
    assert told == ["a", "b"]
    ray.kill(actor)
