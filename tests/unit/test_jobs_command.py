"""``penstock jobs`` on this machine's jobs, and on a cluster of the test's."""

import time
from dataclasses import dataclass

import pytest
from typer.testing import CliRunner

from penstock.cli import app
from penstock.clusters.local import Local
from penstock.commands import clusters as commands_clusters
from penstock.commands.clusters import cluster_of, clusters_of, words_of
from penstock.core.nouns import Job, JobState, Lists
from penstock.errors import SpecError

FILE = """
source = { use = "dataset", uri = "in", whole = true }
sink = { use = "parquet", uri = "out" }
[[step]]
use = "spectral"
cluster = { use = "local", folder = "jobs", tasks = 2 }
"""


def call(*words):
    return CliRunner().invoke(app, ["jobs", *map(str, words)])


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "jobs"


def submitted(folder, name: str, script: str, **more) -> str:
    return Local(folder=str(folder)).submit(
        Job(name * 8, ("sh", "-c", script), str(folder / f"{name}key" / f"{name}run"), name, **more)
    )


def ended(*ids: str) -> None:
    end = time.monotonic() + 20
    while not all(status.state.final for status in Local().poll(ids).values()):
        assert time.monotonic() < end
        time.sleep(0.02)


def cluster(folder) -> str:
    return f"--cluster=local folder={folder}"


# --- which clusters --------------------------------------------------------------------------------------


def test_words_are_read_as_in_a_pipeline_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = "local tasks=4 time_minutes=1.5 folder='my jobs'"
    assert cluster_of(words) == Local(tasks=4, time_minutes=1.5, folder=str(tmp_path / "my jobs"))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("lokal", "did you mean 'local'?"),
        ("local tasks", "'tasks' is no key=value; write for example 'slurm host=hpc'"),
        ("local task=3", "'task' is not known here; known are: cpus_per_task, folder"),
        ("local tasks=0", "tasks and cpus_per_task must be 1 or more"),
        ("local tasks=many", "tasks: Input should be a valid integer"),
        ("", "there is no cluster called ''"),
    ],
)
def test_words_that_make_no_cluster_are_refused(words, text):
    with pytest.raises(SpecError, match="--cluster") as caught:
        cluster_of(words)
    assert text in str(caught.value)


def test_a_file_gives_its_clusters_each_once(tmp_path):
    (tmp_path / "p.toml").write_text(FILE)
    want = Local(folder=str(tmp_path / "jobs"), tasks=2)
    assert clusters_of(tmp_path / "p.toml", [f"local tasks=2 folder={tmp_path}/jobs", "local"]) == [want, Local()]
    assert clusters_of(None, None) == [Local()]
    assert words_of(want) == "local"


def test_a_file_without_clusters_is_refused(tmp_path):
    (tmp_path / "p.toml").write_text(FILE[: FILE.index("[[step]]")])
    with pytest.raises(SpecError, match=r"p.toml: no step names a cluster; name one by --cluster 'slurm host=hpc'"):
        clusters_of(tmp_path / "p.toml", None)


# --- list ------------------------------------------------------------------------------------------------


def test_local_keeps_a_list(folder):
    assert isinstance(Local(folder=str(folder)), Lists)
    ids = [submitted(folder, name, f"exit {code}") for name, code in (("a", 0), ("b", 3))]
    ended(*ids)
    found = Local(folder=f"file://{folder}").jobs()
    assert sorted((job.id, job.name, job.state, job.why) for job in found) == [
        (ids[0], "a", JobState.DONE, ""),
        (ids[1], "b", JobState.FAILED, "exit status 3"),
    ]
    assert all(abs(job.since - time.time()) < 60 for job in found)


def test_the_list_shows_states_reasons_and_items(folder, tmp_path):
    (tmp_path / "p.toml").write_text(FILE)
    ended(
        submitted(folder, "good", "true"), submitted(folder, "bad", "exit 3"), submitted(folder, "m", "true", items=3)
    )
    done = call("list", tmp_path / "p.toml")
    assert done.exit_code == 0, done.output
    rows = {line.split()[2]: " ".join(line.split()[3:]) for line in done.stdout.splitlines()}
    assert rows["name"] == "state attempt since reason"
    assert rows["good"].startswith("done 1 20")
    assert rows["bad"].startswith("failed 1 20")
    assert rows["bad"].endswith("exit status 3")
    assert rows["m"].startswith("(3 items) done 1 20")


