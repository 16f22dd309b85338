"""What a job asks for is what it gets and sees."""

import getpass
from concurrent.futures import ThreadPoolExecutor

import pytest
from slurm_site import SHORT, ended, late, shell, wait_until

from penstock.core.nouns import JobState
from penstock.errors import JobError
from penstock.solvers.work import run_job


def printed(cluster, folder, script, **more):
    job = shell(folder, script, **more)
    native_id = cluster.submit(job)
    status = ended(cluster, [native_id])[0]
    assert status.state is JobState.DONE, (status, (folder / "stderr").read_text())
    return (folder / "stdout").read_text()


def test_gpus(slurm, over_ssh, tmp_path):
    cluster = slurm.cluster(gres="gpu:2")
    assert printed(cluster, tmp_path / "job", "echo $CUDA_VISIBLE_DEVICES $SLURMD_NODENAME") == "0,1 c1\n"
    assert printed(slurm.cluster(gres="gpu:1", partition="gpu"), tmp_path / "one", "echo $SLURM_GPUS_ON_NODE") == "1\n"
    assert printed(over_ssh, tmp_path / "none", "echo [$CUDA_VISIBLE_DEVICES]") == "[]\n"


def test_nodes_tasks_cores_memory_and_time(slurm, over_ssh, tmp_path):
    cluster = slurm.cluster(nodes=2, tasks=4, cpus_per_task=2, memory="300M", time_minutes=7)
    script = "test ${SLURM_PROCID:-0} = 0 || exit 0; scontrol show job $SLURM_JOB_ID"
    said = printed(cluster, tmp_path / "job", script)
    for words in ("NumNodes=2", "NumTasks=4", "CPUs/Task=2", "MinMemoryNode=300M", "TimeLimit=00:07:00"):
        assert words in said


def test_lines_and_prologue(slurm, over_ssh, tmp_path):
    cluster = slurm.cluster(lines=("--nodelist=c3", "--comment=ours"), prologue=("export GREETING=hello",))
    assert printed(cluster, tmp_path / "job", "echo $GREETING $SLURMD_NODENAME") == "hello c3\n"


def test_account_and_quality_of_service(slurm_accounting, with_accounting, tmp_path):
    for words in (
        "qos quick",
        "account physics",
        f"user {getpass.getuser()} account=physics qos=quick,normal defaultqos=normal",
    ):
        slurm_accounting.asked("sacctmgr", "-i", "add", *words.split())
    wait_until(lambda: "quick" in slurm_accounting.asked("scontrol", "show", "assoc_mgr", "flags=qos"), "it is known")
    cluster = slurm_accounting.cluster(account="physics", qos="quick")
    assert printed(cluster, tmp_path / "job", "echo $SLURM_JOB_ACCOUNT $SLURM_JOB_QOS") == "physics quick\n"


@pytest.mark.parametrize("retries", [0, 1])
def test_a_job_that_is_preempted_is_tried_again(slurm, over_ssh, tmp_path, retries):
    """An urgent job takes its node."""
    whole = {"cpus_per_task": 4, "lines": ("--nodelist=c3",)}
    spare = slurm.cluster(partition="spare", retries=retries, **whole)
    job = shell(tmp_path / "spare", "echo >> runs; test $(wc -l < runs) = 2 || sleep 600")
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(run_job, spare, job)
        wait_until((tmp_path / "spare/runs").exists, "the job runs")
        urgent = slurm.cluster(partition="urgent", **whole)
        taken = urgent.submit(shell(tmp_path / "urgent", "sleep 1"))
        assert ended(urgent, [taken])[0].state is JobState.DONE
        if retries:
            running.result(timeout=300)
        else:
            with pytest.raises(JobError, match="PREEMPTED: it was preempted"):
                running.result(timeout=300)
    states = {native.name.rpartition(".")[0]: native.state for native in slurm.natives(tmp_path)}
    assert "PREEMPTED" in [native.state for native in slurm.natives(tmp_path)], states
    assert (tmp_path / "spare/runs").read_text().count("\n") == 1 + retries


def test_a_job_that_depends_on_a_failed_one_is_cancelled(slurm, over_ssh, tmp_path):
    first = over_ssh.submit(shell(tmp_path / "first", "until test -e go; do sleep 0.1; done; exit 3"))
    number = slurm.natives(tmp_path)[0].id
    cluster = slurm.cluster(dependency=f"afterok:{number}")
    second = cluster.submit(shell(tmp_path / "second", "touch ran"))
    (tmp_path / "first/go").touch()
    assert [status.state for status in ended(over_ssh, [first])] == [JobState.FAILED]
    status = ended(cluster, [second])[0]
    assert status.state is JobState.CANCELLED
    assert not (tmp_path / "second/ran").exists()


def test_it_is_reached_through_another_host(slurm, over_ssh, tmp_path):
    inner = slurm.cluster(host=f"{slurm.host}-inner")
    assert printed(inner, tmp_path / "job", "echo here") == "here\n"


def test_a_job_is_ended_at_its_time_limit_after_a_warning(slurm, slow):
    with slurm.reached():
        cluster, job = slurm.cluster(**SHORT), late(slow / "late")
        status = ended(cluster, [cluster.submit(job)])[0]
    assert status.state is JobState.FAILED
    assert "time limit" in status.why
    assert not status.passing
    assert (slow / "late/warned").exists()
    assert len(slurm.natives(slow)) == 1
