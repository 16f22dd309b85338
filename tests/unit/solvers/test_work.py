import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from penstock.clusters import watch
from penstock.core.nouns import Job, JobState, Status
from penstock.errors import JobError, UnitError
from penstock.solvers import work as module
from penstock.solvers.work import Work, computed, job_key, run_job


@dataclass
class Scripted:
    """A cluster that gives the states it is told to give, and begins anew after each `again`."""

    states: list
    folder: str = ""
    retries: int = 0
    tasks: int = 1
    python: str = "python3"
    asked: int = 0
    jobs: list = field(default_factory=list)
    aside: int = 0
    told: list = field(default_factory=list)

    def submit(self, job):
        self.jobs.append(job)
        (Path(job.folder) / "result").write_text(f"of {job.key}")
        return "native-1"

    def poll(self, ids):
        self.asked += 1
        found = self.states[min(self.asked, len(self.states)) - 1]
        status = found if isinstance(found, Status) else Status(found, attempt=self.aside + 1)
        return dict.fromkeys(ids, status)

    def cancel(self, native_id):
        raise AssertionError("nobody cancels here")

    def again(self, native_id, status):
        self.aside += 1
        self.told.append(status)


@pytest.fixture
def pauses(monkeypatch):
    """The pauses between polls; time goes by only in them."""
    made = []
    monkeypatch.setattr(watch, "_sleep", lambda turn, seconds: made.append(seconds))
    monkeypatch.setattr(watch.time, "monotonic", lambda: sum(made))
    return made


def job_in(folder, **more):
    folder.mkdir()
    return Job("key", ("solve", "--fast"), str(folder), **more)


def test_waiting_backs_off_up_to_five_seconds_and_begins_anew_at_a_change(tmp_path, pauses):
    cluster = Scripted([JobState.PENDING] * 10 + [JobState.RUNNING] * 30 + [JobState.DONE])
    run_job(cluster, job_in(tmp_path / "job"))
    for made, last in ((pauses[:10], 0.05 * 1.3**9), (pauses[10:], 5.0)):
        assert np.all(np.diff(made) > -1e-9)
        assert made[0] == pytest.approx(0.05)
        assert made[-1] == pytest.approx(last)


def test_a_failed_job_tells_all_that_is_known_and_is_put_aside(tmp_path, pauses):
    job = job_in(tmp_path / "job")
    (tmp_path / "job" / "stderr").write_text("".join(f"line {i}\n" for i in range(100)))
    cluster = Scripted([Status(JobState.FAILED, "exit status 9, ended after its time limit of 4 s")])
    with pytest.raises(JobError) as caught:
        run_job(cluster, job)
    text = str(caught.value)
    assert text.startswith("job native-1 failed: exit status 9, ended after its time limit of 4 s\n")
    assert "command: solve --fast" in text
    assert text.endswith("    line 98\n    line 99")
    assert "line 60" in text
    assert "line 59" not in text
    assert f"its files are kept below {tmp_path}/job" in text
    assert cluster.aside == 1


@pytest.mark.parametrize(("state", "text"), [(JobState.FAILED, "failed: "), (JobState.CANCELLED, "was cancelled: ")])
def test_a_job_that_left_nothing_is_told_of_too(tmp_path, pauses, state, text):
    with pytest.raises(JobError, match=f"{text}the cluster does not say why") as caught:
        run_job(Scripted([state]), job_in(tmp_path / "job"))
    assert "(there is none)" in str(caught.value)


def test_the_item_that_failed_is_heard(tmp_path, pauses):
    job = job_in(tmp_path / "job", items=3)
    for item, code in enumerate((0, 4, 5)):
        (tmp_path / "job" / f"exit.{item}").write_text(json.dumps({"code": code}))
        (tmp_path / "job" / f"stderr.{item}").write_text(f"words of item {item}\n")
    with pytest.raises(JobError, match="words of item 1") as caught:
        run_job(Scripted([JobState.FAILED]), job)
    assert "words of item 2" not in str(caught.value)


def lost(attempt):
    return Status(JobState.FAILED, "NODE_FAIL", passing=True, attempt=attempt)


