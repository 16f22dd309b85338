"""Vectors of ids that stand near each other, learned into a table larger than any worker's memory.

The rows of the table are shared out over the workers. In each step every worker takes a chunk of its own
sentences, asks the owners for the rows that it needs, learns from the chunk (`penstock.models.skipgram`) and sends
the owners what has changed; they add the changes of all workers, in the order of their ranks. So a worker holds the
rows of one chunk in memory and its share of the table in files, steps are the same each time, and a training
that is killed goes on from the newest version of the table.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa

from penstock.core.dataset import existing, newest
from penstock.core.nouns import Team
from penstock.core.reading import read_rows
from penstock.core.storage import Uri, join
from penstock.errors import SchemaError
from penstock.models.skipgram import Chunk, Floats, Ints, learn, likeness
from penstock.tables.layout import Table
from penstock.tables.making import create
from penstock.tables.schemes import Scheme, places
from penstock.tables.working import Sgd, Working, notes, prune, publish
from penstock.trainings.history import History
from penstock.trainings.shared import Asked, Shared

__all__ = ["Skipgram"]

_ADD = Sgd(1.0)
"""Owners subtract what they are sent; the rate was taken into account where it was learned."""
_HELD_OUT = 256
"""So many sentences of the block that is not learned from are asked about."""
_POOL_TOKENS, _DRAWN = 200_000, 4_000
"""How many ids a worker keeps to draw negatives from, and takes along into a chunk."""
_SHARDS = 64
"""A small table has about so many, so that every worker gets its share."""
_TOLD_SECONDS = 2.0
_LEAST_RATE = 1e-3


@dataclass(frozen=True)
class Skipgram:
    """Skip-gram with negative sampling over a column of lists of ids.

    Mikolov et al. (2013), https://arxiv.org/abs/1310.4546. The table of the context vectors lies below the
    table's root, in ``contexts``. Negatives are drawn as often as ids occur.

    Attributes:
        source: the dataset of the lists; each row is a sentence.
        table: the root of the table that is made, or trained on.
        scheme: from ids to rows, ``{ kind = "hashed", rows = 1000000 }``; the rows of an id are summed.
        column: of the ids.
        dim: numbers in a row.
        window: up to so many places apart ids are near; each time a random number up to it is taken.
        negatives: ids drawn at random against each near one.
        rate: at the beginning; it falls to 0 in a straight line.
        epochs: how often all sentences are gone through.
        seed: of the first rows and of all draws.
        chunk_tokens: how many ids a worker learns from between two exchanges.
        block_rows: how many sentences are read at once; blocks are gone through in another order each epoch.
        publish_minutes: a version is published at least so often, from which a killed training goes on.
    """

    source: Uri
    table: Uri
    scheme: Scheme
    column: str = "kmers"
    dim: int = 100
    window: int = 5
    negatives: int = 5
    rate: float = 0.05
    epochs: int = 5
    seed: int = 0
    chunk_tokens: int = 50_000
    block_rows: int = 1024
    publish_minutes: float = 10.0

    ASIDE = ("publish_minutes",)
    NEEDS = ("numba",)

    def __post_init__(self) -> None:
        if self.scheme.combine != "sum":
            raise ValueError("the rows of an id are summed in training; the scheme multiplies them: combine = 'sum'")
        if min(self.dim, self.window, self.epochs, self.chunk_tokens, self.block_rows) < 1 or self.negatives < 1:
            raise ValueError("dim, window, negatives, epochs, chunk_tokens and block_rows must be 1 or more")
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate must be above 0 and at most 1, not {self.rate}")

    @property
    def reads(self) -> str:
        """The dataset that is learned from."""
        return self.source

    @property
    def uri(self) -> str:
        """The table."""
        return self.table

    def schema(self, given: pa.Schema) -> pa.Schema:
        """The table as a column. Raises `SchemaError` where there are no lists of whole numbers."""
        if self.column not in given.names or not _is_list_of_ids(given.field(self.column).type):
            found = ", ".join(f"{field.name}: {field.type}" for field in given)
            raise SchemaError(f"skipgram needs a column '{self.column}' of lists of whole numbers; found: {found}")
        return pa.schema([("vector", pa.fixed_shape_tensor(pa.float32(), [self.dim]))])

    def fingerprint(self) -> str:
        """The identity of this training on this data."""
        plain = {name: value for name, value in asdict(self).items() if name not in self.ASIDE}
        text = json.dumps([plain, existing(self.source).sha256], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def done(self) -> bool:
        """Whether the newest version of the table is the end of this training."""
        if newest(self.table) is None:
            return False
        noted = notes(Table.at(self.table))
        return bool(noted.get("training") == self.fingerprint() and noted["epoch"] == self.epochs)

    def begin(self) -> None:
        """Make the first version, unless there is one to go on from; before the team starts."""
        if newest(self.table) and notes(Table.at(self.table)).get("training") == self.fingerprint():
            return
        size = min(64 << 20, self.scheme.rows * self.dim * 4 // _SHARDS)
        contexts = create(_contexts(self.table), self.scheme, self.dim, init="zeros", shard_bytes=size)
        create(self.table, self.scheme, self.dim, seed=self.seed, deviation=0.5 / self.dim, shard_bytes=size)
        table = Table.at(self.table)
        noted = {"training": self.fingerprint(), "epoch": 0, "round": 0, "contexts": contexts.version}
        with tempfile.TemporaryDirectory(prefix="penstock-") as folder, Working(table, folder, _ADD) as working:
            working.publish(self.table, noted)

    def train(self, team: Team) -> None:
        """Go on to the end; collective.

        Raises:
            UnitError: an id has no row in the table.
        """
        _Learner(self, team).run()


def _is_list_of_ids(kind: pa.DataType) -> bool:
    return bool((pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_integer(kind.value_type))


def _contexts(uri: str) -> str:
    return join(uri, "contexts")


class _Learner:
    """One worker of a training, from the newest version of the table on."""

    def __init__(self, training: Skipgram, team: Team) -> None:
        self.training, self.team = training, team
        # Rank 0's version is everybody's.
        self.table = Table.at(training.table, team.gather(Table.at(training.table).manifest.version)[0])
        self.noted = notes(self.table)
        self.manifest = existing(training.source)
        rows = self.manifest.rows
        self.block_rows = max(1, min(training.block_rows, rows // 8))
        self.blocks = -(-rows // self.block_rows)
        self.rounds = -(-max(self.blocks - 1, 1) // team.size)
        self.history = History(training.table, self.noted["epoch"] + self.noted["round"] / self.rounds)
        self.told = self.published = time.monotonic()

    def run(self) -> None:
        """Learn, publish now and then, and at the end."""
        contexts = Table.at(_contexts(self.training.table), self.noted["contexts"])
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-")))
            self.inputs = stack.enter_context(Shared(self.table, self.team, folder / "inputs", _ADD))
            self.outputs = stack.enter_context(Shared(contexts, self.team, folder / "outputs", _ADD))
            self.pool, self.unseen = self._pool(), self._unseen()
            first = self.noted["epoch"] * self.rounds + self.noted["round"]
            for step in range(first, self.training.epochs * self.rounds):
                epoch, number = divmod(step, self.rounds)
                if step == first or number == 0:
                    self.order = self._order(epoch)
                self._round(epoch, number)
                self._tell(step + 1)

    # --- what is learned from ----------------------------------------------------------------------------

    def _order(self, epoch: int) -> Ints:
        """The blocks of an epoch, the one that is held out left out."""
        left = np.delete(np.arange(self.blocks), self._held_out()) if self.blocks > 1 else np.arange(1)
        return np.random.default_rng([self.training.seed, 1, epoch]).permutation(left)

    def _held_out(self) -> int:
        return int(np.random.default_rng([self.training.seed, 0]).integers(self.blocks))

    def _sentences(self, block: int) -> tuple[Ints, Ints]:
        """All ids of a block, and where each sentence ends."""
        start = block * self.block_rows
        stop = min(start + self.block_rows, self.manifest.rows)
        lists = read_rows(self.manifest, start, stop, [self.training.column])[self.training.column].combine_chunks()
        ids = np.asarray(lists.flatten().cast(pa.int64(), safe=False).to_numpy(), np.int64)
        return ids, np.cumsum(lists.value_lengths().fill_null(0).to_numpy()).astype(np.int64)

    def _pool(self) -> Ints:
        """Ids from some blocks of our own choice, as often as they occur."""
        random = np.random.default_rng([self.training.seed, 2, self.team.rank])
        order = self._order(0)
        ids = np.concatenate([self._sentences(int(block))[0] for block in random.permutation(order)[:8]])
        return random.choice(ids, min(_POOL_TOKENS, len(ids)), replace=False) if len(ids) else ids

    def _unseen(self) -> tuple[Ints, Ints]:
        """Sentences that are not learned from, for rank 0 to ask about; none for the others."""
        if self.team.rank:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        ids, ends = self._sentences(self._held_out())
        ends = ends[:_HELD_OUT]
        return ids[: ends[-1]] if len(ends) else ids[:0], ends

    def _chunks(self, block: int | None) -> Iterator[tuple[Ints, Ints]]:
        """Whole sentences of about ``chunk_tokens`` ids together; one that is longer is cut."""
        if block is None:
            return
        ids, ends = self._sentences(block)
        size = self.training.chunk_tokens
        cuts = np.unique(np.concatenate([ends, np.arange(size, len(ids), size)]))
        cuts = cuts[cuts > 0]
        start = 0
        while start < len(ids):
            stop = int(cuts[np.searchsorted(cuts, start + size, side="right") - 1])
            inside = cuts[(cuts > start) & (cuts <= stop)]
            yield ids[start:stop], inside - start
            start = stop

    # --- learning ----------------------------------------------------------------------------------------

    def _round(self, epoch: int, number: int) -> None:
        """Every worker takes a block; those that have done with theirs only serve the others."""
        at = number * self.team.size + self.team.rank
        chunks = list(self._chunks(int(self.order[at]) if at < len(self.order) else None))
        self.loss, self.pairs = 0.0, 0
        for step in range(max(self.team.gather(len(chunks)))):
            seed = [self.training.seed, 3, epoch, number, step, self.team.rank]
            given = chunks[step] if step < len(chunks) else (np.empty(0, np.int64), np.empty(0, np.int64))
            self._learn(*given, np.random.default_rng(seed), self._rate(epoch, number))

    def _rate(self, epoch: int, number: int) -> float:
        left = 1 - (epoch * self.rounds + number) / (self.training.epochs * self.rounds)
        return self.training.rate * max(left, _LEAST_RATE)

    def _learn(self, ids: Ints, ends: Ints, random: np.random.Generator, rate: float) -> None:
        chunk, inputs, outputs, asked = self._pulled(ids, ends, random)
        before = inputs.copy(), outputs.copy()
        loss, pairs = learn(
            chunk, inputs, outputs, window=self.training.window, negatives=self.training.negatives, rate=rate
        )
        self.inputs.push(asked[0], before[0] - inputs)
        self.outputs.push(asked[1], before[1] - outputs)
        self.loss, self.pairs = self.loss + loss * pairs, self.pairs + pairs

    def _pulled(
        self, ids: Ints, ends: Ints, random: np.random.Generator
    ) -> tuple[Chunk, Floats, Floats, tuple[Asked, Asked]]:
        """The chunk, and the rows of both tables that it needs."""
        pool = self.pool if len(self.pool) else ids  # the blocks of our own choice may have no ids at all
        drawn = random.choice(pool, _DRAWN) if len(ids) else ids
        fresh, which = np.unique(np.concatenate([ids, drawn]), return_inverse=True)
        found = places(self.training.scheme, fresh)
        rows, parts = np.unique(found, return_inverse=True)
        inputs, of_inputs = self.inputs.pull(rows)
        outputs, of_outputs = self.outputs.pull(rows)
        chunk = Chunk(
            parts.reshape(found.shape), which[: len(ids)], ends, which[len(ids) :], int(random.integers(1 << 62))
        )
        return chunk, inputs, outputs, (of_inputs, of_outputs)

    # --- what is told ------------------------------------------------------------------------------------

    def _tell(self, steps: int) -> None:
        """Metrics every few seconds, a version of the table every few minutes and at the end; by rank 0's clock."""
        now = self.team.gather(time.monotonic())[0]
        last, epoch_ends = steps == self.training.epochs * self.rounds, steps % self.rounds == 0
        if now - self.told > _TOLD_SECONDS or epoch_ends:
            self._report(steps)
            self.told = now
        if now - self.published > self.training.publish_minutes * 60 or last:
            self._publish(*divmod(steps, self.rounds))
            self.published = now

    def _report(self, steps: int) -> None:
        found = self.team.gather((self.loss, self.pairs))
        pairs = sum(count for _, count in found)
        metrics = {
            "epoch": steps / self.rounds,
            "loss": sum(loss for loss, _ in found) / max(pairs, 1),
            "likeness": self._likeness(),
            "rate": self._rate(*divmod(steps - 1, self.rounds)),
        }
        if self.team.rank == 0:
            self.history.add(metrics)
        self.team.report(metrics)

    def _likeness(self) -> float:
        """On sentences that are not learned from; asked by rank 0, answered by all."""
        random = np.random.default_rng([self.training.seed, 4])
        chunk, inputs, outputs, _ = self._pulled(*self.unseen, random)
        found = likeness(chunk, inputs, outputs, self.training.window) if self.team.rank == 0 else 0.0
        return float(self.team.gather(found)[0])

    def _publish(self, epoch: int, number: int) -> None:
        """First the contexts, then the rows, whose notes name the version of the contexts."""
        outputs, inputs = self.team.gather(self.outputs.finished()), self.team.gather(self.inputs.finished())
        if self.team.rank == 0:
            contexts = publish(self.outputs.table.uri, self.outputs.table, _ADD, chain(*outputs), {})
            noted = {**self.noted, "epoch": epoch, "round": number, "contexts": contexts.version}
            publish(self.table.uri, self.table, _ADD, chain(*inputs), noted)
            for uri in (self.table.uri, self.outputs.table.uri):
                prune(uri)
        self.team.gather(None)
