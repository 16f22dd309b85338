"""Daemons, connections and nodes die, sbatch lies, squeue forgets: no job is lost, doubled or wrongly ended."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from slurm_site import LIVING, SAVED_SECONDS, ended, once, ran_once, shell, wait_until

from penstock.core.nouns import JobState
from penstock.errors import JobError
from penstock.solvers.work import run_job


def submitted(cluster, job, seconds=120):
    """Submit until the cluster takes it: what a second run of the pipeline does."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return cluster.submit(job)
        except JobError:
            assert time.monotonic() < deadline
            time.sleep(0.5)


class Watcher:
    """Polls in a thread of its own and keeps every state that a job was ever said to be in."""

    def __init__(self, cluster, ids):
        self.cluster, self.ids = cluster, tuple(ids)
        self.seen = {native_id: [] for native_id in ids}
        self.over = threading.Event()
        self.threads = ThreadPoolExecutor(1)

    def run(self):
        while not self.over.is_set():
            for native_id, status in self.cluster.poll(self.ids).items():
                if self.seen[native_id][-1:] != [status.state]:
                    self.seen[native_id].append(status.state)
            time.sleep(0.2)

    def __enter__(self):
        self.running = self.threads.submit(self.run)
        return self

    def __exit__(self, *error):
        self.over.set()
        self.threads.shutdown()
        self.running.result()

    def ever(self):
        return {state for states in self.seen.values() for state in states}


@pytest.fixture(params=["without accounting", "with accounting"])
def site(request):
    site = request.getfixturevalue("slurm" if request.param == "without accounting" else "slurm_accounting")
    with site.reached():
        yield site


def three(cluster, folder, early):
    """A job that has ended, one that ends during the outage, and one that runs beyond it."""
    jobs = [
        once(folder / name, seconds) for name, seconds in (("short", 0), ("middle", early + 2), ("long", early + 8))
    ]
    ids = [cluster.submit(job) for job in jobs]
    wait_until((folder / "long/ran").exists, "the long job runs")
    ended(cluster, ids[:1])
    return ids


def all_well(site, cluster, ids, folder, watcher):
    assert [status.state for status in ended(cluster, ids)] == [JobState.DONE] * len(ids)
    assert not watcher.ever() & {JobState.FAILED, JobState.CANCELLED}
    assert len(site.natives(folder)) == len(ids)
    assert all(ran_once(job) for job in folder.iterdir())


def outage(site, folder, daemon, seconds):
    cluster = site.cluster()
    ids = three(cluster, folder, SAVED_SECONDS if daemon == "slurmctld" else 0)
    with Watcher(cluster, ids) as watcher, ThreadPoolExecutor(1) as thread:
        with site.without(daemon):
            meanwhile = thread.submit(submitted, cluster, once(folder / "meanwhile"))
            time.sleep(seconds)
        ids.append(meanwhile.result())
        ended(cluster, ids)
    all_well(site, cluster, ids, folder, watcher)


def test_slurmctld_is_down_for_a_minute(slurm, slow, tmp_path):
    wait_until((slow / "late/warned").exists, "the job with a time limit has its warning")  # lost, if it were due now
    with slurm.reached():
        outage(slurm, tmp_path, "slurmctld", 60)


def test_slurmctld_is_down_where_there_is_accounting(slurm_accounting, tmp_path):
    with slurm_accounting.reached():
        outage(slurm_accounting, tmp_path, "slurmctld", 5)


def test_slurmdbd_is_down(slurm_accounting, tmp_path):
    with slurm_accounting.reached():
        outage(slurm_accounting, tmp_path, "slurmdbd", 5)


def test_sshd_is_killed(slurm, tmp_path):
    with slurm.reached():
        outage(slurm, tmp_path, "sshd", 5)


def test_munged_is_killed(slurm, tmp_path):
    with slurm.reached():
        outage(slurm, tmp_path, "munged", 5)


@pytest.mark.parametrize("hurt", ["kill_masters", "cut_connections"])
def test_connections_are_lost_again_and_again(slurm, over_ssh, tmp_path, hurt):
    jobs = [once(tmp_path / f"job{number}") for number in range(12)]
    over = threading.Event()
    lost = []

    def hurting():
        pause = 3.0  # long enough for a call to get through in between; on a slow machine soon
        while not over.wait(pause):
            lost.append(getattr(slurm, hurt)())
            pause *= 1.15

    thread = threading.Thread(target=hurting)
    thread.start()
    try:
        ids = [submitted(over_ssh, job) for job in jobs]
        with Watcher(over_ssh, ids) as watcher:
            wait_until(lambda: sum(lost) >= 3, "three connections are lost")
    finally:
        over.set()
        thread.join()
    assert len(set(ids)) == 12
    all_well(slurm, over_ssh, ids, tmp_path, watcher)


def test_sshd_and_its_connections_are_killed_and_the_next_poll_says_unknown(slurm, over_ssh, tmp_path):
    native_id = over_ssh.submit(once(tmp_path / "job", 4))
    slurm.kill("sshd")
    try:
        slurm.cut_connections()
        wait_until(lambda: over_ssh.poll([native_id])[native_id].state is JobState.UNKNOWN, "nobody can say")
    finally:
        slurm.start("sshd")
    assert ended(over_ssh, [native_id])[0].state is JobState.DONE


def test_an_sbatch_that_times_out_though_the_job_was_taken(site, tmp_path):
    cluster = site.cluster()
    with site.sbatch_that_times_out():
        ids = [submitted(cluster, once(tmp_path / f"job{number}")) for number in range(4)]
    assert [status.state for status in ended(cluster, ids)] == [JobState.DONE] * 4
    assert len(site.natives(tmp_path)) == 4
    assert all(ran_once(job) for job in tmp_path.iterdir())


