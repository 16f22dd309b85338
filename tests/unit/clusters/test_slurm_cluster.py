"""The scripts of the bridge, run by Bash against programs that answer as Slurm's do."""

import dataclasses
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from penstock.clusters import slurm
from penstock.clusters.slurm import Slurm
from penstock.clusters.slurm.shell import Unreachable
from penstock.core.nouns import Cluster, Job, JobState, Status
from penstock.errors import JobError

# A queue is a file of lines ID|TASK|STATE|NAME|REASON; sbatch adds to it, and does what the file `says` has it do.
FAKE = """#!{python} -SE
import fcntl, json, os, sys
program, words = os.path.basename(sys.argv[0]), sys.argv[1:]
os.chdir({here!r})
with open("calls", "a") as calls:
    print(program, *words, file=calls)
option = dict(word[2:].partition("=")[::2] for word in words if word.startswith("--"))
says = json.load(open("says")).get(program, {{}})
lines = [line.split("|") for line in open("queue").read().splitlines()]
if says.get("before"):
    sys.exit(print(says["before"], file=sys.stderr) or 1)
if program == "sbatch":
    with open("queue", "a+") as out:
        fcntl.flock(out, fcntl.LOCK_EX)
        out.seek(0)
        number = 1 + len(out.readlines())
        job = (number, option.get("array", "N/A"), says.get("state", "PENDING"), option["job-name"])
        print(*job, says.get("reason", "None"), sep="|", file=out)
    if says.get("after"):
        sys.exit(print(says["after"], file=sys.stderr) or 1)
    print(number)
elif program == "squeue":
    form = words[words.index("-o") + 1]
    name = words[words.index("-n") + 1] if "-n" in words else None
    for line in lines:
        if name in (None, line[3]):
            values = dict(zip("FKTjr", line))
            print("|".join(values[letter[1]] for letter in form.split("|")))
elif program == "sacct":
    print(says.get("answer", ""))
elif program == "scontrol":
    print("MaxArraySize            = 10")
elif program == "scancel":
    ended = [[n, k, "CANCELLED" if n in words else state, *rest] for n, k, state, *rest in lines]
    open("queue", "w").write("".join("|".join(line) + "\\n" for line in ended))
elif program == "sinfo":
    print("main\\ngpu")
"""


