"""Clusters of reads against their organisms: the genomes example, with other reads and other draws by each seed.

* Random vectors of 6-mers, which count k-mers: the rows with which the training begins.
* Learned, as examples/genomes/pipeline.toml has it: two workers of Ray Train.
* Learned for 15-mers that are hashed to a million rows, else the same.
* Learned for 23-mers by a locality-sensitive hash, as examples/genomes/lsh.toml has it; the planes by the same seed.

Nearest neighbours, adjusted Rand index and purity as the example's judge.py tells them.
`make bench NAME=genomes`; ``READS=10 SEEDS=1`` in the environment tries it out.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import measuring
import pyarrow as pa

from penstock.core import spec
from penstock.core.nouns import Fit
from penstock.models import planes
from penstock.models.kmers import Letters
from penstock.tables.making import create

sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "genomes"))
from judge import judged
from reads import genomes, simulate

EXAMPLE = Path(__file__).parent.parent / "examples" / "genomes"
READS, SEEDS = int(os.environ.get("READS", "60")), int(os.environ.get("SEEDS", "3"))
LENGTH, ERROR = 3000, 0.05
HASHED = {"kind": "hashed", "rows": 1_000_000}


def placed(name: str, folder: Path, changes: Mapping[str, Any]) -> spec.Spec:
    """A file of the example that reads and writes below *folder*."""
    text = (EXAMPLE / name).read_text().replace('"out/', f'"{folder}/').replace('"reads"', f'"{folder}/reads.fasta"')
    (folder / name).write_text(text)
    return spec.load(folder / name, changes)


def carried_out(found: spec.Spec, names: set[str]) -> None:
    """The pipelines and trainings of *names*, in their order, by the file's own runner."""
    with found.runner.session():
        for line in found.lines:
            if line.name in names:
                found.runner.train(line, lambda metrics: None) if isinstance(line, Fit) else found.runner.run(line)


def by_seed(seed: int, folder: Path) -> dict[str, dict[str, float]]:
    """What is found by each way."""
    reads = list(simulate(genomes(), reads=READS, length=LENGTH, error=ERROR, seed=seed))
    (folder / "reads.fasta").write_text("".join(f">{header}\n{read}\n" for header, read in reads))
    later = {"vectors", "graph", "clusters"}
    seeded = {"train.table.seed": seed}
    found = placed("pipeline.toml", folder, seeded)
    training = found.fits[0].training
    carried_out(found, {"kmers", "table", *later})
    told = {"learned, 6-mers": judged(str(folder / "clusters"))}

    uri = create(str(folder / "untrained"), training.scheme, training.dim, seed=seed).uri
    carried_out(placed("pipeline.toml", folder, {**seeded, "pipeline.vectors.step.1.table": uri}), later)
    told["random, 6-mers"] = judged(str(folder / "clusters"))

    kmers = {"pipeline.kmers.step.1.k": 15, "pipeline.vectors.step.0.k": 15, "train.table.scheme": HASHED}
    carried_out(placed("pipeline.toml", folder, {**seeded, **kmers}), {"kmers", "table", *later})
    told["learned, 15-mers hashed"] = judged(str(folder / "clusters"))

    letters = Letters.of(pa.chunked_array([[read for _, read in reads]]))
    planes.save(planes.fit(letters, 23, 10, bands=6, seed=seed, source="reads"), str(folder / "planes.npz"))
    carried_out(placed("lsh.toml", folder, seeded), {"kmers", "table", *later})
    told["learned, hashes of 23-mers"] = judged(str(folder / "lsh" / "clusters"))
    return told


def main() -> None:
    found = []
    for seed in range(SEEDS):
        with tempfile.TemporaryDirectory() as name:
            found.append(by_seed(seed, Path(name)))
            print(f"seed {seed}: {found[-1]}", flush=True)
    ways = {
        way: {key: measuring.spread([one[way][key] for one in found]) for key in figures}
        for way, figures in found[0].items()
    }
    sizes = {"organisms": len(genomes()), "reads_each": READS, "read_bases": LENGTH, "error": ERROR, "seeds": SEEDS}
    measuring.write("genomes", {**sizes, "ways": ways})


if __name__ == "__main__":
    main()