def test_an_sbatch_that_hangs_is_not_a_lost_job(site, tmp_path):
    """The login node is so busy that the answer comes late: somebody else submits the same job meanwhile."""
    cluster, job = site.cluster(), once(tmp_path / "job")
    with site.wrapped("sbatch", 'sleep 1; $real "$@"; code=$?; sleep 1; exit $code'), ThreadPoolExecutor(5) as threads:
        ids = list(threads.map(lambda _: submitted(cluster, job), range(5)))
    assert len(set(ids)) == 1
    assert ended(cluster, ids[:1])[0].state is JobState.DONE
    assert len(site.natives(tmp_path)) == 1
    assert ran_once(tmp_path / "job")


def test_a_squeue_that_fails_is_no_answer(slurm, over_ssh, tmp_path):
    native_id = over_ssh.submit(shell(tmp_path / "job", "touch ran; sleep 600"))
    wait_until((tmp_path / "job/ran").exists, "the job runs")
    said = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
    with slurm.wrapped("squeue", f"echo '{said}' >&2; exit 1"):
        wait_until(lambda: over_ssh.poll([native_id])[native_id].state is JobState.UNKNOWN, "nobody can say")
    over_ssh.cancel(native_id)
    assert ended(over_ssh, [native_id])[0].state is JobState.CANCELLED


def record_of(site, native_id):
    return site.base / "scratch/jobs" / (site.base / "scratch/ids" / native_id).read_text().strip()


def test_a_job_ended_from_outside_while_squeue_is_away_is_not_judged(slurm, over_ssh, tmp_path):
    """Its own record cannot tell a preemption from a cancellation."""
    native_id = over_ssh.submit(shell(tmp_path / "job", "touch ran; exec sleep 600"))
    wait_until((tmp_path / "job/ran").exists, "the job runs")
    with slurm.wrapped("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1"):
        slurm.asked("scancel", native_id.partition(".")[0])
        wait_until(lambda: list(record_of(slurm, native_id).glob("exit=*")), "it leaves its record")
        time.sleep(11)
        status = over_ssh.poll([native_id])[native_id]
        assert (status.state, "Unable to contact" in status.why) == (JobState.UNKNOWN, True)
    assert ended(over_ssh, [native_id])[0].state is JobState.CANCELLED


def test_what_squeue_has_forgotten_and_slurmdbd_cannot_tell_is_not_lost(slurm_accounting, with_accounting, tmp_path):
    site, waits = slurm_accounting, slurm_accounting.cluster(lines=("--begin=now+1hour",))
    native_id = waits.submit(shell(tmp_path / "job", "touch ran"))
    site.asked("scancel", native_id.partition(".")[0])
    with site.wrapped("squeue", "exit 0"):  # it has forgotten all
        with site.without("slurmdbd"):
            waits.poll([native_id])
            (record_of(site, native_id) / "over").write_text("1000\n")
            status = waits.poll([native_id])[native_id]
            assert (status.state, "sacct: error" in status.why) == (JobState.UNKNOWN, True)
        words = ("sacct", "--noheader", "--allocations", "--format=state", f"--jobs={native_id.partition('.')[0]}")
        wait_until(lambda: "CANCELLED" in site.asked(*words), "slurmctld has told slurmdbd, which was away")
        assert ended(waits, [native_id])[0].state is JobState.CANCELLED
    assert len(site.natives(tmp_path)) == 1


def test_a_node_dies_and_the_job_runs_again_on_another(slurm, over_ssh, tmp_path):
    job = shell(tmp_path / "job", "echo $SLURMD_NODENAME >> nodes; test $(wc -l < nodes) = 2 || sleep 600")
    cluster = slurm.cluster(retries=1)
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(run_job, cluster, job)
        nodes = tmp_path / "job/nodes"
        wait_until(nodes.exists, "the job runs")
        lost = nodes.read_text().strip()
        slurm.kill_node(lost)
        try:
            running.result(timeout=400)
        finally:
            slurm.start()
    first, second = nodes.read_text().split()
    assert first == lost != second
    wait_until(lambda: slurm.natives(tmp_path)[-1].state not in LIVING, "Slurm knows of the end")
    assert [native.state for native in slurm.natives(tmp_path)] == ["NODE_FAIL", "COMPLETED"]


def test_a_node_dies_and_there_are_no_retries(slurm, over_ssh, tmp_path):
    native_id = over_ssh.submit(shell(tmp_path / "job", "echo $SLURMD_NODENAME > node; sleep 600"))
    wait_until((tmp_path / "job/node").exists, "the job runs")
    lost = (tmp_path / "job/node").read_text().strip()
    slurm.kill_node(lost)
    slurm.asked("scontrol", "update", f"nodename={lost}", "state=down", "reason=dead")
    try:
        status = ended(over_ssh, [native_id])[0]
    finally:
        slurm.start()  # until the node is back in service
    assert status.state is JobState.FAILED
    assert status.passing
    assert "NODE_FAIL" in status.why


def test_squeue_has_forgotten_the_jobs(slurm_forgetful, slow):
    with slurm_forgetful.reached():
        cluster = slurm_forgetful.cluster()
        good, bad = once(slow / "forgotten"), shell(slow / "forgotten-bad", "exit 7")
        listed = ("squeue", "-t", "all", "-o", "%j")
        wait_until(lambda: slow.name not in slurm_forgetful.asked(*listed), "squeue forgets")
        ids = [cluster.submit(job) for job in (good, bad)]
        first, second = (cluster.poll(ids)[native_id] for native_id in ids)
    assert (first.state, second.state) == (JobState.DONE, JobState.FAILED)
    assert "7" in second.why
    assert len(slurm_forgetful.natives(slow)) == 2
    assert ran_once(slow / "forgotten")
