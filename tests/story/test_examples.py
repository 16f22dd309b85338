"""The examples from source to result, as a user runs them, on copies of their folders."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hydropathy import Hydropathy

from penstock.core.batch import to_numpy
from penstock.core.dataset import existing
from penstock.core.reading import read_table
from penstock.core.verify import verify
from penstock.sources.fasta import Fasta
from penstock.testing import StageTests

EXAMPLES = Path(__file__).parents[2] / "examples"
PENSTOCK = Path(sys.executable).parent / "penstock"
pytestmark = pytest.mark.timeout(1800)  # far less on two free cores


def run(folder: Path, *words: str) -> str:
    command = [str(PENSTOCK), "run", str(folder / "pipeline.toml"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """Copies an example and runs it once for all tests of this module."""
    ran: dict[str, Path] = {}

    def copied(name: str) -> Path:
        if name not in ran:
            root = tmp_path_factory.mktemp("examples")
            shutil.copytree(EXAMPLES, root / "examples", ignore=shutil.ignore_patterns("out", "report.html"))
            ran[name] = root / "examples" / name
            (ran[name] / "said").write_text(run(ran[name]))
        return ran[name]

    return copied


def first_unit():
    chains = Fasta(str(EXAMPLES / "antibodies" / "chains.fasta"))
    return chains.read(next(iter(chains.units())))


def purity(clusters, truth) -> float:
    """The share of rows that belong to the largest class of their cluster."""
    pairs = [(c, t) for c, t in zip(clusters, truth, strict=True)]
    best = [max(sum(1 for pair in pairs if pair == (c, t)) for t in set(truth)) for c in set(clusters)]
    return sum(best) / len(pairs)


def nearest_agree(embedding: np.ndarray, truth) -> float:
    """How often the nearest other row, by the cosine of centred rows, is of the same class."""
    rows = embedding - embedding.mean(0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    near = rows @ rows.T
    np.fill_diagonal(near, -2)
    truth = np.array(truth)
    return float((truth[near.argmax(1)] == truth).mean())


def test_antibodies_from_sequences_to_clusters_joined_to_their_names(example):
    table = read_table(str(example("antibodies") / "out" / "clusters"))
    assert table.num_rows == 143
    chains = Fasta(str(EXAMPLES / "antibodies" / "chains.fasta"))
    ids = [name for unit in chains.units() for name in chains.read(unit)["id"].to_pylist()]
    assert table["id"].to_pylist() == ids, "each chain once, in the order of the file"
    family = table["family"].to_pylist()
    assert nearest_agree(to_numpy(table["embedding"]), family) >= 0.98
    labels = to_numpy(table["clusters"])
    assert purity(labels[:, 10 - 2].tolist(), family) >= 0.95, "ten clusters"
    assert purity(labels[:, 3 - 2].tolist(), family) >= 0.6, "three clusters"


def test_antibodies_leave_a_report_and_a_second_run_does_nothing(example):
    folder = example("antibodies")
    page = (folder / "report.html").read_text()
    assert f"report: {(folder / 'report.html').as_uri()}" in (folder / "said").read_text()
    assert "Human antibody chains" in page
    versions = [existing(str(folder / "out" / name)).version for name in ("embeddings", "arrays", "graph", "clusters")]
    said = run(folder)
    assert said.count("(9 were done before)") == 2
    assert said.count("(1 were done before)") == 2
    again = [existing(str(folder / "out" / name)).version for name in ("embeddings", "arrays", "graph", "clusters")]
    assert versions == again == [1, 1, 1, 1]


def test_every_dataset_of_the_antibodies_is_as_committed(example):
    for name in ("embeddings", "arrays", "graph", "clusters"):
        verify(str(example("antibodies") / "out" / name))


def test_a_plain_c_program_reads_the_arrays(example, tmp_path):
    folder, program = example("antibodies"), tmp_path / "sum"
    source = Path(__file__).with_name("sum.c")
    subprocess.run(["h5cc", "-shlib", "-o", str(program), str(source)], check=True, cwd=tmp_path, capture_output=True)
    index = folder / "out" / "arrays" / "index.h5"
    done = subprocess.run([str(program), str(index), "embedding"], check=True, capture_output=True, text=True)
    rows, width, total = done.stdout.split()
    wanted = to_numpy(read_table(str(folder / "out" / "embeddings"), ("embedding",))["embedding"])
    assert (int(rows), int(width)) == wanted.shape
    assert float(total) == pytest.approx(float(wanted.astype(np.float64).sum()), rel=1e-9)


def test_text_topics_are_near_each_other(example):
    table = read_table(str(example("text") / "out" / "clusters"))
    assert table.num_rows == 256
    topic = table["topic"].to_pylist()
    assert nearest_agree(to_numpy(table["embedding"]), topic) >= 0.85
    assert purity(to_numpy(table["clusters"])[:, 8 - 2].tolist(), topic) >= 0.6, "eight clusters, eight topics"


def test_a_stage_from_outside_the_package_runs_by_its_name(example):
    table = read_table(str(example("own_stage") / "out" / "hydropathy"))
    assert table.num_rows == 143
    assert "hydropathy" in table.column_names
    assert -1 < np.mean(table["hydropathy"].to_pylist()) < 1


def test_the_outside_stage_is_in_the_schema_for_editors():
    done = subprocess.run([str(PENSTOCK), "schema"], capture_output=True, text=True, check=True)
    assert '"const": "hydropathy"' in done.stdout
    json.loads(done.stdout)


class TestHydropathy(StageTests):
    """The outside stage, held to the rules of the built-in ones."""

    stage = Hydropathy()
    batch = first_unit()
    needs = ("sequence",)


def test_hydropathy_of_known_peptides():
    import pyarrow as pa

    with Hydropathy().open() as transform:
        means = transform(pa.table({"sequence": ["I", "RK", "AG"]}))["hydropathy"].to_pylist()
    assert means == pytest.approx([4.5, -4.2, 0.7])
