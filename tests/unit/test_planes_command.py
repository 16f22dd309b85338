"""``penstock planes``: planes of the same sequences by whatever way they are given."""

import gzip
import random

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from penstock.cli import app
from penstock.models import planes
from penstock.models.kmers import Letters


def call(*words):
    return CliRunner().invoke(app, ["planes", *(str(word) for word in words)])


@pytest.fixture
def genomes():
    dice = random.Random(0)
    return ["".join(dice.choices("ACGT", k=400)) for _ in range(3)]


@pytest.fixture
def folder(tmp_path, genomes, monkeypatch):
    """The same sequences in several forms; one record of the FASTA file is bad."""
    monkeypatch.chdir(tmp_path)
    fasta = "".join(f">{at}\n{text}\n" for at, text in enumerate(genomes))
    (tmp_path / "genomes.fa").write_text(fasta + ">bad\n")
    fastq = "".join(f"@{at}\n{text}\n+\n{'I' * 400}\n" for at, text in enumerate(genomes))
    (tmp_path / "reads.fastq.gz").write_bytes(gzip.compress(fastq.encode()))
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"dna": "{text}"}}\n' for text in genomes))
    source = 'source = { use = "fasta", uri = "genomes.fa" }'
    (tmp_path / "one.toml").write_text(f'{source}\nsink = {{ use = "parquet", uri = "out" }}\n')
    pipelines = [f'[pipeline.{n}]\n{source}\nsink = {{ use = "parquet", uri = "{n}" }}\n' for n in "ab"]
    (tmp_path / "two.toml").write_text("".join(pipelines))
    return tmp_path


SIZES = ("--k", 9, "--bits", 5, "--bands", 2, "--seed", 3)


@pytest.mark.parametrize(
    ("source", "more"),
    [
        ("genomes.fa", ()),
        ("reads.fastq.gz", ()),
        ('{ use = "jsonl", uri = "rows.jsonl", columns = { dna = "string" } }', ("--column", "dna")),
        ("one.toml", ()),
        ("two.toml#b", ()),
    ],
)
def test_planes_of_any_source_are_those_of_its_sequences(folder, genomes, source, more):
    done = call("fit", source, *SIZES, *more, "--out", "planes.npz")
    assert done.exit_code == 0, done.output
    assert "planes.npz: k = 9, 2 x 5 bits, fitted to 1,200 bases" in done.stdout
    wanted = planes.fit(Letters.of(pa.chunked_array([genomes])), 9, 5, bands=2, seed=3)
    assert planes.load("planes.npz").sha256 == wanted.sha256
    told = call("info", "planes.npz").stdout
    assert 'scheme = { kind = "bands", bands = 2, bits = 5 }' in told
    assert f"sha256 {wanted.sha256}" in told


def test_so_many_bases_are_looked_at_and_what_is_there_is_kept(folder, genomes):
    done = call("fit", "genomes.fa", *SIZES, "--bases", 500, "--out", "planes.npz")
    assert "fitted to 500 bases" in done.stdout
    wanted = planes.fit(Letters.of(pa.chunked_array([[genomes[0], genomes[1][:100], ""]])), 9, 5, bands=2, seed=3)
    assert planes.load("planes.npz").sha256 == wanted.sha256
    assert call("fit", "genomes.fa", *SIZES, "--bases", 500, "--out", "planes.npz").exit_code == 0, "the same again"
    other = call("fit", "genomes.fa", *SIZES, "--out", "planes.npz")
    assert (other.exit_code, "other planes lie there" in other.stderr) == (1, True)
    assert planes.load("planes.npz").sha256 == wanted.sha256


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (("genomes.fa", "--bits", 40, "--bands", 2), 2, "bits x bands = 40 x 2 at least 1 and at most 63"),
        (("genomes.fa", "--column", "dna"), 1, "dna"),
        (("two.toml",), 2, "two.toml has 2 pipelines; name one: two.toml#a"),
        (('{ use = "fastta", uri = "x" }',), 2, "fasta"),
        (("none.fa",), 1, "none.fa"),
    ],
)
def test_mistakes_are_told(folder, words, status, text):
    done = call("fit", *words, "--out", "planes.npz")
    assert done.exit_code == status, done.output
    assert text in done.stderr
    assert not (folder / "planes.npz").exists()


def test_what_is_no_file_of_planes_is_told(folder):
    np.save(folder / "x.npz", np.eye(2))
    assert "there are no planes at y.npz; make them with 'penstock planes fit'" in call("info", "y.npz").stderr
