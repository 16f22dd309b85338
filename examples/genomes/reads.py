"""Simulate sequencing reads of the example genomes: `python reads.py OUT.fasta --error 0.05 --reads 200`.

Without a suffix OUT is a folder, in which each organism has a file.

A read is a stretch of a genome, from either strand, in which each base is substituted, deleted, or followed by an
inserted base, at random and independently. The header carries the truth::

    >phage_lambda-17 organism=phage_lambda strand=- start=20311 errors=12

The same arguments give the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import random
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

GENOMES = Path(__file__).parent / "reference"
_COMPLEMENT = str.maketrans("ACGTRYKMBVDH", "TGCAYRMKVBHD")


def genomes(folder: Path = GENOMES) -> Mapping[str, str]:
    """The sequence of each organism."""
    found = {}
    for path in sorted(folder.glob("*.fa.gz")):
        header, *lines = gzip.decompress(path.read_bytes()).decode().splitlines()
        organism = next(word for word in header.split() if word.startswith("organism="))
        found[organism.removeprefix("organism=")] = "".join(lines)
    return found


def simulate(
    genomes: Mapping[str, str],
    *,
    reads: int = 200,
    length: int = 400,
    error: float = 0.05,
    indels: float = 0.2,
    seed: int = 0,
) -> Iterator[tuple[str, str]]:
    """Headers and reads, *reads* of each organism.

    Args:
        genomes: the sequence of each organism.
        reads: how many of each.
        length: of the stretch of genome, in bases; a shorter genome is read whole.
        error: how many of its bases are read wrongly, 0 to 1.
        indels: how many of these errors are insertions or deletions, half of each; the others are substitutions.
        seed: of the random numbers.
    """
    for organism, genome in genomes.items():
        dice = random.Random(f"{seed}/{organism}/{error}/{indels}/{length}")  # noqa: S311 (no secret)
        for number in range(reads):
            start = dice.randrange(max(1, len(genome) - length + 1))
            strand = dice.choice("+-")
            stretch = genome[start : start + length]
            true = stretch if strand == "+" else stretch.translate(_COMPLEMENT)[::-1]
            read, errors = _read(true, error, indels, dice)
            yield f"{organism}-{number} organism={organism} strand={strand} start={start} errors={errors}", read


def _read(true: str, error: float, indels: float, dice: random.Random) -> tuple[str, int]:
    letters, errors = [], 0
    for base in true:
        if dice.random() >= error:
            letters.append(base)
            continue
        errors += 1
        letters.append(_wrong(base, indels, dice))
    return "".join(letters), errors


def _wrong(base: str, indels: float, dice: random.Random) -> str:
    kind = dice.random()
    if kind < indels / 2:
        return ""
    if kind < indels:
        return base + dice.choice("ACGT")
    return dice.choice([other for other in "ACGT" if other != base])


def main() -> None:
    """Write the file or files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--reads", type=int, default=200, help="of each organism")
    parser.add_argument("--length", type=int, default=400, help="in bases")
    parser.add_argument("--error", type=float, default=0.05, help="wrong bases, 0 to 1")
    parser.add_argument("--indels", type=float, default=0.2, help="insertions and deletions among the errors, 0 to 1")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    sizes = {name: value for name, value in vars(asked).items() if name != "out"}
    if asked.out.suffix:
        asked.out.write_text(_fasta(simulate(genomes(), **sizes)))
        return
    asked.out.mkdir(parents=True, exist_ok=True)
    for organism, genome in genomes().items():
        (asked.out / f"{organism}.fasta").write_text(_fasta(simulate({organism: genome}, **sizes)))


def _fasta(found: Iterable[tuple[str, str]]) -> str:
    return "".join(f">{header}\n{read}\n" for header, read in found)


if __name__ == "__main__":
    main()
