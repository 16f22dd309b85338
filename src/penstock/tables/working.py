"""A table under training: rows that can be written, their optimiser's state, and how they become the next version.

The seam for distributed training
---------------------------------
A table is trained by one or several *owners*, each of which holds some shards as a `Working` copy in a folder of its
own. No step touches more than the rows of its batch: rows and state are files mapped into memory, so a table many
times larger than its owner's memory trains, and the kernel brings changed pages to disk.

One owner, in one process::

    with Working(Table.at(uri), folder, Adagrad(0.05)) as working:
        vectors = working.lookup(ids)                 # float32 "id dim"
        working.add(ids, gradients)                   # of the loss by those vectors; ids may repeat
        working.publish(uri, {"step": 1000})          # the next version, with the optimiser's state

Several owners (actors of Ray, for example)::

    table = Table.at(uri)
    working = Working(table, folder, Adagrad(0.05), table.owned(me, owners))   # in each owner

    rows = places(table.layout.scheme, ids)                      # "id part", in the trainer
    mine = rows[table.owner(rows, owners) == me]                 # what to ask of owner *me*
    working.gather(mine)                                         # float32 "row dim", in the owner
    working.scatter(mine, gradients)                             # gradients of repeated rows are summed first

    finished = [owner.finished(uri) for owner in owners]         # each publishes the shards that it changed
    publish(uri, table, optimizer, chain(*finished), {"step": 1000})   # one commit, by the driver: all or nothing

Each row has one owner, who applies updates one after the other; the same updates in the same order give the same
bits. What is published is a whole: rows, state and the *notes* given (step, seed, place in the data) are those of one
moment, and a trainer that was killed goes on from ``Table.at(uri)``, whose notes are ``notes(table)``. The folder
itself is no checkpoint: it may hold steps that the last version does not.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol, Self

import numpy as np
import numpy.typing as npt

from penstock.core.dataset import Manifest, commit, draft, versions
from penstock.core.nouns import Part, Record, Unit
from penstock.core.storage import join, store_of
from penstock.tables.layout import FORMAT, HEADER_BYTES, Floats, Layout, Shard, Table, head
from penstock.tables.making import all_of, provenance_of, publish_shard
from penstock.tables.mapping import Mapped
from penstock.tables.pooling import summed
from penstock.tables.schemes import Exact, Ints, places

__all__ = ["Adagrad", "Finished", "Optimizer", "Sgd", "Working", "notes", "prune", "publish", "state_of"]

_ROWS_AT_ONCE = 4096


class Optimizer(Protocol):
    """How rows follow their gradients. Touches nothing but the rows that it is given."""

    @property
    def stateful(self) -> bool:
        """Whether there is a number to keep for each row."""

    def step(self, rows: Floats, state: Floats, gradients: Floats) -> tuple[Floats, Floats]:
        """The new rows, ``"row dim"``, and the new state, ``"row"``."""


@dataclass(frozen=True)
class Sgd:
    """``row -= rate * gradient``."""

    rate: float = 0.05

    stateful = False

    def step(self, rows: Floats, state: Floats, gradients: Floats) -> tuple[Floats, Floats]:
        """See `Optimizer`."""
        return rows - np.float32(self.rate) * gradients, state


@dataclass(frozen=True)
class Adagrad:
    """Adagrad with one accumulator a row: ``state += mean(gradient^2); row -= rate * gradient / sqrt(state)``.

    Keeps 4 bytes a row instead of as many as the row itself; the usual choice for large tables.
    Source: Duchi, Hazan and Singer 2011; row-wise in Mudigere et al. 2022, https://arxiv.org/abs/2104.05158, 4.1.4.
    """

    rate: float = 0.05
    epsilon: float = 1e-8

    stateful = True

    def step(self, rows: Floats, state: Floats, gradients: Floats) -> tuple[Floats, Floats]:
        """See `Optimizer`."""
        state = state + np.square(gradients).mean(axis=1, dtype=np.float32)
        rate = np.float32(self.rate) / (np.sqrt(state) + np.float32(self.epsilon))
        return rows - rate[:, None] * gradients, state


@dataclass(frozen=True)
class Finished:
    """One published shard of the next version: its rows, and its state where the optimiser has one."""

    unit: Unit
    rows: Part
    state: Part | None


class Working:
    """Rows and state of some shards of a table, as float32 files in a folder, mapped for writing.

    A shard is copied to the folder when a row of it is first needed.

    Args:
        table: what training starts from; the state that an earlier training published with it is taken along.
        folder: a local folder of this copy alone; what was in it is removed.
        optimizer: how rows follow their gradients.
        shards: the numbers of the shards that are held; None holds all.
    """

    def __init__(
        self, table: Table, folder: str | Path, optimizer: Optimizer, shards: Sequence[int] | None = None
    ) -> None:
        self.table, self.optimizer, self._folder = table, optimizer, Path(folder)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        self._units = table.layout.units(table.shard_rows)
        self._held = np.zeros(len(self._units), np.bool_)
        self._held[list(range(len(self._units)) if shards is None else shards)] = True
        self._steps = np.zeros(len(self._units), np.int64)  # that changed a shard
        self._kept: dict[tuple[str, int, int], Finished] = {}
        self._before = state_of(table) if optimizer.stateful else None
        self._rows = self._mapped("rows", replace(table.layout, dtype="float32"), table)
        self._state = self._mapped("state", _state_layout(table), self._before)

    def _mapped(self, name: str, layout: Layout, source: Table | None) -> Mapped:
        def path(shard: int) -> Path:
            file = self._folder / f"{name}-{shard:06d}.npy"
            if not file.exists():
                _unfold(file, layout, self._units[shard], source.shards[shard] if source else None)
            return file

        return Mapped(layout.record, layout.rows, self.table.shard_rows, path, writable=True)

    def gather(self, rows: Ints) -> Floats:
        """Rows by their number, ``"row dim"``. Raises `IndexError` where they are not held here."""
        self._need(rows)
        return self._rows.rows.take(rows, 0, mode="clip")

    def scatter(self, rows: Ints, gradients: Floats) -> None:
        """One step of the optimiser on *rows*, ``"row"``, by their *gradients*, ``"row dim"``.

        Rows may repeat; their gradients are summed first, in the order given.

        Raises:
            IndexError: a row is not held here.
        """
        self._need(rows)
        order = np.argsort(rows, kind="stable")
        fresh, starts = np.unique(rows[order], return_index=True)
        offsets = np.append(starts, len(rows))

        def gather(ids: Ints, out: Floats) -> None:
            gradients.take(ids, 0, out=out, mode="clip")

        summed_up = summed(gather, order, offsets, self.table.layout.dim)
        values, states = self._rows.rows, self._state.rows[:, 0]
        values[fresh], states[fresh] = self.optimizer.step(values[fresh], states[fresh], summed_up)
        self._steps[np.unique(fresh // self.table.shard_rows)] += 1

    def _need(self, rows: Ints) -> None:
        shards = rows // self.table.shard_rows
        if rows.min(initial=0) < 0 or rows.max(initial=0) >= self.table.layout.rows or not self._held[shards].all():
            raise IndexError(
                f"some of {len(rows)} rows are not held here; this copy has {self._held.sum()} of {len(self._held)} "
                "shards: route rows by Table.owner"
            )
        self._rows.need(rows)
        self._state.need(rows)

    def lookup(self, ids: npt.ArrayLike) -> Floats:
        """The vectors of *ids*, ``"id dim"``. Raises `IndexError` on ids that have none."""
        parts = self._parts(places(self.table.layout.scheme, ids))
        return np.asarray(self._operation.reduce(parts, axis=0))

    def add(self, ids: npt.ArrayLike, gradients: Floats) -> None:
        """One step of the optimiser on the rows of *ids*, by the *gradients* of their vectors, ``"id dim"``."""
        rows = places(self.table.layout.scheme, ids)
        shares = np.broadcast_to(gradients, (rows.shape[1], *gradients.shape))
        if self.table.layout.scheme.combine == "product":
            parts = self._parts(rows)
            shares = np.stack([gradients * np.delete(parts, at, 0).prod(0) for at in range(len(parts))])
        self.scatter(rows.T.reshape(-1), shares.reshape(-1, gradients.shape[1]))

    def _parts(self, rows: Ints) -> Floats:
        """``"id part"`` to ``"part id dim"``."""
        return np.stack([self.gather(np.ascontiguousarray(column)) for column in rows.T])

    @property
    def _operation(self) -> np.ufunc:
        return np.add if self.table.layout.scheme.combine == "sum" else np.multiply

    def finished(self, uri: str) -> list[Finished]:
        """Publish the shards that changed since they were published, and name all that are held, in row order.

        Nothing reads them before `publish` commits them.

        Raises:
            ValueError: rows are not finite, or too large for the table's dtype.
            StorageError: they cannot be written.
        """
        return [self._finished(uri.rstrip("/"), int(shard)) for shard in np.flatnonzero(self._held)]

    def _finished(self, uri: str, shard: int) -> Finished:
        key = (uri, shard, int(self._steps[shard]))
        if key not in self._kept:
            for old in [each for each in self._kept if each[:2] == key[:2]]:
                del self._kept[old]
            parts = self._rows_part(uri, shard), self._state_part(uri, shard)
            self._kept[key] = Finished(self._units[shard], *parts)
        return self._kept[key]

    def _rows_part(self, uri: str, shard: int) -> Part:
        if uri == self.table.uri and not self._steps[shard]:
            return self.table.shards[shard].part
        return self._published(uri, self.table.layout, shard, self._rows)

    def _state_part(self, uri: str, shard: int) -> Part | None:
        if not self.optimizer.stateful:
            return None
        if self._before and uri == self.table.uri and not self._steps[shard]:
            return self._before.shards[shard].part
        return self._published(_state_uri(uri), _state_layout(self.table), shard, self._state)

    def _published(self, uri: str, layout: Layout, shard: int, source: Mapped) -> Part:
        unit = self._units[shard]
        source.need(np.array([unit.start]))
        return publish_shard(uri, layout, unit, lambda start, stop: source.rows[start:stop]).part

    def publish(self, uri: str, notes: Mapping[str, Any]) -> Manifest:
        """Make what this copy holds, which must be all shards, the next version of the table at *uri*."""
        return publish(uri, self.table, self.optimizer, self.finished(uri), notes)

    def close(self) -> None:
        """Unmap the files and remove the folder."""
        self._rows.close()
        self._state.close()
        shutil.rmtree(self._folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _unfold(file: Path, layout: Layout, unit: Unit, shard: Shard | None) -> None:
    """Make the float32 file of a shard: the rows of *shard*, or zeros."""
    rows = unit.stop - unit.start
    temporary = file.with_suffix(".tmp")
    with temporary.open("wb") as out:
        head(out, layout.record, rows)
        if shard is None:
            out.truncate(HEADER_BYTES + rows * layout.row_bytes)
        else:
            _decode(shard, layout, out)
    temporary.replace(file)


def _decode(shard: Shard, layout: Layout, out: BinaryIO) -> None:
    stored = np.load(shard.path(), mmap_mode="r")
    source = replace(layout, dtype="int8") if stored.dtype.names else layout
    for start in range(0, len(stored), _ROWS_AT_ONCE):
        block = stored[start : start + _ROWS_AT_ONCE]
        rows = np.empty((len(block), layout.dim), np.float32)
        source.decode(block, rows)
        out.write(rows.data)


# --- publication -----------------------------------------------------------------------------------------


def publish(
    uri: str, table: Table, optimizer: Optimizer, finished: Iterable[Finished], notes: Mapping[str, Any]
) -> Manifest:
    """Commit finished shards, of all owners together, as the next version of the table at *uri*.

    The manifest of the rows comes last and names the version of the state, so both are of the same moment.

    Args:
        uri: the table's root; need not be the one where training started.
        table: where training started.
        optimizer: what was used.
        finished: of each shard, in any order.
        notes: what a trainer needs to go on from here, as plain data (JSON).

    Raises:
        StorageError: some shards are lacking, or the manifest cannot be written.
    """
    units = table.layout.units(table.shard_rows)
    known = {each.unit.key: each for each in finished}
    inventory = [known[unit.key] for unit in units if unit.key in known]
    recipe: dict[str, Any] = {
        "parent": {"uri": table.uri, "version": table.manifest.version},
        "optimizer": {"name": type(optimizer).__name__, **vars(optimizer)},
        "notes": dict(notes),
    }
    if optimizer.stateful:
        recipe["state"] = _commit(_state_uri(uri), _state_layout(table), units, _pairs(inventory, "state"), {}).version
    return _commit(uri, table.layout, units, _pairs(inventory, "rows"), recipe)


def _pairs(inventory: Sequence[Finished], name: str) -> list[tuple[Unit, Record]]:
    return [(each.unit, Record(each.unit.key, getattr(each, name))) for each in inventory]


def _commit(
    uri: str, layout: Layout, units: list[Unit], pairs: list[tuple[Unit, Record]], recipe: Mapping[str, Any]
) -> Manifest:
    provenance = provenance_of(layout, recipe, units[0].stop)
    return commit(draft(uri, "table", provenance, layout.schema), FORMAT, lambda: all_of(units, iter(pairs), uri), 0)


def notes(table: Table) -> dict[str, Any]:
    """What was noted when *table* was published; empty when it was not trained yet."""
    return dict(table.manifest.provenance["recipe"].get("notes", {}))


def state_of(table: Table) -> Table | None:
    """The optimiser's state that was published with *table*, a number a row; None when there is none."""
    version = table.manifest.provenance["recipe"].get("state")
    return Table.at(_state_uri(table.uri), version) if version else None


