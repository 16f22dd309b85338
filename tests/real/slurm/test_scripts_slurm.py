"""scripts/slurm: the cluster that all other tests here stand on."""

import os
import re
import subprocess
import time
from pathlib import Path

import psutil
from slurm_site import wait_until

SCRIPT = Path(__file__).parents[3] / "scripts" / "slurm"


def slurm_script(*words):
    return subprocess.run([SCRIPT, *words], capture_output=True, text=True)


def test_jobs_run_on_every_node(slurm):
    said = slurm.asked("sh", "-c", "for n in 1 2 3 4; do srun --mpi=none -w c$n printenv SLURMD_NODENAME; done")
    assert said.split() == ["c1", "c2", "c3", "c4"]


def test_ssh_leads_to_the_same_cluster(slurm):
    assert slurm.asked("ssh", slurm.host, "scontrol show config | grep SLURM_CONF").split()[-1] == str(
        slurm.base / "etc/slurm.conf"
    )


def test_a_job_sees_the_gpus_it_asked_for(slurm):
    assert slurm.asked("srun", "--gres=gpu:2", "printenv", "CUDA_VISIBLE_DEVICES") == "0,1\n"


def test_there_is_no_accounting_until_it_is_asked_for(slurm, slurm_accounting):
    refused = subprocess.run(["sacct"], capture_output=True, text=True, env=slurm.environment)
    assert "accounting storage is disabled" in refused.stderr
    slurm_accounting.asked("srun", "-J", "counted", "true")
    deadline = time.monotonic() + 180
    while "COMPLETED" not in (said := slurm_accounting.asked("sacct", "-n", "-X", "--name", "counted", "-o", "state")):
        assert time.monotonic() < deadline, said
        time.sleep(0.2)


def test_starting_again_leaves_alone_what_runs_and_mends_what_does_not(slurm, slow):
    wait_until((slow / "late/warned").exists, "the job with a time limit has its warning")  # lost, if it were due now
    before = {name: slurm.pid(name) for name in ("munged", "slurmctld", "slurmd-c2", "sshd")}
    slurm.kill("slurmd-c2")
    slurm.kill("munged")
    slurm.start()
    after = {name: slurm.pid(name) for name in before}
    assert {name for name in before if before[name] != after[name]} == {"munged", "slurmd-c2"}
    assert slurm.asked("srun", "--mpi=none", "-w", "c2", "printenv", "SLURMD_NODENAME") == "c2\n"


def test_it_may_be_started_again_by_somebody_who_uses_it(slurm):
    again = subprocess.run([SCRIPT, "start", slurm.base], env=slurm.environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert slurm.asked("ssh", slurm.host, "echo here") == "here\n"  # and not by an ssh that calls itself


def test_a_daemon_that_is_not_there_is_named(slurm):
    done = slurm_script("stop", slurm.base, "slurmd-c9")
    assert done.returncode == 1
    assert "there is no daemon slurmd-c9 here; there are: munged slurmctld slurmd-c1" in done.stderr


def test_stop_ends_every_process_and_wipes(tmp_path):
    base = tmp_path / "s"
    done = slurm_script("start", base, "--nodes", "1")
    assert done.returncode == 0, done.stderr
    environment = {**os.environ, "SLURM_CONF": str(base / "etc/slurm.conf")}
    # A job that no SIGTERM ends.
    words = ["sbatch", "-o", str(base / "out"), "--wrap", f"trap '' TERM; : {base}; while true; do sleep 0.1; done"]
    subprocess.run(words, env=environment, check=True, capture_output=True)
    deadline = time.monotonic() + 180
    while not (base / "out").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert processes_of(base)
    done = slurm_script("stop", base, "--wipe")
    assert done.returncode == 0, done.stderr
    assert not base.exists()
    assert processes_of(base) == []
    assert slurm_script("stop", base, "--wipe").returncode == 0


def processes_of(base):
    """Living processes that name *base* on their command line or in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            words = " ".join([*process.cmdline(), *process.environ().values()])
            if process.status() != psutil.STATUS_ZOMBIE and re.search(rf"{base}\b", words):
                found.append(process.cmdline())
        except psutil.Error:
            continue
    return [words for words in found if "pytest" not in " ".join(words)]
