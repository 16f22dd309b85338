"""Pipelines on a Ray that others run: by `ray job submit` with the working folder, and on one of another version."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from machines import RAY, environment, wait_until

from penstock.core.reading import read_table

PENSTOCK = str(Path(sys.executable).with_name("penstock"))
pytestmark = pytest.mark.timeout(1800)  # far less on two free cores
PIPELINE = """
[runner]
use = "ray"

[pipeline.line]
source = {{ use = "jsonl", uri = "reads.jsonl", columns = {{ sequence = "string" }} }}
sink = {{ use = "parquet", uri = "{out}" }}

[[pipeline.line.step]]
use = "function"
function = "mine:told"
adds = {{ ray = "string" }}
"""
MODULE = """
import pyarrow as pa

def told(batch):
    import ray

    return batch.append_column("ray", pa.array([ray.get_runtime_context().gcs_address] * len(batch)))
"""


@pytest.fixture(scope="module")
def ports(free_ports):
    """Of a Ray with its dashboard, which takes jobs: its own, and the dashboard's."""
    base = Path(tempfile.mkdtemp(prefix="pj", dir="/tmp"))  # a short path: sockets lie below it
    own, dashboard = free_ports(2)
    words = [RAY, "start", "--head", "--block", "--num-cpus=2", f"--port={own}", f"--temp-dir={base}"]
    words += ["--node-ip-address=127.0.0.1", "--include-dashboard=true", f"--dashboard-port={dashboard}"]
    words += ["--object-store-memory=100000000"]
    with (base / "told").open("w") as told:
        head = subprocess.Popen(words, env=environment(), stdout=told, stderr=told, start_new_session=True)
    try:
        listed = ("job", "list", f"--address=http://127.0.0.1:{dashboard}")
        wait_until(lambda: ray(*listed).returncode == 0 or head.poll() is not None, "the dashboard takes jobs", 400)
        assert head.poll() is None, (base / "told").read_text()
        yield own, dashboard
    finally:
        head.terminate()
        with suppress(subprocess.TimeoutExpired):
            head.wait(60)
        with suppress(ProcessLookupError):  # all have ended
            os.killpg(head.pid, signal.SIGKILL)
        head.wait()


def ray(*words):
    return subprocess.run([RAY, *words], env=environment(), capture_output=True, text=True, check=False)


@pytest.fixture
def project(tmp_path):
    """A user's folder: a pipeline, a module of its own, data, and a file too big to be sent along."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "line.toml").write_text(PIPELINE.format(out=tmp_path / "out"))
    (folder / "mine.py").write_text(MODULE)
    (folder / "reads.jsonl").write_text("".join(json.dumps({"sequence": f"ACGT{i}"}) + "\n" for i in range(50)))
    with (folder / "big.bin").open("wb") as big:
        big.truncate(600 << 20)
    (folder / ".rayignore").write_text("big.bin\n")
    return folder


def submit(ports, project):
    address = f"--address=http://127.0.0.1:{ports[1]}"
    return ray("job", "submit", address, f"--working-dir={project}", "--", PENSTOCK, "run", "line.toml")


def test_a_job_runs_on_the_ray_that_took_it_with_the_folder_that_was_sent(ports, project, tmp_path):
    done = submit(ports, project)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = read_table(str(tmp_path / "out"))
    assert found.num_rows == 50
    assert {at.rpartition(":")[2] for at in found["ray"].to_pylist()} == {str(ports[0])}


def test_a_run_that_fails_is_a_job_that_fails(ports, project):
    (project / "mine.py").write_text("told = 3\n")
    done = submit(ports, project)
    assert done.returncode != 0
    assert "mine:told" in done.stdout + done.stderr


def test_a_ray_of_another_version_is_told(ports, project):
    from ray._raylet import GcsClient

    gcs, name = GcsClient(address=f"127.0.0.1:{ports[0]}"), (b"CLUSTER_METADATA", b"cluster")
    kept = gcs.internal_kv_get(*name)
    try:
        gcs.internal_kv_put(name[0], json.dumps({**json.loads(kept), "ray_version": "2.9.3"}).encode(), True, name[1])
        words, env = [PENSTOCK, "run", "line.toml"], environment() | {"RAY_ADDRESS": f"127.0.0.1:{ports[0]}"}
        env["PYTHONPATH"] = str(project)
        done = subprocess.run(words, cwd=project, env=env, capture_output=True, text=True, check=False)
    finally:
        gcs.internal_kv_put(name[0], kept, True, name[1])
    assert done.returncode != 0
    assert "is another one than here" in done.stderr
    assert "2.9.3" in done.stderr
    assert "Traceback" not in done.stderr