def test_without_jobs_it_says_so(folder):
    assert call("list", cluster(folder)).stdout == "no jobs\n"


def test_a_cluster_without_a_list_is_named(monkeypatch):
    @dataclass(frozen=True)
    class Mute:
        pass

    monkeypatch.setattr("penstock.commands.jobs.clusters_of", lambda file, words: [Mute()])
    monkeypatch.setattr(commands_clusters.plugins, "called", lambda kind, part: "mute")
    done = call("list")
    assert done.exit_code == 1
    assert "the cluster 'mute' keeps no list of jobs; ask its scheduler" in done.stderr


# --- logs ------------------------------------------------------------------------------------------------


def test_logs_prints_what_is_there_and_comes_back(folder):
    native_id = submitted(folder, "a", "echo 1; echo oops >&2")
    ended(native_id)
    for name in (native_id, native_id[:-1], "akey", "aru", "a"):
        assert call("logs", name, cluster(folder)).stdout == "1\n"
    assert call("logs", "a", "--stderr", cluster(folder)).stdout == "oops\n"


def test_half_a_character_waits_for_its_other_half(tmp_path):
    whole = "größe".encode()
    (tmp_path / "stdout").write_bytes(whole[:3])
    assert Local().log(str(tmp_path)) == ("gr", 2)
    (tmp_path / "stdout").write_bytes(whole)
    assert Local().log(str(tmp_path), offset=2) == ("öße", len(whole))
    assert Local().log(str(tmp_path), "stderr") == ("", 0)


def test_follow_goes_on_to_the_end_and_gives_all(folder):
    submitted(folder, "a", "for i in 1 2 3 4; do echo $i; sleep 0.7; done")
    done = call("logs", "a", "--follow", cluster(folder))
    assert (done.stdout, done.exit_code) == ("1\n2\n3\n4\n", 0)


def test_following_a_job_that_fails_ends_with_1(folder):
    submitted(folder, "a", "echo x; sleep 0.3; exit 4")
    done = call("logs", "a", "--follow", cluster(folder))
    assert (done.stdout, done.exit_code) == ("x\n", 1)
    assert "the job is failed" in done.stderr


def test_items_have_logs_of_their_own(folder):
    ended(submitted(folder, "a", "echo item $PENSTOCK_ITEM", items=2))
    assert call("logs", "a", "--item=1", cluster(folder)).stdout == "item 1\n"
    done = call("logs", "a", cluster(folder))
    assert "has 2 items; choose one by --item 0" in done.stderr


def test_a_name_that_means_nothing_or_two_is_refused(folder):
    one, two = (submitted(folder, name, "true") for name in ("ab", "ac"))
    ended(one, two)
    nothing, both = call("logs", "x", cluster(folder)), call("logs", "a", cluster(folder))
    assert "there is no job x on local; 'penstock jobs list' shows those that there are" in nothing.stderr
    assert both.exit_code == nothing.exit_code == 1
    assert "a may be" in both.stderr
    assert "give the whole id" in both.stderr


# --- cancel ----------------------------------------------------------------------------------------------


def test_cancel_ends_those_that_run(folder):
    ids = [submitted(folder, name, "sleep 600") for name in "ab"]
    done = call("cancel", "a", ids[1], cluster(folder))
    assert done.stdout == "".join(f"{native_id}: told to end\n" for native_id in ids)
    ended(*ids)
    assert {status.state for status in Local().poll(ids).values()} == {JobState.CANCELLED}
    assert call("cancel", "a", cluster(folder)).exit_code == 0, "an ended one is left as it is"


def test_cancel_does_nothing_when_one_of_the_names_is_wrong(folder):
    native_id = submitted(folder, "a", "sleep 600")
    try:
        assert call("cancel", "a", "x", cluster(folder)).exit_code == 1
        assert Local().poll([native_id])[native_id].state is JobState.RUNNING
    finally:
        Local().cancel(native_id)
