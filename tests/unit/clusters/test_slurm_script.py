"""The text of batch scripts, held against files. After a change that is meant: GOLDEN=write pytest on this file."""

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from penstock.clusters.slurm import Slurm
from penstock.clusters.slurm.script import batch, label, requests, shipped
from penstock.core.nouns import Job

GOLDEN = Path(__file__).with_name("golden")
CASES = {
    "plain": (Slurm(), Job("k1", ("solve", "job.json"), "/data/jobs/k1", "solve")),
    "full": (
        Slurm(
            host="hpc", partition="c7", account="ab12", qos="long", constraint="ib&skylake", nodes=2, tasks=8,
            cpus_per_task=4, memory="16G", gres="gpu:2", time_minutes=30.5, warn_seconds=120,
            launcher="srun --mpi=pmix apptainer exec image.sif", dependency="afterok:12.0a1b2c3d:77",
            prologue=("module load gcc/12", "source ~/v/bin/activate"), lines=("--exclusive", "--mail-user=a@b.c"),
            python="/opt/py/bin/python3",
        ),
        Job("k2", ("prog", "a b", "$HOME", "it's", ""), "file:///data/jobs/k 2/", "Ünïcode name; rm -rf /",
            environment={"B": "2", "A": "x 'y' $z"}),
    ),
    "s3": (
        Slurm(tasks=4, workspace="$TMPDIR", copy=("aws", "s3", "cp"), time_minutes=0),
        Job("k3", ("prog",), "s3://bucket/jobs/k3", "array", items=1000, results=("result.*", "log"),
            inputs=(("s3://bucket/in", "data"), ("/a b", "c"))),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_script_is_what_it_was(name):
    text = batch(*CASES[name]).replace(shipped("job"), "\n(job.sh)\n")
    path = GOLDEN / f"{name}.sh"
    if os.environ.get("GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("name", CASES)
def test_bash_understands_it(name):
    done = subprocess.run(["bash", "-n"], input=batch(*CASES[name]), text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["common", "submit", "poll", "cancel", "again", "jobs", "log", "job"])
def test_bash_understands_what_is_shipped(name):
    assert subprocess.run(["bash", "-n"], input=shipped(name), text=True, capture_output=True).stderr == ""


# --- the wrapper, run by Bash as Slurm would run it --------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    """Run the wrapper of a job, of one item if one is named; gives its exit record's lines."""

    def wrapper(cluster, job, item=None):
        record = tmp_path / "scratch/jobs/key/1"
        record.mkdir(parents=True, exist_ok=True)
        (record / "attempt").write_text("1\n")
        Path(job.folder).mkdir(exist_ok=True)
        (record / "script.sh").write_text(batch(cluster, job))
        given = {"SLURM_JOB_ID": "7", **({} if item is None else {"SLURM_ARRAY_TASK_ID": str(item)})}
        command = ["bash", str(record / "script.sh"), str(record), "0", "0"]
        subprocess.run(command, env={"PATH": os.environ["PATH"], **given}, cwd=tmp_path, check=False)
        tag = "" if item is None else f".{item}"
        return next(record.glob(f"exit{tag}=*")).read_text().splitlines()

    return wrapper


def noted(lines):
    return {file["name"]: (file["bytes"], file["sha256"]) for file in json.loads("".join(lines))["results"]}


def hashed(data):
    return len(data), hashlib.sha256(data).hexdigest()


def test_the_record_of_a_job_that_ended_well_has_its_results(run, tmp_path):
    script = "printf abc > result.1; : > 'result. \"q\" b\\s'; mkdir sub; echo x > sub/y; touch scrap"
    lines = run(Slurm(), Job("k", ("sh", "-c", script), str(tmp_path / "job"), results=("result.*", "sub", "none.*")))
    assert noted(lines) == {
        "result.1": hashed(b"abc"), 'result. "q" b\\s': hashed(b""), "sub/y": hashed(b"x\n")
    }  # fmt: skip
    assert (tmp_path / "job/exit").read_text().splitlines() == lines


def test_a_poll_can_do_with_the_first_line_of_a_record(run, tmp_path):
    lines = run(Slurm(), Job("k", ("sh", "-c", "touch r; echo no >&2; exit 3"), str(tmp_path / "job"), results=("r",)))
    assert len(lines) == 2
    assert json.loads(lines[0].rstrip(",") + "}")["code"] == 3
    record = json.loads("".join(lines))
    assert (record["tail"], "results" in record) == ("no\n", False)


def test_a_warning_that_comes_before_the_program_runs_reaches_it_later(run, tmp_path):
    """While the prologue or the copies of inputs take their time."""
    waits = "trap 'exit 99' USR1; while :; do sleep 0.1; done"
    job = Job("k", ("sh", "-c", waits), str(tmp_path / "job"))
    record = json.loads("".join(run(Slurm(prologue=("kill -s USR1 $$",)), job)))
    assert (record["code"], record["warned"], record["terminated"]) == (99, True, False)


def test_items_in_one_folder_note_what_names_them_alone(run, tmp_path):
    script = "echo $PENSTOCK_ITEM > r.$PENSTOCK_ITEM; touch shared"
    job = Job("k", ("sh", "-c", script), str(tmp_path / "job"), items=12, results=("r.{item}", "sh*"))
    for item in (1, 11):
        assert noted(run(Slurm(), job, item)) == {f"r.{item}": hashed(f"{item}\n".encode())}


def test_words_reach_the_program_as_they_are():
    words = ("a b", "", "'", '"', "$HOME", "\\", "*", "ü", "a\nb")
    text = batch(Slurm(), Job("k", words, "/f"))
    given = text[text.index("folder=") : text.index("# --- the same for every job")]
    done = subprocess.run(
        ["bash", "-s"], input=given + 'printf "%s\\0" "${program[@]}"', text=True, capture_output=True
    )
    assert tuple(done.stdout.split("\0")[:-1]) == words


def test_a_job_is_never_requeued_and_never_waits_for_what_cannot_come():
    assert requests(Slurm())[:2] == ["--no-requeue", "--kill-on-invalid-dep=yes"]


@pytest.mark.parametrize(
    ("name", "text"), [("", "job"), ("a,b c", "a-b-c"), ("--x", "x"), ("über", "ber"), ("x" * 99, "x" * 60)]
)
def test_names_have_no_characters_that_slurm_splits_at(name, text):
    assert label(Job("k", ("a",), "/f", name)) == text


@pytest.mark.parametrize(("minutes", "line"), [(1 / 60, "--time=1"), (30, "--time=30"), (30.2, "--time=31")])
def test_time_is_whole_minutes(minutes, line):
    assert line in requests(Slurm(time_minutes=minutes))


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("tasks", 0, "tasks must be 1 or more, not 0"),
        ("warn_seconds", -1, "warn_seconds must be 0 or more"),
        ("partition", "a b", "partition must have no white space: 'a b'"),
        ("lines", ("exclusive",), "lines are options of sbatch, each like \"--exclusive\", not 'exclusive'"),
        ("lines", ("--x\nrm",), "lines are options"),
        ("workspace", "$(rm)", "workspace is a path"),
        ("scratch", "here", "scratch is a path from / or ~/ on the cluster, not 'here'"),
    ],
)
def test_settings_that_cannot_be_meant(field, value, text):
    with pytest.raises(ValueError) as caught:
        Slurm(**{field: value})
    assert text in str(caught.value)