def test_a_failure_that_was_none_of_its_own_is_tried_again(tmp_path, pauses):
    cluster = Scripted([lost(1), lost(2), JobState.DONE], retries=2)
    run_job(cluster, job_in(tmp_path / "job"))
    assert len(cluster.jobs) == 3


def test_it_is_not_tried_for_ever(tmp_path, pauses):
    cluster = Scripted([lost(1), lost(2), lost(3)], retries=2)
    with pytest.raises(JobError, match=r"failed \(attempt 3\): NODE_FAIL"):
        run_job(cluster, job_in(tmp_path / "job"))
    assert len(cluster.jobs) == 3


def test_a_failure_of_the_program_is_not_tried_again(tmp_path, pauses):
    cluster = Scripted([Status(JobState.FAILED, "exit status 1")], retries=5)
    with pytest.raises(JobError, match="exit status 1"):
        run_job(cluster, job_in(tmp_path / "job"))
    assert len(cluster.jobs) == 1


def continued(attempt=1):
    return Status(JobState.FAILED, "exit status 99", passing=True, attempt=attempt, continues=True)


def test_a_program_is_continued_as_often_as_it_asks_for_it_also_after_its_last_retry(tmp_path, pauses):
    cluster = Scripted([lost(1), continued(2), continued(2), continued(2), JobState.DONE], retries=1)
    run_job(cluster, job_in(tmp_path / "job"))
    assert len(cluster.jobs) == 5
    assert [status.continues for status in cluster.told] == [False, True, True, True]


def test_a_program_is_not_continued_where_nothing_is_tried_again(tmp_path, pauses):
    with pytest.raises(JobError, match="exit status 99"):
        run_job(Scripted([continued()], retries=0), job_in(tmp_path / "job"))


def test_a_cluster_that_is_silent_for_a_while_is_waited_for(tmp_path, pauses):
    states = [JobState.UNKNOWN] * 20 + [JobState.RUNNING] + [JobState.UNKNOWN] * 20 + [JobState.DONE]
    run_job(Scripted(states), job_in(tmp_path / "job"), patience_seconds=100)


def test_a_cluster_that_stays_silent_is_given_up_and_the_job_is_kept(tmp_path, pauses):
    cluster = Scripted([JobState.UNKNOWN])
    with pytest.raises(JobError, match="nothing was heard of job native-1 for 60 s; it may still be running"):
        run_job(cluster, job_in(tmp_path / "job"), patience_seconds=60)
    assert 60 < sum(pauses) < 70
    assert cluster.aside == 0


def test_keys_follow_from_the_work_alone():
    assert job_key({"a": 1, "b": 2}, ("x",)) == job_key({"b": 2, "a": 1}, ("x",))
    assert job_key({"a": 1}) != job_key({"a": 2})


# --- the folder ------------------------------------------------------------------------------------------


WORK = Work("solve", ("solve", 1), ("program",), {"rows": 3}, ("result",))


def done(tmp_path):
    return Scripted([JobState.DONE], folder=str(tmp_path / "work"))


def test_the_program_is_told_in_its_folder_which_goes_when_all_is_well(tmp_path):
    cluster = done(tmp_path)
    with computed(WORK, cluster) as folder:
        assert json.loads((folder / "job.json").read_text()) == {"rows": 3}
        assert (folder / "result").read_text() == f"of {cluster.jobs[0].key}"
    (job,) = cluster.jobs
    assert job.command == ("program", "job.json")
    assert (job.name, Path(job.folder)) == ("solve", folder)
    assert list((tmp_path / "work").iterdir()) == []


def test_a_run_that_is_interrupted_finds_its_job_again(tmp_path):
    first, second = done(tmp_path), done(tmp_path)
    with pytest.raises(KeyboardInterrupt), computed(WORK, first):
        raise KeyboardInterrupt
    with computed(WORK, second):
        pass
    assert first.jobs == second.jobs


def test_work_that_was_finished_is_another_job_when_it_is_asked_for_again(tmp_path):
    first, second = done(tmp_path), done(tmp_path)
    for cluster in (first, second):
        with computed(WORK, cluster):
            pass
    assert first.jobs[0].key != second.jobs[0].key


