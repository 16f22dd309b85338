"""From Ray to a real Slurm and back over S3, killed and continued at every arrow: equal results, each job once."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from penstock.core.dataset import newest
from penstock.core.reading import read_table
from penstock.core.storage import store_of
from penstock.core.verify import verify

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "examples"
PENSTOCK = str(Path(sys.executable).with_name("penstock"))
DATASETS = ("embeddings", "graph", "clusters")


@dataclass(frozen=True)
class World:
    """A Slurm behind SSH and an S3 server; each run of the example has a root and a scratch folder of its own."""

    base: Path
    s3: str

    @property
    def file(self) -> str:
        """A copy of the example, so that its report is written there."""
        return str(self.base / "examples" / "slurm" / "pipeline.toml")

    def environment(self, name: str) -> dict[str, str]:
        return {
            **os.environ,
            "PATH": f"{self.base}/slurm/bin:{os.environ['PATH']}",
            "S3_ROOT": f"{self.s3}/story/{name}",
            "HPC_HOST": self.base.name,
            "HPC_SCRATCH": str(self.base / name),
            "HPC_PYTHON": sys.executable,
            "HPC_ENVIRONMENT": str(self.base / "s3.env"),
        }

    def started(self, name: str, *words: str) -> subprocess.Popen:
        command = [PENSTOCK, "run", self.file, *words]
        return subprocess.Popen(
            command, env=self.environment(name), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def jobs(self, name: str) -> list[Path]:
        """What the cluster remembers of a run's jobs."""
        return sorted((self.base / name / "ids").glob("*"))


@pytest.fixture(scope="module")
def world(s3: str) -> Iterator[World]:
    base = Path(tempfile.mkdtemp(prefix="story-", dir="/tmp"))  # a short path: sockets lie below it
    shutil.copytree(EXAMPLES, base / "examples", ignore=shutil.ignore_patterns("out", "report.html"))
    names = [name for name in os.environ if name.startswith("AWS_")]
    (base / "s3.env").write_text("".join(f"export {name}='{os.environ[name]}'\n" for name in names))
    script = [str(REPOSITORY / "scripts" / "slurm")]
    subprocess.run([*script, "start", f"{base}/slurm", "--nodes", "2", "--host", base.name], check=True)
    try:
        yield World(base, s3)
    finally:
        subprocess.run([*script, "stop", f"{base}/slurm", "--wipe"], check=True)
        shutil.rmtree(base)


def finished(run: subprocess.Popen) -> str:
    out, err = run.communicate(timeout=400)
    assert run.returncode == 0, out + err
    return out


def exists(uri: str) -> bool:
    return next(store_of(uri).below(uri), None) is not None


def arrows(root: str, world: World, name: str) -> list[tuple[str, Callable[[], bool]]]:
    """What can be seen when a run has come to each arrow."""
    return [
        ("embedding", lambda: exists(f"{root}/embeddings/parts")),
        ("embed -> S3", lambda: exists(f"{root}/embeddings/manifests")),
        ("S3 -> graph", lambda: exists(f"{root}/graph/manifests")),
        ("-> sbatch", lambda: bool(world.jobs(name))),
        ("MPI -> S3", lambda: any(entry.uri.endswith("/exit") for entry in store_of(root).below(f"{root}/jobs"))),
        ("-> joined", lambda: exists(f"{root}/clusters/parts")),
    ]


def kill_at(run: subprocess.Popen, seen: Callable[[], bool]) -> bool:
    """SIGKILL *run* as soon as *seen*; False when it ended before."""
    end = time.monotonic() + 300
    while not seen():
        if run.poll() is not None:
            return False
        assert time.monotonic() < end, "the run does not come to its next arrow"
        time.sleep(0.02)
    run.kill()
    run.communicate()
    return True


def test_a_run_killed_at_every_arrow_gives_what_an_undisturbed_one_gives(world):
    said = finished(world.started("undisturbed"))
    assert "clusters: 143 rows" in said
    assert "report: file://" in said

    root = world.environment("killed")["S3_ROOT"]
    killed = []
    for arrow, seen in arrows(root, world, "killed"):
        run = world.started("killed", "--runner", "inline")
        if kill_at(run, seen):
            killed.append(arrow)
    finished(world.started("killed", "--runner", "inline"))
    print("killed at:", ", ".join(killed))
    assert set(killed) >= {"embedding", "embed -> S3", "S3 -> graph", "-> sbatch"}

    for name in DATASETS:
        one, two = (f"{world.environment(run)['S3_ROOT']}/{name}" for run in ("undisturbed", "killed"))
        assert verify(two).rows == 143
        assert read_table(two).equals(read_table(one)), name
        columns = ["rows", "part_sha256"]
        assert newest(one).parts().select(columns).equals(newest(two).parts().select(columns)), name
    # A job's files are taken away when its result is fetched, a moment before the ledger knows of the unit: only a
    # kill between the two has the job computed anew.
    late = {"MPI -> S3", "-> joined"} & set(killed)
    assert len(world.jobs("undisturbed")) == 1
    assert 1 <= len(world.jobs("killed")) <= 1 + len(late), "no kill before the job's end makes a second one"
    assert not exists(f"{root}/jobs"), "what the job needed is taken away"


def test_the_clusters_follow_the_families(world):
    table = read_table(f"{world.environment('undisturbed')['S3_ROOT']}/clusters")
    pairs = list(zip(table["cluster"].to_pylist(), table["family"].to_pylist(), strict=True))
    best = [max(pairs.count((c, f)) for f in {f for _, f in pairs}) for c in {c for c, _ in pairs}]
    assert sum(best) / len(pairs) >= 0.6


def test_the_cluster_tells_of_its_jobs(world):
    environment = world.environment("undisturbed")
    command = [PENSTOCK, "jobs", "list", world.file]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    _, row = done.stdout.splitlines()
    assert "spectral" in row
    assert "done" in row


def test_the_joined_result_can_be_fetched_by_copy(world, tmp_path):
    environment = world.environment("undisturbed")
    command = [PENSTOCK, "copy", f"{environment['S3_ROOT']}/clusters", str(tmp_path / "clusters")]
    subprocess.run(command, env=environment, check=True, timeout=60)
    assert verify(str(tmp_path / "clusters")).rows == 143
    assert json.loads((tmp_path / "clusters" / "manifest.json").read_text())["rows"] == 143
