"""Skip-gram over k-mers, on one core and on two: tokens a second, and what the vectors are good for.

The corpus is that of examples/genomes: reads with 5 % errors, their canonical 6-mers. Dimensions, window, negatives,
rate and epochs are the same for all, negatives are drawn as often as k-mers occur (fastText: by the root of that,
it knows no other way), no word is left out, and gensim and fastText have no subwords.

* Penstock by one process, and by Ray Train with two workers, who have no memory in common.
* gensim's Word2Vec and fastText with one thread, and with two, that write into the same memory without locks.

The same again for 15-mers, nearly every one of which is a new word: Penstock hashes them to a million rows, gensim has
a row for each. fastText is left out there.

Tokens a second are of the learning alone: from report to report for Penstock, `train` for gensim; `seconds` are of
everything, with workers that start, the vocabulary, and versions that are published. fastText tells no more than
that, so its tokens a second are too low by the time it reads. The accuracy is the share of reads whose nearest
neighbour is of their organism, by the mean of the vectors of a read's k-mers.

`make bench NAME=training`; ``READS=6 TURNS=1`` in the environment tries it out.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import fasttext
import gensim
import measuring
import numpy as np
import pyarrow as pa
from gensim.models import Word2Vec

from penstock.core import spec
from penstock.core.nouns import Fit
from penstock.core.reading import read_table
from penstock.report.measures import neighbourhood
from penstock.runners.inline import Inline
from penstock.runners.ray import Ray
from penstock.tables.client import open_table
from penstock.trainings.skipgram import Skipgram

sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "genomes"))
from reads import genomes, simulate

EXAMPLE = Path(__file__).parent.parent / "examples" / "genomes" / "pipeline.toml"
READS, TURNS = int(os.environ.get("READS", "60")), int(os.environ.get("TURNS", "3"))
EPOCHS = 1
SPARSE = {"pipeline.kmers.step.1.k": 15, "train.table.scheme": {"kind": "hashed", "rows": 1_000_000}}
GOAL = 1.0
WORST = 0.01


@dataclass(frozen=True)
class Learned:
    """What came of one way in one turn: the vectors of the ids that occur, ``"id dim"``, and how long it took."""

    vectors: np.ndarray
    seconds: float
    tokens_a_second: float


@dataclass(frozen=True)
class Corpus:
    """The reads as k-mers, and the training that the others are held to."""

    folder: Path
    training: Skipgram

    @cached_property
    def table(self) -> pa.Table:
        return read_table(self.training.source, ["organism", "kmers"])

    @cached_property
    def ids(self) -> np.ndarray:
        return self.table["kmers"].combine_chunks().flatten().to_numpy()

    @cached_property
    def known(self) -> np.ndarray:
        """The ids that occur, sorted."""
        return np.unique(self.ids)

    @cached_property
    def sentences(self) -> list[list[str]]:
        return [[str(one) for one in ids] for ids in self.table["kmers"].to_pylist()]

    @cached_property
    def text(self) -> str:
        """A file of the sentences, for fastText."""
        path = self.folder / "sentences.txt"
        path.write_text("".join(" ".join(sentence) + "\n" for sentence in self.sentences))
        return str(path)

    def accuracy(self, vectors: np.ndarray) -> float:
        ends = np.cumsum([0, *(len(ids) for ids in self.sentences)])
        at = np.searchsorted(self.known, self.ids)
        means = np.stack([vectors[at[start:end]].mean(0) for start, end in pairwise(ends)])
        return neighbourhood(means, self.table["organism"].to_pylist()).share


def made(folder: Path, more: Mapping[str, Any]) -> Corpus:
    """The example's own pipeline with some changes, on reads in *folder*."""
    folder.mkdir()
    found = simulate(genomes(), reads=READS, length=3000, error=0.05)
    (folder / "reads.fasta").write_text("".join(f">{header}\n{read}\n" for header, read in found))
    changes = {
        "pipeline.kmers.source.uri": str(folder / "reads.fasta"),
        "pipeline.kmers.sink.uri": str(folder / "kmers"),
        "train.table.source": str(folder / "kmers"),
        "train.table.epochs": EPOCHS,
        **more,
    }
    file = spec.load(EXAMPLE, changes)
    Inline().run(file.pipeline("kmers"))
    return Corpus(folder, file.fits[0].training)


