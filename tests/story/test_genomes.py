"""The genomes example on S3: k-mers by Ray Data, a table by Tune and Train, clusters by MPI, and a service."""

import importlib.util
import os
import re
import subprocess
import sys
import time
import tomllib
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import psutil
import pytest

from penstock.core import spec
from penstock.core.batch import to_numpy
from penstock.core.reading import read_table
from penstock.core.storage import join, store_of
from penstock.core.verify import verify
from penstock.report.measures import agreement, neighbourhood
from penstock.runners.inline import Inline
from penstock.tables.client import open_table
from penstock.tables.layout import Table
from penstock.tables.making import create
from penstock.trainings.search import recall, trials

EXAMPLE = Path(__file__).parents[2] / "examples" / "genomes"
PENSTOCK = str(Path(sys.executable).parent / "penstock")
READS, LENGTH, ERROR = 30, 2000, 0.05
pytestmark = pytest.mark.timeout(3600)  # far less on two free cores


def simulated(seed=0, reads=READS):
    """``{organism: [(id, read), ...]}``"""
    found = importlib.util.spec_from_file_location("genome_reads", EXAMPLE / "reads.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    lines = {}
    for header, read in module.simulate(module.genomes(), reads=reads, length=LENGTH, error=ERROR, seed=seed):
        facts = header.split()
        lines.setdefault(facts[1].removeprefix("organism="), []).append((header, read))
    return lines


def texts(value, trail=()):
    """All texts of a pipeline file, by their dotted keys."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from texts(inner, (*trail, str(key)))
    elif isinstance(value, str):
        yield ".".join(trail), value


def on_s3(root, name="pipeline.toml"):
    """The changes by which a file of the example reads and writes below *root*."""
    file = tomllib.loads((EXAMPLE / name).read_text())
    return {key: join(root, text) for key, text in texts(file) if text == "reads" or text.startswith("out/")}


def command(word, address, changes):
    return [PENSTOCK, word, address, *(f"--set={key}={value}" for key, value in changes.items())]


@pytest.fixture(scope="module")
def story(s3, tmp_path_factory):
    """The example, run once for all tests of this module, from reads on S3 to clusters on S3."""
    root, folder = f"{s3}/genomes-{time.time_ns():x}", tmp_path_factory.mktemp("genomes")
    reads = simulated()
    for organism, lines in reads.items():
        fasta = "".join(f">{header}\n{read}\n" for header, read in lines)
        store_of(root).replace(join(root, "reads", f"{organism}.fasta"), fasta.encode())
    file, best, changes = folder / "pipeline.toml", folder / "best.toml", on_s3(root)
    file.write_bytes((EXAMPLE / "pipeline.toml").read_bytes())
    tuned = said(command("tune", str(file), {**changes, "tune.samples": 2}))
    ran = said([PENSTOCK, "run", str(best)])
    clusters = read_table(join(root, "out", "clusters"))
    told = {"tuned": tuned, "ran": ran, "clusters": clusters}
    return SimpleNamespace(root=root, file=file, best=best, changes=changes, reads=reads, **told)


def said(words):
    done = subprocess.run(words, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def judged(clusters):
    """The share of reads whose nearest neighbour is of their organism, and how the clusters agree with organisms."""
    organisms = clusters["organism"].to_pylist()
    found = agreement(organisms, to_numpy(clusters["cluster"]))
    return neighbourhood(to_numpy(clusters["embedding"]), organisms).share, found.ari, found.purity


def test_every_read_comes_through_in_its_order_and_every_dataset_is_as_committed(story):
    ids = [header.split()[0] for organism in sorted(story.reads) for header, _ in story.reads[organism]]
    assert story.clusters["id"].to_pylist() == ids
    assert len(ids) == 11 * READS
    for name in ("kmers", "table", "vectors", "graph", "clusters"):
        verify(join(story.root, "out", name))
    assert f"table: trained -> {story.root}/out/table" in story.tuned
    assert "Reads of eleven genomes" in story.file.with_name("report.html").read_text()


def test_the_best_of_two_trials_is_what_was_run(story):
    tried = [recall(trial) for trial in trials(story.file, {**story.changes, "tune.samples": 2})]
    assert [each.state for each in tried] == ["done", "done"]
    values = max(tried, key=lambda each: each.last("likeness")).values
    found = spec.load(story.best)
    training = found.fits[0].training
    assert (training.rate, training.dim, training.window) == tuple(
        values[f"train.table.{name}"] for name in ("rate", "dim", "window")
    )
    assert training.scheme.rows == values["size"]["train.table.scheme.rows"]
    for name, step in (("kmers", 1), ("vectors", 0)):
        assert found.pipeline(name).steps[step].stage.k == values["size"][f"pipeline.{name}.step.{step}.k"]
    assert training.done(), "trained by these, and not once more by `run`"
    assert Table.at(training.table).manifest.version == noted_version(story.tuned)
    assert "Search for table" in story.file.with_name("tune.html").read_text()


def noted_version(text):
    return int(re.search(r"table: trained -> \S+ version (\d+)", text)[1])


def test_what_is_learned_tells_organisms_apart_and_better_than_random_vectors(story):
    share, ari, purity = judged(story.clusters)
    assert share >= 0.88
    assert ari >= 0.5
    assert purity >= 0.65
    random, random_ari, _ = judged(untrained(story))
    assert share >= random + 0.08
    assert ari >= random_ari + 0.05


def untrained(story):
    """The clusters of the same reads by a table that nothing has been learned into."""
    here, found = story.file.parent / "untrained", spec.load(story.best)
    training = found.fits[0].training
    uri = create(str(here / "table"), training.scheme, training.dim, seed=0).uri
    own = {key: str(here / value.removeprefix(f"{story.root}/out/")) for key, value in story.changes.items()}
    kept = {key: value for key, value in story.changes.items() if value.endswith(("out/kmers", "reads"))}
    found = spec.load(story.best, {**own, **kept, "pipeline.vectors.step.1.table": uri})
    for name in ("vectors", "graph", "clusters"):
        Inline().run(found.pipeline(name))
    return read_table(found.pipeline("clusters").sink.uri)


def test_hashes_of_23_mers_by_planes_that_are_fitted_to_the_reads_tell_organisms_apart(story):
    planes = join(story.root, "out", "planes.npz")
    fit = [PENSTOCK, "planes", "fit", join(story.root, "reads"), "--k=23", "--bits=10", "--bands=6", f"--out={planes}"]
    assert "k = 23, 6 x 10 bits" in said(fit)
    said(command("run", str(EXAMPLE / "lsh.toml"), on_s3(story.root, "lsh.toml")))
    clusters = read_table(join(story.root, "out", "lsh", "clusters"))
    assert clusters.num_rows == 11 * READS
    assert Table.at(join(story.root, "out", "lsh", "table")).layout.rows == 6 * 1024
    share, ari, _ = judged(clusters)
    assert share >= 0.5, "0.09 is chance"
    assert ari >= 0.2


def test_a_vector_is_the_mean_of_the_rows_of_its_kmers(story):
    kmers = read_table(join(story.root, "out", "kmers"), ["kmers"])["kmers"]
    with open_table(join(story.root, "out", "table")) as table:
        wanted = np.stack([table.lookup(np.array(ids, np.int64)).mean(0) for ids in kmers.to_pylist()[:20]])
    np.testing.assert_allclose(to_numpy(story.clusters["embedding"])[:20], wanted, atol=1e-6)


def test_the_service_gives_the_vector_of_the_batch_run_and_knows_the_organism_of_new_reads(story):
    known = story.reads["phage_lambda"][3]
    with served(story) as url, httpx.Client(base_url=url, timeout=240) as client:
        answer = client.post("/rows", json={"rows": [{"sequence": known[1]}]})
        assert answer.status_code == 200, answer.text
        at = story.clusters["id"].to_pylist().index(known[0].split()[0])
        vector = np.array(answer.json()["rows"][0]["embedding"], np.float32)
        assert (vector == to_numpy(story.clusters["embedding"])[at]).all()

        fresh = {organism: lines[0][1] for organism, lines in simulated(seed=1, reads=1).items()}
        answer = client.post("/neighbours", json={"rows": [{"sequence": read} for read in fresh.values()]})
        assert answer.status_code == 200, answer.text
        nearest = [line["neighbours"][0]["name"].rpartition("-")[0] for line in answer.json()["map"]]
        assert sum(found == organism for found, organism in zip(nearest, fresh, strict=True)) >= 9

        assert client.post("/rows", json={"rows": [{"sequence": "ACG"}]}).status_code == 422


@contextmanager
def served(story):
    """``penstock serve`` as a user starts it; gives its address."""
    log = story.file.with_name("served")
    with log.open("w") as out:
        line = [PENSTOCK, "serve", f"{story.best}#vectors", "--port", "0"]
        server = subprocess.Popen(line, stdout=out, stderr=out, env=os.environ.copy())
    try:
        yield address(server, log)
    finally:
        children = psutil.Process(server.pid).children(recursive=True) if server.poll() is None else []
        server.terminate()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()
        for child in psutil.wait_procs(children, 60)[1]:
            with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
                child.kill()


def address(server, log, seconds=400):
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        if found := re.search(r"served at (http://\S+)", log.read_text()):
            return found[1]
        time.sleep(0.1)
    pytest.fail(f"it did not come up:\n{log.read_text()}")
