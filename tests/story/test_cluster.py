"""`make demo-cluster`, from Ray to a real Slurm and back over S3, killed at every arrow: equal results."""

import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from penstock.core import storage
from penstock.core.batch import to_numpy
from penstock.core.dataset import newest
from penstock.core.reading import read_table
from penstock.core.storage import store_of
from penstock.core.verify import verify

REPOSITORY = Path(__file__).parents[2]
SCRIPTS = REPOSITORY / "scripts"
EXAMPLE = REPOSITORY / "examples" / "slurm" / "pipeline.toml"
PENSTOCK = str(Path(sys.executable).with_name("penstock"))
ROOT = "s3://demo/antibodies"
DATASETS = ("embeddings", "graph", "clusters")
pytestmark = pytest.mark.timeout(3600)  # far less on two free cores
ARROWS = ("embedding", "embed -> S3", "S3 -> graph", "-> sbatch", "MPI -> S3", "-> joined")

# Where the pipeline waits as long as there is a file of that name: in all units but the first, or in all.
HOLDS = """
import pathlib, time
here = pathlib.Path(__file__).parent

def wait(name):
    while (here / name).exists():
        (here / f"{name}.reached").touch()
        time.sleep(0.05)

def embedding(batch):
    if "HV102_HUMAN" not in "".join(batch["id"].to_pylist()):
        wait("hold-embedding")
    return batch

def graph(batch):
    wait("hold-graph")
    return batch

def joined(batch):
    wait("hold-joined")
    return batch
"""
STEP = '\n[[pipeline.{line}.step]]\nuse = "function"\nfunction = "holds:{name}"\n'


PLANTED = {"HF_TOKEN": "hf_plantedfY4q", "PENSTOCK_TOKEN": "planted-token-Z7k", "PGPASSWORD": "planted-word-X3w"}
"""What a user may have in the environment of a run that nobody else should see."""


