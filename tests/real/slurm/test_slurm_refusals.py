"""What cannot work is refused at once, with words that say what was found and what to do."""

import pytest
from slurm_site import once, shell

from penstock.errors import JobError
from penstock.solvers.work import run_job


@pytest.fixture(autouse=True)
def alone(slurm):
    """No open connection to share: another name of the same host and user would be let in by it."""
    slurm.kill_masters()


def refusal(cluster, job):
    with pytest.raises(JobError) as caught:
        cluster.submit(job)
    return str(caught.value)


def test_a_host_key_that_nobody_vouched_for(slurm, over_ssh, tmp_path):
    said = refusal(slurm.cluster(host=f"{slurm.host}-unknown"), once(tmp_path / "job"))
    assert "Host key verification failed" in said
    assert f"{slurm.host}-unknown" in said
    assert "known_hosts" in said
    assert slurm.natives(tmp_path) == []


def test_a_key_that_is_not_let_in(slurm, over_ssh, tmp_path):
    said = refusal(slurm.cluster(host=f"{slurm.host}-denied"), once(tmp_path / "job"))
    assert "Permission denied (publickey)" in said
    assert f"ssh {slurm.host}-denied" in said


def test_nobody_listens(slurm, over_ssh, tmp_path):
    said = refusal(slurm.cluster(host=f"{slurm.host}-nowhere"), once(tmp_path / "job"))
    assert "Connection refused" in said


def test_a_partition_that_does_not_exist(slurm, over_ssh, tmp_path):
    said = refusal(slurm.cluster(partition="nowhere"), once(tmp_path / "job"))
    assert "nowhere" in said
    assert "nvalid partition" in said
    assert "main" in said  # what there is


def test_more_memory_than_any_node_has(slurm, over_ssh, tmp_path):
    cluster, job = slurm.cluster(memory="900G"), once(tmp_path / "job")
    for _ in range(2):  # the record that Slurm keeps of it is not taken for a run
        said = refusal(cluster, job)
        assert "emory" in said
        assert "900G" in said
    assert not (tmp_path / "job/ran").exists()
    # Asked for less, the same job runs.
    run_job(slurm.cluster(), job)
    assert (tmp_path / "job/result").exists()


def test_more_gpus_than_any_node_has(slurm, over_ssh, tmp_path):
    assert "gpu:9" in refusal(slurm.cluster(gres="gpu:9"), once(tmp_path / "job"))


def test_a_host_that_has_no_slurm(slurm, over_ssh, tmp_path):
    with slurm.wrapped("sbatch", "echo 'sh: sbatch: command not found' >&2; exit 127"):
        said = refusal(over_ssh, shell(tmp_path / "job", "true"))
    assert "sbatch" in said
    assert "not found" in said
