"""How much is asked of the controller: one squeue for all jobs, one sbatch for all items."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from slurm_site import ended, shell, wait_until

from penstock.core.nouns import JobState
from penstock.errors import JobError
from penstock.solvers.work import run_job


def watched(site, folder, count, seconds=5.0):
    """How often squeue is called while *count* running jobs are watched, and for how many of its intervals."""
    cluster = site.cluster(poll_seconds=1.0)
    jobs = [shell(folder / f"job{number}", "sleep 600") for number in range(count)]
    with ThreadPoolExecutor(6) as threads:
        ids = list(threads.map(cluster.submit, jobs))
    try:
        with site.counted("squeue") as calls:
            started = time.monotonic()
            while time.monotonic() < started + seconds:
                assert all(not status.state.final for status in cluster.poll(ids).values())
            return calls(), time.monotonic() - started
    finally:
        with ThreadPoolExecutor(6) as threads:
            list(threads.map(cluster.cancel, ids))


def test_calls_of_squeue_do_not_grow_with_the_number_of_jobs(slurm, over_ssh, tmp_path):
    for count in (1, 24):
        calls, intervals = watched(slurm, tmp_path / str(count), count)
        assert 1 <= calls <= intervals + 2


def test_calls_of_squeue_do_not_grow_with_the_number_of_jobs_that_fail(slurm, over_ssh, tmp_path):
    """All fail, each for another cluster value, and are put aside; the next run of them is another job.

    A call for each would be 24; with five seconds in between, a slow machine needs fewer as well.
    """
    jobs = [shell(tmp_path / f"job{number}", "exit 3") for number in range(24)]
    clusters = [slurm.cluster(poll_seconds=5.0, time_minutes=10 + number) for number in range(24)]

    def failed(cluster, job):
        with pytest.raises(JobError, match="exit status 3"):
            run_job(cluster, job)

    with slurm.counted("squeue") as calls, ThreadPoolExecutor(24) as threads:
        started = time.monotonic()
        list(threads.map(failed, clusters, jobs))
        assert calls() <= (time.monotonic() - started) / 5.0 + 2
        assert calls() < 24
    assert len(slurm.natives(tmp_path)) == 24
    assert len(set(over_ssh.poll([over_ssh.submit(job) for job in jobs[:2]]))) == 2
    wait_until(lambda: len(slurm.natives(tmp_path)) == 26, "two run anew")


@pytest.mark.timeout(1200)
def test_a_thousand_items_are_one_call_of_sbatch(slurm, over_ssh, tmp_path):
    job = shell(tmp_path / "job", "echo $PENSTOCK_ITEM > result.$PENSTOCK_ITEM", items=1000)
    with slurm.counted("sbatch") as sbatch, slurm.counted("squeue") as squeue:
        native_id = over_ssh.submit(job)
        assert sbatch() == 1
        started = time.monotonic()
        assert ended(over_ssh, [native_id], seconds=900)[0].state is JobState.DONE
        assert squeue() <= (time.monotonic() - started) / over_ssh.poll_seconds + 2
    assert all((tmp_path / "job" / f"result.{item}").read_text() == f"{item}\n" for item in range(1000))
    assert all(json.loads((tmp_path / "job" / f"exit.{item}").read_text())["code"] == 0 for item in range(1000))
    assert len(slurm.natives(tmp_path)) == 1000


def test_more_items_than_an_array_may_have_are_several_arrays(slurm_forgetful, tmp_path):
    job = shell(tmp_path / "job", "test $PENSTOCK_ITEM != 17; echo $PENSTOCK_ITEMS > result.$PENSTOCK_ITEM", items=25)
    with slurm_forgetful.reached(), slurm_forgetful.counted("sbatch") as sbatch:
        cluster = slurm_forgetful.cluster()
        native_id = cluster.submit(job)
        assert sbatch() == 3  # MaxArraySize is 11: task numbers 0 to 10
        assert cluster.submit(job) == native_id
        assert sbatch() == 3
        assert ended(cluster, [native_id])[0].state is JobState.DONE
    assert all((tmp_path / "job" / f"result.{item}").read_text() == "25\n" for item in range(25))
    assert len(slurm_forgetful.natives(tmp_path)) == 25


def test_only_the_items_that_failed_run_again(slurm, over_ssh, tmp_path):
    script = "echo >> runs.$PENSTOCK_ITEM; test -e mended || test $PENSTOCK_ITEM != 2"
    job = shell(tmp_path / "job", script, items=5)
    native_id = over_ssh.submit(job)
    status = ended(over_ssh, [native_id])[0]
    assert status.state is JobState.FAILED
    assert "1 of 5 items failed, the first is item 2" in status.why
    (tmp_path / "job/mended").touch()
    over_ssh.again(native_id, status)
    second = over_ssh.submit(job)
    assert ended(over_ssh, [second])[0].state is JobState.DONE
    assert [(tmp_path / "job" / f"runs.{item}").read_text().count("\n") for item in range(5)] == [1, 1, 2, 1, 1]
    wait_until(lambda: len(slurm.natives(tmp_path)) == 6, "six jobs in all")
