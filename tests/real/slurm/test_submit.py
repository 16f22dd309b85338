"""A whole run, Ray and all, inside one Slurm job on two nodes that share this machine."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

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
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=400)


def leftovers() -> list[str]:
    """Ray's processes that belong to jobs of ours."""
    every = (process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"]))
    return [" ".join(line)[:200] for line in every if any("/penstock-ray-1" in word for word in line)]


def gone() -> None:
    """Ray's processes take a while to end; they must."""
    end = time.monotonic() + 60
    while leftovers():
        assert time.monotonic() < end, leftovers()
        time.sleep(0.5)


def listed(slurm, cluster: str, native_id: str) -> str:
    """What `penstock jobs list` says of a job."""
    lines = call(slurm, "jobs", "list", "--cluster", cluster).stdout.splitlines()
    return next(line for line in lines if f" {native_id} " in line)


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
    gone()
    assert not list(Path("/tmp").glob(f"penstock-ray-{json.loads((folder / 'exit').read_text())['job']}-*"))


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


def test_the_same_file_is_one_job_while_it_runs_and_can_be_cancelled(slurm, file, tmp_path):
    cluster = words(slurm, tmp_path)
    first, second = (call(slurm, "submit", file, "--cluster", cluster).stdout.splitlines()[0] for _ in range(2))
    assert first == second, [path.read_text() for path in tmp_path.glob("jobs/*/*/exit")]
    native_id = first.split()[1].rstrip(",")
    time.sleep(5)  # in the middle of starting Ray
    done = call(slurm, "jobs", "cancel", native_id, "--cluster", cluster)
    assert done.returncode == 0, done.stderr
    end = time.monotonic() + 60
    while native_id.partition(".")[0] in slurm.asked("squeue", "-h", "-o", "%A").split():
        assert time.monotonic() < end
        time.sleep(0.5)
    gone()
    while "cancelled" not in listed(slurm, cluster, native_id):
        assert time.monotonic() < end, listed(slurm, cluster, native_id)
