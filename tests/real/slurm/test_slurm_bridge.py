"""Work whose folder is on S3, programs that are continued, MPI over nodes, lists and logs: on a real Slurm."""

import json
import os
import re
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from slurm_site import SHORT, ended, shell, wait_until

from penstock.core.nouns import Job, JobState
from penstock.core.storage import join, store_of
from penstock.errors import JobError, UnitError
from penstock.solvers.work import Work, computed, run_job

AWS = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_REGION")


@pytest.fixture
def on_s3(slurm, over_ssh, s3_root):
    """A cluster that sees S3 and no folder of ours; and a maker of jobs for it."""
    prologue = tuple(f"export {name}={os.environ[name]}" for name in AWS if name in os.environ)

    def job(name, script, **more):
        folder = join(s3_root, name)
        store_of(folder).replace(join(folder, "job.json"), b'{"x": 1}')
        return Job(f"{s3_root} {name}", ("sh", "-c", script), folder, name, **more)

    return slurm.cluster(prologue=prologue), job


def text(uri):
    found = store_of(uri).read(uri)
    return None if found is None else found.decode()


def test_inputs_come_from_s3_and_results_go_there(slurm, on_s3, s3_root):
    cluster, make = on_s3
    store_of(s3_root).replace(join(s3_root, "in/a.txt"), b"hello")
    script = "pwd; echo tried >&2; cat job.json data/a.txt > result.1; mkdir sub; echo s > sub/x; touch scrap"
    job = make("whole", script, inputs=((join(s3_root, "in"), "data"),), results=("result.*", "sub"))
    native_id = cluster.submit(job)
    assert ended(cluster, [native_id])[0].state is JobState.DONE
    assert text(join(job.folder, "result.1")) == '{"x": 1}hello'
    assert text(join(job.folder, "sub/x")) == "s\n"
    assert text(join(job.folder, "stderr")) == "tried\n"
    assert json.loads(text(join(job.folder, "exit")))["code"] == 0
    assert text(join(job.folder, "scrap")) is None
    # Its working folder is gone, its words are kept.
    assert not Path(text(join(job.folder, "stdout")).strip()).exists()
    assert cluster.log(native_id, "stderr") == ("tried\n", 6)


def test_a_result_that_was_cut_short_on_s3_is_refused_and_computed_anew(on_s3, s3_root):
    cluster, _ = on_s3
    cluster = replace(cluster, folder=join(s3_root, "jobs"))
    script = "echo all of it > result; mkdir sub; echo x > sub/y"
    work = Work("cut", (s3_root,), ("sh", "-c", script), {}, ("res*", "sub"))
    with suppress(KeyboardInterrupt), computed(work, cluster) as folder:
        assert (folder / "result").read_text() == "all of it\n"
        assert (folder / "sub/y").read_text() == "x\n"
        raise KeyboardInterrupt
    store = store_of(s3_root)
    [uri] = [entry.uri for entry in store.below(cluster.folder) if entry.uri.endswith("/result")]
    left = json.loads(text(uri.removesuffix("result") + "exit"))["results"]
    assert [(file["name"], file["bytes"]) for file in left] == [("result", 10), ("sub/y", 2)]
    store.replace(uri, b"all")
    with (
        pytest.raises(UnitError, match="is not what the job left there: it has 3 bytes and should have 10"),
        computed(work, cluster),
    ):
        pytest.fail("it was given away")
    with computed(work, cluster) as folder:
        assert (folder / "result").read_text() == "all of it\n"


def test_items_work_apart_and_bring_what_they_made(on_s3):
    cluster, make = on_s3
    job = make("items", "ls; echo $PENSTOCK_ITEM > r.$PENSTOCK_ITEM", items=2, results=("r.*",))
    assert ended(cluster, [cluster.submit(job)])[0].state is JobState.DONE
    assert [text(join(job.folder, f"r.{item}")) for item in range(2)] == ["0\n", "1\n"]
    assert [text(join(job.folder, f"stdout.{item}")) for item in range(2)] == ["job.json\n"] * 2


def test_a_program_that_ends_well_and_leaves_no_result_has_failed(on_s3):
    cluster, make = on_s3
    with pytest.raises(JobError, match="it ended well and left no nothing"):
        run_job(cluster, make("empty", "true", results=("nothing",)))


def test_an_input_that_cannot_be_copied_is_a_failure_that_may_pass(on_s3, s3_root):
    cluster, make = on_s3
    job = make("lacking", "true", inputs=((join(s3_root, "there-is-none"), "data"),))
    status = ended(cluster, [cluster.submit(job)])[0]
    assert status.state is JobState.FAILED
    assert status.passing
    assert "there-is-none cannot be copied to data" in status.why
    assert "there-is-none" in text(join(job.folder, "stderr"))


def test_a_program_that_keeps_its_state_at_the_warning_is_continued(slurm, over_ssh, tmp_path):
    """More often than `retries` allows failures."""
    script = """
        echo >> lives
        test $(wc -l < lives) = 3 && exit 0
        trap 'exit 99' USR1
        touch ready; while true; do sleep 0.05; done
    """
    cluster = slurm.cluster(**SHORT, retries=1)
    run_job(cluster, shell(tmp_path / "job", script))
    assert (tmp_path / "job/lives").read_text() == "\n" * 3
    assert len(slurm.natives(tmp_path)) == 3
    assert (tmp_path / "job/attempt-2/exit").exists()