def _state_uri(uri: str) -> str:
    return join(uri, "state")


def _state_layout(table: Table) -> Layout:
    return Layout(Exact(table.layout.rows), 1)


def prune(uri: str, keep: int = 2) -> None:
    """Remove the versions of the table at *uri* but the newest *keep*, and the shards that these alone name.

    Raises:
        ValueError: none would be kept.
        StorageError: something cannot be removed.
    """
    if keep < 1:
        raise ValueError(f"keep is {keep}; at least the newest version is kept")
    kept = [Table.at(uri, number) for number in versions(uri)[-keep:]]
    states = [state for table in kept if (state := state_of(table))]
    for tables in (kept, states):
        if tables:
            _keep_only(tables)


def _keep_only(tables: Sequence[Table]) -> None:
    """Remove what only the versions before these name; manifests go first, so none names what is gone."""
    uri, first = tables[0].uri, min(table.manifest.version for table in tables)
    old = [Table.at(uri, number) for number in versions(uri) if number < first]
    needed = {shard.part.path for number in versions(uri) if number >= first for shard in Table.at(uri, number).shards}
    store = store_of(uri)
    for table in old:
        store.remove(join(uri, "manifests", f"{table.manifest.version:08d}.json"))
    for path in {shard.part.path for table in old for shard in table.shards} - needed:
        store.remove(join(uri, path))
