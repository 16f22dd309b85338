"""The conformance suite for clusters: whatever scheduler stands behind, a job is run once and told of truly."""

# ruff: noqa: D102  (the names of the tests say what they test)

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from penstock.core.nouns import Cluster, Job, JobState
from penstock.errors import JobError
from penstock.solvers.work import run_job

__all__ = ["ClusterTests"]


class ClusterTests:
    """Subclass it and give `cluster`; give `folder` too where the cluster does not see this machine's files.

    Example::

        class TestMine(ClusterTests):
            @pytest.fixture
            def cluster(self):
                return Mine()
    """

    deadline_seconds = 300.0

    @pytest.fixture
    def cluster(self) -> Cluster:
        """The cluster under test."""
        raise NotImplementedError("a subclass gives the cluster")

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """An empty folder that this machine and the cluster see under one path."""
        return tmp_path

    def sized(self, cluster: Cluster, **changes: Any) -> Cluster:
        """The same cluster that gives its jobs more or less; override it where `tasks`, `cpus_per_task` and
        `time_minutes` are not fields of the cluster itself.
        """
        return dataclasses.replace(cluster, **changes)  # type: ignore[type-var]

    def ended(self, cluster: Cluster, native_id: str) -> JobState:
        """Wait until the job has ended, and say how."""
        end = time.monotonic() + self.deadline_seconds
        while not (state := cluster.poll([native_id])[native_id].state).final:
            assert time.monotonic() < end, f"the job is {state.value} after {self.deadline_seconds:g} s"
            time.sleep(0.02)
        return state

    def awaited(self, path: Path) -> None:
        """Wait until *path* is there."""
        end = time.monotonic() + self.deadline_seconds
        while not path.exists():
            assert time.monotonic() < end, f"{path.name} did not appear in {self.deadline_seconds:g} s"
            time.sleep(0.02)

    def test_it_follows_the_protocol(self, cluster: Cluster) -> None:
        assert isinstance(cluster, Cluster)

    def test_a_job_runs_in_its_folder_and_is_done(self, cluster: Cluster, folder: Path) -> None:
        job = _shell("ran", "pwd; echo complaint >&2; echo here > made", folder)
        assert self.ended(cluster, cluster.submit(job)) is JobState.DONE
        assert Path(folder / "ran" / "stdout").read_text().strip() == str(folder / "ran")
        assert Path(folder / "ran" / "stderr").read_text().strip() == "complaint"
        assert Path(folder / "ran" / "made").read_text() == "here\n"
        assert json.loads((folder / "ran" / "exit").read_text())["code"] == 0

    def test_a_job_that_fails_is_failed_and_tells_its_exit_status(self, cluster: Cluster, folder: Path) -> None:
        job = _shell("bad", "exit 7", folder)
        assert self.ended(cluster, cluster.submit(job)) is JobState.FAILED
        assert json.loads((folder / "bad" / "exit").read_text())["code"] == 7

    def test_a_program_that_does_not_exist_is_a_failed_job(self, cluster: Cluster, folder: Path) -> None:
        job = _job("nothing", ("penstock-there-is-no-such-program",), folder)
        assert self.ended(cluster, cluster.submit(job)) is JobState.FAILED
        assert "penstock-there-is-no-such-program" in (folder / "nothing" / "stderr").read_text()

    def test_waiting_for_a_failed_job_gives_command_status_and_the_end_of_stderr(
        self, cluster: Cluster, folder: Path
    ) -> None:
        script = "for i in $(seq 100); do echo line $i >&2; done; exit 3"
        with pytest.raises(JobError) as caught:
            run_job(cluster, _shell("told", script, folder))
        for text in ("exit status 3", "seq 100", "line 100", "line 81"):
            assert text in str(caught.value)
        assert "line 1\n" not in str(caught.value)

    def test_a_failed_job_can_be_run_anew(self, cluster: Cluster, folder: Path) -> None:
        script = f"test -e {folder}/mended"
        with pytest.raises(JobError, match="exit status 1"):
            run_job(cluster, _shell("again", script, folder))
        (folder / "mended").touch()
        run_job(cluster, _shell("again", script, folder))

    def test_the_same_job_submitted_twice_runs_once(self, cluster: Cluster, folder: Path) -> None:
        job = _shell("once", f"echo ran >> {folder}/log; sleep 0.5", folder)
        first = cluster.submit(job)
        assert cluster.submit(job) == first
        assert self.ended(cluster, first) is JobState.DONE
        assert cluster.submit(job) == first
        assert states(cluster, first) == [JobState.DONE]
        time.sleep(0.5)
        assert (folder / "log").read_text() == "ran\n"

    def test_all_states_are_told_at_once(self, cluster: Cluster, folder: Path) -> None:
        good = cluster.submit(_shell("good", "true", folder))
        bad = cluster.submit(_shell("bad", "false", folder))
        long = cluster.submit(_shell("long", "echo > begun; sleep 600", folder))
        self.ended(cluster, good)
        self.ended(cluster, bad)
        self.awaited(folder / "long" / "begun")
        try:
            assert states(cluster, good, bad, long) == [JobState.DONE, JobState.FAILED, JobState.RUNNING]
        finally:
            cluster.cancel(long)
        assert cluster.poll([]) == {}

    def test_an_id_that_was_never_given_is_unknown(self, cluster: Cluster) -> None:
        assert states(cluster, "987654321") == [JobState.UNKNOWN]

    def test_a_cancelled_job_ends_with_all_its_processes(self, cluster: Cluster, folder: Path) -> None:
        script = "(while true; do date >> ticks; sleep 0.05; done) & sleep 600"
        native_id = cluster.submit(_shell("endless", script, folder))
        self.awaited(folder / "endless" / "ticks")
        cluster.cancel(native_id)
        assert self.ended(cluster, native_id) is JobState.CANCELLED
        ticks = (folder / "endless" / "ticks").read_text()
        time.sleep(0.3)
        assert (folder / "endless" / "ticks").read_text() == ticks

    def test_ending_an_ended_job_does_nothing(self, cluster: Cluster, folder: Path) -> None:
        native_id = cluster.submit(_shell("over", "true", folder))
        assert self.ended(cluster, native_id) is JobState.DONE
        cluster.cancel(native_id)
        assert states(cluster, native_id) == [JobState.DONE]

    def test_an_attempt_that_was_put_aside_is_followed_by_another(self, cluster: Cluster, folder: Path) -> None:
        job = _shell("twice", f"echo ran >> {folder}/log; test $(wc -l < {folder}/log) = 2", folder)
        first = cluster.submit(job)
        assert self.ended(cluster, first) is JobState.FAILED
        assert cluster.poll([first])[first].attempt == 1
        assert not cluster.poll([first])[first].passing
        _put_aside(cluster, first)
        _put_aside(cluster, first)
        second = cluster.submit(job)
        assert self.ended(cluster, second) is JobState.DONE
        assert cluster.poll([second])[second].attempt == 2

    def test_a_running_job_is_not_put_aside(self, cluster: Cluster, folder: Path) -> None:
        job = _shell("on", "echo > begun; while ! test -e go; do sleep 0.05; done", folder)
        native_id = cluster.submit(job)
        self.awaited(folder / "on" / "begun")
        _put_aside(cluster, native_id)
        assert cluster.submit(job) == native_id
        (folder / "on" / "go").touch()
        assert self.ended(cluster, native_id) is JobState.DONE

    def test_each_item_runs_once_and_leaves_its_own_files(self, cluster: Cluster, folder: Path) -> None:
        script = "echo $PENSTOCK_ITEM of $PENSTOCK_ITEMS; touch made.$PENSTOCK_ITEM"
        job = _shell("items", script, folder, items=3)
        assert self.ended(cluster, cluster.submit(job)) is JobState.DONE
        for item in range(3):
            assert (folder / "items" / f"stdout.{item}").read_text() == f"{item} of 3\n"
            assert json.loads((folder / "items" / f"exit.{item}").read_text())["code"] == 0
            assert (folder / "items" / f"made.{item}").exists()

    def test_a_job_of_which_an_item_fails_is_failed_and_names_it(self, cluster: Cluster, folder: Path) -> None:
        job = _shell("some", "echo item $PENSTOCK_ITEM >&2; test $PENSTOCK_ITEM != 1", folder, items=3)
        with pytest.raises(JobError, match="1 of 3 items failed, the first is item 1") as caught:
            run_job(cluster, job)
        assert "    item 1" in str(caught.value)

    def test_a_job_is_ended_at_its_time_limit(self, cluster: Cluster, folder: Path) -> None:
        job = _job("slow", ("sh", "-c", "sleep 600"), folder)
        with pytest.raises(JobError, match="time limit"):
            run_job(self.sized(cluster, time_minutes=1 / 60), job)

    def test_a_program_sees_its_variables_and_its_threads(self, cluster: Cluster, folder: Path) -> None:
        environment = {"GREETING": "hello 'you' $HOME"}
        command = ("sh", "-c", 'echo "$GREETING $OMP_NUM_THREADS"')
        job = _job("told", command, folder, environment=environment)
        cluster = self.sized(cluster, cpus_per_task=2)
        assert self.ended(cluster, cluster.submit(job)) is JobState.DONE
        assert (folder / "told" / "stdout").read_text() == "hello 'you' $HOME 2\n"

    def test_arguments_arrive_as_they_are(self, cluster: Cluster, folder: Path) -> None:
        words = ("a b", "", "'", '"', "$HOME", "\\", "*", "ü")
        job = _job("words", (sys.executable, "-c", _REPEAT, *words), folder)
        assert self.ended(cluster, cluster.submit(job)) is JobState.DONE
        assert json.loads((folder / "words" / "stdout").read_text()) == list(words)

    def test_each_task_runs_the_program(self, cluster: Cluster, folder: Path) -> None:
        job = _job("many", ("sh", "-c", "echo rank"), folder)
        cluster = self.sized(cluster, tasks=2)
        assert self.ended(cluster, cluster.submit(job)) is JobState.DONE
        assert (folder / "many" / "stdout").read_text().split() == ["rank", "rank"]


def states(cluster: Cluster, *ids: str) -> list[JobState]:
    """Of these jobs, in their order."""
    found = cluster.poll(ids)
    return [found[native_id].state for native_id in ids]


def _put_aside(cluster: Cluster, native_id: str) -> None:
    cluster.again(native_id, cluster.poll([native_id])[native_id])


_SESSION = uuid.uuid4().hex
_REPEAT = "import json, sys; print(json.dumps(sys.argv[1:]))"


def _job(name: str, command: tuple[str, ...], folder: Path, **more: Any) -> Job:
    """A job whose key no other run of the tests has: a scheduler remembers keys for days."""
    key = hashlib.sha256(f"{_SESSION} {folder / name}".encode()).hexdigest()
    return Job(key, command, str(folder / name), **more)


def _shell(name: str, script: str, folder: Path, **more: Any) -> Job:
    return _job(name, ("sh", "-c", script), folder, **more)