@pytest.mark.parametrize(
    ("launcher", "rank"), [("", "OMPI_COMM_WORLD_RANK"), ("srun --mpi=none", "SLURM_PROCID")], ids=["mpiexec", "srun"]
)
def test_the_warning_reaches_every_rank_and_their_wish_to_go_on_comes_back(slurm, over_ssh, tmp_path, launcher, rank):
    """A launcher ends all ranks when the first has failed, so each waits for the other's state."""
    script = f"""
        me=${rank}
        test -e saved.0 && test -e saved.1 && {{ touch went-on.$me; exit 0; }}
        trap 'touch saved.$me; until test -e saved.$((1 - me)); do sleep 0.05; done; exit 99' USR1
        while true; do sleep 0.05; done
    """
    cluster = slurm.cluster(**SHORT, retries=1, tasks=2, launcher=launcher)
    run_job(cluster, shell(tmp_path / "job", script))
    assert {path.name for path in (tmp_path / "job").glob("went-on.*")} == {"went-on.0", "went-on.1"}
    assert len(slurm.natives(tmp_path)) == 2


def test_ranks_over_two_nodes_are_one_world(slurm, over_ssh, tmp_path):
    program = "from mpi4py.MPI import COMM_WORLD as c; print(c.allreduce(1), c.allreduce(c.rank), flush=True)"
    cluster = slurm.cluster(nodes=2, tasks=4, memory="200M")
    run_job(cluster, Job(str(tmp_path), (sys.executable, "-c", program), str(tmp_path / "mpi"), "mpi"))
    assert (tmp_path / "mpi/stdout").read_text().splitlines() == ["4 6"] * 4


def test_logs_can_be_followed_and_jobs_listed(slurm, over_ssh, tmp_path):
    job = shell(tmp_path / "talks", "echo one; while ! test -e go; do sleep 0.05; done; echo two; exit 3")
    native_id = over_ssh.submit(job)
    heard = lambda offset: over_ssh.log(native_id, offset=offset)  # noqa: E731
    wait_until(lambda: heard(0) == ("one\n", 4), "the first word")
    assert heard(4) == ("", 4)
    listed = {entry.id: entry for entry in over_ssh.jobs()}[native_id]
    assert (listed.key, listed.state, listed.attempt, listed.items) == (job.key, JobState.RUNNING, 1, 1)
    assert listed.name == job.name
    assert abs(time.time() - listed.since) < 300
    (tmp_path / "talks/go").touch()
    assert ended(over_ssh, [native_id])[0].why == "exit status 3"
    assert heard(4) == ("two\n", 8)
    with pytest.raises(JobError, match="there is no job 4711"):
        over_ssh.log("4711")
    with pytest.raises(JobError, match="no name of a job or log"):
        over_ssh.log(native_id, "../../secret")


def test_nothing_of_the_drivers_environment_reaches_a_job(slurm, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_SECRET", "s3cr3t")
    with slurm.reached(local=True):
        cluster = slurm.cluster(host="")
        run_job(cluster, shell(tmp_path / "job", "env"))
    assert "MY_SECRET" not in (tmp_path / "job/stdout").read_text()


def test_a_record_whose_id_was_lost_is_found_by_its_name(slurm, over_ssh, tmp_path):
    job = shell(tmp_path / "job", "echo ran >> log; sleep 2")
    native_id = over_ssh.submit(job)
    record = slurm.base / "scratch/jobs" / (slurm.base / "scratch/ids" / native_id).read_text().strip()
    for name in ("id", "part.0"):
        (record / name).unlink(missing_ok=True)
    (slurm.base / "scratch/ids" / native_id).unlink()
    assert over_ssh.submit(job) == native_id
    assert ended(over_ssh, [native_id])[0].state is JobState.DONE
    assert (tmp_path / "job/log").read_text() == "ran\n"


def test_of_two_slurm_jobs_for_one_piece_of_work_one_runs_it(slurm, over_ssh, tmp_path):
    """As when sbatch said that it failed, squeue did not know the job yet, and it was handed in again."""
    job = shell(tmp_path / "job", "echo ran >> log; sleep 3")
    native_id = over_ssh.submit(job)
    record = slurm.base / "scratch/jobs" / (slurm.base / "scratch/ids" / native_id).read_text().strip()
    script, out = str(record / "script.sh"), str(record / "slurm.out")
    second = slurm.asked("sbatch", "--parsable", "-o", out, "--open-mode=append", script, str(record), "0", "0").strip()
    wait_until(lambda: second not in slurm.asked("squeue", "-h", "-o", "%A").split(), "the second has ended")
    assert ended(over_ssh, [native_id])[0].state is JobState.DONE
    assert (tmp_path / "job/log").read_text() == "ran\n"
    assert {native_id.partition(".")[0], second} == set(re.findall(r"\d+", Path(out).read_text()))
