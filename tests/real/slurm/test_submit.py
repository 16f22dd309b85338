"""A whole run, Ray and all, inside one Slurm job on two nodes that share this machine."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from slurm_site import wait_until

from penstock.core.reading import read_table
from penstock.core.verify import verify

PENSTOCK = str(Path(sys.executable).with_name("penstock"))
CHAINS = Path(__file__).parents[3] / "examples" / "antibodies" / "chains.fasta"
PIPELINE = f"""
[pipeline.line]
source = {{ use = "fasta", uri = "{CHAINS}", unit_bytes = 2000 }}
sink = {{ use = "parquet", uri = "out" }}
[[pipeline.line.step]]
use = "clean"
alphabet = "protein"
place = {{ kind = "actor", replicas = [3, 3], cpus = 1 }}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "line.toml"
    path.write_text(PIPELINE)
    return path


def words(slurm, folder: Path, **more) -> str:
    """Two nodes of two CPUs: no pool of three fits on one of them."""
    given = {"host": slurm.host, "nodes": 2, "cpus_per_task": 2, "memory": "1500M", "time_minutes": 10}
    given |= {"folder": folder / "jobs", "scratch": slurm.base / "scratch", "python": sys.executable, **more}
    return "slurm poll_seconds=0.5 " + " ".join(f"{key}={value}" for key, value in given.items())


def call(slurm, *arguments) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PATH": slurm.path}
    command = [PENSTOCK, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1000)


def number_of(done: subprocess.CompletedProcess) -> str:
    """Slurm's number of the job that `penstock submit` told of."""
    return re.match(r"job (\d+)\.", done.stdout)[1]


def leftovers(number: str) -> list[str]:
    """Ray's processes that belong to that job."""
    ours = re.compile(rf"/penstock-ray-{number}-\d+/ray")
    every = (" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"]))
    return [line[:200] for line in every if ours.search(line)]


def gone(number: str) -> None:
    """Ray's processes take a while to end, and their folder; they must."""
    end = time.monotonic() + 240
    while (left := leftovers(number)) or list(Path("/tmp").glob(f"penstock-ray-{number}-*")):
        assert time.monotonic() < end, left
        time.sleep(0.5)


def listed(slurm, cluster: str, native_id: str) -> str:
    """What `penstock jobs list` says of a job."""
    lines = call(slurm, "jobs", "list", "--cluster", cluster).stdout.splitlines()
    return next((line for line in lines if f" {native_id} " in line), "")