class Site:
    """The programs, and what they were asked."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "bin").mkdir()
        for name in ("sbatch", "squeue", "sacct", "scontrol", "scancel", "sinfo"):
            path = folder / "bin" / name
            path.write_text(FAKE.format(python=sys.executable, here=str(folder)))
            path.chmod(0o755)
        self.says(sacct={"before": "Slurm accounting storage is disabled"})
        for name in ("queue", "calls"):
            (folder / name).touch()

    def says(self, **programs):
        (self.folder / "says").write_text(json.dumps(programs))

    def calls(self, program):
        return [line for line in (self.folder / "calls").read_text().splitlines() if line.split()[0] == program]

    def forget(self):
        (self.folder / "queue").write_text("")

    def record(self, native_id):
        return self.folder / "scratch/jobs" / (self.folder / "scratch/ids" / native_id).read_text().strip()

    def name(self, native_id):
        record = self.record(native_id)
        return f"name.{record.parent.name}.{record.name}"

    def runs(self, native_id, states):
        """What squeue says of some items of an array: the tasks of ten are one part, whose number is in its file."""
        parts = {item // 10: (self.record(native_id) / f"part.{item // 10}").read_text().strip() for item in states}
        lines = [
            f"{parts[item // 10]}|{item % 10}|{state}|{self.name(native_id)}|None\n" for item, state in states.items()
        ]
        (self.folder / "queue").write_text("".join(lines))

    def end(self, native_id, code=0, item=None, **more):
        """What the wrapper does when the program has ended."""
        tag = "" if item is None else f".{item}"
        text = json.dumps({"code": code, "why": "", "ended": 0, **more}).removesuffix("}")
        (self.record(native_id) / f"exit{tag}={code}").write_text(text + ',\n"tail": "its last words"}\n')


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(slurm.time, "sleep", lambda seconds: None)
    return Site(tmp_path)


@pytest.fixture
def cluster(site):
    return Slurm(scratch=str(site.folder / "scratch"), poll_seconds=0, patience_seconds=3)


@pytest.fixture
def job(tmp_path):
    return Job("key", ("true",), str(tmp_path / "work"), "name")


def state(cluster, native_id):
    return cluster.poll([native_id])[native_id].state


def put_aside(cluster, native_id):
    cluster.again(native_id, cluster.poll([native_id])[native_id])


def test_it_follows_the_protocol():
    assert isinstance(Slurm(), Cluster)


def test_a_job_is_submitted_once(site, cluster, job):
    first = cluster.submit(job)
    assert first.startswith("1.")
    assert [cluster.submit(job) for _ in range(2)] == [first] * 2
    assert len(site.calls("sbatch")) == 1
    assert not site.calls("squeue")
    assert "--job-name=name." in site.calls("sbatch")[0]
    assert "--comment=penstock key attempt 1" in site.calls("sbatch")[0]


def test_a_variable_whose_name_bash_would_not_take(cluster, job):
    with pytest.raises(JobError, match="'A; rm' is no name of an environment variable"):
        cluster.submit(dataclasses.replace(job, environment={"A; rm": "x"}))


def test_many_submitters_at_once_are_one_job(site, cluster, job):
    with ThreadPoolExecutor(6) as threads:
        assert len(set(threads.map(lambda _: cluster.submit(job), range(6)))) == 1
    assert len(site.calls("sbatch")) == 1


def test_an_sbatch_that_was_heard_though_it_says_otherwise(site, cluster, job):
    site.says(sbatch={"after": "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"})
    assert cluster.submit(job).startswith("1.")
    assert len(site.calls("sbatch")) == 1


def test_after_sbatch_was_called_slurm_is_asked_before_it_is_called_again(site, cluster, job):
    native_id = cluster.submit(job)
    record = site.record(native_id)
    for name in ("id", "part.0"):
        (record / name).unlink()
    assert cluster.submit(job) == native_id
    assert len(site.calls("sbatch")) == 1


def test_what_squeue_has_forgotten_sacct_may_know(site, cluster, job):
    native_id = cluster.submit(job)
    for name in ("id", "part.0"):
        (site.record(native_id) / name).unlink()
    site.forget()
    site.says(sacct={"answer": "7|FAILED|None assigned\n1|COMPLETED|c1"})
    assert cluster.submit(job) == native_id
    assert len(site.calls("sbatch")) == 1


def test_while_squeue_cannot_be_asked_nothing_is_submitted_again(site, cluster, job):
    native_id = cluster.submit(job)
    for name in ("id", "part.0"):
        (site.record(native_id) / name).unlink()
    site.says(squeue={"before": "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"})
    with pytest.raises(JobError, match="Unable to contact slurm controller"):
        cluster.submit(job)
    assert len(site.calls("sbatch")) == 1


def test_a_record_that_never_ran_is_no_run(site, cluster, job):
    said = "sbatch: error: Memory specification can not be satisfied"
    site.says(sbatch={"state": "FAILED", "reason": "BadConstraints", "after": said})
    with pytest.raises(JobError) as caught:
        dataclasses.replace(cluster, memory="900G").submit(job)
    assert said in str(caught.value)
    assert "--mem=900G" in str(caught.value)
    site.says()
    assert cluster.submit(job).startswith("2.")


POLICY = (
    "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size "
    "and/or time limits)"
)


@pytest.mark.parametrize(
    ("reason", "seconds"), [("QOSMaxSubmitJobPerUserLimit", 600), ("", 60), ("AssocMaxWallDurationPerJobLimit", 0)]
)
def test_a_policy_is_waited_for_as_long_as_it_may_pass(site, cluster, job, monkeypatch, reason, seconds):
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda pause: now.append(now.pop() + pause))
    monkeypatch.setattr(slurm, "time", clock)
    site.says(sbatch={"before": f"sbatch: error: {reason}\n{POLICY}" if reason else POLICY})
    with pytest.raises(JobError, match="Job violates accounting/QOS policy"):
        dataclasses.replace(cluster, patience_seconds=600).submit(job)
    assert seconds - 30 <= now[0] <= seconds


def test_a_partition_that_is_not_there_is_refused_with_those_that_are(site, cluster, job):
    site.says(sbatch={"before": "sbatch: error: invalid partition specified: nowhere"})
    with pytest.raises(JobError, match=r"invalid partition specified: nowhere\n.*\n  partitions there: gpu main"):
        cluster.submit(job)
    assert len(site.calls("sbatch")) == 1


def test_a_machine_without_slurm(site, cluster, job, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    for name in ("sbatch", "squeue"):
        (site.folder / "bin" / name).unlink()
    monkeypatch.setattr(slurm, "MET", set())
    if not Path("/usr/bin/sbatch").exists():
        with pytest.raises(JobError, match="there is no sbatch on"):
            cluster.submit(job)


def test_a_key_belongs_to_one_folder(cluster, job):
    cluster.submit(job)
    with pytest.raises(JobError, match=r"works in .*/work, so it cannot run in /tmp/other too"):
        cluster.submit(dataclasses.replace(job, folder="/tmp/other"))


def test_one_squeue_for_all_jobs_and_none_for_those_whose_end_is_known(site, cluster, job):
    ids = [cluster.submit(dataclasses.replace(job, key=str(n), folder=f"{job.folder}{n}")) for n in range(5)]
    site.end(ids[0])
    found = cluster.poll([*ids, "77.abc"])
    assert [found[native_id].state for native_id in ids] == [JobState.DONE] + [JobState.PENDING] * 4
    assert found["77.abc"].state is JobState.UNKNOWN
    assert len(site.calls("squeue")) == 1
    for native_id in ids:
        site.end(native_id)
    assert all(status.state is JobState.DONE for status in cluster.poll(ids).values())
    assert len(site.calls("squeue")) == 1
    assert not site.calls("sacct")


def test_a_number_that_slurm_gave_again_is_not_taken_for_the_job(site, cluster, job):
    native_id = cluster.submit(job)
    (site.folder / "queue").write_text("1|N/A|RUNNING|somebody.else|None\n")
    assert state(cluster, native_id) is JobState.UNKNOWN
    cluster.cancel(native_id)
    assert not site.calls("scancel")


def test_the_end_of_a_job_that_squeue_has_forgotten_is_in_its_record_or_in_sacct(site, cluster, job):
    native_id = cluster.submit(job)
    name = (site.folder / "queue").read_text().split("|")[3]
    site.forget()
    assert state(cluster, native_id) is JobState.UNKNOWN
    site.says(sacct={"answer": f"1|NODE_FAIL|{name}|None"})
    assert cluster.poll([native_id])[native_id].why == "NODE_FAIL: a node of it failed"
    site.says(sacct={"answer": f"1|RUNNING|{name}|None"})
    assert state(cluster, native_id) is JobState.UNKNOWN
    site.end(native_id, 7)
    assert cluster.poll([native_id])[native_id].why == "exit status 7"


def test_a_job_that_stays_away_is_lost(site, cluster, job):
    native_id = cluster.submit(job)
    site.forget()
    assert state(cluster, native_id) is JobState.UNKNOWN
    (site.record(native_id) / "over").write_text("1000\n")
    status = cluster.poll([native_id])[native_id]
    assert (status.state, status.passing) == (JobState.FAILED, True)
    (site.folder / "queue").write_text(f"1|N/A|RUNNING|name.{site.record(native_id).parent.name}.1|None\n")
    assert state(cluster, native_id) is JobState.RUNNING
    assert not (site.record(native_id) / "over").exists()


def test_a_login_node_that_is_away_is_no_answer(cluster, job, monkeypatch):
    native_id = cluster.submit(job)

    def away(*given):
        raise Unreachable("hpc gave no whole answer: Connection refused")

    monkeypatch.setattr(slurm.Here, "run", away)
    status = cluster.poll([native_id])[native_id]
    assert (status.state, status.why) == (JobState.UNKNOWN, "hpc gave no whole answer: Connection refused")
    with pytest.raises(JobError, match="Connection refused"):
        cluster.jobs()
    with pytest.raises(JobError, match="job name cannot be submitted to this machine: hpc gave no whole answer"):
        dataclasses.replace(cluster, patience_seconds=0).submit(job)


def test_a_name_server_that_is_away_for_a_while_is_waited_for(site, cluster, job, monkeypatch):
    """As when a VPN is cut: the host answered before, so that it is no mistake in its name."""
    (site.folder / "bin/ssh").write_text(
        f"""#!/bin/bash
        test -e {site.folder}/met || {{ touch {site.folder}/met; exec bash -s; }}
        echo >> {site.folder}/tries
        [ $(wc -l < {site.folder}/tries) -lt 3 ] || exec bash -s
        echo 'ssh: Could not resolve hostname hpc: Name or service not known' >&2; exit 255
        """
    )
    (site.folder / "bin/ssh").chmod(0o755)
    away = dataclasses.replace(cluster, host="hpc", patience_seconds=60)
    with pytest.raises(JobError, match=r"there is no job 9\.x"):
        away.cancel("9.x")
    assert away.submit(job).startswith("1.")
    (site.folder / "tries").unlink()
    with pytest.raises(JobError, match=r"hpc answered before.*\n.*Name or service not known"):
        dataclasses.replace(away, patience_seconds=0).submit(job)


def test_a_cancelled_job_is_cancelled_and_once_ended_stays_as_it_is(site, cluster, job):
    native_id = cluster.submit(job)
    cluster.cancel(native_id)
    cluster.cancel(native_id)
    assert state(cluster, native_id) is JobState.CANCELLED
    site.forget()
    assert state(cluster, native_id) is JobState.CANCELLED
    with pytest.raises(JobError, match=r"there is no job 9\.x"):
        cluster.cancel("9.x")


def test_an_attempt_is_put_aside_once(site, cluster, job):
    first = cluster.submit(job)
    put_aside(cluster, first)
    assert cluster.submit(job) == first  # it runs
    site.end(first, 3)
    put_aside(cluster, first)
    put_aside(cluster, first)
    assert cluster.poll([first])[first].why == "exit status 3"
    second = cluster.submit(job)
    assert second.startswith("2.")
    assert cluster.poll([second])[second].attempt == 2
    put_aside(cluster, first)
    assert cluster.submit(job) == second


def test_a_program_that_is_continued_stays_in_its_attempt(site, cluster, job):
    first = cluster.submit(job)
    site.end(first, 99, warned=True)
    put_aside(cluster, first)
    second = cluster.submit(job)
    assert second != first
    assert cluster.poll([second])[second].attempt == 1


def test_a_long_array_is_several_and_only_what_failed_runs_again(site, cluster, job):
    job = dataclasses.replace(job, items=25)
    first = cluster.submit(job)
    arrays = [next(word for word in call.split() if word.startswith("--array")) for call in site.calls("sbatch")]
    assert arrays == ["--array=0-9", "--array=0-9", "--array=0-4"]
    assert [call.split()[-1] for call in site.calls("sbatch")] == ["0", "10", "20"]
    for item in range(25):
        site.end(first, int(item in (3, 4, 7, 22)), item)
    site.forget()
    status = cluster.poll([first])[first]
    assert (status.state, status.why) == (JobState.FAILED, "4 of 25 items failed, the first is item 3: exit status 1")
    put_aside(cluster, first)
    second = dataclasses.replace(cluster, at_once=2).submit(job)
    calls = site.calls("sbatch")[3:]
    assert [next(word for word in call.split() if word.startswith("--array")) for call in calls] == [
        "--array=3-4,7%2", "--array=2%2"
    ]  # fmt: skip
    for item in (3, 4, 7, 22):
        site.end(second, 0, item)
    assert state(cluster, second) is JobState.DONE


def test_the_cause_of_every_item_is_told_however_many_failed(site, cluster, job):
    native_id = cluster.submit(dataclasses.replace(job, items=25))
    for item in range(25):
        site.end(native_id, 74, item, why="s3://away/a cannot be copied to a", ended=time.time())
    site.forget()
    status = cluster.poll([native_id])[native_id]
    assert (status.state, status.passing) == (JobState.FAILED, True)
    assert "25 of 25 items failed, the first is item 0: exit status 74, s3://away/a cannot be copied" in status.why
    assert "its last words" not in "".join(cluster._asked("poll", {"ids": native_id}))


def test_every_item_has_its_time_to_end(site, cluster, job):
    native_id = cluster.submit(dataclasses.replace(job, items=25))
    for item in range(25):
        site.end(native_id, 1, item, ended=time.time())
    site.runs(native_id, dict.fromkeys(range(25), "RUNNING"))
    assert cluster.poll([native_id])[native_id] == Status(JobState.RUNNING, "ending")


def test_what_slurm_says_of_a_long_array_is_said_of_the_right_item(site, cluster, job):
    native_id = cluster.submit(dataclasses.replace(job, items=115))
    for item in set(range(115)) - {25}:
        site.end(native_id, 0, item)
    site.runs(native_id, {25: "TIMEOUT", 100: "COMPLETED"})
    assert cluster.poll([native_id])[native_id].why == (
        "1 of 115 items failed, the first is item 25: TIMEOUT: it was ended at its time limit"
    )


def test_a_sacct_that_cannot_be_asked_is_no_answer(site, cluster, job):
    native_id = cluster.submit(job)
    site.forget()
    site.says(sacct={"before": "sacct: error: Problem talking to the database: Connection refused"})
    cluster.poll([native_id])
    (site.record(native_id) / "over").write_text("1000\n")
    status = cluster.poll([native_id])[native_id]
    assert (status.state, status.why) == (
        JobState.UNKNOWN, "sacct: error: Problem talking to the database: Connection refused"
    )  # fmt: skip
    site.says(sacct={"answer": f"1|OUT_OF_MEMORY|{site.name(native_id)}|None"})
    assert "OUT_OF_MEMORY" in cluster.poll([native_id])[native_id].why


def test_a_cluster_without_sacct_has_no_accounting(site, cluster, job, monkeypatch):
    native_id = cluster.submit(job)
    site.forget()
    (site.folder / "bin/sacct").write_text("#!/bin/bash\necho 'bash: sacct: command not found' >&2; exit 127\n")
    cluster.poll([native_id])
    (site.record(native_id) / "over").write_text("1000\n")
    assert cluster.poll([native_id])[native_id].why.startswith("lost: ")


def test_items_that_are_all_continued_stay_in_their_attempt(site, cluster, job):
    job = dataclasses.replace(job, items=3)
    first = cluster.submit(job)
    site.end(first, 0, 0)
    for item in (1, 2):
        site.end(first, 99, item, warned=True)
    status = cluster.poll([first])[first]
    assert (status.passing, status.continues) == (True, True)
    cluster.again(first, status)
    second = cluster.submit(job)
    assert second != first
    assert cluster.poll([second])[second].attempt == 1


def test_an_item_that_failed_among_those_that_are_continued_is_an_attempt(site, cluster, job):
    job = dataclasses.replace(job, items=2)
    first = cluster.submit(job)
    site.end(first, 99, 0, warned=True)
    site.runs(first, {1: "NODE_FAIL"})
    status = cluster.poll([first])[first]
    assert (status.passing, status.continues) == (True, False)
    cluster.again(first, status)
    second = cluster.submit(job)
    assert cluster.poll([second])[second].attempt == 2


def test_putting_aside_asks_slurm_nothing(site, cluster, job):
    jobs = [dataclasses.replace(job, key=str(n), folder=f"{job.folder}{n}") for n in range(24)]
    ids = [cluster.submit(job) for job in jobs]
    for native_id in ids:
        site.end(native_id, 3)
    found = cluster.poll(ids)
    for native_id, status in found.items():
        cluster.again(native_id, status)
    assert len(site.calls("squeue")) == 1
    assert not set(ids) & {cluster.submit(job) for job in jobs}


def test_clusters_that_differ_in_what_jobs_get_are_watched_together():
    assert Slurm(host="hpc", tasks=4).queue == Slurm(host="hpc", time_minutes=3).queue
    assert len({Slurm().queue, Slurm(host="hpc").queue, Slurm(host="hpc", scratch="/fsx").queue}) == 3


def test_jobs_are_listed_and_their_logs_followed(site, cluster, job):
    native_id = cluster.submit(job)
    (listed,) = cluster.jobs()
    assert (listed.id, listed.name, listed.key, listed.state) == (native_id, "name", "key", JobState.PENDING)
    assert cluster.log(native_id) == ("", 0)
    Path(job.folder, "stdout").write_bytes(b"one|\xff\n\ntwo")
    assert cluster.log(native_id) == ("one|\ufffd\n\ntwo", 10)
    assert cluster.log(native_id, "stdout", 7) == ("two", 10)
    with pytest.raises(JobError, match=r"'\.\./x' is no name of a job or log"):
        cluster.log(native_id, "../x")
    assert Slurm(scratch=str(site.folder / "none"), poll_seconds=0).jobs() == ()