@dataclass(frozen=True)
class World:
    """What `scripts/demo-cluster` has in its folder: a Slurm behind SSH and an S3 server."""

    base: Path
    commands: set[str] = field(default_factory=set)

    def started(self, *words: str) -> subprocess.Popen:
        """The demo, in a session of its own, which the servers are not in."""
        command = [SCRIPTS / "demo-cluster", "--base", self.base, "--keep", "--file", self.base / "pipeline.toml"]
        environment = {**os.environ, **PLANTED, "PYTHONPATH": str(self.base)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen([*command, *words], env=environment, start_new_session=True, **pipes)

    def jobs(self) -> list[Path]:
        """What the cluster remembers of the demo's jobs."""
        return sorted((self.base / "scratch" / "ids").glob("*"))

    @property
    def s3(self) -> dict[str, str]:
        """What its server's file says."""
        lines = (self.base / "s3" / "env").read_text().splitlines()
        words = [word.removeprefix("export ") for line in lines for word in shlex.split(line, comments=True)[1:]]
        return dict(word.split("=", 1) for word in words)

    @contextmanager
    def reached(self) -> Iterator[None]:
        """Inside, this process has its S3."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.s3.items():
                patch.setenv(name, value)
            storage._client.cache_clear()
            yield
        storage._client.cache_clear()

    def exists(self, name: str, ending: str = "") -> bool:
        """Whether the bucket has something below *name* that ends so."""
        if not (self.base / "s3" / "env").exists():
            return False
        with self.reached(), suppress(Exception):  # the server has just been started
            return any(entry.uri.endswith(ending) for entry in store_of(ROOT).below(f"{ROOT}/{name}"))
        return False

    def penstock(self, *words: str) -> str:
        environment = {**os.environ, **self.s3, "PATH": f"{self.base}/slurm/bin:{os.environ['PATH']}"}
        environment |= {"S3_ROOT": ROOT, "HPC_HOST": self.base.name, "HPC_SCRATCH": str(self.base / "scratch")}
        environment |= {"HPC_PYTHON": sys.executable, "HPC_ENVIRONMENT": str(self.base / "environment")}
        environment |= {"PYTHONPATH": str(self.base)}
        done = subprocess.run([PENSTOCK, *words], env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fetched(self) -> Path:
        """The datasets on this machine."""
        for name in DATASETS:
            self.penstock("copy", f"{ROOT}/{name}", str(self.base / "fetched" / name))
        return self.base / "fetched"


@contextmanager
def world() -> Iterator[World]:
    """An empty one; its servers end also when this process is killed."""
    base = Path(tempfile.mkdtemp(prefix="story-", dir="/tmp"))  # a short path: sockets lie below it
    text, graph = EXAMPLE.read_text().split("# 2. The neighbour graph")
    chains = f'"{EXAMPLE.parents[1]}/antibodies/chains.fasta"'
    text = text.replace('"../antibodies/chains.fasta"', chains) + STEP.format(line="embeddings", name="embedding")
    graph, clusters = graph.split("# 3. Spectral clustering")
    text += "#" + graph + STEP.format(line="graph", name="graph")
    clusters = clusters.replace("time_minutes = 10", "time_minutes = 60")  # it is held there, on a busy machine
    text += "#" + clusters + STEP.format(line="clusters", name="joined")
    (base / "pipeline.toml").write_text(text)
    (base / "holds.py").write_text(HOLDS)
    stop = f"{SCRIPTS}/slurm stop {base}/slurm --wipe; {SCRIPTS}/s3 stop {base}/s3 --wipe"
    guard = subprocess.Popen(["sh", "-c", f"tail --pid={os.getpid()} -f /dev/null; {stop}"], start_new_session=True)
    try:
        yield World(base)
    finally:
        os.killpg(guard.pid, signal.SIGKILL)
        guard.wait()
        subprocess.run(["sh", "-c", stop], check=True)
        shutil.rmtree(base)


@pytest.fixture(scope="module")
def undisturbed() -> Iterator[World]:
    with world() as one, overheard(one.commands):
        said = finished(one.started())
        (one.base / "said").write_text(said)
        assert "clusters: 143 rows" in said
        assert "report: file://" in said
        assert "what the cluster remembers:" in said
        yield one


@contextmanager
def overheard(commands: set[str]) -> Iterator[None]:
    """Every user of a machine sees the command lines of all; they are noted as long as this lasts."""
    over = threading.Event()

    def listen() -> None:
        while not over.wait(0.2):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):  # it has ended meanwhile
                    commands.add(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    yield
    over.set()
    thread.join()


def finished(run: subprocess.Popen) -> str:
    said, _ = run.communicate(timeout=1500)
    assert run.returncode == 0, said
    return said


def wait_until(run: subprocess.Popen, seen: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 900
    while not seen():
        assert run.poll() is None, f"{what}: the demo ended before: {run.communicate()[0]}"
        assert time.monotonic() < end, f"the demo does not come to '{what}'"
        time.sleep(0.05)


def signalled(run: subprocess.Popen, number: int) -> None:
    """To the demo and all that belongs to it, Ray too, as a power cut does; the servers are other machines."""
    for process in psutil.process_iter():
        with suppress(ProcessLookupError):
            if os.getsid(process.pid) == run.pid:
                os.kill(process.pid, number)


def killed(run: subprocess.Popen) -> None:
    signalled(run, signal.SIGKILL)
    run.communicate()
    assert run.returncode == -signal.SIGKILL


def kill_at_every_arrow(one: World, *words: str) -> list[str]:
    """Run the demo, and kill it at each arrow; those at which it was killed. Files hold it there."""
    hold = one.base / "hold"
    arrows: dict[str, tuple[str, Callable[[], bool]]] = {
        "embedding": ("hold-embedding", lambda: one.exists("embeddings/parts")),
        "embed -> S3": ("hold-graph", lambda: one.exists("embeddings/manifests") and reached(one, "hold-graph")),
        "S3 -> graph": ("hold", lambda: one.exists("graph/manifests")),
        "-> sbatch": ("hold", lambda: bool(one.jobs())),
        "MPI -> S3": ("hold", lambda: ended_unseen(one, run, hold)),
        "-> joined": ("hold-joined", lambda: reached(one, "hold-joined")),
    }
    done = []
    for arrow, (name, seen) in arrows.items():
        (one.base / name).touch()
        if arrow == "MPI -> S3":
            forget(one)
        run = one.started(*words)
        wait_until(run, seen, arrow)
        killed(run)
        if name != "hold":  # the job goes on waiting, while nobody waits for it
            (one.base / name).unlink()
        done.append(arrow)
    return done


def reached(one: World, name: str) -> bool:
    return (one.base / f"{name}.reached").exists()


def told_again(one: World) -> bool:
    """Whether a run has come to the job, and written what the program is told."""
    return one.exists("jobs", "/job.json")


def forget(one: World) -> None:
    with one.reached():
        store = store_of(ROOT)
        for entry in list(store.below(f"{ROOT}/jobs")):
            if entry.uri.endswith("/job.json"):
                store.remove(entry.uri)


def ended_unseen(one: World, run: subprocess.Popen, hold: Path) -> bool:
    """Stop the demo while it waits for the job, and let the job end."""
    if not told_again(one):
        return False
    signalled(run, signal.SIGSTOP)
    hold.unlink()
    wait_until(run, lambda: one.exists("jobs", "/exit"), "the job's exit record")
    return True


def artefacts(one: World) -> Iterator[tuple[str, str]]:
    """All that a demo leaves, by name: objects, job scripts and their records, spools, logs, what it printed."""
    with one.reached():
        store = store_of(ROOT)
        for entry in store.below(ROOT):
            yield entry.uri, text_of(store.read(entry.uri))
    for folder, _, names in os.walk(one.base):
        if one.base / "s3" in (Path(folder), *Path(folder).parents):  # the server's own, which nobody else may read
            continue
        for path in (Path(folder, name) for name in names):
            if (data := content_of(path)) is not None:
                yield str(path), text_of(data)


def content_of(path: Path) -> bytes | None:
    """None where there is no file, or no more: Slurm goes on writing its state, each time as a new file."""
    try:
        return path.read_bytes() if path.is_file() else None
    except FileNotFoundError:
        return None


def text_of(data: bytes) -> str:
    """Bytes as they are, and of Parquet also what is compressed in them."""
    text = data.decode("latin-1")
    if not data.endswith(b"PAR1"):
        return text
    return text + json.dumps(pq.read_table(io.BytesIO(data)).to_pylist(), default=str)


def test_no_secret_stands_in_anything_that_a_demo_makes(undisturbed):
    secrets = [undisturbed.s3["AWS_SECRET_ACCESS_KEY"], *PLANTED.values()]
    texts = dict(artefacts(undisturbed))
    kinds = {Path(name).suffix for name in texts}
    assert kinds >= {".json", ".parquet", ".h5"}, kinds
    assert any("/scratch/" in name for name in texts), sorted(texts)
    assert sum(ROOT in text for text in texts.values()) > 5, "what stands there is found"
    assert not [name for name, text in texts.items() if any(secret in text for secret in secrets)]
    assert any("penstock run" in line for line in undisturbed.commands)
    assert not [line for line in undisturbed.commands if any(secret in line for secret in secrets)]
    ray = Path(tempfile.gettempdir()) / f"penstock-ray-{os.getuid()}"  # its sessions, which go with the run
    for path in (undisturbed.base / "s3/env", undisturbed.base / "s3/s3.json", ray):
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.parametrize("runner", ["ray", "inline"])
def test_a_demo_killed_at_every_arrow_gives_what_an_undisturbed_one_gives(undisturbed, runner):
    with world() as one:
        assert kill_at_every_arrow(one, "--runner", runner) == list(ARROWS)
        assert "clusters: 143 rows" in finished(one.started("--runner", runner))
        check_equal(undisturbed.fetched(), one.fetched())
        # A job's files go when its result is fetched, a while before the ledger knows of the unit: a kill between
        # the two, at the last arrow, has the job computed anew. No other kill makes a second job.
        assert 1 <= len(one.jobs()) <= 2
        assert not one.exists("jobs"), "what the job needed is taken away"


def check_equal(wanted: Path, found: Path) -> None:
    for name in DATASETS:
        one, two = (str(root / name) for root in (wanted, found))
        assert verify(two).rows == 143
        assert read_table(two).equals(read_table(one)), name
        columns = ["rows", "part_sha256"]
        assert newest(one).parts().select(columns).equals(newest(two).parts().select(columns)), name


def test_the_clusters_follow_the_families(undisturbed):
    table = read_table(str(undisturbed.fetched() / "clusters"))
    pairs = list(zip(table["cluster"].to_pylist(), table["family"].to_pylist(), strict=True))
    best = [max(pairs.count((c, f)) for f in {f for _, f in pairs}) for c in {c for c, _ in pairs}]
    assert sum(best) / len(pairs) >= 0.6
    assert json.loads((undisturbed.base / "fetched/clusters/manifest.json").read_text())["rows"] == 143


def test_the_cluster_tells_of_its_jobs(undisturbed):
    assert len(undisturbed.jobs()) == 1
    _, row = undisturbed.penstock("jobs", "list", str(undisturbed.base / "pipeline.toml")).splitlines()
    assert "spectral" in row
    assert "done" in row


def test_the_demo_leaves_nothing_when_it_is_not_told_to_keep_it(undisturbed, tmp_path):
    """A demo that cannot begin, for the time of a whole one."""
    (tmp_path / "wrong.toml").write_text("[pipeline.none]\n")
    command = [SCRIPTS / "demo-cluster", "--file", tmp_path / "wrong.toml"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode
    base = done.stdout.split("below ")[1].split()[0]
    assert base.startswith("/tmp/penstock-demo-")
    assert not Path(base).exists()
    end = time.monotonic() + 60
    while left := [p.info for p in psutil.process_iter(["cmdline"]) if base in " ".join(p.info["cmdline"] or [])]:
        assert time.monotonic() < end, left
        time.sleep(0.1)


def test_graph_and_poisson_run_there_too(undisturbed):
    """The field is held against the same equation solved by numpy's FFT."""
    undisturbed.penstock("run", str(EXAMPLE.with_name("graph_and_field.toml")))
    with undisturbed.reached():
        ranks, field = (read_table(f"{ROOT}/{name}") for name in ("ranks", "field"))
    assert sum(ranks["pagerank"].to_pylist()) == pytest.approx(1)
    assert len(set(ranks["id"].to_pylist())) == 143
    assert len(undisturbed.jobs()) == 3
    x, y, forcing, solution = (to_numpy(field[name]) for name in ("x", "y", "forcing", "solution"))
    waves = [2 * np.pi * np.fft.fftfreq(64, axis[1] - axis[0]) for axis in (x, y[0])]
    square = waves[0][:, None] ** 2 + waves[1] ** 2
    for channel in range(2):
        wanted = np.fft.ifft2(np.fft.fft2(forcing[:, channel]) / (square + 0.5)).real
        np.testing.assert_allclose(solution[:, channel], wanted, atol=1e-9 * np.abs(wanted).max())