@contextmanager
def pinned(cores: int) -> Iterator[None]:
    """All that starts meanwhile has so many cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def penstock(corpus: Corpus, workers: int) -> Learned:
    table = tempfile.mkdtemp(dir=corpus.folder)
    fit = Fit("table", replace(corpus.training, table=table))
    fit = replace(fit, place=replace(fit.place, replicas=(workers, workers)))
    said = []

    def heard(metrics: Mapping[str, float]) -> None:
        said.append((time.perf_counter(), metrics["epoch"]))

    carrier = Inline() if workers == 1 else Ray(object_store_bytes=100_000_000)
    with pinned(workers), carrier.session():
        seconds = measuring.seconds(lambda: carrier.train(fit, heard))
    with open_table(table) as client:
        vectors = client.lookup(corpus.known)
    (first, before), (last, after) = said[0], said[-1]
    rate = (after - before) * _learned_tokens(corpus) / (last - first) if last > first else len(corpus.ids) / seconds
    return Learned(vectors, seconds, rate)


def _learned_tokens(corpus: Corpus) -> float:
    """Of one epoch: a block is held out."""
    blocks = -(-corpus.table.num_rows // corpus.training.block_rows)
    return len(corpus.ids) * (1 - 1 / blocks)


def by_gensim(corpus: Corpus, workers: int) -> Learned:
    given = corpus.training
    model = Word2Vec(
        vector_size=given.dim, window=given.window, negative=given.negatives, alpha=given.rate, min_alpha=1e-4, sg=1,
        min_count=1, sample=0, ns_exponent=1.0, workers=workers, seed=given.seed + 1,
    )  # fmt: skip
    with pinned(workers):
        start = measuring.seconds(lambda: model.build_vocab(corpus.sentences))
        count = len(corpus.sentences)
        seconds = measuring.seconds(lambda: model.train(corpus.sentences, total_examples=count, epochs=given.epochs))
    vectors = model.wv.vectors[[model.wv.key_to_index[str(one)] for one in corpus.known]]
    return Learned(vectors, start + seconds, len(corpus.ids) * given.epochs / seconds)


def by_fasttext(corpus: Corpus, workers: int) -> Learned:
    given, path, found = corpus.training, corpus.text, []
    settings = {
        "model": "skipgram", "dim": given.dim, "ws": given.window, "neg": given.negatives, "lr": given.rate,
        "epoch": given.epochs, "minCount": 1, "maxn": 0, "bucket": 0, "t": 1.0, "thread": workers, "verbose": 0,
    }  # fmt: skip

    def train() -> None:
        found[:] = [fasttext.train_unsupervised(path, **settings)]

    with pinned(workers):
        try:
            seconds = measuring.seconds(train)
        except RuntimeError as error:  # one run in some ends with "Encountered NaN", and the next does not
            print(f"fastText: {error} Once more.")
            seconds = measuring.seconds(train)
    vectors = np.stack([found[0].get_word_vector(str(one)) for one in corpus.known])
    return Learned(vectors, seconds, len(corpus.ids) * given.epochs / seconds)


KINDS: Mapping[str, Callable[[Corpus, int], Learned]] = {
    "penstock": penstock,
    "gensim": by_gensim,
    "fasttext": by_fasttext,
}


def measured(corpus: Corpus, names: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    """The ways of *names* in turn, by one worker and by two."""
    found: dict[str, list[Learned]] = {f"{name}, {n}": [] for n in (1, 2) for name in names}

    def run(name: str) -> float:
        kind, _, workers = name.partition(", ")
        found[name].append(KINDS[kind](corpus, int(workers)))
        return found[name][-1].tokens_a_second

    measuring.turns({name: lambda name=name: run(name) for name in found}, TURNS)
    pairs = corpus.training.window + 1
    return {
        name: {
            "tokens_a_second": measuring.spread([one.tokens_a_second for one in learned]),
            "pairs_a_second": measuring.spread([pairs * one.tokens_a_second for one in learned]),
            "seconds": measuring.spread([one.seconds for one in learned]),
            "accuracy": measuring.spread([corpus.accuracy(one.vectors) for one in learned]),
        }
        for name, learned in found.items()
    }


def compiled() -> None:
    """Machine code is made once on a machine, and kept."""
    from penstock.models.skipgram import Chunk, learn

    ids, rows = np.arange(4), np.zeros((4, 4), np.float32)
    learn(Chunk(ids[:, None], ids, ids[-1:] + 1, ids, 1), rows, rows.copy(), window=2, negatives=1, rate=0.1)


def beside(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Penstock against the others on as many cores: times as fast, and points of accuracy more."""
    told = {}
    for way, theirs in found.items():
        ours = found[f"penstock, {way.rpartition(', ')[2]}"]
        told[way] = {
            "times_as_fast": ours["tokens_a_second"]["median"] / theirs["tokens_a_second"]["median"],
            "times_as_fast_start_and_all": theirs["seconds"]["median"] / ours["seconds"]["median"],
            "more_accurate_by": ours["accuracy"]["median"] - theirs["accuracy"]["median"],
        }
    one, two = found["penstock, 1"], found["penstock, 2"]
    return {way: line for way, line in told.items() if not way.startswith("penstock")} | {
        "penstock, 2 over 1": {
            "times_as_fast": two["tokens_a_second"]["median"] / one["tokens_a_second"]["median"],
            "times_as_fast_start_and_all": one["seconds"]["median"] / two["seconds"]["median"],
        }
    }


def told(corpus: Corpus, names: Sequence[str]) -> dict[str, Any]:
    """Everything about one corpus."""
    found = measured(corpus, names)
    untrained = np.random.default_rng(0).standard_normal((len(corpus.known), corpus.training.dim), np.float32)
    return {
        "tokens": len(corpus.ids),
        "distinct_ids": len(corpus.known),
        "table_rows": corpus.training.scheme.rows,
        "ways_and_cores": found,
        "accuracy_of_random_vectors": corpus.accuracy(untrained),
        "penstock_beside": beside(found),
    }


def main() -> None:
    compiled()
    with tempfile.TemporaryDirectory() as name:
        few, many = made(Path(name) / "few", {}), made(Path(name) / "many", SPARSE)
        result = {**told(few, list(KINDS)), "large_sparse_vocabulary": told(many, ["penstock", "gensim"])}
        given = few.training
    measuring.write(
        "training",
        {
            "reads": 11 * READS,
            "pairs_a_token_about": given.window + 1,
            "epochs": EPOCHS,
            "dim": given.dim,
            "window": given.window,
            "negatives": given.negatives,
            "gensim": gensim.__version__,
            "turns": TURNS,
            **result,
            "goals": {"times_as_fast": GOAL, "more_accurate_by": -WORST},
        },
    )


if __name__ == "__main__":
    main()