def test_a_run_on_two_nodes_gives_what_inline_gives_and_leaves_nothing(slurm, file, tmp_path):
    done = call(slurm, "submit", file, "--cluster", words(slurm, tmp_path), "--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "it has ended well" in done.stdout
    subprocess.run([PENSTOCK, "run", file, "--runner", "inline", "--set", "pipeline.line.sink.uri=wanted"], check=True)
    verify(str(tmp_path / "out"))
    assert read_table(str(tmp_path / "out")).equals(read_table(str(tmp_path / "wanted")))
    [folder] = (tmp_path / "jobs").glob("line-*/2*")
    assert json.loads((folder / "exit").read_text())["code"] == 0
    assert "line: 143 rows" in (folder / "stdout").read_text()
    assert len(list(folder.glob("ray-*.log"))) == 2, "the pool of three, too large for one node, was admitted"
    assert json.loads((folder / "exit").read_text())["job"] == number_of(done)
    gone(number_of(done))


def test_the_exit_status_of_the_run_is_that_of_the_job_and_it_is_told_why(slurm, file, tmp_path):
    file.write_text(PIPELINE.replace(str(CHAINS), str(tmp_path / "nothing.fasta")))
    done = call(slurm, "submit", file, "--cluster", words(slurm, tmp_path, nodes=1, cpus_per_task=4), "--wait")
    assert done.returncode == 1
    assert "exit status 1" in done.stderr
    assert "nothing.fasta: no such file or folder; check the spelling" in done.stderr


def test_nodes_that_do_not_come_end_the_job_with_their_logs(slurm, file, tmp_path):
    """A Python without Ray: the head never starts."""
    bare = tmp_path / "python"
    bare.write_text(
        f'#!/bin/sh\ncase "$*" in *ray.scripts*) echo no Ray here >&2; exit 1 ;; esac\nexec {sys.executable} "$@"\n'
    )
    bare.chmod(0o755)
    done = call(slurm, "submit", file, "--cluster", words(slurm, tmp_path, python=bare), "--wait")
    assert done.returncode == 1
    assert "Ray's head did not start on" in done.stderr
    assert "no Ray here" in done.stderr


def test_the_same_file_is_one_job_while_it_runs_and_can_be_cancelled(slurm, file, tmp_path, monkeypatch):
    """Its run waits for what never comes, so that it runs until it is cancelled, however slow this process is."""
    cluster = words(slurm, tmp_path, prologue=held(file, tmp_path, monkeypatch))
    once, twice = (call(slurm, "submit", file, "--cluster", cluster) for _ in range(2))
    assert once.stdout == twice.stdout, [path.read_text() for path in tmp_path.glob("jobs/*/*/exit")]
    native_id = once.stdout.split()[1].rstrip(",")
    number = number_of(once)
    wait_until(lambda: leftovers(number), "Ray starts")
    done = call(slurm, "jobs", "cancel", native_id, "--cluster", cluster)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: number not in slurm.asked("squeue", "-h", "-o", "%A").split(), "the job goes")
    gone(number)
    wait_until(lambda: "cancelled" in listed(slurm, cluster, native_id), "it is told")


HELD = """
import fcntl, pathlib, time
here = pathlib.Path(__file__).parent

def held(batch):
    \"\"\"The unit with the first chain goes through; the others wait until the first job is over.\"\"\"
    if "{first}" not in batch["id"].to_pylist():
        while not (here / "go").exists():
            time.sleep(0.1)
    with (here / "rows").open("a") as rows:
        fcntl.flock(rows, fcntl.LOCK_EX)
        print(batch.num_rows, file=rows, flush=True)
    return batch
"""
STEP = """
[[pipeline.line.step]]
use = "function"
function = "held_rows:held"
"""


def held(file, folder: Path, monkeypatch) -> str:
    """Have the run of *file* wait in *folder* as `HELD` says; gives the prologue that its job needs."""
    first = CHAINS.read_text().split()[0].removeprefix(">")
    (folder / "held_rows.py").write_text(HELD.format(first=first))
    file.write_text(PIPELINE.partition("[[pipeline.line.step]]")[0] + STEP)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return shlex.quote(f'["export PYTHONPATH={folder}"]')


@pytest.mark.timeout(1200)
def test_a_run_that_is_longer_than_its_time_limit_goes_on_in_another_job(slurm, file, tmp_path, monkeypatch):
    """Of the limit it is warned, ends with status 99, and starts again without what is done."""
    prologue = held(file, tmp_path, monkeypatch)
    cluster = words(slurm, tmp_path, time_minutes=3, warn_seconds=30, prologue=prologue)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(call, slurm, "submit", file, "--cluster", cluster, "--wait")
        wait_until(lambda: waiting.done() or list(tmp_path.glob("jobs/*/*/attempt-1/exit")), "the first job ends", 600)
        (tmp_path / "go").touch()
        done = waiting.result()
    assert done.returncode == 0, done.stdout + done.stderr
    [folder] = (tmp_path / "jobs").glob("line-*/2*")
    before, after = (json.loads(path.read_text()) for path in (folder / "attempt-1/exit", folder / "exit"))
    assert (before["code"], before["warned"], after["code"]) == (99, True, 0)
    assert before["job"] != after["job"]
    verify(str(tmp_path / "out"))
    assert read_table(str(tmp_path / "out")).num_rows == 143
    counts = [int(count) for count in (tmp_path / "rows").read_text().split()]
    assert sum(counts) == 143, "what was done before the limit is not done again"
    gone(before["job"])
    gone(after["job"])
