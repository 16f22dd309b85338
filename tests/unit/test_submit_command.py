"""``penstock submit``: the script it writes, and what it asks for. Jobs that run are in tests/real/slurm."""

import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from penstock.cli import app
from penstock.clusters.allocation import script
from penstock.clusters.slurm import Slurm
from penstock.clusters.slurm.script import requests
from penstock.commands import submit as module
from penstock.core.nouns import Job, JobState, Status
from penstock.core.spec import load
from penstock.runners.ray import Ray

GOLDEN = Path(__file__).parent / "clusters" / "golden" / "allocation.sh"
PIPELINE = """
source = { use = "fasta", uri = "chains.fasta" }
sink = { use = "parquet", uri = "out" }
[runner]
use = "inline"
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "line.toml"
    path.write_text(PIPELINE)
    return path


class Scheduler:
    """Takes jobs; each stands as `state` says."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.state = JobState.RUNNING


SCHEDULER = Scheduler()


@dataclass(frozen=True)
class Fake:
    folder: str = ""
    python: str = "/opt/python"
    host: str = ""
    nodes: int = 0
    tasks: int = 4
    launcher: str = "mpirun"
    lines: tuple[str, ...] = ("--exclusive",)
    retries: int = 0

    def submit(self, job: Job) -> str:
        SCHEDULER.jobs.setdefault(job.key, job)
        return str(list(SCHEDULER.jobs).index(job.key) + 1)

    def poll(self, ids):
        return dict.fromkeys(ids, Status(SCHEDULER.state))

    def cancel(self, native_id):
        pass

    def again(self, native_id, status):
        pass


@pytest.fixture
def call(monkeypatch, tmp_path):
    SCHEDULER.__init__()
    fakes = {"fake": Fake(str(tmp_path / "jobs")), "far": Fake("s3://bucket/jobs", host="hpc"), "lost": Fake()}
    monkeypatch.setattr(module, "cluster_of", lambda words: fakes.get(words) or object_of(words))
    return lambda *words: CliRunner().invoke(app, ["submit", *map(str, words)])


def object_of(words):
    from penstock.commands.clusters import cluster_of

    return cluster_of(words)


def test_the_script_is_the_golden_one():
    assert script("my pipeline.toml", "/opt/venv/bin/python", 90) == GOLDEN.read_text()


def test_the_script_is_bash(tmp_path):
    (tmp_path / "script").write_text(script("it's.toml", "py thon", 1))
    subprocess.run(["bash", "-n", str(tmp_path / "script")], check=True)


def test_each_node_gets_one_slot_whatever_the_cluster_says_of_ranks():
    given = Slurm(nodes=3, tasks=24, cpus_per_task=8, gres="gpu:2", folder="/shared", lines=("--exclusive",))
    asked = requests(module.allocated(given))
    assert asked[-3:] == ["--exclusive", "--ntasks=3", "--ntasks-per-node=1"], "the last one wins"
    assert {"--nodes=3", "--cpus-per-task=8", "--gres=gpu:2"} <= set(asked)
    assert "--nodes=1" in requests(module.allocated(replace(given, nodes=0)))


def test_the_job_has_script_and_file_with_whole_addresses_and_ray(call, file, tmp_path):
    done = call(file, "--cluster=fake", "--set", "max_bad_rows=7")
    assert done.exit_code == 0, done.output
    [job] = SCHEDULER.jobs.values()
    assert done.stdout.splitlines()[0] == f"job 1, its files are below {job.folder}"
    assert (job.command, job.name) == (("bash", "allocation.sh"), "line")
    given = {name: Path(uri).read_text() for uri, name in job.inputs}
    assert given["allocation.sh"] == script("pipeline.toml", "/opt/python", 180)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "pipeline.toml").write_text(given["pipeline.toml"])
    found = load(tmp_path / "there" / "pipeline.toml")
    assert found.runner == Ray()
    assert found.pipelines[0].source.uri == str(tmp_path / "chains.fasta")
    assert found.pipelines[0].max_bad_rows == 7


def test_a_file_whose_job_runs_is_not_submitted_again(call, file):
    assert call(file, "--cluster=fake").stdout == call(file, "--cluster=fake").stdout
    assert len(SCHEDULER.jobs) == 1


def test_a_file_whose_job_has_ended_or_that_has_changed_is_a_new_job(call, file):
    call(file, "--cluster=fake")
    SCHEDULER.state = JobState.DONE
    assert "job 2," in call(file, "--cluster=fake").stdout
    SCHEDULER.state = JobState.RUNNING
    assert "job 2," in call(file, "--cluster=fake").stdout
    assert "job 3," in call(file, "--cluster=fake", "--set", "max_bad_rows=7").stdout
    assert len({job.folder for job in SCHEDULER.jobs.values()}) == 3


def test_two_who_find_that_the_job_has_ended_hand_in_one_new_job(call, file, monkeypatch):
    call(file, "--cluster=fake")
    SCHEDULER.state = JobState.DONE
    polled, handed = Fake.poll, []
    hand_in = lambda: handed.append(module._submitted(load(file), "line", module.cluster_of("fake"), 180))  # noqa: E731

    def overtaken(self, ids):
        monkeypatch.setattr(Fake, "poll", polled)
        hand_in()
        return polled(self, ids)

    monkeypatch.setattr(Fake, "poll", overtaken)
    hand_in()
    assert [native_id for _, native_id in handed] == ["2", "2"]
    assert handed[0] == handed[1]


def test_paths_that_a_far_cluster_may_not_see_are_named(call, file, monkeypatch):
    monkeypatch.setattr(module, "_submitted", lambda *_: (Job("k", (), "s3://bucket/jobs/x"), "1"))
    done = call(file, "--cluster=far")
    assert "chains.fasta is a path; the cluster must see it too" in done.stderr
    assert "is a path" not in call(file, "--cluster=fake").stderr


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("local", "submit needs a Slurm cluster; write --cluster 'slurm host=hpc nodes=2 folder=/shared/jobs'"),
        ("lost", "submit needs 'folder', a place that this machine and the cluster see: a path, or s3://"),
    ],
)
def test_clusters_that_cannot_are_refused(call, file, words, text):
    done = call(file, f"--cluster={words}")
    assert done.exit_code == 2
    assert text in done.stderr


def test_waiting_ends_with_the_job(call, file, monkeypatch):
    waited = []
    monkeypatch.setattr(module, "run_job", lambda cluster, job: waited.append(job))
    assert "it has ended well" in call(file, "--cluster=fake", "--wait").stdout
    assert waited == list(SCHEDULER.jobs.values())