def test_a_result_that_is_refused_is_kept_and_computed_anew(tmp_path):
    first, second = done(tmp_path), done(tmp_path)
    with pytest.raises(UnitError), computed(WORK, first) as folder:
        raise UnitError("bad result")
    assert (folder / "result").exists()
    with computed(WORK, second) as other:
        assert other != folder
    assert first.jobs[0].key != second.jobs[0].key
    assert list((tmp_path / "work").iterdir()) == []


def noting(folder, name, data, suffix=""):
    """The exit record of a job that left *data* in *name*."""
    found = {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (Path(folder) / f"exit{suffix}").write_text(json.dumps({"code": 0, "results": [found]}))


@dataclass
class Noting(Scripted):
    """A cluster whose job left, by its own record, `noted` in ``result``."""

    noted: bytes = b""

    def submit(self, job):
        native_id = super().submit(job)
        noting(job.folder, "result", self.noted or (Path(job.folder) / "result").read_bytes())
        return native_id


@pytest.fixture(params=["seen here", "elsewhere"])
def looks(request, monkeypatch):
    """The pauses between looks, where the job's folder is seen here and where its files must be fetched."""
    made = []
    monkeypatch.setattr(module, "_LOOKS_AGAIN_SECONDS", (0.01, 0.02))
    if request.param == "elsewhere":
        monkeypatch.setattr(module, "Posix", type("None", (), {}))
    real = module.time.sleep
    monkeypatch.setattr(module.time, "sleep", lambda seconds: (made.append(seconds), real(0)))
    return made


def test_a_result_is_what_the_job_noted(tmp_path, looks):
    cluster = Noting([JobState.DONE], folder=str(tmp_path / "work"))
    with computed(WORK, cluster) as folder:
        assert (folder / "result").read_text() == f"of {cluster.jobs[0].key}"
    assert looks == []


@pytest.mark.parametrize(
    ("noted", "text"),
    [(b"longer than it is" * 9, r"it has 67 bytes and should have 153"), (b"x" * 67, "its bytes are others")],
)
def test_a_result_that_was_cut_short_or_changed_is_refused_and_computed_anew(tmp_path, looks, noted, text):
    cut, whole = (Noting([JobState.DONE], folder=str(tmp_path / "work"), noted=data) for data in (noted, b""))
    said = f"the result result in .* is not what the job left there: {text}"
    with pytest.raises(UnitError, match=said) as caught, computed(WORK, cut):
        pytest.fail("it was given away")
    assert str(caught.value).endswith("looked 3 times. Run again: it is computed anew")
    assert looks == [0.01, 0.02]
    with computed(WORK, whole) as folder:
        assert (folder / "result").exists()
    assert cut.jobs[0].key != whole.jobs[0].key


def test_a_result_that_is_seen_late_is_waited_for(tmp_path, looks, monkeypatch):
    cluster = Noting([JobState.DONE], folder=str(tmp_path / "work"), noted=b"whole")
    monkeypatch.setattr(
        module.time, "sleep", lambda seconds: (Path(cluster.jobs[0].folder) / "result").write_bytes(b"whole")
    )
    with computed(WORK, cluster) as folder:
        assert (folder / "result").read_bytes() == b"whole"


def test_each_item_answers_for_its_own(tmp_path, looks):
    work = replace(WORK, items=2, results=("r.{item}",))

    class Items(Scripted):
        def submit(self, job):
            for item, left in enumerate((b"a", b"bc")):
                (Path(job.folder) / f"r.{item}").write_bytes(b"a")
                noting(job.folder, f"r.{item}", left, f".{item}")
            return super().submit(job)

    cluster = Items([JobState.DONE], folder=str(tmp_path / "work"))
    with (
        pytest.raises(UnitError, match=r"r\.1 in .*: it has 1 bytes and should have 2"),
        computed(work, cluster),
    ):
        pytest.fail("it was given away")


def test_a_temporary_folder_of_somebody_else_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(module.os, "getuid", lambda: 12345)
    with (
        pytest.raises(JobError, match="belongs to another user; set 'folder' of the cluster, or TMPDIR"),
        computed(WORK, Scripted([])),
    ):
        pass
    assert Path(tmp_path / "penstock-12345").exists()
