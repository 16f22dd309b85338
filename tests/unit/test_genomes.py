"""The example genomes and the reads simulated from them."""

import hashlib
import importlib.util
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "genomes"


@pytest.fixture(scope="module")
def reads():
    spec = importlib.util.spec_from_file_location("reads", FOLDER / "reads.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_genomes_are_those_of_the_attribution():
    told = (FOLDER / "ATTRIBUTION.md").read_text()
    files = sorted((FOLDER / "reference").iterdir())
    assert len(files) == 11
    assert [f.name for f in files if hashlib.sha256(f.read_bytes()).hexdigest()[:16] not in told] == []


def test_genomes_are_dna(reads):
    found = reads.genomes()
    assert {base for text in found.values() for base in set(text)} == set("ACGT")
    assert len(found["phage_lambda"]) == 48502
    assert found["phage_lambda"].startswith("GGGCGGCGACCTCGCGGGTTTTCGC")


def test_reads_without_errors_are_stretches_of_the_genome(reads):
    genomes = {"one": "ACCGTTTGACAT" * 20, "short": "ACGT"}
    for header, read in reads.simulate(genomes, reads=20, length=30, error=0):
        facts = dict(word.split("=") for word in header.split()[1:])
        true = genomes[facts["organism"]][int(facts["start"]) :][:30]
        assert read == (true if facts["strand"] == "+" else true[::-1].translate(str.maketrans("ACGT", "TGCA")))
        assert facts["errors"] == "0"


def test_errors_come_at_the_rates_asked_for(reads):
    genome = reads.genomes()["phage_lambda"]
    found = list(reads.simulate({"one": genome}, reads=100, length=1000, error=0.1, indels=0))
    errors = [int(header.rsplit("=", 1)[1]) for header, _ in found]
    assert 9_400 < sum(errors) < 10_600
    for header, read in found:
        facts = dict(word.split("=") for word in header.split()[1:])
        true = genome[int(facts["start"]) :][:1000]
        true = true if facts["strand"] == "+" else true[::-1].translate(str.maketrans("ACGT", "TGCA"))
        assert sum(a != b for a, b in zip(true, read, strict=True)) == int(facts["errors"])


def test_both_strands_and_indels_occur(reads):
    found = list(reads.simulate(reads.genomes(), reads=20, error=0.15, indels=1.0))
    assert {header.split("strand=")[1][0] for header, _ in found} == {"+", "-"}
    assert len({len(read) for _, read in found}) > 20


def test_the_same_seed_gives_the_same_reads(reads):
    one, same, other = (list(reads.simulate(reads.genomes(), reads=2, seed=seed)) for seed in (1, 1, 2))
    assert one == same != other


def test_a_folder_gets_a_file_for_each_organism_with_the_reads_of_the_one_file(reads, tmp_path, monkeypatch):
    for out in ("all.fasta", "reads"):
        monkeypatch.setattr("sys.argv", ["reads.py", str(tmp_path / out), "--reads", "2", "--length", "50"])
        reads.main()
    files = sorted((tmp_path / "reads").iterdir())
    assert [file.stem for file in files] == list(reads.genomes())
    assert "".join(file.read_text() for file in files) == (tmp_path / "all.fasta").read_text()
