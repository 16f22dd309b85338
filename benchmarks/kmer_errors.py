"""What is left of a read's k-mers under sequencing errors: one bucket against several bands of bits.

The rows of a table that a k-mer takes, for the same windows of 23 bases: the exact k-mer, LSHvec's bucket, the
bucket with the nearest other buckets looked up too (multi-probe), and ids cut into bands, by planes or by spaced
seeds, whose rows are summed. Example genomes; substitutions alone where k-mers are compared one by one, reads with
one indel in five errors where vectors are. Planes, windows, errors, reads and rows are drawn anew by each seed; figures
are medians with the least and the most.
`make bench NAME=kmer_errors`, or with reads for each organism and seeds: `python benchmarks/kmer_errors.py 10 1`
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measuring
import numpy as np
import pyarrow as pa

from penstock.models import planes
from penstock.models.kmers import Letters, Seeds

sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "genomes"))
from reads import genomes, simulate

SPAN, ERRORS, DIM, MOST_ROWS = 23, (0.05, 0.15), 256, 1 << 18
SEEDS = {
    "2 seeds of 15": ("11111000111010001011111", "11000111001111111100101"),
    "3 seeds of 10": ("10000100001111100000111", "10010011100001011010001", "10101011010000000101011"),
    "4 seeds of 7": (
        "10011110000000100000001",
        "10000001001100001010001",
        "11000001110000010000001",
        "10100000000010000111001",
    ),
}
"""The best of 3,000 random ones each, by the chance that at least one stays whole when 15 % of bases are wrong."""


@dataclass(frozen=True)
class Way:
    """How a window becomes rows: one row in each of *bands*, which have ``2^bits`` each."""

    ids: planes.Planes | Seeds
    bands: int
    bits: int
    probes: int = 0

    def rows(self, letters: Letters) -> np.ndarray:
        """``"window band"``"""
        ids, _ = self.ids.ids(letters)
        band = np.arange(self.bands)
        return (ids[:, None] >> band * self.bits & ((1 << self.bits) - 1)) + (band << self.bits)


def ways(data: Letters, seed: int) -> Mapping[str, Way]:
    found = {f"exact, k = {k}": Way(Seeds.plain(k), 1, 2 * k) for k in (7, 10, 15, 23)}
    fit = {
        (bits, bands): planes.fit(data, SPAN, bits, bands=bands, seed=seed)
        for bits, bands in ((22, 1), (20, 3), (15, 4), (10, 6))
    }
    found["planes, 1 x 22 bits (LSHvec)"] = Way(fit[22, 1], 1, 22)
    found["the same, 4 more buckets probed"] = Way(fit[22, 1], 1, 22, probes=4)
    for (bits, bands), one in fit.items():
        if bands > 1:
            found[f"planes, {bands} x {bits} bits"] = Way(one, bands, bits)
    for name, patterns in SEEDS.items():
        found[f"spaced: {name}"] = Way(Seeds(patterns), len(patterns), Seeds(patterns).bits)
    return found


def letters(texts: list[str]) -> Letters:
    return Letters.of(pa.chunked_array([pa.array(texts, pa.string())]))


def windows(sequences: Mapping[str, str], count: int, span: int, dice: np.random.Generator) -> list[str]:
    """*count* windows of every genome."""
    return [
        text[at : at + span]
        for text in sequences.values()
        for at in dice.integers(0, len(text) - span + 1, count).tolist()
    ]


def substituted(texts: list[str], rate: float, dice: np.random.Generator) -> list[str]:
    given = np.frombuffer("".join(texts).encode(), np.uint8)
    code = np.searchsorted(np.frombuffer(b"ACGT", np.uint8), given)
    code = (code + (dice.random(len(code)) < rate) * dice.integers(1, 4, len(code))) % 4
    out = np.frombuffer(b"ACGT", np.uint8)[code].tobytes().decode()
    return [out[at : at + len(texts[0])] for at in range(0, len(out), len(texts[0]))]


def one_by_one(way: Way, true: list[str], rate: float, dice: np.random.Generator) -> dict[str, float]:
    """Shares: k-mers that keep a row, rows that are kept, unrelated k-mers that have a row in common."""
    span = way.ids.span
    true = [text[:span] for text in true]
    wrong = substituted(true, rate, dice)
    before, after = (way.rows(letters(texts)) for texts in (true, wrong))
    if way.probes:
        after = np.concatenate([after, probed(way, wrong)], 1)
    same = (after[:, None, :] == before[:, :, None]).any(2)
    other = (after[:, None, :] == np.roll(before, len(before) // 2, 0)[:, :, None]).any(2)
    return {
        "kmers_that_keep_a_row": float(same.any(1).mean()),
        "rows_kept": float(same.mean()),
        "unrelated_kmers_with_a_common_row": float(other.any(1).mean()),
    }


def probed(way: Way, texts: list[str]) -> np.ndarray:
    """The buckets behind the planes that lie nearest, ``"window probe"``; in floating point."""
    given = way.ids
    points = np.array([[{"A": -1, "T": 1, "C": -1j, "G": 1j}[base] for base in text] for text in texts])
    normals = given.normals[..., 0] + 1j * given.normals[..., 1]
    above = np.stack([(p @ normals.conj().T).real - given.offsets for p in (points, -points[:, ::-1])])
    hashes = ((above > 0) << np.arange(way.bits)).sum(-1)
    chosen, rows = hashes.argmin(0), np.arange(len(texts))
    nearest = np.abs(above[chosen, rows]).argsort(1)[:, : way.probes]
    return hashes[chosen, rows][:, None] ^ (1 << nearest)


def vectors(way: Way, texts: list[str], table: np.ndarray) -> np.ndarray:
    """The mean row of each text, length 1, ``"text dim"``."""
    found = np.empty((len(texts), DIM), np.float32)
    for at, text in enumerate(texts):
        rows = way.rows(letters([text])).reshape(-1)
        if way.bands << way.bits > MOST_ROWS:
            rows = (rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(46)).astype(np.int64)
        found[at] = table[rows].mean(0) if len(rows) else 0
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


def by_vectors(way: Way, sequences: Mapping[str, str], rate: float, reads: int, seed: int) -> dict[str, float]:
    """Reads against the stretches that they come from, and against all stretches: random tables, no training."""
    table = np.random.default_rng(seed).standard_normal((MOST_ROWS, DIM), np.float32)
    named = [
        (name, text[at : at + 800]) for name, text in sequences.items() for at in range(0, max(1, len(text) - 400), 400)
    ]
    stretches = vectors(way, [text for _, text in named], table)
    drawn = simulate(sequences, reads=reads, length=400, error=rate, indels=0.2, seed=seed)
    headers, texts = zip(*drawn, strict=True)
    facts = [dict(word.split("=") for word in header.split()[1:]) for header in headers]
    true = [sequences[fact["organism"]][int(fact["start"]) :][:400] for fact in facts]
    mine, theirs = vectors(way, list(texts), table), vectors(way, true, table)
    own = (mine * theirs).sum(1)
    other = (mine * np.roll(theirs, reads, 0)).sum(1)
    nearest = (mine @ stretches.T).argmax(1)
    hits = [named[at][0] == fact["organism"] for at, fact in zip(nearest.tolist(), facts, strict=True)]
    kept = [
        np.isin(way.rows(letters([right])), way.rows(letters([read]))).any()
        for right, read in zip(true, texts, strict=True)
    ]
    return {
        "reads_that_keep_a_row": statistics.mean(map(float, kept)),
        "cosine_to_its_own_stretch": float(own.mean()),
        "cosine_to_another_organism": float(other.mean()),
        "nearer_to_its_own_than_to_another": float((own[:, None] > other[None]).mean()),
        "nearest_stretch_is_of_its_organism": statistics.mean(map(float, hits)),
    }


def by_seed(sequences: Mapping[str, str], reads: int, seed: int) -> dict[str, dict[str, Any]]:
    """Everything of every way."""
    found: dict[str, dict[str, Any]] = {}
    for name, way in ways(letters(list(sequences.values())), seed).items():
        dice = np.random.default_rng([1, seed])
        true = windows(sequences, 2000, SPAN, dice)
        found[name] = {"table_rows": way.bands << way.bits, "rows_a_kmer": way.bands}
        for rate in ERRORS:
            found[name][f"{rate:.0%}"] = one_by_one(way, true, rate, dice) | (
                {} if way.probes else by_vectors(way, sequences, rate, reads, seed)
            )
        print(f"seed {seed}: {name}", found[name], flush=True)
    return found


def together(found: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Medians over the seeds."""
    return {
        name: {
            key: {one: measuring.spread([each[name][key][one] for each in found]) for one in value}
            if isinstance(value, dict)
            else value
            for key, value in way.items()
        }
        for name, way in found[0].items()
    }


def main() -> None:
    given = [int(word) for word in sys.argv[1:]]
    reads, seeds = (*given, *(100, 3)[len(given) :])
    sequences = genomes()
    found = [by_seed(sequences, reads, seed) for seed in range(seeds)]
    sizes = {"organisms": len(sequences), "reads_each": reads, "seeds": seeds, "span": SPAN, "dim": DIM}
    lengths = {name: len(text) for name, text in sequences.items()}
    measuring.write("kmer_errors", {**sizes, "genomes": lengths, "ways": together(found)})


if __name__ == "__main__":
    main()
