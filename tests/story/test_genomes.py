"""The genomes example on S3: k-mers by Ray Data, a table by Ray Train, clusters by MPI, and the table as a service."""

import importlib.util
import os
import re
import subprocess
import sys
import time
import tomllib
from contextlib import contextmanager
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
from penstock.tables.making import create
from penstock.tables.schemes import Exact

EXAMPLE = Path(__file__).parents[2] / "examples" / "genomes"
PENSTOCK = str(Path(sys.executable).parent / "penstock")
READS, LENGTH, ERROR = 30, 2000, 0.05


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


def on_s3(root):
    """The changes by which the example reads and writes below *root*."""
    file = tomllib.loads((EXAMPLE / "pipeline.toml").read_text())
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
    file, changes = folder / "pipeline.toml", on_s3(root)
    file.write_bytes((EXAMPLE / "pipeline.toml").read_bytes())
    done = subprocess.run(command("run", str(file), changes), capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    clusters = read_table(join(root, "out", "clusters"))
    return SimpleNamespace(root=root, file=file, changes=changes, reads=reads, said=done.stdout, clusters=clusters)


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
    assert f"table: trained -> {story.root}/out/table" in story.said
    assert "Reads of eleven genomes" in story.file.with_name("report.html").read_text()


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
    here = story.file.parent / "untrained"
    uri = create(str(here / "table"), Exact(4096), 64, seed=0).uri
    own = {key: str(here / value.removeprefix(f"{story.root}/out/")) for key, value in story.changes.items()}
    kept = {key: value for key, value in story.changes.items() if value.endswith(("out/kmers", "reads"))}
    found = spec.load(story.file, {**own, **kept, "pipeline.vectors.step.1.table": uri})
    for name in ("vectors", "graph", "clusters"):
        Inline().run(found.pipeline(name))
    return read_table(found.pipeline("clusters").sink.uri)


def test_a_vector_is_the_mean_of_the_rows_of_its_kmers(story):
    kmers = read_table(join(story.root, "out", "kmers"), ["kmers"])["kmers"]
    with open_table(join(story.root, "out", "table")) as table:
        wanted = np.stack([table.lookup(np.array(ids, np.int64)).mean(0) for ids in kmers.to_pylist()[:20]])
    np.testing.assert_allclose(to_numpy(story.clusters["embedding"])[:20], wanted, atol=1e-6)


def test_the_service_gives_the_vector_of_the_batch_run_and_knows_the_organism_of_new_reads(story):
    known = story.reads["phage_lambda"][3]
    with served(story) as url, httpx.Client(base_url=url, timeout=60) as client:
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
    said = story.file.with_name("served")
    with said.open("w") as out:
        line = [*command("serve", f"{story.file}#vectors", story.changes), "--port", "0"]
        server = subprocess.Popen(line, stdout=out, stderr=out, env=os.environ.copy())
    try:
        yield address(server, said)
    finally:
        children = psutil.Process(server.pid).children(recursive=True) if server.poll() is None else []
        server.terminate()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()
        for child in psutil.wait_procs(children, 20)[1]:
            child.kill()


def address(server, said, seconds=180):
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        if found := re.search(r"served at (http://\S+)", said.read_text()):
            return found[1]
        time.sleep(0.1)
    pytest.fail(f"it did not come up:\n{said.read_text()}")
