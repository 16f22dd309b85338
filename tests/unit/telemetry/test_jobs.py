"""Jobs on clusters, as a watcher tells of them."""

import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from opentelemetry.trace import StatusCode
from seeing import RUN, RUNNING, STORY, WAITED, Seen, samples, text_of, told

from penstock.clusters import watch
from penstock.clusters.watch import News, Threads
from penstock.core.nouns import JobState, Pipeline, Status
from penstock.core.run import Quiet
from penstock.runners.inline import Inline
from penstock.sinks.parquet import Parquet
from penstock.telemetry.jobs import Jobs
from penstock.telemetry.logs import Log
from penstock.telemetry.metrics import RunMetrics
from penstock.telemetry.watching import Several
from penstock.testing.parts import Numbers

FAILED = Status(JobState.FAILED, "exit status 3 --token=planted", attempt=2)


@pytest.fixture
def line(tmp_path) -> Pipeline:
    return Pipeline("line", Numbers(1), Parquet(str(tmp_path / "out")))


def test_a_job_is_followed_from_its_submission_to_its_end():
    jobs = Jobs()
    changes = [jobs.hear(News("slurm", at, "7.ab", status)) for at, status in STORY]
    assert changes[3] is None, "nothing has changed"
    states = [(c.before and c.before.value, c.status.state.value, c.ended) for c in changes if c]
    assert states == [
        (None, "unknown", False),
        ("unknown", "pending", False),
        ("pending", "running", False),
        ("running", "done", True),
    ]
    assert (changes[-1].queued_seconds, changes[-1].running_seconds) == (10.0, 40.0)
    assert not jobs._known, "what has ended is forgotten"


def test_a_job_that_many_wait_for_is_one_job():
    jobs = Jobs()
    assert jobs.hear(News("slurm", 1.0, "7", WAITED)) is not None
    assert jobs.hear(News("slurm", 2.0, "7", RUNNING)) is not None
    assert jobs.hear(News("slurm", 3.0, "7", WAITED)) is None


def test_metrics_of_jobs():
    metrics = RunMetrics.made("inline")
    told(metrics, "1")
    told(metrics, "2", [*STORY[:3], (120.0, FAILED)])
    told(metrics, "3", STORY[:3])
    found = samples(text_of(metrics))
    assert found["penstock_jobs_submitted_total", ("slurm",)] == 3
    assert found["penstock_jobs_ended_total", ("slurm", "done")] == 1
    assert found["penstock_jobs_ended_total", ("slurm", "failed")] == 1
    assert found["penstock_job_retries_total", ("slurm",)] == 1
    assert found["penstock_jobs", ("slurm", "running")] == 1
    assert found["penstock_jobs", ("slurm", "pending")] == found["penstock_jobs", ("slurm", "unknown")] == 0
    assert found["penstock_job_queued_seconds_sum", ("slurm",)] == 20.0
    assert found["penstock_job_running_seconds_sum", ("slurm",)] == 40.0 + 10.0
    assert found["penstock_scheduler_polls_total", ("slurm",)] == 5 + 4 + 3


def test_a_job_that_asks_to_go_on_has_not_failed():
    metrics = RunMetrics.made("inline")
    told(metrics, "1", [*STORY[:3], (120.0, Status(JobState.FAILED, "time limit", continues=True))])
    assert samples(text_of(metrics))["penstock_jobs_ended_total", ("slurm", "continued")] == 1


def test_spans_of_jobs_are_children_of_the_run(line):
    seen = Seen()
    seen.spans.begin(line, 1, 0)
    told(seen.spans, "1")
    told(seen.spans, "2", [*STORY[:3], (120.0, FAILED)])
    told(seen.spans, "3", STORY[:3])
    seen.spans.end(None)
    [root] = seen.named("run line")
    done, failed, left = seen.below(root)
    assert (done.start_time, done.end_time) == (100 * 10**9, 150 * 10**9)
    assert [event.name for event in done.events] == ["unknown", "pending", "running", "done"]
    assert done.attributes["penstock.queued_seconds"] == 10.0
    assert (failed.status.status_code, failed.status.description) == (StatusCode.ERROR, "exit status 3 --token=***")
    assert failed.attributes["penstock.attempt"] == 2
    assert left.attributes["penstock.job"] == "3"
    assert left.end_time <= root.end_time, "it goes on without us"


def test_lines_of_jobs_say_how_they_stand(line):
    stream = io.StringIO()
    log = Log(stream, RUN)
    log.begin(line, 1, 0)
    told(log, "7", [*STORY[:3], (120.0, FAILED)])
    lines = [json.loads(text) for text in stream.getvalue().splitlines()][1:]
    assert [(one["level"], one["state"], one["message"]) for one in lines] == [
        ("info", "unknown", "job 7 is waited for"),
        ("info", "pending", "job 7 is pending"),
        ("info", "running", "job 7 is running"),
        ("warning", "failed", "job 7 is failed"),
    ]
    assert (lines[-1]["attempt"], lines[-1]["why"], lines[-1]["event"]) == (2, "exit status 3 --token=***", "job")


@dataclass(frozen=True)
class Soon:
    """A cluster whose jobs run at the second look and have ended at the third."""

    folder: str

    def poll(self, ids):
        with (Path(self.folder) / "polls").open("a") as polls:
            polls.write("x")
        states = {1: JobState.PENDING, 2: JobState.RUNNING}
        looks = (Path(self.folder) / "polls").stat().st_size
        return {id_: Status(states.get(looks, JobState.DONE)) for id_ in ids}


def test_a_watcher_tells_of_each_change_and_of_each_time_it_asks(tmp_path):
    heard = []
    assert Threads(Soon(str(tmp_path)), heard.append).wait("7", 60).state is JobState.DONE
    assert [news.status.state.value for news in heard if news.native_id] == ["unknown", "pending", "running", "done"]
    assert sum(not news.native_id for news in heard) == (tmp_path / "polls").stat().st_size
    assert {news.cluster for news in heard} == {"soon"}
    assert abs(heard[0].time - time.time()) < 600


def test_the_inline_runner_gives_its_watch_to_watchers_and_takes_it_back(line, tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "_watchers", {})
    heard, before = [], watch._state["factory"]

    class Waiting(Numbers):
        def read(self, unit):
            watch.wait(Soon(str(tmp_path)), "7")
            return super().read(unit)

    class Hearing(Quiet):
        def job(self, news):
            heard.append(news)

    waits = Pipeline("line", Waiting(1), line.sink)
    Inline().run(waits, Several(Quiet(), [Hearing()], print))
    assert [news.status.state.value for news in heard if news.native_id][-1] == "done"
    assert watch._state["factory"] is before


def test_job_news_of_many_threads_come_one_after_the_other(line):
    class Slow(Quiet):
        inside, most = 0, 0

        def job(self, news):
            self.inside += 1
            self.most = max(self.most, self.inside)
            time.sleep(0.002)
            self.inside -= 1

    slow = Slow()
    several = Several(Quiet(), [slow], print)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(several.job, [News("slurm", 1.0)] * 40))
    assert slow.most == 1
    several.end(None)
    before = threading.active_count()
    several.job(News("slurm", 2.0))
    assert (slow.most, threading.active_count()) == (1, before)
